"""Cut: where a captured network is divided, so that the fixed part saves most and the boundary stays small."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import attrs
import torch
from torch import fx

from framework.capture import Capture, arguments_written, does_nothing
from framework.costs import Costs
from framework.marking import Marks, is_tensor, mark

NEARLY_ALL = 0.999
"""Cuts that save this share of the most are equally good; the smallest boundary of them is taken."""


class NoCut(Exception):
    """A network cannot be divided under a plan; the message says why, in one clause."""


@attrs.frozen(eq=False)
class Cut:
    """Where a captured network is divided.

    Attributes:
        boundary: the nodes whose tensors cross, in the order in which they are computed.
        inside: the nodes of the fixed part.
        bytes_per_image: of the boundary.
        flops_share: share of one image's forward pass that the fixed part is.
    """

    boundary: tuple[fx.Node, ...]
    inside: Set[fx.Node]
    bytes_per_image: int
    flops_share: float


def choose_cut(captured: Capture, marks: Marks, budget: int, allowed: Set[fx.Node] | None = None) -> Cut:
    """The cut that saves the most computation with a boundary within the budget; the smallest of nearly equal ones.

    Candidates are the beginnings of the fixed part, in the order in which it is computed: what a beginning needs is
    in it, and what crosses is read from the users of its nodes.

    Args:
        captured: the network in train mode.
        marks: what is fixed in it.
        budget: bytes for each image.
        allowed: nodes that may be in the fixed part; None: all.

    Raises:
        NoCut: nothing before the first thing that moves is worth keeping, or no boundary fits.
    """
    costs = Costs(captured)
    fixed = [node for node in captured.nodes if marks.is_fixed(node) and node is not captured.image]
    if allowed is not None:
        fixed = fixed[: next((i for i, node in enumerate(fixed) if node not in allowed), len(fixed))]
    total = sum(costs.flops(node) for node in captured.nodes if node in marks.of_image)
    found, saved, flops = [], 0, 0
    for end, crossing in enumerate(Crossings(captured, fixed), 1):
        saved, flops = saved + costs.work(fixed[end - 1]), flops + costs.flops(fixed[end - 1])
        if flops and crossing:
            size = sum(costs.bytes(one) for one in crossing)
            found.append(_Candidate(end, crossing, size, flops / total, saved))
    if not found:
        raise NoCut("nothing that computes lies before the first thing that moves")
    small = [one for one in found if one.size <= budget]
    if not small:
        smallest = min(one.size for one in found)
        raise NoCut(f"every boundary is larger than engine.budget: the smallest has {smallest} bytes for each image")
    most = max(one.work for one in small)
    best = min((one for one in small if one.work >= NEARLY_ALL * most), key=lambda one: (one.size, -one.work))
    inside = {*fixed[: best.end], captured.image}
    return Cut(best.crossing, inside, best.size, best.flops_share)


class _Candidate(NamedTuple):
    end: int
    crossing: tuple[fx.Node, ...]
    size: int
    flops_share: float
    work: int


class Crossings:
    """After each beginning of a fixed part: the tensors that are needed later, or nothing where they cannot be kept.

    Args:
        captured: the network.
        fixed: its fixed nodes, in order.
    """

    def __init__(self, captured: Capture, fixed: Sequence[fx.Node]) -> None:
        self.captured = captured
        self.fixed = fixed
        self.place = {node: position for position, node in enumerate(fixed)}
        self.roots = captured.roots
        self.last_write = {
            self.roots[written]: place for node, place in self.place.items() for written in arguments_written(node)
        }

    def __iter__(self) -> Iterator[tuple[fx.Node, ...]]:
        """One tuple for each beginning, the shortest first."""
        alive: dict[fx.Node, float] = {self.captured.image: self._last_use(self.captured.image)}
        for end, node in enumerate(self.fixed, 1):
            alive[node] = self._last_use(node)
            alive = {one: last for one, last in alive.items() if last >= end}
            crossing = tuple(one for one in alive if not _is_size(one))
            yield crossing if self._can_cross(crossing, end) else ()

    def _last_use(self, node: fx.Node) -> float:
        return max((self.place.get(user, float("inf")) for user in node.users), default=-1)

    def _can_cross(self, nodes: Sequence[fx.Node], end: int) -> bool:
        """Whether tensors can be kept: one row an image, memory of their own, not written to after they were made."""
        memory = [self.roots[node] for node in nodes]
        if self.captured.image in nodes or len(set(memory)) < len(memory):
            return False
        return all(self._is_final(node, end) and self._has_rows(node) for node in nodes)

    def _has_rows(self, node: fx.Node) -> bool:
        if not is_tensor(node):
            return False
        first, *others = node.meta["val"].shape or (0,)
        if getattr(getattr(first, "node", None), "expr", None) != self.captured.batch:
            return False
        return not any(isinstance(size, torch.SymInt) for size in others)

    def _is_final(self, node: fx.Node, end: int) -> bool:
        written = self.last_write.get(self.roots[node], -1)
        return written >= end or written <= self.place[node]


def _is_size(node: fx.Node) -> bool:
    """Sizes are computed anew from the boundary."""
    return isinstance(node.meta.get("val"), torch.SymInt | int)


def cut_alike(captured: Capture, cut: Cut, like: Capture, may_move: Set[str]) -> Cut | None:
    """The same cut in the graph of another mode: the nodes that compute the same from the image.

    Args:
        captured: the graph in which the cut is wanted.
        cut: of `like`.
        like: the graph that was cut.
        may_move: names of the tensors that the plan lets move.

    Returns:
        None where the other mode computes something else before the boundary.
    """
    wanted = structure(like)
    found = {key: node for node, key in structure(captured).items() if not does_nothing(node)}
    boundary = [found.get(wanted[node]) for node in cut.boundary]
    marks = mark(captured, may_move)
    inside: set[fx.Node] = set()
    for node in boundary:
        if node is None or not marks.is_fixed(node):
            return None
        inside |= _needed_by(captured, node)
    crossing = tuple(node for node in boundary if node is not None)
    return attrs.evolve(cut, boundary=crossing, inside=inside)


def _needed_by(captured: Capture, node: fx.Node) -> set[fx.Node]:
    found = {node}
    waiting = [node]
    while waiting:
        for source in captured.inputs(waiting.pop()):
            if source not in found:
                found.add(source)
                waiting.append(source)
    return found


def structure(captured: Capture) -> dict[fx.Node, str]:
    """Node -> a hash of all the operations that lead to it, tensors of the network by name.

    Nodes of two graphs with one hash compute the same from the same image, whatever either calls them; a dropout that
    drops nothing counts as absent, and a write to a tensor as part of what is read from it afterwards.
    """
    found: dict[fx.Node, str] = {}
    for node in captured.nodes:
        if does_nothing(node):
            found[node] = found[node.all_input_nodes[0]]
        elif node is captured.image:
            found[node] = "image"
        elif node.op == "get_attr":
            found[node] = f"tensor {captured.name_of(node)}"
        else:
            written = [found[writer] for writer in captured.writes.get(node, ())]
            text = f"{node.target} {_words(node.args, found)} {_words(node.kwargs, found)} {written}"
            found[node] = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return found


def _words(value: Any, found: Mapping[fx.Node, str]) -> str:
    if isinstance(value, fx.Node):
        return found[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(_words(item, found) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_words(item, found)}' for key, item in sorted(value.items()))}}}"
    return repr(value)


def tensors_read(captured: Capture, cut: Cut) -> Iterator[str]:
    """The names of the network's tensors that a fixed part reads, in its order."""
    needed = {node for end in cut.boundary for node in _needed_by(captured, end)}
    return (captured.name_of(node) for node in captured.nodes if node in needed and node.op == "get_attr")
