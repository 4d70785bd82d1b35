"""Tracker: what is told of one run, and what the kinds of trackers share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Facts = Mapping[str, Any]


class Tracker:
    """Keeps what happens in one run. It is made from the facts of `fw_run_started`; here each method does nothing.

    One that raises is reported once and told nothing more.
    """

    def epoch_ended(self, facts: Facts) -> None:
        """After each epoch's validation."""

    def plan_changed(self, facts: Facts) -> None:
        """After a policy's new plan is in force."""

    def checkpoint_written(self, facts: Facts) -> None:
        """After a checkpoint is on disk."""

    def run_ended(self, facts: Facts) -> None:
        """After the summary is on disk; nothing comes after it."""


def numbers_of_epoch(facts: Facts) -> dict[str, float]:
    """What an epoch gives to draw: its metrics, the learning rate, images per second."""
    return {**facts["metrics"], "lr": facts["lr"], "images_per_s": facts["images_per_s"]}


def numbers_of_best(summary: Facts) -> dict[str, float]:
    """The scores of the selected network, by split: `best.test.accuracy`."""
    best = {split: scores for split, scores in summary["metrics"]["best"].items() if isinstance(scores, Mapping)}
    return {f"best.{split}.{metric}": value for split, scores in best.items() for metric, value in scores.items()}
