"""Outcome: what the runs and laps of a study say of each arm and cell, beside the first."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from framework.bench.laps import Cell, Lap
from framework.bench.rows import Row, rows_and_noise
from framework.bench.statistics import CONFIDENCE, Estimate, accuracy_difference, holm, image_p_value, verdict
from framework.bench.study import StudyKeys
from framework.bench.trained import Trained
from framework.bench.tuning import Tuned

SHARED_SETTINGS = "shared settings: compare cost, not accuracy"
"""What stands over scores for which no policy was tuned: one learning rate suits one of them best."""


@attrs.frozen(eq=False)
class Scores:
    """An arm's scores.

    Attributes:
        arm: its name.
        settings, edges, trials: as `Tuned` has them.
        each: split -> seed -> the monitored metric of the model: of the selected network, or what a finisher made.
        difference: from the first arm's, on the split that is reported; None for itself, or without a seed in common.
        p_value: of that difference, over seeds, adjusted by Holm; None where the seeds are too few.
        p_of_images: of the same, over images, adjusted by Holm; None where predictions cannot be paired.
        verdict: what may be said; None where the seeds are too few, or nothing was tuned.
        curves: seed -> the monitored metric on validation, epoch by epoch, of the network as it trains.
        epoch_of_target: median over seeds of the first epoch that reaches the target; None where one never does.
        failed: how many runs failed; `reason` of the first.
    """

    arm: str
    settings: Mapping[str, Any]
    edges: Mapping[str, str]
    trials: Sequence[tuple[Mapping[str, Any], float | None]]
    each: Mapping[str, Mapping[int, float]]
    difference: Estimate | None = None
    p_value: float | None = None
    p_of_images: float | None = None
    verdict: str | None = None
    curves: Mapping[int, Sequence[float]] = attrs.field(factory=dict)
    epoch_of_target: float | None = None
    failed: int = 0
    reason: str = ""

    def mean(self, split: str) -> float | None:
        """The mean score over the seeds that were scored on a split; None where none was."""
        found = list(self.each.get(split, {}).values())
        return statistics.fmean(found) if found else None


@attrs.frozen(eq=False)
class Outcome:
    """A study's figures.

    Attributes:
        scores: each arm's, the first one's first.
        rows: each cell's.
        noise: time and memory of the first cell beside itself, in each round.
        metric: which score is given; `higher_is_better`, or not.
        split: test, or validation where there is no test.
        is_tuned: whether accuracies may be compared.
        target: the score whose time is given.
    """

    scores: Sequence[Scores]
    rows: Sequence[Row]
    noise: Mapping[str, Estimate]
    metric: str
    higher_is_better: bool
    split: str
    is_tuned: bool
    target: float | None


def outcome_of(keys: StudyKeys, tuned: Sequence[Tuned], cells: Sequence[Cell], laps: Sequence[Lap]) -> Outcome:
    """What the runs and laps say.

    Args:
        keys: of the study.
        tuned: each arm's trials and finals, the first one's first.
        cells: what was timed, the baseline first.
        laps: of these, finished or failed.
    """
    done = [run for one in tuned for run in one.finals if not run.reason]
    metric, higher = (
        (done[0].metric, done[0].summary["metrics"]["best"]["higher_is_better"]) if done else ("score", True)
    )
    split = "test" if any(run.score("test") is not None for run in done) else "val"
    target = _target(keys, tuned, higher)
    scores = _compared([_scores(one, metric, target, higher) for one in tuned], tuned, split)
    epochs = {one.arm: one.epoch_of_target for one in scores}
    rows, noise = rows_and_noise(cells, laps, epochs)
    return Outcome(scores, rows, noise, metric, higher, split, bool(tuned[0].trials), target)


def _target(keys: StudyKeys, tuned: Sequence[Tuned], higher: bool) -> float | None:
    if keys.target is not None:
        return keys.target
    ends = [score for one in tuned for run in one.finals if (score := run.reached) is not None]
    return (min(ends) if higher else max(ends)) if ends else None


def _scores(tuned: Tuned, metric: str, target: float | None, higher: bool) -> Scores:
    done = [run for run in tuned.finals if not run.reason]
    failed = [run for run in tuned.finals if run.reason]
    each = {split: {run.job.seed: score for run in done if (score := run.score(split)) is not None}
            for split in ("val", "test")}  # fmt: skip
    curves = {run.job.seed: run.curve(f"val.{metric}") for run in done}
    epochs = [_first_epoch(curve, target, higher) for curve in curves.values()]
    reached = [epoch for epoch in epochs if epoch is not None]
    return Scores(
        tuned.arm.name, tuned.settings, tuned.edges, tuned.trials, {split: of for split, of in each.items() if of},
        curves=curves, epoch_of_target=statistics.median(reached) if reached and len(reached) == len(epochs) else None,
        failed=len(failed), reason=failed[0].reason if failed else "" if tuned.finals else "every trial failed",
    )  # fmt: skip


def _first_epoch(curve: Sequence[float], target: float | None, higher: bool) -> int | None:
    sign = 1 if higher else -1
    if target is None:
        return None
    return next((number for number, value in enumerate(curve, 1) if sign * value >= sign * target), None)


def _compared(scores: Sequence[Scores], tuned: Sequence[Tuned], split: str) -> list[Scores]:
    """The scores with what may be said of their difference from the first arm's."""
    first = scores[0].each.get(split, {})
    others = [(one, of) for one, of in zip(scores[1:], tuned[1:], strict=True)]
    differences = {one.arm: found for one, _ in others if (found := _difference(one.each.get(split, {}), first))}
    p_values = holm({name: of.p_value for name, of in differences.items() if of.p_value is not None})
    images = {one.arm: _p_of_images(of.finals, tuned[0].finals, split) for one, of in others}
    p_of_images = holm({name: value for name, value in images.items() if value is not None})
    return [scores[0], *(
        attrs.evolve(one, difference=differences.get(one.arm), p_value=p_values.get(one.arm),
                     p_of_images=p_of_images.get(one.arm),
                     verdict=_verdict(one, differences, p_values, p_of_images.get(one.arm)))
        for one, _ in others
    )]  # fmt: skip


def _verdict(
    scores: Scores, differences: Mapping[str, Estimate], p_values: Mapping[str, float], p_of_images: float | None
) -> str | None:
    """What may be said; nothing where no policy was tuned.

    A difference that other seeds would show and other images might not is one on these images.
    """
    if not scores.trials or scores.arm not in differences:
        return None
    found = verdict(differences[scores.arm], 0.0, p_values.get(scores.arm))
    is_of_these = found in ("higher", "lower") and p_of_images is not None and p_of_images > 1 - CONFIDENCE
    return f"{found}, on these images" if is_of_these else found


def _difference(scores: Mapping[int, float], first: Mapping[int, float]) -> Estimate | None:
    seeds = sorted(scores.keys() & first.keys())
    return accuracy_difference([scores[seed] for seed in seeds], [first[seed] for seed in seeds]) if seeds else None


def _p_of_images(runs: Sequence[Trained], first: Sequence[Trained], split: str) -> float | None:
    """Of the difference over images; None where the seeds do not have the same images."""
    import numpy as np

    mine, theirs = ({run.job.seed: run.is_right(split) for run in of if not run.reason} for of in (runs, first))
    pairs = [(a, b) for seed in sorted(mine.keys() & theirs.keys()) if (a := mine[seed]) and (b := theirs[seed])]
    if not pairs or len({len(row) for pair in pairs for row in pair}) > 1:
        return None
    return image_p_value(np.array([a for a, _ in pairs]), np.array([b for _, b in pairs]))
