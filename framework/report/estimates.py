"""Estimates: a figure in words, with its interval or its number of measurements, and a strip with a dot for each."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

import attrs

from framework.bench.statistics import Estimate
from framework.report.page import NOTHING, number, ratio


@attrs.frozen
class Strip:
    """Measurements on a scale that a column shares; places are shares of its length.

    Attributes:
        dots: where each measurement stands.
        bar: from where to where the interval reaches; None where there is none.
        line: where there is no difference; None where none is measured.
        words: the measurements in digits.
    """

    dots: tuple[float, ...]
    bar: tuple[float, float] | None
    line: float | None
    words: str


@attrs.frozen
class Shown:
    """A figure as a table shows it.

    Attributes:
        value: in digits.
        doubt: its interval, or how many measurements it comes from.
        strip: of these; None where there are fewer than two.
    """

    value: str
    doubt: str
    strip: Strip | None


def shown_ratios(estimates: Sequence[Estimate | None]) -> list[Shown | None]:
    """The ratios of a column; their strips count by logarithms, so that half and twice are as far from one."""
    return _shown(estimates, ratio, 1.0, math.log)


def shown_differences(estimates: Sequence[Estimate | None]) -> list[Shown | None]:
    """The differences of a column."""
    return _shown(estimates, signed, 0.0, float)


def shown_scores(scores: Sequence[Sequence[float]]) -> list[Shown]:
    """Means of scores; their doubt is from where to where these reach, and how many there are."""
    places = _scale([score for each in scores for score in each])
    return [_mean(each, places) for each in scores]


def signed(value: float) -> str:
    """A difference of scores: +0.0123."""
    return NOTHING if math.isnan(value) else f"{value:+.4f}"


def _mean(scores: Sequence[float], places: Callable[[float], float]) -> Shown:
    if not scores:
        return Shown("failed", "", None)
    known = [score for score in scores if math.isfinite(score)]
    span = f"{number(min(known))} to {number(max(known))}, " if len(known) > 1 else ""
    lost = f", {len(scores) - len(known)} not a number" if len(known) < len(scores) else ""
    return Shown(number(statistics.fmean(scores)), f"{span}n={len(scores)}{lost}", _strip(scores, places, number))


def _shown(
    estimates: Sequence[Estimate | None], form: Callable[[float], str], none: float, bend: Callable[[float], float]
) -> list[Shown | None]:
    ends = [end for of in estimates if of for end in (*of.each, of.low, of.high) if end is not None]
    places = _scale([none, *ends], bend)
    return [None if of is None else _figure(of, form, none, places) for of in estimates]


def _figure(of: Estimate, form: Callable[[float], str], none: float, places: Callable[[float], float]) -> Shown:
    if of.low is None or of.high is None:
        return Shown(form(of.value), f"n={len(of.each)}", _strip(of.each, places, form, none))
    words, bar = f"[{form(of.low)}, {form(of.high)}], n={len(of.each)}", (places(of.low), places(of.high))
    return Shown(form(of.value), words, _strip(of.each, places, form, none, bar))


def _strip(
    each: Sequence[float], places: Callable[[float], float], form: Callable[[float], str], none: float | None = None,
    bar: tuple[float, float] | None = None,
) -> Strip | None:  # fmt: skip
    if len(each) < 2:
        return None
    dots = tuple(places(one) for one in each if math.isfinite(one))
    return Strip(dots, bar, None if none is None else places(none), ", ".join(map(form, each)))


def _scale(values: Sequence[float], bend: Callable[[float], float] = float) -> Callable[[float], float]:
    """From a value to its share of the way from the lowest to the highest; all the same: half of it."""
    known = [bend(value) for value in values if math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    return lambda value: (bend(value) - low) / (high - low) if high > low else 0.5
