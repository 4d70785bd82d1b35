"""Policies that train the head alone at first: `lp_ft`, `fine_tune`, `gradual_unfreeze`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import attrs

import framework as fw
from fw_freezing.in_turn import Calendar, InTurn
from fw_freezing.rates import falling, levels

Divisor = Annotated[float, fw.Bounds(ge=1)]


@attrs.frozen(kw_only=True)
class LpFt(InTurn):
    """The head alone, then everything: linear probing, then fine-tuning (LP-FT, 2202.10054).

    When everything begins to train, the head goes on from what it has learnt, and the scheduler starts over for the
    rest of the run. Until then the run is that of `frozen`, bit for bit. A share of 0 is `full`, one of 1 `frozen`.

    The paper claims that features are distorted while they adapt to a head that has learnt nothing yet, and less so
    from a probed one: over ten data sets with a shift of distribution, 10 % better on shifted images than fine-tuning
    from the start, and 1 % better on the others. A fine-tuning rate of its own is what `scale` is for.
    """

    probe: fw.Fraction = fw.key(0.5, "the share of the run's steps in which the head trains alone")
    scale: fw.PositiveFloat = fw.key(1.0, "of the learning rate once everything trains")

    def plans(self, layout: fw.Layout) -> Sequence[fw.Plan]:
        """The head; everything at one rate."""
        return _head_then_all(layout, dict.fromkeys(layout.parameters, self.scale), self.norm)

    def calendar(self, changes: int) -> Calendar:
        """One change, by share."""
        return Calendar(shares=(self.probe,))


@attrs.frozen(kw_only=True)
class FineTune(InTurn):
    """The head alone for some epochs, then everything, at rates that fall towards the input (fastai's `fine_tune`).

    Once everything trains, the head has `scale` times the learning rate and the first stage `lr_mult` times less than
    the head; in between the rates are geometric, as fastai's `slice` makes them over its two or three groups. The
    scheduler starts over for the rest of the run. In a run of no more than `freeze_epochs` epochs the head has half of
    the steps to itself.

    The rule and its defaults are fastai's (2002.04688), offered as what needs no search; there is no paper that
    measures it. Two things are the recipe's here: the scheduler (fastai's is one cycle in each phase) and whether
    batch norms move while the head trains alone (fastai trains them; see `norm`).
    """

    freeze_epochs: fw.PositiveInt = fw.key(1, "epochs in which the head trains alone")
    lr_mult: Divisor = fw.key(100.0, "the head's learning rate over the first stage's")
    scale: fw.PositiveFloat = fw.key(0.5, "of the head's learning rate once everything trains")

    def plans(self, layout: fw.Layout) -> Sequence[fw.Plan]:
        """The head; everything at geometric rates."""
        rated = levels(layout)
        ratio = self.lr_mult ** (-1 / (len(rated) - 1))
        return _head_then_all(layout, falling(rated, ratio, self.scale), self.norm)

    def calendar(self, changes: int) -> Calendar:
        """One change, by epoch."""
        return Calendar.every(self.freeze_epochs, changes)


def _head_then_all(layout: fw.Layout, scales: Mapping[str, float], norm: fw.NormMode) -> Sequence[fw.Plan]:
    head = layout.plan(layout.head.parameters, norm)
    return [head, attrs.evolve(layout.plan(scales, norm), schedule="restart")]


@attrs.frozen(kw_only=True)
class GradualUnfreeze(InTurn):
    """The head at first, then stage after stage from the last to the first (ULMFiT, 1801.06146).

    Each stage trains at the learning rate of the one above it divided by `factor` (the paper's discriminative
    fine-tuning); the neck joins with the last stage. A stage joins every `every` epochs; in a run that is too short
    for all of them they join evenly over its steps, so that everything trains in the end. The scheduler goes on.

    The paper claims that a model which thaws all at once forgets what it was pretrained for. It shows this for text,
    where both rules belong to a method that lowers the error on most of six tasks by 18 to 24 %.
    """

    every: fw.PositiveInt = fw.key(1, "epochs from one stage to the next; less in a run too short for all stages")
    factor: Divisor = fw.key(2.6, "a stage's learning rate over that of the stage below it")

    def plans(self, layout: fw.Layout) -> Sequence[fw.Plan]:
        """From the head alone to everything, one level more each time."""
        rated = levels(layout)
        scales = falling(rated, 1 / self.factor)
        return [
            layout.plan({name: scales[name] for level in rated[first:] for name in level}, self.norm)
            for first in reversed(range(len(rated)))
        ]

    def calendar(self, changes: int) -> Calendar:
        """A change for each level below the head."""
        return Calendar.every(self.every, changes)
