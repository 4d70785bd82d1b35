"""Costs: what the operations of a captured network compute and give, for one image, from their shapes alone."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from torch import Tensor, fx

from framework.capture import Capture, argument, schema_of

FLOPS_PER_NUMBER = 8
"""Operations that count no FLOPs are bound by memory: a number that they give weighs as much as this many FLOPs.

It decides only between cuts of nearly equal FLOPs, so that the cut falls behind a pooling or an activation, not before.
"""


class Costs:
    """Sizes and FLOPs of the nodes of a captured network, for one image."""

    def __init__(self, captured: Capture) -> None:
        self.batch = captured.batch
        self._shapes: dict[fx.Node, tuple[int, ...]] = {}

    def number(self, size: Any) -> int:
        """A size with one image in the batch."""
        node = getattr(size, "node", None)
        return int(size) if node is None else int(node.expr.subs({self.batch: 1}))

    def shape(self, node: Any) -> tuple[int, ...]:
        """The shape of what a node gives; () where that is no tensor."""
        if not isinstance(node, fx.Node):
            return ()
        if node not in self._shapes:
            value = node.meta.get("val")
            sizes = value.shape if isinstance(value, Tensor) else ()
            self._shapes[node] = tuple(self.number(size) for size in sizes)
        return self._shapes[node]

    def bytes(self, node: fx.Node) -> int:
        """The size of the tensor that a node gives."""
        return prod(self.shape(node)) * int(node.meta["val"].element_size())

    def flops(self, node: fx.Node) -> int:
        """Floating-point operations of a node, two per multiplication and addition; 0 where none are known."""
        schema = schema_of(node)
        count = _FORMULAS.get(schema.name.removeprefix("aten::")) if schema is not None else None
        return count(self, node) if count is not None else 0

    def work(self, node: fx.Node) -> int:
        """What computing a node costs, in FLOPs: its own, and the numbers that it writes."""
        return self.flops(node) + FLOPS_PER_NUMBER * prod(self.shape(node) or (0,))


def _convolution(costs: Costs, node: fx.Node) -> int:
    weight, given = costs.shape(argument(node, "weight")), costs.shape(node)
    return 2 * prod(given) * prod(weight[1:])


def _transposed(costs: Costs, node: fx.Node) -> int:
    weight, taken = costs.shape(argument(node, "weight")), costs.shape(argument(node, "input"))
    return 2 * prod(taken) * prod(weight[1:])


def _linear(costs: Costs, node: fx.Node) -> int:
    return 2 * prod(costs.shape(node)) * costs.shape(argument(node, "input"))[-1]


def _product(name: str) -> Callable[[Costs, fx.Node], int]:
    return lambda costs, node: 2 * prod(costs.shape(node)) * costs.shape(argument(node, name))[-1]


def _attention(costs: Costs, node: fx.Node) -> int:
    query, key = costs.shape(argument(node, "query")), costs.shape(argument(node, "key"))
    return 2 * prod(query) * key[-2] + 2 * prod(costs.shape(node)) * key[-2]


def _einsum(costs: Costs, node: fx.Node) -> int:
    equation = str(node.args[0]).replace(" ", "").partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    for letters, tensor in zip(equation, argument(node, "tensors"), strict=True):
        sizes.update(zip(letters, costs.shape(tensor), strict=False))
    return 2 * prod(sizes.values())


_FORMULAS: dict[str, Callable[[Costs, fx.Node], int]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    **dict.fromkeys(("matmul", "mm", "bmm"), _product("self")),
    "addmm": _product("mat1"),
    "baddbmm": _product("batch1"),
    "linear": _linear,
    "scaled_dot_product_attention": _attention,
    "einsum": _einsum,
}
