"""SSF: a scale and a shift for each channel after each layer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor, nn

import framework as fw
from fw_adapters.layers import LAYERS, attach, attached, called_layers, detach, example_shape, folds, is_plain

CHILD = "ssf"
AXES: Mapping[type[nn.Module], int] = {
    nn.Linear: -1, nn.LayerNorm: -1, nn.RMSNorm: -1, nn.Conv2d: 1, nn.BatchNorm2d: 1, nn.GroupNorm: 1,
}  # fmt: skip
"""The axis of the channels in what torch's own layers give; of any other class it is found by trial."""


@attrs.frozen(kw_only=True)
class Ssf:
    """A scale and a shift after each layer (Scaling & Shifting Your Features, 2210.08823).

    The output y of each Linear and Conv2d layer and each norm of the backbone becomes scale * y + shift, a number each
    for every channel. The paper claims to surpass full fine-tuning on FGVC and VTAB-1k with about 0.3 million trained
    parameters, and no cost afterwards, since both are folded into the layer's weight and bias at the end. It draws both
    near 1 and 0; here they are 1 and 0, so that training begins with the backbone as it is. Weight decay would draw
    scales to 0: `optimizer.no_decay = ["added"]` keeps it from them.

    A layer without a bias could take in a shift by a new parameter only: it gets a scale alone, and the shift is that
    of the norm after it. What cannot be folded is left as it is: a norm without parameters or with an activation inside
    (in timm's EfficientNet), a layer that standardises its weight, one whose weight is read without its being called.
    """

    def build(self) -> fw.Adapter:
        """The adapter."""
        return SsfAdapter()


class SsfAdapter(fw.Adapter):
    """Sets an `ssf` on each layer."""

    def insert(self, network: nn.Module, layout: fw.Layout) -> None:
        """Adds scales of 1 and shifts of 0.

        Raises:
            FwError: there is no layer that can be adapted.
        """
        layers = called_layers(network, layout)
        axes = {name: self._axis(layer, layout.outputs[name]) for name, layer in layers.items()}
        adapted = {name: axis for name, axis in axes.items() if axis is not None}
        if not adapted:
            raise fw.FwError("ssf finds no layer in this backbone",
                             "it takes Linear and Conv2d layers and norms with a weight that takes in a scale; take "
                             "another adapter")  # fmt: skip
        for name, axis in adapted.items():
            _add(axis, layers[name])

    def merge(self, network: nn.Module) -> None:
        """Folds each scale and shift into the weight and the bias of its layer."""
        with torch.no_grad():
            for layer, change in attached(network, CHILD, ScaleShift):
                change.fold_into(layer)
                detach(layer, CHILD, scale_and_shift)

    def _axis(self, layer: nn.Module, gives: tuple[int, ...]) -> int | None:
        """The axis of a layer's channels, along which it takes in a scale and a shift; None where it does not."""
        if is_plain(layer, AXES):
            return AXES[type(layer)]
        shape = example_shape(layer, gives)
        return next((axis for axis in (-1, 1) if folds(layer, shape, partial(_add, axis), self.merge)), None)


class ScaleShift(nn.Module):
    """Scales and shifts each channel; only scales where there is no shift.

    Args:
        channels: how many.
        axis: theirs, 1 or -1.
        shifts: whether it shifts.
    """

    def __init__(self, channels: int, axis: int, shifts: bool) -> None:
        super().__init__()
        self.axis = axis
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels)) if shifts else None

    def forward(self, given: Tensor) -> Tensor:
        """Of the same shape and number format."""
        ones = (1,) * (given.ndim - 2 if self.axis == 1 else 0)
        scale = self.scale.view(-1, *ones)
        if self.shift is None:
            return (given * scale).to(given.dtype)
        return torch.addcmul(self.shift.view(-1, *ones), given, scale).to(given.dtype)

    def fold_into(self, layer: nn.Module) -> None:
        """Changes the weight and the bias of a layer so that it gives the same by itself."""
        weight = layer.get_parameter("weight")
        is_vector = weight.numel() == self.scale.numel()
        weight.mul_(self.scale.view(weight.shape if is_vector else (-1, *(1,) * (weight.ndim - 1))))
        if self.shift is not None:
            bias = layer.get_parameter("bias")
            bias.copy_(torch.addcmul(self.shift.view(bias.shape), bias, self.scale.view(bias.shape)))


def scale_and_shift(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    """The forward hook of a layer that has an `ssf`."""
    changed: Tensor = getattr(layer, CHILD)(output)
    return changed


def _add(axis: int, layer: nn.Module) -> None:
    owned = dict(layer.named_parameters())
    weight = owned["weight"]
    channels = len(weight) if isinstance(layer, LAYERS) else weight.numel()
    attach(layer, CHILD, ScaleShift(channels, axis, "bias" in owned), scale_and_shift)
