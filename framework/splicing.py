"""Splicing: the graph of a network whose modules are in different modes, from the graphs of both modes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import fx

from framework.capture import Capture, module_of

REPEATED_CALL = re.compile(r"@\d+")
"""By which an export marks the second and later calls of a module."""


class NotSpliced(Exception):
    """Two graphs do not fit together; the message says where."""


class Label(NamedTuple):
    """What a node is in a graph, and in another of the same network: the `number`th of so many.

    Of what a module does another number of times in the other mode, nothing is the same.
    """

    module: str
    operation: str
    number: int
    of: int


def splice(evaluating: Capture, training: Capture, modes: Mapping[str, bool]) -> Capture:
    """The operations of each module from the graph of its own mode, in an order that both graphs keep.

    This holds where what a module computes depends on its own mode and on no other module's; the self-check of a
    partition sees where it does not.

    Args:
        evaluating, training: the network with every module in evaluation mode, and in train mode.
        modes: of every module.

    Raises:
        NotSpliced: one needs a tensor that the other does not have.
    """
    if evaluating.batch != training.batch:
        raise NotSpliced("the number of images has two names")
    labels = {False: _labels(evaluating), True: _labels(training)}
    captured = {False: evaluating, True: training}
    graph, made = fx.Graph(), dict[Label, fx.Node]()
    tensors: dict[str, object] = {}
    for label, pair in _merged(labels[False], labels[True]):
        mode = next(iter(pair)) if _is_read(*pair.values()) else _mode(label.module, modes)
        if mode not in pair:
            continue
        node, own = pair[mode], labels[mode]
        if missing := [own[source] for source in node.all_input_nodes if own[source] not in made]:
            raise NotSpliced(f"{label.module} needs {missing[0].operation} of {missing[0].module} in the other mode")
        made[label] = graph.node_copy(node, lambda source, own=own: made[own[source]])  # type: ignore[misc]
        if node.op == "get_attr":
            tensor = attrgetter(str(node.target))(captured[mode].module)
            if tensors.setdefault(str(node.target), tensor) is not tensor:
                raise NotSpliced(f"{node.target} is two tensors")
    _drop_unused_reads(graph)
    module = fx.GraphModule(tensors, graph)
    return Capture.of(module, evaluating.batch, evaluating.names)


def _drop_unused_reads(graph: fx.Graph) -> None:
    """Reads of tensors and sizes for what was taken from the other graph."""
    for node in reversed(graph.nodes):
        if not node.users and (_is_read(node) or node.target is torch.ops.aten.sym_size.int):
            graph.erase_node(node)


def _labels(captured: Capture) -> dict[fx.Node, Label]:
    """What each node is, in the order of the graph; what reads a tensor is called by what the network calls it."""
    places = [
        ("", captured.name_of(node)) if _is_read(node) else (REPEATED_CALL.sub("", module_of(node)), str(node.target))
        for node in captured.nodes
    ]
    totals, counts = Counter(places), Counter[tuple[str, str]]()
    found: dict[fx.Node, Label] = {}
    for node, place in zip(captured.nodes, places, strict=True):
        found[node] = Label(*place, counts[place], totals[place])
        counts[place] += 1
    return found


def _is_read(*nodes: fx.Node) -> bool:
    return nodes[0].op == "get_attr"


def _mode(module: str, modes: Mapping[str, bool]) -> bool:
    """The mode of the innermost module that the network knows by name."""
    while module not in modes:
        module = module.rpartition(".")[0]
    return modes[module]


def _merged(
    evaluating: Mapping[fx.Node, Label], training: Mapping[fx.Node, Label]
) -> Iterator[tuple[Label, dict[bool, fx.Node]]]:
    """All nodes of two graphs, those that are in both together, in an order that both graphs keep.

    Raises:
        NotSpliced: there is none.
    """
    both = {*evaluating.values()} & {*training.values()}
    rest = iter(training.items())
    for node, label in evaluating.items():
        if label not in both:
            yield label, {False: node}
            continue
        for other, its in rest:
            if its == label:
                yield label, {False: node, True: other}
                break
            if its in both:
                raise NotSpliced(f"{label.operation} of {label.module} comes at another time")
            yield its, {True: other}
    for other, its in rest:
        yield its, {True: other}
