"""Lean: convolutions and batch norms with fixed weights that keep nothing for gradients which nobody takes.

For the gradient of a convolution's weight autograd keeps its input, and for that of a batch norm's scale the norm's,
whether or not these train: one formula gives all of an operation's gradients. Here the same formula is told which of
them are wanted, and is handed memory of the input's shape in its place. The bits of all gradients are those of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode

aten = torch.ops.aten
Sides = int | Sequence[int]


def conv2d(
    images: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sides = 1, padding: Sides | str = 0,
    dilation: Sides = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """As `torch.conv2d` (N, C, H, W); where the weight takes no gradient, the images are not kept for it."""
    if isinstance(padding, str) or images.dim() != 4 or not _input_alone(images, weight):
        return torch.conv2d(images, weight, bias, stride, padding, dilation, groups)
    kind = images.device.type
    if torch.is_autocast_enabled(kind):
        to = torch.get_autocast_dtype(kind)
        images, weight, bias = images.to(to), weight.to(to), None if bias is None else bias.to(to)
    with torch.autocast(kind, enabled=False):
        return _Convolution.apply(images, weight, bias, *map(_pair, (stride, padding, dilation)), groups)  # type: ignore[no-any-return]


def batch_norm(
    images: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None,
    running_var: Tensor | None, training: bool, momentum: float, eps: float, cudnn_enabled: bool,
) -> Tensor:  # fmt: skip
    """As `torch.batch_norm` (N, C, ...); with fixed statistics and no gradient of the scale, the input is not kept."""
    if training or running_mean is None or running_var is None or not _input_alone(images, weight):
        return torch.batch_norm(images, weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled)
    return _Norm.apply(images, weight, bias, running_mean, running_var, eps, cudnn_enabled)  # type: ignore[no-any-return]


def _input_alone(images: Tensor, weight: Tensor | None) -> bool:
    """Whether a gradient goes back to an operation's input, and none to its weight."""
    return torch.is_grad_enabled() and images.requires_grad and (weight is None or not weight.requires_grad)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:
        stride, padding, dilation, groups = settings
        ctx.save_for_backward(weight)
        ctx.input = _Like(images)
        ctx.bias_sizes = None if bias is None else list(bias.shape)
        ctx.settings = [stride, padding, dilation, False, (0, 0), groups]
        return aten.convolution(images, weight, bias, *ctx.settings)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        wanted = [True, False, ctx.needs_input_grad[2]]
        of_images, _, of_bias = aten.convolution_backward(
            gradient, ctx.input.memory(), weight, ctx.bias_sizes, *ctx.settings, wanted
        )
        return of_images, None, of_bias, None, None, None, None


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor | None, bias: Tensor | None, *settings: Any) -> Tensor:
        mean, variance, eps, cudnn = settings
        ctx.save_for_backward(weight, mean, variance)
        ctx.input, ctx.eps = _Like(images), eps
        return torch.batch_norm(images, weight, bias, mean, variance, False, 0.0, eps, cudnn)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, mean, variance = ctx.saved_tensors
        wanted = [True, False, ctx.needs_input_grad[2]]
        of_images, _, of_bias = aten.native_batch_norm_backward(
            gradient, ctx.input.memory(), weight, mean, variance, None, None, False, ctx.eps, wanted
        )
        return of_images, None, of_bias if wanted[2] else None, None, None, None, None


class _Like:
    """The shape of a tensor that is not kept."""

    def __init__(self, tensor: Tensor) -> None:
        self.layout = tensor.size(), tensor.stride()
        self.dtype, self.device = tensor.dtype, tensor.device

    def memory(self) -> Tensor:
        """A tensor of that shape with anything in it."""
        return torch.empty_strided(*self.layout, dtype=self.dtype, device=self.device)


def _functional_batch_norm(
    images: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    if training:
        return functional.batch_norm(images, running_mean, running_var, weight, bias, training, momentum, eps)
    return batch_norm(
        images, weight, bias, running_mean, running_var, False, momentum, eps, torch.backends.cudnn.enabled
    )


IN_GRAPHS: dict[Any, Callable[..., Tensor]] = {aten.conv2d.default: conv2d, aten.batch_norm.default: batch_norm}
IN_MODULES: dict[Any, Callable[..., Tensor]] = {
    torch.conv2d: conv2d,
    torch.batch_norm: batch_norm,
    functional.batch_norm: _functional_batch_norm,
}


def make_lean(graph: fx.Graph) -> None:
    """Puts the operations of this module in place of torch's."""
    for node in graph.nodes:
        if node.op == "call_function":
            node.target = IN_GRAPHS.get(node.target, node.target)


class Lean(TorchFunctionMode):
    """A context in which modules use the operations of this module."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return IN_MODULES.get(func, func)(*args, **(kwargs or {}))
