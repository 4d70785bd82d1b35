"""Network: a backbone and a head in one module."""

from __future__ import annotations

from torch import Tensor, nn


class Network(nn.Module):
    """Images (N, channels, H, W) to logits (N, classes), so that parameters are called `backbone.*` and `head.*`.

    Args:
        backbone: (N, channels, H, W) -> (N, feature_dim).
        head: (N, feature_dim) -> (N, classes).
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self.head(self.backbone(images))
        return logits
