"""Moments: when the phases of a schedule begin: at an epoch, a step, a share of the run, or the plateau of a metric."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import combinations

import attrs

import framework as fw

KINDS = ("epoch", "step", "fraction", "plateau")


@attrs.frozen
class Moment:
    """When a phase begins.

    Attributes:
        kind: one of `KINDS`.
        at: how many epochs or steps are done, which share of the run's steps is done, or how many epochs in a row have
            brought no better metric.
    """

    kind: str
    at: int | float

    def __str__(self) -> str:
        return f"{self.kind} = {self.at}"

    def has_come(self, now: fw.Progress) -> bool:
        """Whether the run has got there; a plateau is for a `Plateau` to see."""
        done = {"epoch": now.epoch, "step": now.step, "fraction": now.fraction}
        return self.kind in done and done[self.kind] >= self.at

    def step_of(self, now: fw.Progress) -> int | float:
        """Before which step of a run it comes, counted from 0.

        Steps of an epoch are what the run has on average, which is a little less where `max_steps` cuts the last short.
        """
        if self.kind == "fraction":
            return bisect_left(range(now.steps + 1), self.at, key=lambda step: step / now.steps)
        return self.at * math.ceil(now.steps / now.epochs) if self.kind == "epoch" else self.at


START = Moment("step", 0)


def asked_at(begins: Sequence[Moment]) -> fw.Moments:
    """When a policy is asked that has phases beginning at these moments."""
    of_kind = {kind: frozenset(moment.at for moment in begins if moment.kind == kind) for kind in KINDS}
    return fw.Moments(
        epochs=frozenset(map(int, of_kind["epoch"])),
        steps=frozenset(map(int, of_kind["step"])),
        fractions=of_kind["fraction"],
        every_epoch=bool(of_kind["plateau"]),
    )


def require_order(begins: Sequence[Moment], now: fw.Progress | None = None) -> None:
    """Refuses phases that do not begin one after the other; a plateau comes when it comes.

    Args:
        begins: of each phase.
        now: says how long the run is; before that is known, only moments of one kind are compared.

    Raises:
        fw.FwError: a phase begins before an earlier one, or at the same moment.
    """
    timed = [(number, moment) for number, moment in enumerate(begins, start=1) if moment.kind != "plateau"]
    for (first, one), (second, other) in combinations(timed, 2):
        if _is_late(one, other, now):
            run = f" in a run of {now.epochs} epochs, {now.steps} steps" if now else ""
            raise fw.FwError(f"[[freezing.phases]] phase {second} ({other}) does not begin after phase {first} ({one})"
                             f"{run}", "state the phases in their order, each with a moment of its own")  # fmt: skip


def _is_late(one: Moment, other: Moment, now: fw.Progress | None) -> bool:
    """Whether the second of two moments comes, and the first not before it."""
    if now is None:
        return one.kind == other.kind and one.at >= other.at
    return one.step_of(now) >= other.step_of(now) < now.steps
