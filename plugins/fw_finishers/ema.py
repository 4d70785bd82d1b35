"""EMA: an exponential moving average of the weights over the steps (Polyak averaging)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import attrs
from torch import Tensor

import framework as fw
from fw_finishers.average import Average

Decay = Annotated[float, fw.Bounds(ge=0, lt=1)]
"""At 1 nothing would ever be taken."""


@attrs.frozen(kw_only=True)
class Ema:
    """The finished weights are an exponential moving average over the steps; running statistics too.

    After step t, counted from 1, average = d_t * average + (1 - d_t) * weights, beginning with the weights before the
    first step. After n steps this is d_1 ... d_n times the first weights, plus the sum over t of (1 - d_t) d_(t+1) ...
    d_n times the weights after step t. d_t is `decay`, with `warm_up` at most (1 + t) / (10 + t), as in TensorFlow's
    `tf.train.ExponentialMovingAverage`: without it a run of a few hundred steps would end near where it began. The
    average is that of the end of the run, whichever epoch is the best.
    """

    decay: Decay = fw.key(0.999, "share of the average that a step keeps; about 1 / (1 - decay) steps count")
    warm_up: bool = fw.key(True, "keep less at first: at most (1 + t) / (10 + t) in step t")

    def build(self) -> fw.Finisher:
        """The finisher."""
        return OverSteps(self)


class OverSteps(Average):
    """Takes every step.

    Args:
        keys: what the recipe says.
    """

    def __init__(self, keys: Ema) -> None:
        super().__init__()
        self.keys = keys

    def after_step(self, moving: Mapping[str, Tensor], progress: fw.Progress) -> None:
        """Takes the weights."""
        self.take(moving, decay_of(self.keys, progress.step))


def decay_of(keys: Ema, step: int) -> float:
    """The share of the average that a step keeps, where the first is step 1."""
    return min(keys.decay, (1 + step) / (10 + step)) if keys.warm_up else keys.decay
