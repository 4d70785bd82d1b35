"""Layout: the ordered stages of a network, from a library's grouping or from its module tree and order of execution."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeVar

import attrs
from torch import nn

from framework.contracts import Grouping, Layout, Stage
from framework.errors import FwError
from framework.kinds import additive_biases, batch_norms, buffer_owners, norm_parameters
from framework.network import Network
from framework.tracing import SampleSize, Trace, count_flops, trace
from framework.units import derive_grouping

BACKBONE, HEAD = "backbone", "head"
Value = TypeVar("Value")


def derive_layout(
    network: nn.Module, grouping: Grouping | None, sample_size: SampleSize, seen: Trace | None = None
) -> Layout:
    """The layout of a network. The network is left exactly as it was.

    Args:
        network: a `Network`, or any model that ends with its head (`fc`, `classifier`, `heads.head`).
        grouping: the library's own stages, with names relative to the backbone; None derives them.
        sample_size: (channels, height, width) of one image, to find the order of execution.
        seen: the trace of the network, or of the backbone of a `Network`, where it has been taken.

    Raises:
        FwError: the network does not accept such an image, or the grouping names a parameter that is not there.
    """
    seen = seen or trace(network.backbone if isinstance(network, Network) else network, sample_size)
    seen = _in_network(seen) if isinstance(network, Network) else seen
    ordered = _Order(network, seen)
    head = HEAD if isinstance(network, Network) else find_head(network, seen)
    body_root = BACKBONE if isinstance(network, Network) else ""
    body = [name for name in ordered.moments if not _inside(name, head)]
    heads = tuple(name for name in ordered.moments if _inside(name, head))
    layers: tuple[tuple[str, ...], ...] = ()
    if grouping is None:
        grouping = derive_grouping(network, body_root, body, ordered.moments)
    else:
        prefixed = _prefixed(grouping, body_root, body)
        layers = _with_head(prefixed.layers, body, heads)
        grouping = _completed(prefixed, body, ordered.moments)
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    stages = _named_stages(grouping, body_root, sizes)
    stages.append(Stage(HEAD, heads, (), "head"))
    modules = _assign_modules(network, stages, head, ordered)
    stages = [attrs.evolve(stage, modules=tuple(modules[i])) for i, stage in enumerate(stages)]
    return Layout(
        stages=tuple(stages),
        norms=norm_parameters(network),
        batch_norms=batch_norms(network),
        buffers=buffer_owners(network),
        biases=additive_biases(network),
        fixed=frozenset(name for name, parameter in network.named_parameters() if not parameter.requires_grad),
        layers=layers,
        outputs={name: shape for name, shape in seen.outputs.items() if name},
    )


def extended(layout: Layout, network: nn.Module) -> Layout:
    """The layout of a network to which an adapter added modules.

    What was added inside a module of a stage belongs to that stage. What was added beside the stages, as a child of the
    backbone (`backbone.side`), is a stage of its own before the head.

    Args:
        layout: of the network without them.
        network: a `Network` with them.
    """
    inside = {module: stage.name for stage in layout.stages for module in stage.modules if module != BACKBONE}
    modules = [name for name, _ in network.named_modules() if name not in ("", BACKBONE, *inside)]
    parameters = [name for name, _ in network.named_parameters() if name not in {*layout.parameters}]
    beside = [name for name in modules if _around(name, inside) is None and name.rpartition(".")[0] == BACKBONE]
    taken = {stage.name for stage in layout.stages}
    homes = {**inside, **{name: _unused(name.rpartition(".")[2], taken) for name in beside}}

    def of(stage: str, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in names if (around := _around(name, homes)) and homes[around] == stage)

    stages = [
        attrs.evolve(stage, parameters=(*stage.parameters, *of(stage.name, parameters)),
                     modules=(*stage.modules, *of(stage.name, modules)))
        for stage in layout.stages
    ]  # fmt: skip
    own = [Stage(homes[name], of(homes[name], parameters), of(homes[name], modules), "adapter") for name in beside]
    return attrs.evolve(
        layout,
        stages=(*stages[:-1], *own, stages[-1]),
        norms=norm_parameters(network),
        batch_norms=batch_norms(network),
        buffers=buffer_owners(network),
        biases=additive_biases(network),
        added=frozenset(parameters),
    )


def _around(name: str, modules: Collection[str]) -> str | None:
    """The innermost of some modules that is or holds what is called so."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def flops_per_stage(network: nn.Module, layout: Layout, sample_size: SampleSize) -> dict[str, int]:
    """Floating-point operations of each stage for one image; 0 where none are known.

    An operation belongs to the stage of the innermost module that does it (see `framework.tracing.count_flops`).

    Args:
        sample_size: (channels, height, width).
    """
    inside = count_flops(network, sample_size)
    own = dict(inside)
    for name, module in network.named_modules():
        for child, _ in module.named_children():
            own[name] -= inside.get(f"{name}.{child}".lstrip("."), 0)
    return {stage.name: sum(max(0, own.get(name, 0)) for name in stage.modules) for stage in layout.stages}


def find_head(network: nn.Module, seen: Trace) -> str | None:
    """The module that ends a plain model: the last one used that has weights, if it makes what the model gives.

    None where the model ends without one.
    """
    last = max(seen.parameters, key=lambda name: seen.parameters[name], default="").rpartition(".")[0]
    weight = getattr(network.get_submodule(last), "weight", None)
    gives = seen.output[1] if seen.output is not None and len(seen.output) == 2 else None
    return last if last and weight is not None and weight.ndim >= 2 and len(weight) == gives else None


def _in_network(seen: Trace) -> Trace:
    """The trace of a backbone as that of its `Network`: the head comes last by construction."""
    return attrs.evolve(
        seen,
        modules=_under(BACKBONE, seen.modules),
        parameters=_under(BACKBONE, seen.parameters),
        outputs=_under(BACKBONE, seen.outputs),
    )


def _under(prefix: str, moments: Mapping[str, Value]) -> dict[str, Value]:
    return {f"{prefix}.{name}".rstrip("."): moment for name, moment in moments.items()}


class _Order:
    """The moment of every parameter and module; what is never used stands where its neighbour does."""

    def __init__(self, network: nn.Module, seen: Trace) -> None:
        self.calls = seen.modules
        self.uses = seen.parameters
        self.moments: dict[str, int] = {}
        last = 0
        for name, _ in network.named_parameters():
            last = seen.parameters.get(name, last)
            self.moments[name] = last


def _inside(name: str, module: str | None) -> bool:
    return module is not None and (name == module or name.startswith(f"{module}."))


def _prefixed(grouping: Grouping, root: str, body: Sequence[str]) -> Grouping:
    known = set(body)

    def full(names: Iterable[str]) -> tuple[str, ...]:
        found = tuple(f"{root}.{name}".lstrip(".") for name in names)
        missing = [name for name in found if name not in known]
        if missing:
            raise FwError(f"the backbone's grouping names a parameter that is not there: {missing[0]!r}",
                          "report this to the plugin that brings the backbone")  # fmt: skip
        return found

    stages, layers = (tuple(map(full, division)) for division in (grouping.stages, grouping.layers))
    whole = Grouping(tuple(filter(None, stages)), full(grouping.neck), layers)
    for division in ((*whole.stages, whole.neck), whole.layers):
        named = Counter(name for names in division for name in names)
        twice = next((name for name, count in named.items() if count > 1), None)
        if twice is not None:
            raise FwError(f"the backbone's grouping names a parameter twice: {twice!r}",
                          "report this to the plugin that brings the backbone")  # fmt: skip
    return whole


def _with_head(
    layers: tuple[tuple[str, ...], ...], body: Sequence[str], head: tuple[str, ...]
) -> tuple[tuple[str, ...], ...]:
    """Layers with the head in the last; none where they leave a parameter of the backbone out."""
    if not layers or len(body) != sum(map(len, layers)):
        return ()
    return (*layers[:-1], (*layers[-1], *head))


def _completed(grouping: Grouping, body: Sequence[str], moments: Mapping[str, int]) -> Grouping:
    """The grouping with every parameter in it once, and nothing in the neck that is used before the last stage."""
    if not grouping.stages:
        return Grouping((tuple(body),))
    begins = [min(moments[name] for name in stage) for stage in grouping.stages]
    home = {name: index for index, stage in enumerate(grouping.stages) for name in stage}
    last = len(begins) - 1
    neck = {name for name in grouping.neck if name not in home and moments[name] >= begins[last]}
    loose = [name for name in body if name not in home and name not in neck]
    for name in loose:
        earlier = [index for index, begin in enumerate(begins) if begin <= moments[name]]
        home[name] = max(earlier, default=0)
    stages = tuple(tuple(name for name in body if home.get(name) == index) for index in range(last + 1))
    return Grouping(stages, tuple(name for name in body if name in neck))


def _named_stages(grouping: Grouping, root: str, sizes: Mapping[str, int]) -> list[Stage]:
    weighed = [_paths(names, root, sizes) for names in (*grouping.stages, grouping.neck)]
    taken = {"neck", HEAD}
    stages = []
    for index, names in enumerate(grouping.stages):
        others = {path for position, paths in enumerate(weighed) if position != index for path in paths}
        name = _unused(_stage_name(weighed[index], others, index), taken)
        taken.add(name)
        stages.append(Stage(name, tuple(names), ()))
    return [*stages, Stage("neck", grouping.neck, (), "neck")] if grouping.neck else stages


def _paths(parameters: Iterable[str], root: str, sizes: Mapping[str, int]) -> Counter[tuple[str, ...]]:
    """The modules that own the parameters, as paths below `root`, each with how many numbers it owns."""
    paths: Counter[tuple[str, ...]] = Counter()
    for name in parameters:
        paths[tuple(name.removeprefix(f"{root}.").split(".")[:-1])] += sizes[name]
    return paths


def _stage_name(paths: Mapping[tuple[str, ...], int], others: set[tuple[str, ...]], index: int) -> str:
    """The shortest module path that is this stage's alone: of all its parameters, or else of most of its numbers."""
    for depth in range(1, max(map(len, paths)) + 1):
        shares: Counter[tuple[str, ...]] = Counter()
        for path, size in paths.items():
            shares[path[:depth]] += size
        best = max(shares, key=lambda path: shares[path])
        if len(best) < depth or any(other[:depth] == best for other in others):
            continue
        return "stem" if len(shares) > 1 and index == 0 else ".".join(best)
    return "stem" if index == 0 else f"stage{index}"


def _unused(name: str, taken: set[str]) -> str:
    number = 2
    unused = name
    while unused in taken:
        unused, number = f"{name}_{number}", number + 1
    return unused


def _assign_modules(network: nn.Module, stages: Sequence[Stage], head: str | None, ordered: _Order) -> list[list[str]]:
    """The modules of each stage.

    A module with parameters belongs to the last of their stages. One without belongs to the stage of the innermost
    module around it that has a single stage, else to the stage at work when it is first called.
    """
    home = {name: index for index, stage in enumerate(stages) for name in stage.parameters}
    within = _stages_within(home)
    timeline = sorted((moment, home[name]) for name, moment in ordered.uses.items())
    last_head = len(stages) - 1
    found: dict[str, int] = {}
    previous = 0
    for name, _ in network.named_modules():
        if _inside(name, head):
            previous = last_head
        elif name in within:
            previous = max(within[name])
        else:
            previous = _stage_without_parameters(name, within, timeline, ordered.calls, previous)
        found[name] = previous
    for name in reversed(list(found)):
        parent = name.rpartition(".")[0]
        if name:
            found[parent] = max(found[parent], found[name])
    return [[name for name, stage in found.items() if stage == index and name] for index in range(len(stages))]


def _stages_within(home: Mapping[str, int]) -> dict[str, set[int]]:
    within: dict[str, set[int]] = {}
    for parameter, stage in home.items():
        parts = parameter.split(".")[:-1]
        for depth in range(len(parts) + 1):
            within.setdefault(".".join(parts[:depth]), set()).add(stage)
    return within


def _stage_without_parameters(
    name: str,
    within: Mapping[str, set[int]],
    timeline: Sequence[tuple[int, int]],
    calls: Mapping[str, int],
    previous: int,
) -> int:
    around = name
    while around := around.rpartition(".")[0]:
        if len(within.get(around, ())) == 1:
            return next(iter(within[around]))
    if name not in calls:
        return previous
    position = bisect_left(timeline, (calls[name], 0)) - 1
    return timeline[position][1] if position >= 0 else 0
