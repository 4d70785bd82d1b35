"""Formats: how networks and images are laid out in memory, and where."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from framework.network import Network


def resolved_format(asked: str, network: nn.Module) -> str:
    """`auto` takes channels_last where most parameters that multiply are of convolutions; a head does not count."""
    if asked != "auto":
        return asked
    backbone = network.backbone if isinstance(network, Network) else network
    layers = [module for module in backbone.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    of_convolutions = sum(layer.weight.numel() for layer in layers if isinstance(layer, nn.Conv2d))
    return "channels_last" if 2 * of_convolutions > sum(layer.weight.numel() for layer in layers) else "contiguous"


def in_format(images: Tensor, memory_format: str) -> Tensor:
    """Images, or maps of features (N, C, H, W), laid out as a network is; anything else as it is."""
    if images.dim() != 4:
        return images
    channels_last = memory_format == "channels_last"
    return images.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def place(network: nn.Module, device: torch.device, memory_format: str) -> None:
    """Moves a network to its device and memory format."""
    if memory_format == "channels_last":
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    else:
        network.to(device)
