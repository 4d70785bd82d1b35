"""Study charts: what a study's arms score and cost, drawn from its outcome; what a cell does not say is left out."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from framework.bench.costs import TIME_PARTS
from framework.bench.outcome import Outcome, Scores
from framework.bench.rows import Row
from framework.bench.statistics import CONFIDENCE, Estimate
from framework.report import charts
from framework.report.charts import Axis, Marks, Series
from framework.report.page import number, seconds

if TYPE_CHECKING:
    from markupsafe import Markup

MEMORY_PARTS = ("parameters", "copies", "optimizer", "gradients", "activations", "workspace")
"""As `framework.bench.memory` has them, which imports torch."""
SPLITS = {"test": "test", "val": "validation"}
WIDE = 20
"""How many times the lowest the highest is from which values are told apart by their logarithms only."""
BANDS_AT_MOST = 4
"""Arms whose spread over seeds is shaded; more would hide each other."""


@attrs.frozen
class Chart:
    """A drawing, what it is of, and what must be known to read it."""

    title: str
    drawing: Markup
    caption: str = ""


def axis(label: str, values: Sequence[float]) -> Axis:
    """An axis for some values: logarithmic where they are positive and far apart."""
    known = [value for value in values if math.isfinite(value)]
    return Axis(label, "log" if known and 0 < min(known) * WIDE <= max(known) else "linear")


# ------------------------------------------------------------------------------------------- score against cost


@attrs.frozen
class Trade:
    """What scores are drawn against: a field of `Costs`, and the ratio of it that may have an interval."""

    title: str
    label: str
    cost: str
    ratio: str


TRADES = (Trade("Score against time", "seconds to the end of training", "total_s", "policy_ratio"),
          Trade("Score against memory", "peak memory, MiB", "peak_mb", "policy_memory"))  # fmt: skip


def trade_offs(outcome: Outcome) -> list[Chart]:
    """Score against time and against memory: a series for each arm, its cells joined."""
    return [chart for trade in TRADES for chart in _trade_off(outcome, trade)]


def picture(outcome: Outcome) -> str | None:
    """Score against time as an SVG file; None where no arm was both scored and timed."""
    drawn = list(_trade_off(outcome, TRADES[0]))
    return charts.standalone(drawn[0].drawing) if drawn else None


def _trade_off(outcome: Outcome, trade: Trade) -> Iterator[Chart]:
    found = [_cells_of(scores, look, outcome, trade) for look, scores in enumerate(outcome.scores)]
    series = [one for one in found if one is not None]
    if series:
        x = axis(trade.label, [value for one in series for value in one.x])
        y = Axis(f"{SPLITS[outcome.split]} {outcome.metric}")
        yield Chart(trade.title, charts.lines(trade.title, series, x, y), _how_to_read(outcome, series))


def _cells_of(scores: Scores, look: int, outcome: Outcome, trade: Trade) -> Series | None:
    """The cells of an arm that was scored and timed; None where there is none."""
    rows = [row for row in outcome.rows if row.cell.arm == scores.arm and row.median and row.cell.recipe is not None]
    score = scores.mean(outcome.split)
    half = None if scores.difference is None else scores.difference.half_width
    if not rows or score is None or math.isnan(score):
        return None
    costs = [getattr(row.median, trade.cost) for row in rows]
    return Series(
        scores.arm, costs, [score] * len(rows),
        x_range=[_around(cost, getattr(row, trade.ratio)) for cost, row in zip(costs, rows, strict=True)],
        y_range=[] if half is None else [(score - half, score + half)] * len(rows),
        hollow=[at for at, row in enumerate(rows) if row.cell.engine == "plain" and len(rows) > 1], look=look,
    )  # fmt: skip


def _around(value: float, beside: Estimate | None) -> tuple[float, float]:
    """How far a cost reaches where its ratio has an interval; nan where it has none."""
    if beside is None or beside.low is None or beside.high is None:
        return math.nan, math.nan
    return value * beside.low / beside.value, value * beside.high / beside.value


def _how_to_read(outcome: Outcome, series: Sequence[Series]) -> str:
    alone = f"{series[0].name} alone was scored and timed. " if len(series) == 1 else ""
    joined = "Outlined: the plain loop; filled: the engine." if any(one.hollow for one in series) else ""
    has_bars = any(low < high for one in series for low, high in (*one.x_range, *one.y_range))
    first = outcome.scores[0].arm
    bars = f" Bars: {CONFIDENCE:.0%} intervals of the difference or ratio to {first}." if has_bars else ""
    return (alone + joined + bars).strip()


# ------------------------------------------------------------------------------------------------- stacked bars


def breakdowns(outcome: Outcome) -> list[Chart]:
    """What the time of a step, the memory at its peak and the time to the end consist of, a bar for each cell."""
    rows = [row for row in outcome.rows if row.median is not None]
    return [
        *_bars("Time of a step", "milliseconds", TIME_PARTS, {row.cell.name: _of_step(row) for row in rows},
               lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.3g}",
               "Parts are read in steps of their own, which wait for each; the table's step is timed whole."),
        *_bars("Memory at a step's peak", "MiB", MEMORY_PARTS, {row.cell.name: _of_memory(row) for row in rows},
               lambda value: f"{value:,.0f}", "Without what libraries take."),
        *_bars("Time to the end of training", "seconds", ("start-up", "the pass", "epochs", "program of others"),
               {row.cell.name: _of_total(row) for row in rows}, seconds),
    ]  # fmt: skip


def _of_step(row: Row) -> Mapping[str, float]:
    return {name: 1000 * value for name, value in (row.median.parts_s if row.median else {}).items()}


def _of_memory(row: Row) -> Mapping[str, float]:
    known: Mapping[str, Any] = row.parts.get("memory_mb") or {}
    return {name: float(known[name]) for name in MEMORY_PARTS if name in known}


def _of_total(row: Row) -> Mapping[str, float]:
    """Epochs are what is left of the whole: they and what ends the run."""
    of = row.median
    assert of is not None
    if of.start_up_s is None or of.features_s is None:
        return {"program of others": of.total_s}
    epochs = max(0.0, of.total_s - of.start_up_s - of.features_s)
    return {"start-up": of.start_up_s, "the pass": of.features_s, "epochs": epochs}


def _bars(
    title: str, unit: str, names: Sequence[str], cells: Mapping[str, Mapping[str, float]],
    form: Callable[[float], str], more: str = "",
) -> Iterator[Chart]:  # fmt: skip
    """One chart, of the cells and parts that have lengths."""
    known = {cell: lengths for cell, lengths in cells.items() if lengths}
    used = [name for name in names if any(lengths.get(name) for lengths in known.values())]
    if used:
        parts = {name: [lengths.get(name, 0.0) for lengths in known.values()] for name in used}
        sums = [form(sum(lengths.values())) for lengths in known.values()]
        yield Chart(title, charts.stacked_bars(title, list(known), parts, Axis(unit), sums), more)


# ------------------------------------------------------------------------------------------------------- tuning


def tuning(outcome: Outcome) -> list[Chart]:
    """Validation score against each numeric key that was tuned, a line for each arm."""
    keys = dict.fromkeys(key for one in outcome.scores for settings, _ in one.trials for key in settings)
    return [chart for key in keys for chart in _tuning_of(key, outcome)]


def _tuning_of(key: str, outcome: Outcome) -> Iterator[Chart]:
    series = [_trials(one, key, look, outcome) for look, one in enumerate(outcome.scores)]
    series = [one for one in series if any(map(math.isfinite, one.y))]
    values = [value for one in series for value in one.x]
    if len(set(values)) > 1:
        has_others = any(len(settings) > 1 for one in outcome.scores for settings, _ in one.trials)
        best = " Of trials that differ in other keys alone, the best is shown." if has_others else ""
        title, metric = f"Trials by {key}", Axis(f"validation {outcome.metric}")
        yield Chart(title, charts.lines(title, series, axis(key, values), metric), f"Filled: chosen.{best}")


def _trials(scores: Scores, key: str, look: int, outcome: Outcome) -> Series:
    """The best score of each value of a key; a value of which every trial failed leaves a gap."""
    found: dict[float, list[float]] = {}
    for settings, score in scores.trials:
        if is_number(settings.get(key)):
            found.setdefault(float(settings[key]), []).append(math.nan if score is None else score)
    choose = max if outcome.higher_is_better else min
    best = {value: choose((score for score in found[value] if math.isfinite(score)), default=math.nan)
            for value in sorted(found)}  # fmt: skip
    hollow = [at for at, value in enumerate(best) if value != scores.settings.get(key)]
    return Series(scores.arm, list(best), list(best.values()), hollow=hollow, look=look)


def is_number(value: object) -> bool:
    """Whether a setting can stand on an axis."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# ------------------------------------------------------------------------------------------------------- curves


def learning_curves(outcome: Outcome) -> list[Chart]:
    """The validation score by epoch: the median over seeds of each arm, and from where to where seeds reach."""
    arms = [(look, one) for look, one in enumerate(outcome.scores) if any(one.curves.values())]
    if not arms:
        return []
    with_bands = len(arms) <= BANDS_AT_MOST and any(len(one.curves) > 1 for _, one in arms)
    series = [_curve(one, look, with_bands) for look, one in arms]
    target = None if outcome.target is None else Marks(f"target {number(outcome.target)}", [outcome.target], "y")
    title, metric = f"Validation {outcome.metric} by epoch", Axis(f"validation {outcome.metric}")
    median = "Median over seeds" if any(len(one.curves) > 1 for _, one in arms) else "One seed"
    shade = "; shaded: from the lowest seed to the highest" if with_bands else ""
    return [Chart(title, charts.lines(title, series, Axis("epoch", "whole"), metric, target), f"{median}{shade}.")]


def _curve(scores: Scores, look: int, with_band: bool) -> Series:
    """Seeds that stopped earlier do not count afterwards."""
    epochs = [[value for value in at if value is not None and math.isfinite(value)]
              for at in itertools.zip_longest(*scores.curves.values())]  # fmt: skip
    middle = [statistics.median(at) if at else math.nan for at in epochs]
    band = [(min(at), max(at)) if at else (math.nan, math.nan) for at in epochs] if with_band else []
    return Series(scores.arm, range(1, len(epochs) + 1), middle, band=band, look=look)
