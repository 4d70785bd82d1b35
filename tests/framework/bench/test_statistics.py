"""Statistics: intervals hold a known truth as often as they say, tests raise few false alarms and find what is there.

Simulated figures are held against `binomial_range`, which a right method leaves once in ten thousand draws of the seed.
"""

from __future__ import annotations

import itertools
import time

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm, t
from sweeps import often

from framework.bench import statistics
from framework.bench.statistics import (
    Estimate,
    accuracy_difference,
    cost_change,
    cost_ratio,
    holm,
    image_p_value,
    verdict,
)

STUDIES = 500
NOISE = 0.02


def binomial_range(lowest: float, highest: float, studies: int = STUDIES) -> tuple[float, float]:
    """The shares that chances between lowest and highest give, but for one draw in ten thousand at either end."""
    return binom.ppf(1e-4, studies, lowest) / studies, binom.ppf(1 - 1e-4, studies, highest) / studies


def outliers(draw: np.random.Generator, rounds: int) -> np.ndarray:
    return np.where(draw.random(rounds) < 0.1, draw.exponential(0.3, rounds), 0.0)


def costs(draw: np.random.Generator, kind: str, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Costs of a cell and its baseline whose ratio has median 1."""
    cell, baseline = draw.normal(scale=NOISE, size=(2, rounds))
    if kind == "outliers":
        cell, baseline = cell + outliers(draw, rounds), baseline + outliers(draw, rounds)
    if kind == "shared":
        shared = draw.normal(scale=0.2, size=rounds)
        cell, baseline = cell + shared, baseline + shared
    if kind == "skewed":
        cell, baseline = draw.exponential(NOISE, rounds) - NOISE * np.log(2), np.zeros(rounds)
    return np.exp(cell), np.exp(baseline)


def holds(estimate: Estimate, truth: float) -> bool:
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.low <= estimate.value <= estimate.high
    return estimate.low <= truth <= estimate.high


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer resamples: enough for the far tails of six rounds, and a study in a millisecond."""
    monkeypatch.setattr(statistics, "RESAMPLES", 1999)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("rounds", often((6, 8, 10, 20), quick=(6,)))
@pytest.mark.parametrize("kind", ["lognormal", "outliers", "shared", "skewed"])
def test_the_cost_interval_holds_the_true_ratio(kind: str, rounds: int) -> None:
    draw = np.random.default_rng(rounds)
    held = []
    for _ in range(STUDIES):
        cell, baseline = costs(draw, kind, rounds)
        held.append(holds(cost_ratio(1.3 * cell, baseline), 1.3))
    lowest, highest = binomial_range(0.95, 0.99)
    assert lowest <= np.mean(held) <= highest


def chance_beyond(place: float, rounds: int) -> float:
    """Of the median of any distribution lying below the place-th smallest measurement: so few heads in n tosses."""
    return (binom.cdf(np.floor(place) - 1, rounds, 0.5) + binom.cdf(np.ceil(place) - 1, rounds, 0.5)) / 2


@pytest.mark.parametrize("rounds", range(6, 26))
def test_the_cost_interval_has_its_coverage_whatever_the_noise(rounds: int) -> None:
    ranks = np.arange(1.0, rounds + 1)
    interval = cost_ratio(ranks, np.ones(rounds))
    assert interval == attrs.evolve(cost_ratio(ranks[::-1], np.ones(rounds)), each=interval.each)
    assert interval.low is not None
    assert interval.high is not None
    outside = chance_beyond(interval.low, rounds) + chance_beyond(rounds + 1 - interval.high, rounds)
    assert 0.01 < outside < 0.075


@pytest.mark.parametrize("rounds", [6, 10, 30])
def test_the_expansion_makes_a_means_percentiles_students(rounds: int) -> None:
    """A mean, unlike a median, resamples to a normal distribution: with the spread of n, where Student's has n - 1."""
    spread, students = rounds**-0.5, t.ppf(0.975, rounds - 1) * (rounds - 1) ** -0.5
    assert -norm.ppf(statistics._expanded_tail(rounds)) * spread == pytest.approx(students)


@pytest.mark.parametrize(("rounds", "widest"), [(6, 0.038), (8, 0.033), (10, 0.027), (20, 0.019)])
def test_a_cell_beside_itself_gives_a_narrow_interval_around_one(rounds: int, widest: float) -> None:
    draw = np.random.default_rng(rounds)
    estimates = [cost_ratio(*costs(draw, "shared", rounds)) for _ in range(60)]
    assert np.mean([holds(estimate, 1.0) for estimate in estimates]) >= 17 / 20
    assert np.median([estimate.half_width for estimate in estimates]) < widest


@pytest.mark.usefixtures("quick")
def test_pairing_takes_out_what_a_round_does_to_both() -> None:
    draw = np.random.default_rng(0)
    studies = [costs(draw, "shared", 10) for _ in range(50)]
    paired = np.median([cost_ratio(cell, baseline).half_width for cell, baseline in studies])
    apart = np.median([cost_change(baseline, cell).half_width for cell, baseline in studies])
    assert paired < apart / 4


def test_a_slowdown_of_a_tenth_is_found_in_six_rounds() -> None:
    draw = np.random.default_rng(0)
    found = []
    for _ in range(80):
        cell, baseline = costs(draw, "lognormal", 6)
        found.append((verdict(cost_ratio(1.1 * cell, baseline), 1.0), verdict(cost_ratio(baseline, 1.1 * cell), 1.0)))
    assert np.mean([each == ("higher", "lower") for each in found]) > 0.95


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("kind", "before", "after"), [
    ("lognormal", 6, 6), ("outliers", 8, 8), ("lognormal", 6, 40), ("skewed", 12, 9),
])  # fmt: skip
def test_the_interval_of_a_change_holds_the_true_ratio(kind: str, before: int, after: int) -> None:
    draw = np.random.default_rng(0)
    held = []
    for _ in range(STUDIES):
        old, new = costs(draw, kind, before)[0], costs(draw, kind, after)[0]
        held.append(holds(cost_change(3 * old, 3.6 * new), 1.2))
    lowest, highest = binomial_range(0.93, 0.985)
    assert lowest <= np.mean(held) <= highest


@pytest.mark.usefixtures("quick")
def test_the_interval_of_a_change_is_as_wide_as_its_noise_asks() -> None:
    """2.2 % for ten rounds of 2 % noise on both sides; 1.8 % would be an interval at 90 %, 2.7 % an expanded one."""
    draw = np.random.default_rng(0)
    widths = [cost_change(*costs(draw, "lognormal", 10)).half_width for _ in range(STUDIES)]
    assert np.median(widths) == pytest.approx(0.022, rel=0.08)


@pytest.mark.usefixtures("quick")
def test_a_change_of_a_tenth_between_two_times_is_found() -> None:
    draw = np.random.default_rng(0)
    verdicts = []
    for _ in range(100):
        old, new = costs(draw, "lognormal", 8)
        verdicts.append(verdict(cost_change(old, 1.1 * new), 1.0))
    assert np.mean([each == "higher" for each in verdicts]) > 0.95


def test_a_change_reports_medians_and_resamples_both_sides() -> None:
    before, after = [2.0, 1.0, 3.0, 2.0, 9.0, 2.0], [4.0, 3.0, 5.0, 4.0, 4.0, 4.0, 90.0]
    change = cost_change(before, after)
    assert change.value == 2.0
    assert change.each == tuple(cost / 2 for cost in after)
    itself = cost_change(before, before)
    assert verdict(itself, 1.0) == "no difference detected"
    assert itself.half_width is not None
    assert itself.half_width > 0


@pytest.mark.parametrize(("before", "after"), [(5, 6), (6, 5), (1, 1)])
def test_a_change_of_few_rounds_has_no_interval(before: int, after: int) -> None:
    change = cost_change([1.0] * before, [2.0] * after)
    assert change == Estimate(2.0, (2.0,) * after)
    assert verdict(change, 1.0) is None


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_few_rounds_give_dots_and_no_interval(rounds: int) -> None:
    ratio = cost_ratio([3.0] * rounds, [2.0] * rounds)
    assert ratio == Estimate(1.5, (1.5,) * rounds)
    assert ratio.half_width is None
    assert verdict(ratio, 1.0) is None


def test_six_rounds_are_the_first_with_an_interval_and_it_spans_them() -> None:
    ratios = [1.1, 0.9, 1.3, 1.0, 1.2, 1.25]
    estimate = cost_ratio([2 * ratio for ratio in ratios], [2.0] * 6)
    assert estimate.each == pytest.approx(ratios)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((1.15, 0.9, 1.3))
    assert estimate.half_width == pytest.approx(0.2)
    assert estimate.p_value is None


def test_equal_ratios_give_an_interval_of_no_width() -> None:
    estimate = cost_ratio([3.0] * 8, [2.0] * 8)
    assert (estimate.value, estimate.low, estimate.high) == (1.5, 1.5, 1.5)
    assert verdict(estimate, 1.0) == "higher"


def test_costs_pair_by_position_and_the_same_rounds_give_the_same_interval() -> None:
    draw = np.random.default_rng(0)
    cell, baseline = costs(draw, "shared", 9)
    again = cost_ratio(cell, baseline)
    assert again == cost_ratio(cell.tolist(), baseline.tolist())
    assert again.each == tuple(cell / baseline)
    assert cost_ratio(cell * 7, baseline * 7).low == pytest.approx(again.low)


@pytest.mark.parametrize("paired", [cost_ratio, accuracy_difference])
@pytest.mark.parametrize(("cell", "baseline", "said"), [
    ([1.0], [1.0, 2.0], "1 measurements of the cell and 2 of the baseline make no pairs"),
    ([], [], "finite"),
    ([1.0, float("nan")], [1.0, 1.0], "finite"),
    ([1.0, 1.0], [float("inf"), 1.0], "finite"),
])  # fmt: skip
def test_what_makes_no_pairs_is_refused(paired, cell, baseline, said) -> None:
    with pytest.raises(ValueError, match=said):
        paired(cell, baseline)


@pytest.mark.parametrize("compared", [cost_ratio, cost_change])
@pytest.mark.parametrize("wrong", [0.0, -1.0])
def test_a_cost_is_positive(compared, wrong) -> None:
    with pytest.raises(ValueError, match="positive"):
        compared([1.0], [wrong])
    with pytest.raises(ValueError, match="positive"):
        compared([wrong], [1.0])


@pytest.mark.parametrize("seeds", [5, 8])
@pytest.mark.parametrize("images", [40, 1000])
def test_the_accuracy_interval_holds_the_true_difference(seeds: int, images: int) -> None:
    """Also where images are so few that scores tie."""
    draw = np.random.default_rng(seeds)
    held, alarms = [], []
    for _ in range(STUDIES):
        baseline, cell = draw.binomial(images, 0.85, seeds) / images, draw.binomial(images, 0.9, seeds) / images
        held.append(holds(accuracy_difference(cell, baseline), 0.05))
        other = draw.binomial(images, 0.85, seeds) / images
        alarms.append(accuracy_difference(other, baseline).p_value <= 0.05)
    lowest, highest = binomial_range(0.95, 0.95)
    assert lowest <= np.mean(held) <= highest
    assert 1 - highest <= np.mean(alarms) <= 1 - lowest


def test_an_accuracy_difference_that_is_there_is_found() -> None:
    draw = np.random.default_rng(0)
    found = []
    for _ in range(200):
        hard = draw.normal(scale=0.05, size=5)  # what a seed's split does to both
        cell, baseline = 0.82 + hard + draw.normal(scale=0.004, size=(2, 5))
        found.append(verdict(accuracy_difference(cell + 0.02, baseline), 0.0))
    assert np.mean([each == "higher" for each in found]) > 0.95


def test_the_accuracy_interval_is_students() -> None:
    estimate = accuracy_difference([0.9, 0.8, 0.9, 0.7, 0.9, 0.8], [0.8, 0.8, 0.7, 0.7, 0.7, 0.9])
    differences = np.array([0.1, 0.0, 0.2, 0.0, 0.2, -0.1])
    error = differences.std(ddof=1) / 6**0.5
    assert estimate.each == pytest.approx(differences)
    assert estimate.value == pytest.approx(0.4 / 6)
    assert estimate.half_width == pytest.approx(2.570582 * error)
    assert estimate.p_value == pytest.approx(2 * t.sf(estimate.value / error, 5))


def test_few_seeds_give_dots_and_no_interval() -> None:
    difference = accuracy_difference([1.0] * 4, [0.5] * 4)
    assert difference == Estimate(0.5, (0.5,) * 4)
    assert verdict(difference, 0.0) is None
    assert verdict(difference, 0.0, 1e-9) is None


@pytest.mark.parametrize(("cell", "p_value"), [
    ([0.5, 0.6, 0.7, 0.8, 0.9], 1.0),
    ([0.6, 0.7, 0.8, 0.9, 1.0], 2 / 2**5),
    ([0.4, 0.5, 0.6, 0.7, 0.8], 2 / 2**5),
])  # fmt: skip
def test_equal_differences_are_no_certainty(cell: list[float], p_value: float) -> None:
    """In doubles and fp32 they are equal but for rounding, of which a bare t test makes a spread."""
    for kind in (np.float64, np.float32):
        estimate = accuracy_difference(np.asarray(cell, dtype=kind), np.asarray([0.5, 0.6, 0.7, 0.8, 0.9], dtype=kind))
        assert estimate.p_value == p_value
        assert estimate.low == estimate.high == estimate.value
        assert verdict(estimate, 0.0, estimate.p_value) == "no difference detected"


def correct(draw: np.random.Generator, chances: np.ndarray, seeds: int) -> np.ndarray:
    return draw.random((seeds, len(chances))) < chances


@pytest.mark.parametrize("seeds", [1, 5])
def test_the_image_test_raises_few_false_alarms(seeds: int) -> None:
    """Equally good cells, each of which has images of its own that it gets right with every seed."""
    draw = np.random.default_rng(seeds)
    alarms = []
    for _ in range(STUDIES):
        cell, baseline = (np.clip(draw.normal(0.8, 0.3, 400), 0, 1) for _ in range(2))
        alarms.append(image_p_value(correct(draw, cell, seeds), correct(draw, baseline, seeds)) <= 0.05)
    lowest, highest = binomial_range(0.03, 0.05)  # an exact test of counts stays a little below its level
    assert lowest <= np.mean(alarms) <= highest


def test_the_image_test_finds_a_difference_that_is_there() -> None:
    draw = np.random.default_rng(0)
    found = []
    for _ in range(200):
        chances = np.clip(draw.normal(0.8, 0.3, 1000), 0, 1)
        cell, baseline = correct(draw, np.minimum(chances + 0.05, 1), 3), correct(draw, chances, 3)
        found.append(image_p_value(cell, baseline) <= 0.05)
    assert np.mean(found) > 0.9


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 20))
def test_with_one_seed_the_image_test_is_mcnemars(gained: int, lost: int, tied: int) -> None:
    cell = np.array([[True] * gained + [False] * lost + [True] * tied])
    baseline = np.array([[False] * gained + [True] * lost + [True] * tied])
    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert image_p_value(cell, baseline) == pytest.approx(expected, rel=1e-9)
    assert image_p_value(baseline, cell) == image_p_value(cell, baseline)


@pytest.mark.parametrize("seed", range(5))
def test_the_image_test_counts_every_way_to_turn_signs(seed: int) -> None:
    draw = np.random.default_rng(seed)
    cell, baseline = draw.random((3, 9)) < 0.8, draw.random((3, 9)) < 0.5
    differences = cell.sum(axis=0) - baseline.sum(axis=0)
    turned = [abs(differences @ signs) for signs in itertools.product((-1, 1), repeat=9)]
    assert image_p_value(cell, baseline) == pytest.approx(np.mean(np.array(turned) >= abs(differences.sum())))


def test_ten_thousand_images_take_no_time_and_give_the_same_answer() -> None:
    draw = np.random.default_rng(0)
    chances = np.clip(draw.normal(0.8, 0.3, 10_000), 0, 1)
    cell, baseline = correct(draw, chances, 5), correct(draw, chances, 5)
    image_p_value(cell[:, :9], baseline[:, :9])  # imports
    start = time.perf_counter()
    first = image_p_value(cell, baseline)
    assert time.perf_counter() - start < 0.5
    assert first == image_p_value(cell, baseline)
    differences = cell.sum(axis=0) - baseline.sum(axis=0)
    near = 2 * norm.sf((abs(differences.sum()) - 0.5) / np.sqrt((differences**2).sum()))
    assert first == pytest.approx(near, rel=0.01)
    assert 0 <= image_p_value(np.ones((5, 10_000)), np.zeros((5, 10_000))) < 1e-12


def test_images_of_no_difference_say_nothing() -> None:
    same = np.array([[True, False, True], [False, False, True]])
    assert image_p_value(same, same) == 1.0
    assert image_p_value(same, same[::-1]) == 1.0
    assert image_p_value(np.zeros((2, 0)), np.zeros((2, 0))) == 1.0


@pytest.mark.parametrize(("cell", "baseline"), [((2, 3), (3, 3)), ((2, 3), (2, 4)), ((3,), (3,))])
def test_other_images_or_seeds_are_refused(cell, baseline) -> None:
    with pytest.raises(ValueError, match="same seeds and images"):
        image_p_value(np.zeros(cell), np.zeros(baseline))


def test_holm_by_hand() -> None:
    assert holm({}) == {}
    assert holm({"only": 0.03}) == {"only": 0.03}
    adjusted = holm({"d": 0.03, "a": 0.005, "c": 0.04, "b": 0.01})
    assert list(adjusted) == ["d", "a", "c", "b"]
    assert adjusted == pytest.approx({"a": 0.02, "b": 0.03, "d": 0.06, "c": 0.06})
    assert holm({"a": 0.6, "b": 0.4}) == {"a": 0.8, "b": 0.8}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.sampled_from([0.01, 0.05, 0.3]))
def test_holm_rejects_one_by_one_from_the_smallest(raw: list[float], level: float) -> None:
    adjusted = holm({str(place): value for place, value in enumerate(raw)})
    left = [value for rank, value in enumerate(sorted(raw)) if (len(raw) - rank) * value > level]
    rejected = [value for value in raw if not left or value < left[0]]
    assert sorted(raw[int(name)] for name, value in adjusted.items() if value <= level) == sorted(rejected)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_only_raises_p_values_and_keeps_their_order(raw: list[float]) -> None:
    adjusted = list(holm({str(place): value for place, value in enumerate(raw)}).values())
    assert all(one <= other <= 1 for one, other in zip(raw, adjusted, strict=True))
    assert max(adjusted) >= max(raw)
    assert min(adjusted) == min(1.0, len(raw) * min(raw))
    for one, other in itertools.permutations(range(len(raw)), 2):
        assert raw[one] > raw[other] or adjusted[one] <= adjusted[other]


@pytest.mark.parametrize("better", [0, 1])
def test_false_alarms_among_several_policies_stay_as_rare_as_one_alone(better: int) -> None:
    """Four policies beside one baseline, so that the tests depend on one another; the first is better or is not."""
    draw = np.random.default_rng(0)
    raw, families, found = [], [], []
    for _ in range(STUDIES):
        baseline, *policies = draw.normal(0.9, 0.01, size=(5, 5))
        policies[0] = policies[0] + 0.1 * better
        estimates = {str(place): accuracy_difference(policy, baseline) for place, policy in enumerate(policies)}
        adjusted = holm({name: estimate.p_value for name, estimate in estimates.items()})
        verdicts = [verdict(estimates[name], 0.0, adjusted[name]) for name in estimates]
        raw.append(any(estimates[name].p_value <= 0.05 for name in list(estimates)[better:]))
        families.append(any(each != "no difference detected" for each in verdicts[better:]))
        found.append(verdicts[0] == "higher")
    lowest, highest = binomial_range(0.02, 0.05)
    assert lowest <= np.mean(families) <= highest < np.mean(raw)
    assert np.mean(found) > 0.95 if better else np.mean(found) < highest


@pytest.mark.parametrize(("figure", "no_difference", "p_value", "said"), [
    ((0.02, 0.01, 0.03), 0.0, 0.01, "higher"),
    ((-0.02, -0.03, -0.01), 0.0, 0.01, "lower"),
    ((0.02, 0.01, 0.03), 0.0, 0.2, "no difference detected"),
    ((0.02, -0.01, 0.05), 0.0, 0.01, "higher"),
    ((0.02, None, None), 0.0, 0.01, None),
    ((1.02, 1.01, 1.03), 1.0, None, "higher"),
    ((0.98, 0.97, 0.99), 1.0, None, "lower"),
    ((1.02, 1.0, 1.04), 1.0, None, "no difference detected"),
    ((0.98, 0.96, 1.0), 1.0, None, "no difference detected"),
    ((1.02, None, None), 1.0, None, None),
])  # fmt: skip
def test_verdicts(figure, no_difference, p_value, said) -> None:
    value, low, high = figure
    assert verdict(Estimate(value, (value,), low, high), no_difference, p_value) == said
