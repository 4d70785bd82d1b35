"""SWA: the mean of the weights at the ends of the last epochs (1803.05407)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from torch import Tensor

import framework as fw
from fw_finishers.average import Average


@attrs.frozen(kw_only=True)
class Swa:
    """The finished weights are the mean over the ends of the last epochs (SWA, 1803.05407).

    Of E epochs those count whose number e, from 1, is at least start * E, and E - e a multiple of `every`: the last one
    always does. Batch norms that moved are estimated anew under the mean, as in the paper, by one pass over the
    training images. The paper keeps the learning rate high in these epochs; here the recipe's scheduler decides.
    Where patience ends a run before any of these epochs, there is no mean, and the best epoch's weights stay.
    """

    start: fw.Fraction = fw.key(0.75, "share of the run's epochs after which they count, 0 to 1")
    every: fw.PositiveInt = fw.key(1, "epochs from one that counts to the next, back from the last")

    def build(self) -> fw.Finisher:
        """The finisher."""
        return OverEpochs(self)


class OverEpochs(Average):
    """Takes the ends of the epochs that count.

    Args:
        keys: what the recipe says.
    """

    recalibrates = True

    def __init__(self, keys: Swa) -> None:
        super().__init__()
        self.keys = keys
        self.taken = 0

    def after_epoch(self, moving: Mapping[str, Tensor], progress: fw.Progress) -> None:
        """Takes the weights, where the epoch counts."""
        if counts(self.keys, progress.epoch, progress.epochs):
            self.taken += 1
            self.take(moving, (self.taken - 1) / self.taken)

    def finish(self, selected: Mapping[str, Tensor], initial: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The means, where an epoch has counted."""
        return super().finish(selected, initial) if self.taken else {}

    def state(self) -> dict[str, Any]:
        """The means, and of how many epochs they are."""
        return {**super().state(), "taken": self.taken}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes what `state` gave."""
        super().restore(state)
        self.taken = state["taken"]


def counts(keys: Swa, epoch: int, epochs: int) -> bool:
    """Whether the weights at the end of an epoch count, the first epoch being 1."""
    return epoch / epochs >= keys.start and (epochs - epoch) % keys.every == 0
