"""Partition: a network under a plan, divided into what depends on the image alone and what trains."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor, fx, nn

from framework.capture import Capture, NotCaptured, module_of
from framework.captures import Captures
from framework.casting import cast_once
from framework.contracts import Layout, Plan, Stage
from framework.costs import Costs
from framework.cut import Cut, NoCut, choose_cut, cut_alike, structure, tensors_read
from framework.division import fixed_part, part_between, trainable_part
from framework.errors import FwError, name_hints
from framework.features import joined
from framework.freezing import (
    FrozenNetwork,
    ModeKeeper,
    all_tensors,
    allowed_to_move,
    first_moving_stage,
    module_modes,
)
from framework.lanes import side_by_side
from framework.marking import mark
from framework.measure import autocast
from framework.network import Network
from framework.tracing import twin

Tensors = tuple[Tensor, ...]
HEAD_INPUT = "the input of the head"


class NoPartition(Exception):
    """A network trains whole under a plan; the message says why, in one clause."""


@attrs.frozen(eq=False)
class Fixed:
    """The fixed part: images (N, C, H, W) -> the boundary, tensors with N rows; calls draw and change nothing.

    Attributes:
        module: what computes it, in evaluation mode, over the network's own tensors.
        precision: as `train.precision`.
        lanes: how many chunks may be computed side by side.
    """

    module: Callable[..., Any]
    precision: str = "fp32"
    lanes: int = 1

    def __call__(self, *inputs: Tensor) -> Tensors:
        """The boundary of images."""
        with torch.no_grad(), autocast(self.precision, inputs[0].device):
            given = self.module(*inputs)
        return given if isinstance(given, tuple) else (given,)

    def prepared(self, precision: str, compiled: bool, lanes: int) -> Fixed:
        """The same, made ready for many calls; copies of weights live as long as what is returned.

        Args:
            precision: for bf16, weights are cast once, and not by autocast at each call.
            compiled: by torch.compile with its constants folded, batch norm into convolutions among them; slow to
                begin with, and equal but for rounding. Its code divides the work among threads itself.
            lanes: how many chunks may be computed side by side.
        """
        assert isinstance(self.module, nn.Module)
        module = self.module.train().eval()  # through train mode, which clears what modules cached of earlier weights
        if compiled:
            return Fixed(torch.compile(module, dynamic=False, options={"freezing": True}), precision)
        return Fixed(module if precision == "fp32" else cast_once(module), precision, lanes)


@attrs.frozen(eq=False)
class Origin:
    """The graph, in train mode, in which a partition's boundary lies, and the cut."""

    captured: Capture
    cut: Cut


@attrs.frozen(eq=False)
class Partition:
    """A network divided under a plan. Both parts work on the network's own tensors.

    Attributes:
        fixed: images -> the boundary.
        trained: the boundary -> logits (N, classes), as the network computes them in train mode.
        scored: the same in evaluation mode.
        boundary: where it lies, in words.
        bytes_per_image: of the boundary, in fp32.
        flops_share: share of one image's forward pass that the fixed part is.
        stages: stage -> share of it that lies in the fixed part.
        reads: names of the network's tensors that the fixed part reads.
        structure: a hash of the operations of the fixed part.
        origin: where it comes from; None where no graph was needed.
    """

    fixed: Fixed
    trained: Callable[..., Tensor]
    scored: Callable[..., Tensor]
    boundary: str
    bytes_per_image: int
    flops_share: float
    stages: Mapping[str, float]
    reads: tuple[str, ...]
    structure: str
    origin: Origin | None = None


@attrs.frozen
class Wish:
    """What `[engine]` says of the boundary.

    Attributes:
        budget: largest boundary, in bytes for each image.
        stage: the last stage that may lie before it; empty: chosen by what it saves.
    """

    budget: int = 2**20
    stage: str = ""


def divide(
    frozen: FrozenNetwork, images: Tensor, wish: Wish, flops: int, before: Partition | None = None,
    captures: Captures | None = None,
) -> Partition:  # fmt: skip
    """The partition of a network under its plan; the network is left in evaluation mode.

    Args:
        frozen: the network under the plan.
        images: two images, of which only the shape counts.
        wish: where the boundary may lie.
        flops: of one image through the backbone, for the share of the fixed part.
        before: the partition under an earlier plan; where it has a graph, so has this one, to be computed from it.
        captures: graphs of the network from earlier plans.

    Raises:
        NoPartition: it cannot be divided, or it is not worth it.
        FwError: `wish.stage` names no stage.
    """
    allowed = _stages_before(frozen.layout, wish.stage)
    has_graph = before is not None and before.origin is not None
    if moves_head_alone(frozen) and len(allowed) == len(frozen.layout.stages) and not has_graph:
        return _at_head(frozen, flops)
    if all(parameter.requires_grad for parameter in frozen.network.parameters()):
        raise NoPartition("every parameter may move")  # what has none computes little, and is not worth a capture
    captures = captures or Captures(frozen.network)
    return _at_cut(frozen, partial(captures.graph, images), wish.budget, allowed)


def _stages_before(layout: Layout, last: str) -> tuple[Stage, ...]:
    """The stages whose operations may lie in the fixed part."""
    names = [stage.name for stage in layout.stages]
    if last and last not in names:
        raise FwError(f"engine.boundary = {last!r}, but no stage is called so", name_hints(last, names, "stages"))
    return layout.stages[: names.index(last) + 1] if last else layout.stages


def moves_head_alone(frozen: FrozenNetwork) -> bool:
    """Whether nothing but the head of a `Network` can change under the plan."""
    stages = frozen.layout.stages
    return isinstance(frozen.network, Network) and first_moving_stage(frozen.layout, frozen.plan) == len(stages) - 1


def _at_head(frozen: FrozenNetwork, flops: int) -> Partition:
    """The backbone and the head: no graph is needed where the boundary is a module's."""
    network = frozen.network
    assert isinstance(network, Network)
    backbone, head = network.backbone, network.head

    inside = {name: mode for name, mode in module_modes(frozen.layout, frozen.plan).items() if name.startswith("head.")}
    keeper = ModeKeeper(head, {name.removeprefix("head."): mode for name, mode in inside.items()})

    def trained(features: Tensor) -> Tensor:
        if not head.training:
            head.train()
        keeper(head)
        logits: Tensor = head(features)
        return logits

    def scored(features: Tensor) -> Tensor:
        head.train().eval()  # as `FrozenNetwork.eval`, through train mode
        logits: Tensor = head(features)
        return logits

    weights = [p for p in head.parameters() if p.ndim == 2]
    of_head = sum(2 * weight.numel() for weight in weights)
    reads = [name for name in all_tensors(network) if name.startswith("backbone.")]
    width = weights[0].shape[1] if weights else 0
    share = flops / (flops + of_head) if flops else 0.0
    shape = hashlib.sha256(repr(backbone).encode()).hexdigest()[:32]
    try:
        fixed = Fixed(twin(backbone).eval())
    except Exception as error:  # a module may hold anything
        raise NoPartition(f"its modules cannot be copied: {error}") from error
    stages = {stage.name: float(stage.role != "head") for stage in frozen.layout.stages}
    return Partition(fixed, trained, scored, HEAD_INPUT, 4 * width, share, stages, tuple(reads), shape)


def _at_cut(
    frozen: FrozenNetwork, graph: Callable[[], Capture], budget: int, stages: Sequence[Stage]
) -> Partition:  # fmt: skip
    may_move = allowed_to_move(frozen.layout, frozen.plan)
    try:
        frozen.train()
        training = graph()
        marks = mark(training, may_move)
        cut = choose_cut(training, marks, budget, _nodes_of(training, frozen.layout, stages))
        frozen.eval()
        scoring = graph()
        alike = cut_alike(scoring, cut, training, may_move)
        if alike is None:
            raise NoCut("evaluation mode computes something else before the boundary")
        parts = fixed_part(training, cut), trainable_part(training, cut), trainable_part(scoring, alike)
    except (NotCaptured, NoCut, ValueError) as error:
        raise NoPartition(str(error)) from error
    finally:
        frozen.eval()
    hashes = structure(training)
    fixed, trained, scored = parts
    return Partition(
        Fixed(fixed),
        trained,
        scored,
        boundary=_words(cut, frozen.layout),
        bytes_per_image=cut.bytes_per_image,
        flops_share=cut.flops_share,
        stages=_share_of_stages(training, cut, frozen.layout),
        reads=tuple(dict.fromkeys(tensors_read(training, cut))),
        structure=hashlib.sha256(" ".join(hashes[node] for node in cut.boundary).encode()).hexdigest()[:32],
        origin=Origin(training, cut),
    )


def part_from(earlier: Partition, later: Partition, may_move: Set[str]) -> Fixed | None:
    """What computes the boundary of one partition from that of an earlier plan's; None where that does not hold it.

    Args:
        earlier, later: of one network.
        may_move: names of the tensors that the later plan lets move.
    """
    if earlier.origin is None or later.origin is None:
        return None
    captured, cut = later.origin.captured, later.origin.cut
    before = cut_alike(captured, earlier.origin.cut, earlier.origin.captured, may_move)
    if before is None:
        return None
    try:
        return Fixed(part_between(captured, before, cut))
    except ValueError:
        return None


def _nodes_of(captured: Capture, layout: Layout, stages: Sequence[Stage]) -> set[fx.Node] | None:
    """The nodes that belong to some stages; None where these are all."""
    if len(stages) == len(layout.stages):
        return None
    names = {stage.name for stage in stages}
    home = stage_of_module(layout)
    return {node for node in captured.nodes if stage_of(node, home) in (*names, None)}


def _share_of_stages(captured: Capture, cut: Cut, layout: Layout) -> dict[str, float]:
    """How much of the work of each stage is done before the boundary."""
    costs, home = Costs(captured), stage_of_module(layout)
    done = dict.fromkeys((stage.name for stage in layout.stages), 0)
    work = dict(done)
    for node in captured.nodes:
        stage = stage_of(node, home)
        if stage is not None and isinstance(node.meta.get("val"), Tensor) and node.op == "call_function":
            work[stage] += costs.work(node)
            done[stage] += costs.work(node) * (node in cut.inside)
    return {stage: done[stage] / work[stage] if work[stage] else 0.0 for stage in work}


def stage_of_module(layout: Layout) -> dict[str, str]:
    """Module name -> the name of its stage."""
    return {module: stage.name for stage in layout.stages for module in stage.modules}


def stage_of(node: fx.Node, home: dict[str, str]) -> str | None:
    """The stage of the innermost module in which a node is computed; None outside of all."""
    path = module_of(node)
    while path and path not in home:
        path = path.rpartition(".")[0]
    return home.get(path)


def _words(cut: Cut, layout: Layout) -> str:
    home = stage_of_module(layout)
    places = dict.fromkeys(module_of(node) or "the network's own code" for node in cut.boundary)
    stages = dict.fromkeys(filter(None, (stage_of(node, home) for node in cut.boundary)))
    return f"after {', '.join(places)} (stage {', '.join(stages)})" if stages else f"after {', '.join(places)}"


def tensors_of(network: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """Tensors of a network by name; constants of a graph, which are called by their content, are left out."""
    own = all_tensors(network)
    return {name: own[name] for name in names if name in own}


def in_chunks(fixed: Callable[[Tensor], Tensors], images: Tensor, chunk: int, lanes: int = 1) -> Tensors:
    """The boundary of images, computed in chunks of one size, so that no row depends on how many came with it.

    Args:
        fixed: the fixed part.
        images: (N, C, H, W), at least one.
        chunk: images at a time.
        lanes: chunks at a time.
    """
    pieces = list(side_by_side(partial(filled_up, fixed, chunk), torch.split(images, chunk), lanes))
    if len(pieces) == 1:
        return pieces[0]
    return tuple(joined(tensors) for tensors in zip(*pieces, strict=True))


def filled_up(fixed: Callable[..., Tensors], chunk: int, *inputs: Tensor) -> Tensors:
    """The boundary of at most a chunk of images, computed as that of a whole chunk.

    Bits of a convolution or a matrix product depend on the number of rows; a shorter chunk is therefore filled up
    with copies of its last image.

    Args:
        fixed: the fixed part, or what computes a boundary from an earlier one.
        chunk: images at a time.
        inputs: what it takes, a row for each image.
    """
    missing = chunk - len(inputs[0])
    full = tuple(joined([rows, *(missing * [rows[-1:]])]) for rows in inputs) if missing else inputs
    return tuple(tensor[: len(inputs[0])] for tensor in fixed(*full))


def same_plan(one: Plan, other: Plan) -> bool:
    """Whether two plans let the same tensors move, at whatever rate."""
    return set(one.trainable) == set(other.trainable) and one.batch_stats == other.batch_stats
