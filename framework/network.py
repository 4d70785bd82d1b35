"""Network: a backbone and a head in one module, and how tensors get into one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

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


def load_state(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Loads tensors that fit, as what this very module gave: files keep no version of a module, which some ask for.

    Raises:
        RuntimeError: they do not fit.
    """
    own = module.state_dict()
    state = OrderedDict(tensors)
    state._metadata = own._metadata  # type: ignore[attr-defined]
    module.load_state_dict(state)
