"""Average: a running mean of tensors, of which now these and now those move."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import framework as fw


class Average(fw.Finisher):
    """A running mean of every tensor that some plan has let move.

    What comes out is as if every tensor of the network had been averaged from the first step on, moving or not: a
    tensor that begins to move begins with its value at that time, and one that no longer moves counts with the value at
    which it stopped. Means of halves are kept in float32, of integers the last value.

    Each operation is rounded by itself (no fused multiply-add), so that the bits do not depend on how a tensor lies in
    memory, which a checkpoint does not keep.
    """

    def __init__(self) -> None:
        self.means: dict[str, Tensor] = {}
        self.resting: dict[str, Tensor] = {}
        self.moving: Mapping[str, Tensor] = {}

    @torch.no_grad()
    def follow(self, moving: Mapping[str, Tensor]) -> None:
        """Begins the means of what is new, and keeps the values of what rests from here on."""
        for name in self.moving.keys() - moving.keys():
            self.resting[name] = self.moving[name].detach().clone()
        for name, tensor in moving.items():
            self.resting.pop(name, None)
            mean = self.means.get(name, tensor)
            self.means[name] = torch.empty_like(tensor, dtype=_precise(tensor.dtype)).copy_(mean)
        self.moving = moving

    @torch.no_grad()
    def take(self, moving: Mapping[str, Tensor], keep: float) -> None:
        """mean = value + keep * (mean - value), for every tensor that moves, or has moved.

        Args:
            moving: the values of those that move.
            keep: the share of the mean so far, 0 to 1.
        """
        self.moving = moving
        for name, value in {**self.resting, **moving}.items():
            mean = self.means[name]
            if mean.is_floating_point():
                mean.sub_(value).mul_(keep).add_(value)
            else:
                mean.copy_(value)

    def finish(self, selected: Mapping[str, Tensor], initial: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The means at the end of the run, whichever epoch was selected."""
        return {name: mean.to(selected[name]) for name, mean in self.means.items()}

    def state(self) -> dict[str, Any]:
        """The means, and the values of what rests."""
        return {"means": _copies(self.means), "resting": _copies(self.resting)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes what `state` gave."""
        self.means, self.resting, self.moving = _copies(state["means"]), _copies(state["resting"]), {}


def _precise(dtype: torch.dtype) -> torch.dtype:
    """What a mean of such numbers is kept in."""
    return torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else dtype


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
