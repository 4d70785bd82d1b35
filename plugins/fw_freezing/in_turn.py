"""The base of policies whose plans are all known at the start and come in turn, by a calendar."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

import framework as fw
from fw_freezing.once import NORM


@attrs.frozen
class Calendar:
    """When each plan gives way to the next.

    Attributes:
        shares: of the run's steps, one for each change of plan, growing.
        epochs: at whose beginning the changes come instead, in a run that is long enough for all of them.
    """

    shares: tuple[float, ...] = ()
    epochs: tuple[int, ...] = ()

    @classmethod
    def every(cls, epochs: int, changes: int) -> Calendar:
        """A change every so many epochs; in a run that is too short for that, evenly over its steps."""
        numbers = range(1, changes + 1)
        return cls(tuple(number / (changes + 1) for number in numbers), tuple(epochs * number for number in numbers))

    def moments(self) -> fw.Moments:
        """All that can be a change, for how long the run is shows only when it is under way."""
        return fw.Moments(epochs=frozenset(self.epochs), fractions=frozenset(self.shares))

    def changes(self, progress: fw.Progress) -> int:
        """How many changes have come."""
        if self.epochs and self.epochs[-1] < progress.epochs:
            return sum(epoch <= progress.epoch for epoch in self.epochs)
        return sum(share <= progress.fraction for share in self.shares)


@attrs.frozen(kw_only=True)
class InTurn:
    """A policy's keys and, since it knows beforehand what it will decide, its plans and when they come."""

    norm: fw.NormMode = fw.key("fixed", NORM)

    def build(self) -> fw.FreezingPolicy:
        """The policy."""
        return Turns(self)

    def plans(self, layout: fw.Layout) -> Sequence[fw.Plan]:
        """The plans, in their order; the first is in force from the start."""
        raise NotImplementedError

    def calendar(self, changes: int) -> Calendar:
        """When the plans change; `changes` is how often they do."""
        raise NotImplementedError


class Turns(fw.FreezingPolicy):
    """The plans of `keys`, by their calendar. It remembers nothing: what is due follows from where the run stands."""

    def __init__(self, keys: InTurn) -> None:
        self.keys = keys
        self.plans: Sequence[fw.Plan] = ()
        self.calendar = Calendar()

    def start(self, layout: fw.Layout) -> fw.Plan:
        """The first plan; all others are made here, too."""
        self.plans = self.keys.plans(layout)
        self.calendar = self.keys.calendar(len(self.plans) - 1)
        return self.plans[0]

    def scales(self) -> frozenset[float]:
        """Every scale of every plan."""
        return frozenset(scale for plan in self.plans for scale in plan.trainable.values())

    def moments(self) -> fw.Moments:
        """When the plan may change."""
        return self.calendar.moments()

    def next(self, layout: fw.Layout, progress: fw.Progress) -> fw.Plan:
        """The plan whose turn it is, which may be the one in force."""
        return self.plans[self.calendar.changes(progress)]
