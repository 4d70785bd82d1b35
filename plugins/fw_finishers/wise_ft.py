"""WiSE-FT: weights between those before and those after fine-tuning (2109.01903)."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor

import framework as fw

BACKBONE = "backbone."
"""What the names of the backbone's tensors begin with."""


@attrs.frozen(kw_only=True)
class WiseFt:
    """The backbone's finished weights lie between where it began and the best epoch (WiSE-FT, 2109.01903).

    Every floating tensor of the backbone becomes (1 - alpha) times its value at the start of the run plus alpha times
    that of the best epoch, running statistics included; at 0 and 1 these very bits. The paper's networks had a head
    before fine-tuning, made of the names of the classes; here the head is new and stays as trained, on features at
    alpha = 1. What an adapter added to the backbone lies between its own beginning and end, factor by factor, which is
    not between the merged weights. The paper claims more accuracy on images of another kind at little loss on those
    trained for.
    """

    alpha: fw.Fraction = fw.key(0.5, "share of the trained weights, 0 to 1")

    def build(self) -> fw.Finisher:
        """The finisher."""
        return Between(self.alpha)


class Between(fw.Finisher):
    """Interpolates; it remembers nothing itself.

    Args:
        alpha: share of the trained weights.
    """

    needs_initial = True

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def finish(self, selected: Mapping[str, Tensor], initial: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The backbone's tensors that differ from their beginning, interpolated."""
        before = {name: initial[name].to(tensor.device) for name, tensor in selected.items()
                  if name.startswith(BACKBONE) and tensor.is_floating_point()}  # fmt: skip
        return {name: between(start, selected[name], self.alpha) for name, start in before.items()
                if not torch.equal(start, selected[name])}  # fmt: skip


def between(start: Tensor, end: Tensor, share: float) -> Tensor:
    """(1 - share) * start + share * end, a copy, worked out from the nearer one; at 0 and 1 with the bits of one.

    Each operation is rounded by itself: the bits do not depend on how the tensors lie in memory.
    """
    near, far = (start, end) if share < 0.5 else (end, start)
    rest = min(share, 1 - share)
    return near + (far - near) * rest if rest else near.clone()
