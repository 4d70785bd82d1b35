"""Pull: the squared distance of parameters from where they are to stay."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

HEAD_WEIGHT = "factor of the head's decay: half the squared length of its parameters"
"""What the key `head_weight` says."""


def pull(weight: float, tensors: Mapping[str, Tensor], origins: Mapping[str, Tensor]) -> Tensor:
    """weight/2 times the squared distance of all tensors together from their origins.

    Args:
        weight: where it is 0, nothing is computed.
        tensors: by name.
        origins: by name, of the same shapes; what has none is pulled to zero.

    Returns:
        A scalar of float32; a zero on the CPU, which can be added to any, where there is nothing to compute.
    """
    if not weight or not tensors:
        return torch.zeros(())
    pairs = ((tensor, origins[name] if name in origins else torch.zeros_like(tensor))
             for name, tensor in tensors.items())  # fmt: skip
    return weight / 2 * torch.stack([mse_loss(one.float(), zero.float(), reduction="sum") for one, zero in pairs]).sum()
