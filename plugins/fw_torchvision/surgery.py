"""Surgery: makes a feature extractor of a torchvision classifier, by rule."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

import framework as fw


def drop_auxiliary_heads(module: Any) -> None:
    """Takes out the heads that only help training from scratch, so that the model gives one tensor in every mode."""
    for name, child in list(module.named_children()):
        if type(child).__name__.endswith("Aux"):
            setattr(module, name, None)
    if hasattr(module, "aux_logits"):
        module.aux_logits = False


def remove_class_scores(module: nn.Module) -> None:
    """Replaces the last linear layer or convolution, which makes the class scores, by nothing."""
    layers = [name for name, part in module.named_modules() if isinstance(part, (nn.Linear, nn.Conv2d))]
    if not layers:
        raise fw.FwError(f"{type(module).__name__} has no layer that makes class scores")
    parent, _, attribute = layers[-1].rpartition(".")
    setattr(module.get_submodule(parent), attribute, nn.Identity())


def replace_first_convolution(module: nn.Module, channels: int, pretrained: bool) -> None:
    """Makes the first convolution take another number of channels.

    Args:
        pretrained: keeps what its filters know of RGB; else they are drawn afresh.
    """
    first = next(part for part in module.modules() if isinstance(part, nn.Conv2d))
    filters = adapted_filters(first.weight.detach(), channels)
    first.in_channels = channels
    first.weight = nn.Parameter(filters if pretrained else torch.empty_like(filters))
    if not pretrained:
        first.reset_parameters()


def adapted_filters(weight: Tensor, channels: int) -> Tensor:
    """RGB filters (out, 3, h, w) for another number of channels, (out, channels, h, w), as timm does it.

    One channel gets the sum over the three; more repeat them, scaled so that activations keep their size.
    """
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    repeated = weight.repeat(1, math.ceil(channels / 3), 1, 1)[:, :channels]
    return repeated * (3 / channels)
