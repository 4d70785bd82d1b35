"""Comparing two studies: what was slowed is found, what was not is left alone, and what cannot be known is said."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from studies import PEAK_MB, STEP_S, Simulated

from framework.bench import figures, statistics
from framework.bench.caveats import remarks_of, warnings_of
from framework.bench.compare import Change, Comparison, Worse, compare, conclusion, require_no_worse, verdict_of
from framework.bench.figures import Figures, read_figures, strays
from framework.bench.statistics import Estimate
from framework.errors import FwError

BASE, CELL = "full / plain", "frozen / auto"
SEEDS = range(20)
SLOWER = {BASE: 1.0, CELL: 1.1}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer resamples: the ends of an interval move by less than a tenth of its length."""
    monkeypatch.setattr(statistics, "RESAMPLES", 1999)


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Figures]:
    """`read(study)`, or `read(document)`: figures by way of a file."""
    files = iter(range(1000))

    def read_one(of: Simulated | dict[str, Any]) -> Figures:
        file = tmp_path / f"{next(files)}.json"
        file.write_text(json.dumps(of.document() if isinstance(of, Simulated) else of))
        return read_figures(file)

    return read_one


@pytest.fixture
def compared(read) -> Callable[..., Comparison]:
    """`compared(before, after)`: two studies or documents, at a margin of 5 %."""

    def compare_two(before: Any, after: Any, fail_above: float = 0.05) -> Comparison:
        return compare(read(before), read(after), fail_above)

    return compare_two


def change_of(found: Comparison, cell: str, cost: str = "time") -> Change:
    (change,) = [of for of in found.changes if (of.key[1], of.cost) == (cell, cost)]
    return change


def pair(seed: int, **after: Any) -> tuple[Simulated, Simulated]:
    """A study and another one of the same kind, drawn anew."""
    return Simulated(seed), Simulated(1000 + seed, **after)


# ----------------------------------------------------------------------------------------- what is found


def test_a_cell_that_takes_a_tenth_longer_is_found(compared) -> None:
    found = [compared(*pair(seed, time=SLOWER)) for seed in SEEDS]
    assert sum(change_of(of, CELL).verdict == "worse" for of in found) >= 19
    assert all(change_of(of, BASE).verdict != "worse" for of in found)


def test_what_did_not_change_is_never_flagged(compared) -> None:
    found = [compared(*pair(seed)) for seed in SEEDS]
    assert [of.verdict for of in found if of.verdict not in ("same", "unclear")] == []
    assert sum(len(of.changes) for of in found) == 4 * len(SEEDS)
    for of in found:
        require_no_worse(of)
        assert list(remarks_of(of)) == []


def test_a_tenth_more_memory_is_found_and_nothing_else(compared) -> None:
    found = [compared(*pair(seed, memory={CELL: 1.1})) for seed in SEEDS]
    assert all([(of.key[1], of.cost) for of in one.of("worse")] == [(CELL, "memory")] for one in found)
    change = change_of(found[0], CELL, "memory")
    assert (change.before, change.after) == pytest.approx((PEAK_MB, 1.1 * PEAK_MB), rel=0.02)
    assert change.words == "larger"


def test_what_became_better_is_told_and_fails_nothing(compared) -> None:
    found = compared(*pair(3, time={BASE: 1.0, CELL: 0.8}, memory={CELL: 0.8}))
    assert [of.words for of in found.of("better")] == ["faster", "smaller"]
    assert found.of("worse") == []
    require_no_worse(found)
    assert f"faster beyond noise: {CELL} (0.8" in conclusion(found)


def test_what_is_worse_is_an_error_with_exit_code_3_that_names_it(compared) -> None:
    found = compared(*pair(0, time=SLOWER, memory={BASE: 1.3}))
    with pytest.raises(
        Worse, match=rf"slower beyond noise: {CELL} \(1\.\d\dx\); larger beyond noise: {BASE} \(1\."
    ) as said:
        require_no_worse(found)
    assert said.value.exit_code == 3


def test_a_cell_has_the_seconds_of_a_step_or_of_a_whole_run(compared) -> None:
    for whole in (False, True):
        found = compared(Simulated(whole=whole), Simulated(1, whole=whole, time=SLOWER))
        change = change_of(found, CELL)
        assert (change.before, change.after) == pytest.approx((STEP_S, 1.1 * STEP_S), rel=0.03)
        assert change.verdict == "worse"


# ------------------------------------------------------------------------------------------- what decides


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (1.10, 1.06, 1.12, "worse"),
        (1.10, 0.99, 1.20, "unclear"),
        (1.04, 1.01, 1.07, "unclear"),
        (1.04, 1.03, 1.045, "same"),
        (1.00, 1.00, 1.00, "same"),
        (0.90, 0.85, 0.99, "better"),
        (0.90, 0.85, 1.01, "same"),
        (0.96, 0.95, 0.97, "same"),
        (1.50, None, None, "undecided"),
    ],
)
def test_both_the_interval_and_the_margin_decide(value, low, high, verdict) -> None:
    assert verdict_of(Estimate(value, (value,), low, high), margin=0.05) == verdict


def noisy(study: Simulated, low: float, high: float) -> dict[str, Any]:
    """The same figures in a file that states an A/A interval for time."""
    document = study.document()
    document["study"]["noise"]["step_s"] |= {"low": low, "high": high}
    return document


@pytest.mark.parametrize(("low", "high"), [(0.99, 1.25), (0.8, 1.01)])
def test_the_noise_that_either_file_states_widens_the_margin(compared, low: float, high: float) -> None:
    before, after = pair(0, time=SLOWER)
    assert change_of(compared(before, after), CELL).verdict == "worse"
    for files in ((noisy(before, low, high), after), (before, noisy(after, low, high))):
        found = compared(*files)
        assert found.margins["time"] == pytest.approx(0.25)
        assert change_of(found, CELL).verdict == "same"
    assert compared(before, noisy(after, low, high)).margins["memory"] == 0.05


def test_whole_runs_have_the_noise_of_whole_runs(read) -> None:
    noise = read(Simulated(whole=True)).noise
    assert 0 < noise["time"] < 0.1


def test_noise_of_too_few_rounds_is_that_of_the_worst() -> None:
    assert strays({"value": 1.0, "each": [1.02, 0.8, 1.1], "low": None, "high": None}) == pytest.approx(0.25)
    assert strays({}) == 0


def test_the_margin_is_what_was_asked_for_where_noise_is_smaller(compared) -> None:
    files = pair(0, time=SLOWER)
    assert change_of(compared(*files, fail_above=0.2), CELL).verdict == "same"
    assert compared(*files, fail_above=0.2).margins == {"time": 0.2, "memory": 0.2}


def test_five_rounds_decide_nothing(compared) -> None:
    for before, after in ((5, 10), (10, 5), (1, 1)):
        found = compared(Simulated(rounds=before), Simulated(1, rounds=after, time={BASE: 1.0, CELL: 3.0}))
        assert found.verdict == "undecided"
        rounds = min(before, after)
        assert change_of(found, CELL).words == f"n = {rounds} round{'s' if rounds > 1 else ''}: no verdict"
        require_no_worse(found)
        assert conclusion(found).startswith("nothing was decided: none of 4 figures has 6 rounds")


def test_one_cell_with_too_few_rounds_leaves_the_others_their_verdicts(compared) -> None:
    before, after = (study.document() for study in pair(0))
    for list_ in (after["benchmarks"][1]["stats"]["data"], after["benchmarks"][1]["extra_info"]["peak_mb"]):
        del list_[3:]
    found = compared(before, after)
    assert [of.verdict for of in found.changes] == ["same", "same", "undecided", "undecided"]
    assert found.verdict == "unclear"
    assert "2 of 4 figures undecided: too few rounds" in conclusion(found)


# ------------------------------------------------------------------------------- beside the baseline's change


def test_where_all_cells_moved_together_a_remark_says_so(compared) -> None:
    found = compared(*pair(0, time={BASE: 1.2, CELL: 1.2}))
    assert {of.verdict for of in found.changes if of.cost == "time"} == {"worse"}
    (remark,) = remarks_of(found)
    assert remark.startswith("all cells moved together in time, by 1.")
    beside = change_of(found, CELL).beside
    assert beside is not None
    assert beside.low < 1 < beside.high
    assert change_of(found, BASE).beside is None
    assert change_of(found, CELL, "memory").beside is None, "memory does not drift"


def test_no_such_remark_where_one_cell_moved_more_or_the_other_way(compared) -> None:
    for factor in (1.5, 1.0, 0.9):
        found = compared(*pair(0, time={BASE: 1.2, CELL: factor}))
        assert not [of for of in remarks_of(found) if "together" in of]


def test_one_cell_alone_did_not_move_together_with_others(compared) -> None:
    found = compared(Simulated(time={BASE: 1.0}), Simulated(1, time={BASE: 1.2}))
    assert found.verdict == "worse"
    assert list(remarks_of(found)) == []


def test_cells_that_moved_apart_did_not_move_together(compared) -> None:
    found = compared(*pair(0, time={BASE: 1.2, CELL: 1.2}))
    still = Estimate(0.9, (0.9,), 0.7, 1.1)
    apart = [attrs.evolve(change_of(found, CELL), ratio=Estimate(0.99, (0.99,), 0.8, 1.1), beside=still)]
    found = attrs.evolve(found, changes=[change_of(found, BASE), *apart])
    assert list(remarks_of(found)) == []


def test_a_faster_machine_does_not_hide_a_cell_that_became_slower_beside_the_baseline(compared) -> None:
    found = compared(*pair(0, time={BASE: 0.8, CELL: 1.0}))
    assert found.of("worse") == []
    (remark,) = remarks_of(found)
    assert remark.startswith(f"{CELL} became slower beside the baseline (1.2")
    assert "the baseline moved by 0.8" in remark


def test_what_a_round_does_to_all_cells_is_gone_beside_the_baseline(compared) -> None:
    found = compared(Simulated(shared=0.3), Simulated(1, shared=0.3, time=SLOWER))
    change = change_of(found, CELL)
    assert change.beside is not None
    assert change.beside.half_width < 0.05
    assert change.ratio.half_width > 0.1
    assert change.verdict_beside == "worse"


def test_there_is_no_baseline_without_the_same_first_cell_or_pairs_of_rounds(compared) -> None:
    turned = Simulated(1, time=dict(reversed(SLOWER.items())))
    assert compared(Simulated(), turned).baseline is None
    shorter = Simulated(1).document()
    del shorter["benchmarks"][1]["stats"]["data"][0]
    found = compared(Simulated(), shorter)
    assert found.baseline == ("photos", BASE)
    assert change_of(found, CELL).beside is None
    assert change_of(compared(Simulated(), Simulated(1)), CELL).beside is not None


# ------------------------------------------------------------------------------------------- warnings


def warned(compared, **machine: Any) -> list[str]:
    return list(warnings_of(compared(Simulated(), Simulated(1).document(**machine))))


def test_figures_of_two_machines_are_warned_of(compared) -> None:
    assert warned(compared) == []
    assert warned(compared, node="another", load_average=3.0) == []
    (text,) = warned(compared, processor="Xeon", cpus=4)
    assert text.startswith("these are figures of two machines (processor AMD EPYC, then Xeon; cpus 2, then 4)")
    (text,) = warned(compared, libraries={"fw-transfer": "0.1.0", "torch": "2.15.0", "timm": "1.0"})
    assert text == "the libraries differ (torch 2.14.1, then 2.15.0)"
    assert warned(compared, libraries={}) == [], "what one file does not say is no difference"


def test_other_settings_or_methods_are_warned_of(compared) -> None:
    document = Simulated(1).document()
    for benchmark in document["benchmarks"]:
        benchmark["extra_info"]["threads"] = 1
    document["benchmarks"][1]["extra_info"]["params"] = {"total": 1000, "trainable": 20}
    document["study"]["method"]["memory"] = "another way"
    assert list(warnings_of(compared(Simulated(), document))) == [
        "memory was not measured in the same way: see study.method in both files",
        f"other settings under one name (threads 2, then 1): {BASE}",
        f"other settings under one name (threads 2, then 1; trainable parameters 10, then 20): {CELL}",
    ]


# ------------------------------------------------------------------------------------------- which cells


def test_cells_of_one_file_only_are_listed_with_why_they_failed(compared) -> None:
    before, after = Simulated(time={BASE: 1.0, "old": 1.0}), Simulated(time={BASE: 1.0, "new": 1.0}).document()
    after["failures"] = [{"cell": "old", "laps": 6, "reason": "out of memory"}, {"arm": "full", "reason": "no"}]
    found = compared(before, after)
    assert {of.key[1] for of in found.changes} == {BASE}
    old, new = (found.left_out["photos", name] for name in ("old", "new"))
    assert old == f"only in {found.before.file}; it failed in {found.after.file}: out of memory"
    assert new == f"only in {found.after.file}"
    assert found.verdict == "worse", "what could be trained can be trained no more"
    with pytest.raises(Worse, match="old failed: out of memory") as caught:
        require_no_worse(found)
    assert not caught.value.hint
    assert compared(Simulated(), Simulated(time={BASE: 1.0})).verdict != "worse", "it was left out on purpose"


def test_steps_are_not_compared_with_whole_runs(compared) -> None:
    after = Simulated(1).document()
    after["benchmarks"][1]["extra_info"]["timed"] = "whole runs"
    found = compared(Simulated(), after)
    assert {of.key[1] for of in found.changes} == {BASE}
    assert "its times are of steps in" in found.left_out["photos", CELL]
    with pytest.raises(FwError, match="no cell in common"):
        compared(Simulated(), Simulated(whole=True))


def test_cells_of_two_studies_are_not_the_same_cells(compared) -> None:
    with pytest.raises(FwError, match="they are of two studies: photos and birds"):
        compared(Simulated(), Simulated(name="birds"))


def test_of_many_cells_without_a_counterpart_eight_are_named(compared) -> None:
    files = (Simulated(rounds=2, time={f"{side}{number}": 1.0 for number in range(9)}) for side in "ab")
    with pytest.raises(FwError) as said:
        compared(*files)
    assert len(said.value.hints) == 9
    assert said.value.hints[-1] == "... (18 in all)"


def test_names_stand_with_their_group_where_there_are_several(compared) -> None:
    document = Simulated().document()
    document["benchmarks"][1]["group"] = None
    found = compared(document, document)
    assert [found.label(of.key) for of in found.changes[::2]] == [f"photos: {BASE}", f"-: {CELL}"]


@pytest.mark.parametrize(
    "values", [[], [0.1, 0.0], [0.1, -0.1], [0.1, None], ["0.1"], [float("inf")], [float("nan")], 1]
)
def test_what_is_no_cost_is_refused_with_its_place(read, values) -> None:
    for table, name in (("stats", "data"), ("extra_info", "peak_mb")):
        document = Simulated(rounds=2).document()
        document["benchmarks"][1][table][name] = values
        with pytest.raises(FwError, match=rf"{CELL}': {table}\.{name} is no list of positive numbers"):
            read(document)


# ------------------------------------------------------------------------- what pytest-benchmark writes and reads


def plain(study: Simulated) -> dict[str, Any]:
    """As pytest-benchmark itself writes it: nothing of ours."""
    document = study.document()
    info = {"processor": "", "python_version": "3.11.7", "cpu": {"brand_raw": "AMD EPYC", "count": 2}}
    benchmarks = [{**of, "extra_info": {}, "group": None} for of in document["benchmarks"]]
    return {"machine_info": info, "benchmarks": benchmarks, "datetime": "", "version": "5.0"}


def test_a_file_of_pytest_benchmark_is_compared_by_time_alone(compared) -> None:
    found = compared(*map(plain, pair(0, time=SLOWER)))
    assert [(of.key, of.cost, of.verdict) for of in found.changes] == [
        (("", BASE), "time", "same"), (("", CELL), "time", "worse"),
    ]  # fmt: skip
    assert found.baseline is None
    other = plain(Simulated(1))
    other["machine_info"]["cpu"]["brand_raw"] = "Xeon"
    assert "AMD EPYC, then Xeon" in next(iter(warnings_of(compared(plain(Simulated()), other))))


def test_a_hundred_thousand_rounds_are_thinned_and_keep_their_median(read) -> None:
    document = plain(Simulated(rounds=2))
    seconds = np.random.default_rng(0).lognormal(sigma=0.02, size=100_000)
    document["benchmarks"][0]["stats"]["data"] = seconds.tolist()
    began = time.monotonic()
    found = compare(read(document), read(document), 0.05)
    assert time.monotonic() - began < 30
    change = change_of(found, BASE)
    assert change.rounds == figures.MOST_ROUNDS
    assert change.before == pytest.approx(np.median(seconds), rel=0.005)


def test_pytest_benchmark_reads_our_file(tmp_path: Path) -> None:
    files = [study.write(tmp_path / f"{name}.json") for name, study in zip("ab", pair(0, time=SLOWER), strict=True)]
    code = "from pytest_benchmark.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "compare", *map(str, files), "--columns=median,rounds"],
                          capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith((BASE, CELL))]
    assert len(rows) == 4
    assert all(line.split()[-1] == "10" for line in rows)
    assert "benchmark 'photos'" in done.stdout


def test_a_study_against_itself_did_not_change(compared) -> None:
    study = Simulated()
    found = compared(study, study)
    assert {of.ratio.value for of in found.changes} == {1.0}
    assert found.verdict == "same"
    assert {of.ratio.value for of in compared(study, attrs.evolve(study, seed=1)).changes} != {1.0}
