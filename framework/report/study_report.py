"""Study report: the page of a study, from its outcome and how it was come by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from framework.bench.outcome import SHARED_SETTINGS, Outcome, Scores
from framework.bench.rows import Row
from framework.bench.statistics import SEEDS_FOR_AN_INTERVAL
from framework.files import write_text
from framework.report import study_charts
from framework.report.estimates import Shown, shown_differences, shown_ratios, shown_scores
from framework.report.page import number, ratio, render, setting

NOISE = {"total_s": "time to the end", "step_s": "time of a step", "peak_mb": "peak memory"}


def write_study_report(
    file: Path, name: str, outcome: Outcome, method: Mapping[str, str], machine: Mapping[str, Any]
) -> None:
    """Writes the report of a study that has ended.

    Args:
        file: the page.
        name: of the study.
        outcome: its figures.
        method: how they were taken, point by point.
        machine: on what, as `framework.bench.machine.machine` gives it.

    Raises:
        FwError: the file cannot be written.
    """
    page = render(
        "study.html",
        name=name,
        outcome=outcome,
        split=study_charts.SPLITS[outcome.split],
        shared_settings=SHARED_SETTINGS,
        first=outcome.scores[0].arm,
        seeds=seeds_of(outcome),
        rounds=max((len(row.laps) for row in outcome.rows), default=0),
        keys=list(dict.fromkeys(key for one in outcome.scores for key in one.settings)),
        scores=score_lines(outcome),
        costs=cost_lines(outcome),
        noise=noise_in_words(outcome),
        trade_offs=study_charts.trade_offs(outcome),
        breakdowns=study_charts.breakdowns(outcome),
        curves=[*study_charts.learning_curves(outcome), *study_charts.tuning(outcome)],
        remarks=list(remarks(outcome)),
        method=method,
        machine=machine,
    )
    write_text(file, page)


def seeds_of(outcome: Outcome) -> list[int]:
    """Every seed with which some arm was scored."""
    return sorted({seed for one in outcome.scores for each in one.each.values() for seed in each})


# --------------------------------------------------------------------------------------------------------- lines


@attrs.frozen
class ScoreLine:
    """An arm's line in the table of scores; `verdict` says why there is none where there is none."""

    of: Scores
    score: Shown
    difference: Shown | None
    verdict: str


def score_lines(outcome: Outcome) -> list[ScoreLine]:
    """The arms in their order: nothing is ranked."""
    each = [list(one.each.get(outcome.split, {}).values()) for one in outcome.scores]
    columns = shown_scores(each), shown_differences([one.difference for one in outcome.scores])
    return [ScoreLine(one, score, difference, verdict_in_words(one, one is outcome.scores[0]))
            for one, score, difference in zip(outcome.scores, *columns, strict=True)]  # fmt: skip


def verdict_in_words(scores: Scores, is_first: bool) -> str:
    """The verdict, or why there is none."""
    if is_first:
        return "baseline"
    if scores.verdict:
        return {"higher": "▲ higher", "lower": "▼ lower"}.get(scores.verdict, scores.verdict)
    if scores.difference is None:
        return "none: no seed in common"
    return f"none: {len(scores.difference.each)} of {SEEDS_FOR_AN_INTERVAL} seeds that it takes"


@attrs.frozen
class CostLine:
    """A cell's line in the tables of costs."""

    of: Row
    policy: Shown | None
    engine: Shown | None
    memory: Shown | None
    epoch_of_target: float | None

    @property
    def trains(self) -> float | None:
        """The share of parameters that trains."""
        params = self.of.facts.get("params") or {}
        return params["trainable"] / params["total"] if params.get("total") else None


def cost_lines(outcome: Outcome) -> list[CostLine]:
    """The cells in their order."""
    rows, epochs = outcome.rows, {one.arm: one.epoch_of_target for one in outcome.scores}
    policy, engine, memory = (shown_ratios([getattr(row, name) for row in rows])
                              for name in ("policy_ratio", "engine_ratio", "policy_memory"))  # fmt: skip
    return [CostLine(*of, epochs.get(of[0].cell.arm)) for of in zip(rows, policy, engine, memory, strict=True)]


# --------------------------------------------------------------------------------------------------------- words


def noise_in_words(outcome: Outcome) -> list[str]:
    """What the first cell takes beside itself, cost by cost."""
    shown = zip(outcome.noise.items(), shown_ratios(list(outcome.noise.values())), strict=True)
    return [
        f"{NOISE.get(cost, cost)} {of.value} ({of.doubt}; {', '.join(map(ratio, estimate.each))})"
        for (cost, estimate), of in shown if of
    ]  # fmt: skip


def remarks(outcome: Outcome) -> Iterator[tuple[str, str]]:
    """(arm or cell, what must be known of it): failures, choices at the edge of their range, what is not known."""
    for one in outcome.scores:
        if one.reason:
            yield one.arm, f"{one.failed} failed: {one.reason}" if one.failed else one.reason
        for key, edge in one.edges.items():
            value = setting(one.settings.get(key))
            yield one.arm, f"{key} = {value} is the {edge} that was tried; a better one may lie beyond it"
        lost = sum(score is None for _, score in one.trials)
        if lost:
            yield one.arm, f"{lost} of {number(len(one.trials))} settings have no score: a trial failed"
    for row in outcome.rows:
        if row.failed:
            yield row.cell.name, f"{row.failed} of {row.failed + len(row.laps)} measurements failed: {row.reason}"
        if row.caution:
            yield row.cell.name, row.caution
        if row.parts.get("reason"):
            yield row.cell.name, f"operations and memory are not known: {row.parts['reason']}"
