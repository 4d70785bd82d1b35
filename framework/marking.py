"""Marking: which operations of a captured network depend on the image alone, and which on what may change."""

from __future__ import annotations

from collections.abc import Set

import attrs
from torch import Tensor, fx

from framework.capture import Capture, argument, arguments_written, is_random, schema_of


@attrs.frozen(eq=False)
class Marks:
    """What each node of a captured network depends on.

    Attributes:
        of_image: nodes that depend on the image.
        moving: nodes that depend on a trainable parameter, a random draw, a norm's batch statistics, or a tensor that
            the network writes to.
    """

    of_image: Set[fx.Node]
    moving: Set[fx.Node]

    def is_fixed(self, node: fx.Node) -> bool:
        """Whether a node depends on the image and on nothing else that changes."""
        return node in self.of_image and node not in self.moving


def mark(captured: Capture, may_move: Set[str]) -> Marks:
    """What depends on the image, and what on tensors that may change.

    Args:
        captured: the network in the modes of a plan.
        may_move: names of the tensors that the plan lets move.
    """
    written = {node.target for user in captured.nodes for node in arguments_written(user) if node.op == "get_attr"}
    of_image: set[fx.Node] = {captured.image}
    moving: set[fx.Node] = set()
    for node in captured.nodes:
        inputs = captured.inputs(node)
        if any(source in of_image for source in inputs):
            of_image.add(node)
        if _changes(captured, node, of_image, may_move, written) or any(source in moving for source in inputs):
            moving.add(node)
    return Marks(of_image, moving)


def _changes(
    captured: Capture, node: fx.Node, of_image: Set[fx.Node], may_move: Set[str], written: Set[object]
) -> bool:
    """Whether a node itself brings in something that changes."""
    if node.op == "get_attr":
        return node.target in written or captured.name_of(node) in may_move
    return is_random(node) or takes_batch_statistics(node, of_image)


def takes_batch_statistics(node: fx.Node, of_image: Set[fx.Node]) -> bool:
    """Whether a node normalises images by the statistics of their batch.

    Weight standardisation is the same operation on weights (in NFNet, BiT), and depends on no image.
    """
    schema = schema_of(node)
    if schema is None or "batch_norm" not in schema.name or node.args[0] not in of_image:
        return False
    return bool(argument(node, "training"))


def is_tensor(node: fx.Node) -> bool:
    """Whether a node gives one tensor."""
    return isinstance(node.meta.get("val"), Tensor)
