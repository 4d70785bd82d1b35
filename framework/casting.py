"""Casting: which weights of a fixed part autocast would cast at each call, and bf16 copies of them, made once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from framework.capture import schema_of
from framework.tracing import twin

PRODUCTS = frozenset(
    f"aten::{name}"
    for name in ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear",
                 "matmul", "mm", "bmm", "addmm", "baddbmm", "scaled_dot_product_attention")
)  # fmt: skip
"""Operations that autocast computes in bf16 on every device, whatever their inputs are in."""
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""Modules that do nothing with their parameters but such an operation; subclasses may, and are left alone."""


def bf16_weights(module: nn.Module) -> dict[str, Tensor]:
    """Copies in bf16 of the parameters that only meet operations which autocast computes in bf16.

    With them in place of the parameters, autocast gives the same bits: it remembers its casts of parameters that
    train, and casts those of frozen ones at every call.

    Returns:
        name in `module` -> copy.
    """
    names = _of_graph(module) if isinstance(module, fx.GraphModule) else _of_layers(module)
    own = dict(module.named_parameters())
    return {name: own[name].detach().to(torch.bfloat16) for name in names if own[name].dtype == torch.float32}


def cast_once(module: nn.Module) -> nn.Module:
    """A twin of a module with the weights of `bf16_weights` in place of its own."""
    return twin(module, bf16_weights(module))


def _of_graph(module: fx.GraphModule) -> Iterator[str]:
    own = dict(module.named_parameters())
    for node in module.graph.nodes:
        if node.op == "get_attr" and str(node.target) in own and all(map(_is_product, node.users)):
            yield str(node.target)


def _is_product(node: fx.Node) -> bool:
    schema = schema_of(node)
    return schema is not None and schema.name in PRODUCTS


def _of_layers(module: nn.Module) -> Iterator[str]:
    for name, layer in module.named_modules():
        if type(layer) in LAYERS:
            yield from (f"{name}.{own}".lstrip(".") for own, _ in layer.named_parameters(recurse=False))
