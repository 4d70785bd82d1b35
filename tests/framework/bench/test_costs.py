"""Costs and outcome: from a few measured steps to a whole run, and from runs and laps to figures. All made by hand."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from pathlib import Path
from typing import Any

import attrs
import pytest

from framework.bench.arms import Arm
from framework.bench.as_json import as_csv, as_json
from framework.bench.costs import Costs, costs_of, medians, repaid_in_epoch, seconds_to_epoch
from framework.bench.laps import AGAIN, Cell, Lap
from framework.bench.outcome import Outcome, outcome_of
from framework.bench.probe import probe
from framework.bench.rows import rows_and_noise
from framework.bench.study import StudyKeys
from framework.bench.trained import Job, Trained
from framework.bench.tuning import Tuned
from framework.index import Index
from framework.recipe import load_recipe

RECIPE: Any = type("Stub", (), {"digest": lambda self: "abc"})()
"""What stands where a cell's recipe would: only a program has none."""
PARTS = {"data": 0.01, "forward": 0.03, "backward": 0.05, "optimizer": 0.01}


def measured(step_s: float = 0.1, **changes: Any) -> dict[str, Any]:
    """What a probe says: 250 of 1,000 training and 50 of 200 validation images, batches of 10."""
    return {
        "start_up_s": 2.0, "divide_s": 1.0, "features_s": 5.0, "epoch_s": 0.0,
        "image_s": [step_s / 10, step_s / 10, 10.0], "image_parts_s": {of: step_s * part for of, part in PARTS.items()},
        "first_validate_s": 1.5, "validate_s": 0.5, "base_mb": 400.0, "peak_mb": 700.0,
        "images": {"train": 1000, "val": 200}, "thinned": {"train": 250, "val": 50},
        "params": {"trainable": 1, "total": 4},
        "partition": {"boundary": "layer3", "not_kept": None}, "epochs": 20, "images_of_step": 10, **changes,
    }  # fmt: skip


STEPS = Cell("full / plain", "full", "plain", RECIPE)
WHOLE = Cell("full / plain", "full", "plain", RECIPE, whole=True)


def steps_cost(**changes: Any) -> Costs:
    return costs_of(Lap("full / plain", 0, facts=measured(**changes)), STEPS)


# ------------------------------------------------------------------------------------------------------- costs


def test_a_few_steps_stand_for_the_whole_run() -> None:
    costs = steps_cost(epoch_s=0.5)
    assert costs.start_up_s == 3.0
    assert costs.features_s == 5.0 * 4 + (1.5 - 0.5) * 4, "training images, and validation images at their first pass"
    assert costs.epoch_s == 0.5 + 0.01 * 1000 + 0.5 * 4
    assert costs.total_s == 3.0 + 24.0 + 20 * 12.5
    assert (costs.step_s, costs.images_per_s) == (0.1, 100.0)
    assert costs.features_per_1000_s == 20.0
    assert costs.peak_mb == 300.0


def test_what_is_kept_of_nothing_costs_no_pass_over_validation_images() -> None:
    """Their first pass takes longer for what a first pass always takes, such as the reading of files."""
    for partition in ({"boundary": None}, {"boundary": "layer3", "not_kept": 'engine.cache = "off"'}):
        costs = steps_cost(partition=partition, features_s=0.5)
        assert costs.features_s == 2.0
        assert costs.features_per_1000_s is None


def test_fewer_epochs_and_a_peak_below_the_base_are_costs_all_the_same() -> None:
    assert steps_cost(epochs=2.5).total_s == 3.0 + 24.0 + 2.5 * 12.0
    assert steps_cost(peak_mb=399.0).peak_mb == 1.0, "ratios need a number above 0"


def test_epochs_are_those_that_max_steps_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from framework.bench.probe import epochs_of

    def epochs(**keys: Any) -> float:
        table = {"epochs": 20, "max_steps": 0, "batch_size": 32, "accumulate": 1, "drop_last": False, **keys}
        run: Any = SimpleNamespace(facts={"data": {"images": {"train": 100}}})
        recipe: Any = SimpleNamespace(train=SimpleNamespace(**table))
        return epochs_of(recipe, run)

    assert epochs() == 20
    assert epochs(max_steps=6) == 1.5, "of 4 steps, the last one short"
    assert epochs(max_steps=6, drop_last=True) == 2.0
    assert epochs(max_steps=3, accumulate=3) == 1.5
    assert epochs(max_steps=1000) == 20


def test_a_whole_run_and_a_program_say_what_they_took() -> None:
    facts = {
        "time_s": {"start_up": 3.0, "features": 4.0, "train": 30.0, "validate": 10.0},
        "epochs": 5,
        "images_per_s": 7,
    }
    costs = costs_of(Lap("x", 0, 0, "", 60.0, 900.0, facts), WHOLE)
    assert (costs.total_s, costs.peak_mb, costs.start_up_s, costs.features_s) == (60.0, 900.0, 3.0, 4.0)
    assert (costs.epoch_s, costs.step_s, costs.images_per_s) == (8.0, None, 7)
    script = Cell("x", "x", "", command=("x",), whole=True)
    program = costs_of(Lap("x", 0, 0, "", 50.0, 800.0, {"accuracy": 0.9}), script)
    assert program == Costs(total_s=50.0, peak_mb=800.0)


def timed(epoch_s: float | None, features_s: float | None = 0.0) -> Costs:
    return Costs(total_s=1.0, peak_mb=1.0, start_up_s=3.0, features_s=features_s, epoch_s=epoch_s)


@pytest.mark.parametrize(
    ("epoch_s", "features_s", "plain_s", "epoch"),
    [(2.0, 24.0, 12.0, 3), (2.0, 20.0, 12.0, 2), (2.0, 0.0, 12.0, 1), (12.0, 5.0, 12.0, None), (13.0, 5.0, 12.0, None)],
)
def test_the_pass_is_repaid_in_the_epoch_in_which_the_gains_make_up_for_it(
    epoch_s: float, features_s: float, plain_s: float, epoch: int | None
) -> None:
    assert repaid_in_epoch([(timed(epoch_s, features_s), timed(plain_s))] * 2) == epoch


def test_what_nobody_knows_is_never_repaid() -> None:
    assert repaid_in_epoch([]) is None
    assert repaid_in_epoch([(timed(None, None), timed(12.0))]) is None


def test_time_to_an_epoch_has_start_up_and_pass_in_it() -> None:
    assert seconds_to_epoch(timed(2.0, 24.0), 3) == 3.0 + 24.0 + 6.0
    assert seconds_to_epoch(Costs(total_s=1.0, peak_mb=1.0), 3) is None


def test_medians_are_of_each_cost_and_parts_of_one_step() -> None:
    rounds = [steps_cost(step_s=step_s, peak_mb=peak) for step_s, peak in ((0.1, 900.0), (0.3, 700.0), (0.2, 500.0))]
    found = medians(rounds)
    assert (found.step_s, found.peak_mb) == (0.2, 300.0)
    assert found.parts_s == rounds[2].parts_s
    assert sum(found.parts_s.values()) == pytest.approx(0.2)
    assert medians([Costs(total_s=1.0, peak_mb=2.0)]) == Costs(total_s=1.0, peak_mb=2.0)


# ----------------------------------------------------------------------------------------------------- outcome

CELLS = [
    STEPS, Cell("full / auto", "full", "auto", RECIPE), Cell("frozen / plain", "frozen", "plain", RECIPE),
    Cell("frozen / auto", "frozen", "auto", RECIPE),
]  # fmt: skip
STEP_S = {
    "full / plain": 0.4,
    "full / plain" + AGAIN: 0.44,
    "full / auto": 0.4,
    "frozen / plain": 0.2,
    "frozen / auto": 0.1,
}


def laps(rounds: int = 3, failed: tuple[tuple[str, int], ...] = (), drift: float = 2.0) -> list[Lap]:
    """Rounds in which the machine is slower by `drift` each time: only ratios within a round say anything."""
    return [
        Lap(name, number, reason="killed") if (name, number) in failed
        else Lap(name, number, facts={**measured(step_s * drift**number, start_up_s=0.0, divide_s=0.0, features_s=0.0,
                                                 first_validate_s=0.0, validate_s=0.0)})
        for number in range(rounds) for name, step_s in STEP_S.items()
    ]  # fmt: skip


def test_a_cell_whose_plan_changes_says_that_it_was_timed_as_it_begins() -> None:
    """Of the phases of `lp_ft` a lap sees the first, of which the whole run's time cannot be told."""
    told = [attrs.evolve(lap, facts={**lap.facts, "later_plans": lap.cell == "full / auto"}) for lap in laps()]
    rows, _ = rows_and_noise(CELLS, told, {})
    assert [row.cell.name for row in rows if row.caution] == ["full / auto"]


@pytest.mark.parametrize(("policy", "later"), [("frozen", False), ("full", False), ("lp_ft", True)])
def test_a_probe_knows_whether_other_plans_follow(index: Index, policy: str, later: bool) -> None:
    keys = {"data.images": 40, "backbone.use": "timm/test_efficientnet", "backbone.image_size": 32, "engine.threads": 1}
    recipe = load_recipe("smoke", index, {**keys, "train.batch_size": 8, "freezing": {"use": policy}})
    found = probe(recipe, index, time.monotonic(), False, lambda: None, 1)
    assert found["later_plans"] is later


def final(
    folder: Path, arm: str, seed: int, curve: list[float], test: float | None, metric: str = "accuracy"
) -> Trained:
    """A run that ended, and its metrics on disk."""
    folder = folder / arm / str(seed)
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps({f"val.{metric}": value}) + "\n" for value in curve))
    higher = metric == "accuracy"
    best = max(curve) if higher else min(curve)
    scores = {"val": {metric: best}, **({} if test is None else {"test": {metric: test}})}
    summary = {"metrics": {"best": {"monitor": f"val.{metric}", "higher_is_better": higher, **scores}}}
    return Trained(Job(Arm(arm, (arm,), None, None), seed, {}, folder), "", summary)  # type: ignore[arg-type]


def tuned(arm: str, finals: list[Trained], trials: Any = ()) -> Tuned:
    return Tuned(Arm(arm, (arm,), None, None), trials, {}, {}, finals)  # type: ignore[arg-type]


KEYS = StudyKeys(base="x")


def study(folder: Path, of_laps: list[Lap] | None = None, keys: StudyKeys = KEYS, **given: Any) -> Outcome:
    """Two arms, five seeds each, the second clearly better."""
    full = [final(folder, "full", seed, [0.5, 0.6], 0.50 + seed / 100) for seed in range(5)]
    frozen = [final(folder, "frozen", seed, [0.4, 0.6, 0.7], 0.60 + seed / 90) for seed in range(5)]
    arms = [tuned("full", full, **given), tuned("frozen", frozen, **given)]
    return outcome_of(keys, arms, CELLS, laps() if of_laps is None else of_laps)


def ratios(outcome: Outcome) -> dict[str, tuple[float | None, float | None]]:
    return {
        row.cell.name: tuple(of and round(of.value, 6) for of in (row.policy_ratio, row.engine_ratio))
        for row in outcome.rows
    }  # type: ignore[misc]


def test_ratios_are_paired_by_round(tmp_path: Path) -> None:
    outcome = study(tmp_path)
    assert ratios(outcome) == {
        "full / plain": (None, None),
        "full / auto": (None, 1.0),
        "frozen / plain": (0.5, None),
        "frozen / auto": (0.25, 0.5),
    }
    assert outcome.rows[3].policy_ratio.each == pytest.approx((0.25, 0.25, 0.25))
    assert outcome.rows[3].median.step_s == pytest.approx(0.2), "the median of 0.1, 0.2 and 0.4"
    assert {name: round(of.value, 6) for name, of in outcome.noise.items()} == {
        "total_s": 1.1, "step_s": 1.1, "peak_mb": 1.0
    }  # fmt: skip


def test_a_lap_that_failed_drops_its_round_and_no_other(tmp_path: Path) -> None:
    outcome = study(tmp_path, laps(3, failed=(("frozen / plain", 0), ("frozen / auto", 2))))
    plain, auto = outcome.rows[2:]
    assert ratios(outcome)["frozen / auto"] == (0.25, 0.5)
    assert (len(plain.policy_ratio.each), len(auto.policy_ratio.each), len(auto.engine_ratio.each)) == (2, 2, 1)
    assert (plain.failed, plain.reason, [lap.round for lap in plain.laps]) == (1, "killed", [1, 2])
    assert (outcome.rows[0].failed, len(outcome.rows[0].costs)) == (0, 3)


def test_a_pass_is_repaid_by_what_epochs_of_the_same_round_gain(tmp_path: Path) -> None:
    """The machine becomes slower, so that gains of other rounds would be none."""
    outcome = study(tmp_path, laps(3, failed=(("frozen / plain", 2), ("frozen / auto", 0)), drift=4.0))
    assert outcome.rows[3].repaid == 1
    assert outcome.rows[2].repaid is None


def test_a_cell_of_which_every_lap_failed_has_no_costs(tmp_path: Path) -> None:
    outcome = study(tmp_path, laps(2, failed=(("frozen / auto", 0), ("frozen / auto", 1))))
    row = outcome.rows[3]
    assert (row.median, row.policy_ratio, row.repaid, row.target_s, row.failed) == (None, None, None, None, 2)
    lines = list(csv.DictReader(io.StringIO(as_csv(outcome))))
    assert [line["cell"] for line in lines] == [cell.name for cell in CELLS]
    assert (lines[3]["total_s"], lines[3]["failed"], lines[3]["rounds"]) == ("", "killed", "0")
    assert float(lines[2]["policy_ratio"]) == pytest.approx(0.5)
    assert float(lines[0]["step_backward_s"]) == pytest.approx(0.5 * float(lines[0]["step_s"]), rel=0.4)
    document = as_json("photos", outcome, {}, {})
    assert document["failures"] == [{"cell": "frozen / auto", "laps": 2, "reason": "killed"}]
    assert [one["name"] for one in document["benchmarks"]] == [cell.name for cell in CELLS[:3]]


def test_the_target_is_what_every_arm_ends_with_and_its_time_that_of_the_epoch_that_reaches_it(tmp_path: Path) -> None:
    outcome = study(tmp_path)
    assert outcome.target == 0.6
    assert [one.epoch_of_target for one in outcome.scores] == [2, 2]
    assert outcome.rows[3].target_s == pytest.approx(2 * outcome.rows[3].median.epoch_s)
    high = study(tmp_path / "high", keys=StudyKeys(base="x", target=0.65))
    assert [one.epoch_of_target for one in high.scores] == [None, 3]
    assert [row.target_s is None for row in high.rows] == [True, True, False, False]


def test_the_target_is_one_that_training_reaches_where_a_finisher_makes_a_better_model(tmp_path: Path) -> None:
    """Curves are of the network as it trains, and a score that no curve has would be reached by none."""
    runs = {arm: final(tmp_path, arm, 0, curve, 0.9) for arm, curve in (("full", [0.5, 0.8]), ("ema", [0.5, 0.7]))}
    metrics = runs["ema"].summary["metrics"]
    finished = {"raw": metrics["best"], "best": {**metrics["best"], "val": {"accuracy": 0.9}}}
    runs["ema"] = Trained(runs["ema"].job, "", {"metrics": {**metrics, **finished}})
    outcome = outcome_of(KEYS, [tuned(arm, [run]) for arm, run in runs.items()], CELLS, laps())
    assert [one.each["val"][0] for one in outcome.scores] == [0.8, 0.9], "what is compared is the model"
    assert outcome.target == 0.7
    assert [one.epoch_of_target for one in outcome.scores] == [2, 2]


def test_without_tuning_there_is_no_verdict_and_with_it_there_is(tmp_path: Path) -> None:
    bare = study(tmp_path)
    assert (bare.is_tuned, bare.split, bare.metric) == (False, "test", "accuracy")
    assert [one.verdict for one in bare.scores] == [None, None]
    assert bare.scores[1].difference.value == pytest.approx(0.1, abs=0.01)
    both = study(tmp_path / "tuned", trials=[({"optimizer.lr": 0.1}, 0.5)])
    assert both.is_tuned
    assert [one.verdict for one in both.scores] == [None, "higher"]


@pytest.mark.parametrize(("better", "verdict"), [(12, "higher"), (3, "higher, on these images")])
def test_a_difference_that_other_images_might_not_show_is_one_on_these_images(
    tmp_path: Path, better: int, verdict: str
) -> None:
    """Every seed is right of some images more; of few of them the test over images can tell nothing."""

    def predicted(arm: str, seed: int, right: int) -> Trained:
        run = final(tmp_path, arm, seed, [0.5], right / 40 + seed * len(arm) / 10_000)
        rows = [f"{number:02d},cat,{'cat' if number < right else 'dog'}" for number in range(40)]
        (run.job.folder / "predictions").mkdir()
        (run.job.folder / "predictions" / "test.csv").write_text("\n".join(["image,target,predicted", *rows]))
        return run

    trials = [({"optimizer.lr": 0.1}, 0.5)]
    arms = [tuned("full", [predicted("full", seed, 20) for seed in range(5)], trials),
            tuned("frozen", [predicted("frozen", seed, 20 + better) for seed in range(5)], trials)]  # fmt: skip
    outcome = outcome_of(KEYS, arms, CELLS, laps())
    assert outcome.scores[1].verdict == verdict
    assert (outcome.scores[1].p_of_images < 0.05) is (verdict == "higher")


def test_seeds_are_paired_and_one_that_failed_or_has_no_number_pairs_with_none(tmp_path: Path) -> None:
    full = [final(tmp_path, "full", seed, [0.6], 0.1 * seed) for seed in range(4)]
    frozen = [final(tmp_path, "frozen", seed, [0.6], 0.1 * seed + 0.05) for seed in (3, 1, 0)]
    nan = final(tmp_path, "frozen", 2, [0.6], math.nan)
    failed = Trained(Job(nan.job.arm, 9, {}, tmp_path / "none"), "out of memory")
    outcome = outcome_of(KEYS, [tuned("full", full), tuned("frozen", [*frozen, nan, failed])], CELLS, laps())
    one = outcome.scores[1]
    assert one.difference.each == pytest.approx((0.05, 0.05, 0.05))
    assert sorted(one.each["test"]) == [0, 1, 3]
    assert (one.failed, one.reason) == (1, "out of memory")
    assert outcome.split == "test"


def test_a_loss_is_better_where_it_is_lower(tmp_path: Path) -> None:
    arms = [
        tuned(arm, [final(tmp_path, arm, seed, curve, None, "loss") for seed in range(2)])
        for arm, curve in (("full", [3.0, 2.0]), ("frozen", [2.5, 1.0]))
    ]
    outcome = outcome_of(KEYS, arms, CELLS, laps())
    assert (outcome.higher_is_better, outcome.split, outcome.target) == (False, "val", 2.0)
    assert [one.epoch_of_target for one in outcome.scores] == [2, 2]
    assert outcome.scores[1].difference.value == pytest.approx(-1.0)


def test_a_program_is_compared_with_the_first_cell_and_has_no_steps(tmp_path: Path) -> None:
    facts = {
        "time_s": {"start_up": 3.0, "features": 0.0, "train": 30.0, "validate": 10.0},
        "epochs": 5,
        "images_per_s": 7,
    }
    cells = [WHOLE, Cell("script", "script", "", command=("python", "x.py"), whole=True)]
    of = {WHOLE.name: (50.0, facts), WHOLE.name + AGAIN: (50.0, facts), "script": (75.0, {"accuracy": 0.9})}
    found = [Lap(name, n, 0, "", seconds, 900.0, said) for n in range(2) for name, (seconds, said) in of.items()]
    arm = tuned("full", [final(tmp_path, "full", 0, [0.6], None)])
    row = outcome_of(KEYS, [arm], cells, found).rows[1]
    assert (row.policy_ratio.value, row.engine_ratio, row.repaid, row.target_s) == (1.5, None, None, None)
    assert row.median.step_s is None
    assert row.facts["accuracy"] == 0.9


def test_ratios_are_of_one_heat_and_where_there_is_none_of_one_round(tmp_path: Path) -> None:
    """In the second heat the machine is four times slower; the usual loop of the second arm was in the first one."""

    def lap(name: str, heat: int, step_s: float) -> Lap:
        return Lap(name, 0, heat, facts=measured(step_s, start_up_s=0.0, divide_s=0.0, features_s=0.0,
                                                 first_validate_s=0.0, validate_s=0.0))  # fmt: skip

    found = [lap("full / plain", 0, 0.4), lap("frozen / plain", 0, 0.2), lap("full / plain", 1, 1.6),
             lap("full / auto", 1, 1.6), lap("frozen / auto", 1, 0.4)]  # fmt: skip
    outcome = study(tmp_path, found)
    assert ratios(outcome)["full / auto"] == (None, 1.0)
    assert ratios(outcome)["frozen / auto"] == (0.25, 2.0)
