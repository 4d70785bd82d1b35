"""Statistics: what a handful of paired measurements allow to say, and how sure one may be of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import attrs

if TYPE_CHECKING:
    import numpy as np

    Numbers = np.ndarray[Any, np.dtype[Any]]

Verdict = Literal["higher", "lower", "no difference detected"]

CONFIDENCE = 0.95
ROUNDS_FOR_AN_INTERVAL = 6
"""With fewer, even the span of all ratios holds the true median in less than 95 of 100 cases (1 - 2 / 2**n)."""
SEEDS_FOR_AN_INTERVAL = 5
RESAMPLES = 9999
SAME_SCORE = 1e-6
"""Scores come as fp32: differences closer than this differ by rounding."""


@attrs.frozen
class Estimate:
    """A figure, the single measurements behind it, and an interval where they are enough for one.

    Attributes:
        value: a ratio of costs, or a difference of scores.
        each: the ratio or difference of each round or seed: the dots of a picture.
        low, high: the interval at `CONFIDENCE`; None where there are too few rounds or seeds.
        p_value: of the hypothesis that scores do not differ; None where there is no interval, and for costs.
    """

    value: float
    each: tuple[float, ...]
    low: float | None = None
    high: float | None = None
    p_value: float | None = None

    @property
    def half_width(self) -> float | None:
        """Half the length of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def cost_ratio(cell: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """What a cell costs beside the baseline: the median of the ratios of rounds, taken pair by pair.

    The interval comes from resampling pairs: percentiles of the resampled medians, taken further out by as much as the
    bootstrap is too narrow for few pairs (the expanded percentile interval; Hesterberg, What Teachers Should Know About
    the Bootstrap, The American Statistician 69, 2015). In 400-2000 simulated studies each it held the truth in 96-99 %
    with 6, 8, 10 and 20 rounds, be the noise log-normal, with slow outliers, shared by a pair or skewed on one side; in
    93-98 % with each number from 6 to 25. Bare percentiles held it in 89-95 %.

    Args:
        cell, baseline: a cost of each round, in the same order and unit; positive.

    Raises:
        ValueError: they have different lengths, are empty, or hold what is no cost.
    """
    import numpy as np

    ratios = np.divide(*_pairs(_costs(cell), _costs(baseline)))
    value, each = float(np.median(ratios)), tuple(ratios.tolist())
    if len(ratios) < ROUNDS_FOR_AN_INTERVAL:
        return Estimate(value, each)
    return Estimate(value, each, *_middle(_resampled_medians(ratios), _expanded_tail(len(ratios))))


def cost_change(before: Sequence[float], after: Sequence[float]) -> Estimate:
    """How a cost changed between two studies: the ratio of the medians, after to before.

    Rounds of different times make no pairs, so that both sides are resampled (the percentile bootstrap; Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993). It needs no expansion: in 1000 simulated studies each it
    held the true ratio in 93-98 %, with 6 to 60 rounds on either side, slow outliers or none. Whatever else differed
    between the two times, a warmer machine for instance, is part of the ratio.

    Args:
        before, after: a cost of each round, in the same unit; positive; of any number.

    Raises:
        ValueError: one is empty, or holds what is no cost.
    """
    import numpy as np

    old, new = _costs(before), _costs(after)
    middle = np.median(old)
    value, each = float(np.median(new) / middle), tuple((new / middle).tolist())
    if min(len(old), len(new)) < ROUNDS_FOR_AN_INTERVAL:
        return Estimate(value, each)
    ratios = _resampled_medians(new, stream=1) / _resampled_medians(old)
    return Estimate(value, each, *_middle(ratios, (1 - CONFIDENCE) / 2))


def accuracy_difference(cell: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """By how much a cell's score exceeds the baseline's: the mean over seeds of the paired differences.

    The interval and the p-value are those of Student's t over the differences. Where all are the same number, which
    t would take for certainty, the interval is that number and the p-value the sign test's: 2 / 2**n, or 1 for zero.

    Args:
        cell, baseline: a score for each seed, in the same order of seeds.

    Raises:
        ValueError: they have different lengths, are empty, or hold what is no number.
    """
    import numpy as np
    from scipy.stats import ttest_1samp

    differences = np.subtract(*_pairs(_finite(cell), _finite(baseline)))
    value, each = float(differences.mean()), tuple(differences.tolist())
    if len(differences) < SEEDS_FOR_AN_INTERVAL:
        return Estimate(value, each)
    if np.ptp(differences) < SAME_SCORE:
        return Estimate(value, each, value, value, 1.0 if abs(value) < SAME_SCORE else 2.0 ** (1 - len(differences)))
    test = ttest_1samp(differences, 0.0)
    interval = test.confidence_interval(CONFIDENCE)
    return Estimate(value, each, float(interval.low), float(interval.high), float(test.pvalue))


def image_p_value(cell: Numbers, baseline: Numbers) -> float:
    """How likely a difference over images as large as this is where two cells are equally good; seeds taken as given.

    Each image's difference, summed over seeds, has its sign turned or not (a paired permutation test; Good,
    Permutation, Parametric, and Bootstrap Tests of Hypotheses, 2005). All ways to turn them are counted, none drawn:
    images whose difference is as large make one binomial, and the chances of their sum are a convolution. With one
    seed it is McNemar's exact test. What another seed would have learned it cannot say: that is `accuracy_difference`.

    Args:
        cell, baseline: (seeds, images), whether each image was classified correctly; the same images in the same order.

    Returns:
        The two-sided p-value, to within 1e-12.

    Raises:
        ValueError: other images or seeds.
    """
    import numpy as np
    from scipy.signal import convolve
    from scipy.stats import binom

    if cell.shape != baseline.shape or cell.ndim != 2:
        raise ValueError(f"{cell.shape} and {baseline.shape} are not the same seeds and images")
    differences = (cell.astype(bool).astype(int) - baseline.astype(bool)).sum(axis=0)
    chances = np.ones(1)
    for size, images in enumerate(np.bincount(np.abs(differences))):
        if size and images:
            turned = np.zeros(size * images + 1)
            turned[::size] = binom.pmf(np.arange(images + 1), images, 0.5)
            chances = convolve(chances, turned)
    sums = 2 * np.arange(len(chances)) - (len(chances) - 1)
    return float(np.clip(chances[np.abs(sums) >= abs(differences.sum())].sum(), 0.0, 1.0))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P-values adjusted so that a false alarm among all of them is as rare as one alone.

    Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979; whatever
    the p-values have in common, such as a baseline.

    Args:
        p_values: name of a comparison -> its own p-value.
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def verdict(estimate: Estimate, no_difference: float, p_value: float | None = None) -> Verdict | None:
    """What may be said of a figure: on which side of no difference it lies, if on one; None without an interval.

    Args:
        estimate: a ratio of costs or a difference of scores.
        no_difference: the value where there is none: 1 for a ratio, 0 for a difference.
        p_value: decides instead of the interval where it is given: the one that `holm` adjusted, of several policies.
    """
    if estimate.low is None or estimate.high is None:
        return None
    outside = not estimate.low <= no_difference <= estimate.high
    if not (outside if p_value is None else p_value <= 1 - CONFIDENCE):
        return "no difference detected"
    return "higher" if estimate.value > no_difference else "lower"


def _finite(values: Sequence[float]) -> Numbers:
    import numpy as np

    numbers = np.asarray(values, dtype=float)
    if not len(numbers) or not np.isfinite(numbers).all():
        raise ValueError(f"{numbers.tolist()} are not one finite number for each round or seed")
    return numbers


def _costs(values: Sequence[float]) -> Numbers:
    numbers = _finite(values)
    if (numbers <= 0).any():
        raise ValueError(f"{numbers.tolist()} are not all positive, as a cost is")
    return numbers


def _pairs(cell: Numbers, baseline: Numbers) -> tuple[Numbers, Numbers]:
    if len(cell) != len(baseline):
        raise ValueError(f"{len(cell)} measurements of the cell and {len(baseline)} of the baseline make no pairs")
    return cell, baseline


def _resampled_medians(values: Numbers, stream: int = 0) -> Numbers:
    """Medians of `RESAMPLES` samples drawn with replacement: independent in different streams, never new in one.

    The order of the values does not matter.
    """
    import numpy as np

    drawn = np.random.default_rng(stream).choice(np.sort(values), size=(RESAMPLES, len(values)))
    medians: Numbers = np.median(drawn, axis=1)
    return medians


def _expanded_tail(count: int) -> float:
    """The share left out at either end, so that the interval of a normal mean would be Student's."""
    from scipy.stats import norm, t

    quantile = t.ppf((1 + CONFIDENCE) / 2, count - 1)
    return float(norm.cdf(-quantile * (count / (count - 1)) ** 0.5))


def _middle(values: Numbers, tail: float) -> tuple[float, float]:
    import numpy as np

    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
