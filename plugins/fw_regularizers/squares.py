"""Squares: what was pretrained, and squared lengths of parameters."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

import framework as fw


def pretrained(layout: fw.Layout) -> frozenset[str]:
    """The parameters that came with the backbone: all but the head's and those that an adapter added."""
    return frozenset(layout.parameters) - layout.added - {*layout.head.parameters}


def half_squares(tensors: Iterable[Tensor], device: torch.device) -> Tensor:
    """Half the sum of the squares of all numbers, a scalar of float32 on `device`; 0 where there are none."""
    squares = [tensor.float().square().sum() for tensor in tensors]
    return torch.stack(squares).sum() / 2 if squares else torch.zeros((), device=device)
