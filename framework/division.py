"""Division: the two graph modules into which a cut divides a captured network."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence, Set

import torch
from torch import fx

from framework.capture import Capture, arguments_written
from framework.cut import Cut
from framework.lean import make_lean


def fixed_part(captured: Capture, cut: Cut) -> fx.GraphModule:
    """Images (N, C, H, W) -> the tensors of the boundary, over the network's own tensors."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    needed = _backward(captured, cut.boundary, stop=())
    for node in captured.nodes:
        if node in needed or node is captured.image:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in cut.boundary))
    return fx.GraphModule(captured.module, graph, "FixedPart")


def trainable_part(captured: Capture, cut: Cut) -> fx.GraphModule:
    """The tensors of the boundary -> logits (N, classes), over the network's own tensors.

    Writes to the network's own tensors (counters of batches) are kept.
    """
    graph, copies = _after(captured, cut, (captured.output, *_writes(captured)))
    graph.output(_only(captured.output.args[0], copies))
    _drop_unused_sizes(graph)
    make_lean(graph)
    return fx.GraphModule(captured.module, graph, "TrainablePart")


def part_between(captured: Capture, cut: Cut, later: Cut) -> fx.GraphModule:
    """The tensors of one boundary -> those of a later one.

    Raises:
        ValueError: the later one needs more than the earlier one holds.
    """
    graph, copies = _after(captured, cut, later.boundary)
    if captured.image in copies:
        raise ValueError("the later boundary needs the image")
    graph.output(tuple(copies[node] for node in later.boundary))
    _drop_unused_sizes(graph)
    return fx.GraphModule(captured.module, graph, "PartBetween")


def _after(captured: Capture, cut: Cut, ends: Sequence[fx.Node]) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """A graph of what leads from a boundary to some nodes, and what stands in it for each of them.

    Sizes that depend on the number of images are read from the boundary; tensors that the rest writes to are copied
    first.
    """
    graph = fx.Graph()
    copies = _boundary_of(graph, captured, cut)
    batch = graph.call_function(torch.ops.aten.sym_size.int, (next(iter(copies.values())), 0))
    needed = _backward(captured, ends, stop=cut.boundary, inside=cut.inside)
    for node in captured.nodes:
        if node not in needed or node in copies or node.op == "output":
            continue
        reads_size = _reads_size_of(node, cut)
        copies[node] = _size(graph, captured, node, batch) if reads_size else graph.node_copy(node, copies.__getitem__)
    return graph, copies


def _boundary_of(graph: fx.Graph, captured: Capture, cut: Cut) -> dict[fx.Node, fx.Node]:
    given = {node: graph.placeholder(f"boundary_{number}") for number, node in enumerate(cut.boundary)}
    memory = captured.roots
    written = {memory[one] for node in captured.nodes if node not in cut.inside for one in arguments_written(node)}
    clone = torch.ops.aten.clone.default
    return {node: graph.call_function(clone, (one,)) if memory[node] in written else one for node, one in given.items()}


def _writes(captured: Capture) -> Iterator[fx.Node]:
    """Operations that are there for what they write to a tensor of the network."""
    for node in captured.nodes:
        if any(written.op == "get_attr" for written in arguments_written(node)):
            yield node


def _backward(
    captured: Capture, ends: Sequence[fx.Node], stop: Sequence[fx.Node], inside: Set[fx.Node] = frozenset()
) -> set[fx.Node]:
    """The nodes that `ends` need, up to those where it stops; sizes of what lies inside, and writes, are done."""
    found = set(ends)
    waiting = [node for node in ends if node not in stop]
    while waiting:
        node = waiting.pop()
        if _is_size_read(node) and node.args[0] in inside:
            continue
        written = [writer for writer in captured.writes.get(node, ()) if writer not in inside]
        for source in (*node.all_input_nodes, *written):
            if source not in found:
                found.add(source)
                if source not in stop:
                    waiting.append(source)
    return found


def _is_size_read(node: fx.Node) -> bool:
    return node.target is torch.ops.aten.sym_size.int


def _reads_size_of(node: fx.Node, cut: Cut) -> bool:
    return _is_size_read(node) and node.args[0] in cut.inside


def _size(graph: fx.Graph, captured: Capture, node: fx.Node, batch: fx.Node) -> fx.Node:
    """A size of a tensor of the fixed part, as a multiple of the number of images."""
    factor, rest = divmod(node.meta["val"].node.expr, captured.batch)
    if rest != 0 or not factor.is_integer:
        raise ValueError(f"a size of the fixed part is {node.meta['val']}, no multiple of the number of images")
    return batch if factor == 1 else graph.call_function(operator.mul, (batch, int(factor)))


def _only(value: object, copies: dict[fx.Node, fx.Node]) -> fx.Node:
    """The logits; an export gives its outputs as a tuple."""
    first = value[0] if isinstance(value, list | tuple) else value
    return copies[first]  # type: ignore[index]


def _drop_unused_sizes(graph: fx.Graph) -> None:
    for node in reversed(graph.nodes):
        if _is_size_read(node) and not node.users:
            graph.erase_node(node)
