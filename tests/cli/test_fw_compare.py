"""`fw compare`: its table, its exit code, its JSON, and every mistake as one clear text."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from studies import Simulated

BASE, CELL = "full / plain", "frozen / auto"
SLOWER = {BASE: 1.0, CELL: 1.3}


@pytest.fixture
def before(here: Path) -> Path:
    return Simulated().write(here / "before.json")


@pytest.fixture
def slower(before: Path) -> Path:
    return Simulated(1, time=SLOWER).write(before.with_name("slower.json"))


def test_the_process_ends_with_3_where_something_became_slower_and_imports_no_torch(slower, here, cli_process) -> None:
    result = cli_process("compare", "before.json", "slower.json", cwd=here)
    assert (result.code, result.err.splitlines()[0][:37]) == (3, "error: slower beyond noise: frozen / ")
    assert "Traceback" not in result.err
    code = ("import sys; from framework.cli import main; code = main();"
            "print(*{'torch', 'torchvision', 'timm'} & set(sys.modules)); sys.exit(code)")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, "compare", "before.json", "before.json"], cwd=here, check=False,
                          capture_output=True, text=True, timeout=120, env=dict(os.environ))  # fmt: skip
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, ""), done.stderr


def test_the_table_has_a_row_for_each_cost_with_its_interval_and_verdict(slower, cli) -> None:
    result = cli("compare", "before.json", "slower.json")
    rows = [line for line in result.out.splitlines() if line.startswith(CELL)]
    assert len(rows) == 2
    assert " time " in rows[0]
    assert " ms  1.3" in rows[0]
    assert rows[0].count("[1.") == 2
    assert rows[0].endswith("slower")
    assert " memory " in rows[1]
    assert " MB " in rows[1]
    assert "worse: an interval above 1.00x, and a ratio above 1.05x in time" in result.out


def test_the_last_line_of_a_good_end_is_the_verdict(before, here, cli) -> None:
    Simulated(1, noise=0.005).write(here / "after.json")
    result = cli("compare", "before.json", "after.json")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[-1] == "nothing became slower or larger beyond noise"


def test_too_few_rounds_are_no_failure_and_say_that_nothing_was_decided(before, here, cli) -> None:
    Simulated(1, rounds=1, time=SLOWER).write(here / "once.json")
    result = cli("compare", "before.json", "once.json")
    assert result.code == 0
    assert result.out.count("n = 1 round: no verdict") == 4
    assert result.out.splitlines()[-1] == (
        "nothing was decided: none of 4 figures has 6 rounds on both sides; "
        "take both with --rounds 6, or 10 on a noisy machine"
    )


def test_fail_above_allows_more(slower, cli) -> None:
    assert cli("compare", "before.json", "slower.json").code == 3
    result = cli("compare", "before.json", "slower.json", "--fail-above", "50%")
    assert result.code == 0
    assert "1.5x in time, 1.5x in memory" in result.out


def test_the_noise_that_sets_the_margin_is_named(before, here, cli) -> None:
    Simulated(1, noise=0.3).write(here / "noisy.json")
    assert "x in time (noise), 1.05x in memory\n" in cli("compare", "before.json", "noisy.json").out


def test_another_machine_is_warned_of_on_standard_error(before, here, cli) -> None:
    Simulated(1).write(here / "elsewhere.json", cpus=64)
    result = cli("compare", "before.json", "elsewhere.json", "--json")
    assert result.err.startswith("warning: these are figures of two machines (cpus 2, then 64)")
    assert json.loads(result.out)["warnings"][0] in result.err


def test_json_holds_all_and_ends_with_the_same_code(slower, cli) -> None:
    result = cli("compare", "before.json", "slower.json", "--json")
    found = json.loads(result.out)
    assert (result.code, found["verdict"], found["before"]) == (3, "worse", "before.json")
    assert [(of["cell"], of["cost"], of["verdict"]) for of in found["changes"]][2] == (CELL, "time", "worse")
    assert found["changes"][2]["ratio"]["low"] > 1
    assert found["baseline"] == BASE
    assert found["conclusion"] in result.err


def test_cells_of_one_file_and_remarks_stand_below_the_table(before, here, cli) -> None:
    Simulated(1, time={BASE: 1.2, CELL: 1.2, "new": 1.0}).write(here / "after.json")
    result = cli("compare", "before.json", "after.json")
    assert "\nnew: only in after.json\n" in result.out
    assert "\nall cells moved together in time, by 1." in result.out


def test_a_file_that_pytest_benchmark_wrote(here, cli) -> None:
    (here / "bench_it.py").write_text("def test_sum(benchmark):\n    benchmark(sum, range(100))\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "bench_it.py", "--benchmark-json=plain.json", "--benchmark-max-time=0.1"],
        cwd=here, capture_output=True, text=True, check=False, timeout=300,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},  # xdist: no timing
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    result = cli("compare", "plain.json", "plain.json")
    assert result.code == 0, result.err
    (row,) = [line for line in result.out.splitlines() if line.startswith("test_sum")]
    assert " us " in row
    assert "1.00x [" in row
    assert "memory" not in result.out


# ------------------------------------------------------------------------------------------------- mistakes


def without_timings() -> dict[str, Any]:
    """As --benchmark-save writes it without --benchmark-save-data."""
    document = Simulated(rounds=2).document()
    del document["benchmarks"][0]["stats"]["data"]
    return document


def twice_one_name() -> dict[str, Any]:
    return Simulated(rounds=2, time={BASE: 1.0}).document() | {
        "benchmarks": 2 * Simulated().document()["benchmarks"][:1]
    }


def without_memory() -> dict[str, Any]:
    document = Simulated(rounds=2).document()
    document["benchmarks"][0]["extra_info"]["peak_mb"] = [12.5, None]
    return document


MISTAKES = {
    "compare_missing_file": ("befor.json before.json", None),
    "compare_folder": ("study before.json", None),
    "compare_cut_short": ("before.json other.json", '{"benchmarks": [\n  {"na'),
    "compare_other_json": ("before.json other.json", {"metrics": {"accuracy": 0.9}}),
    "compare_no_name": ("before.json other.json", {"benchmarks": [1]}),
    "compare_no_timings": ("before.json other.json", without_timings()),
    "compare_wrong_rounds": ("before.json other.json", without_memory()),
    "compare_two_of_one_name": ("before.json other.json", twice_one_name()),
    "compare_nothing_in_common": ("before.json other.json", Simulated(rounds=2, time={"other": 1.0}).document()),
    "compare_another_study": ("before.json other.json", Simulated(rounds=2, name="birds").document()),
    "compare_no_cells": ("other.json other.json", {"benchmarks": []}),
    "compare_bare_number": ("before.json before.json --fail-above 0.05", None),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_clear_message(name: str, before: Path, here: Path, cli, snapshot) -> None:
    arguments, other = MISTAKES[name]
    (here / "study").mkdir()
    Simulated().write(here / "study" / "bench.json")
    (here / "other.json").write_text(other if isinstance(other, str) else json.dumps(other))
    result = cli("compare", *shlex.split(arguments))
    assert (result.code, result.out) == (2, "")
    assert "Traceback" not in result.err
    snapshot(name, f"$ fw compare {arguments}\n{result.err}")


def test_what_became_worse_reads_like_an_error(before, here, cli, snapshot) -> None:
    Simulated(1, time=SLOWER, memory={BASE: 1.2}).write(here / "worse.json")
    result = cli("compare", "before.json", "worse.json")
    assert result.code == 3
    snapshot("compare_worse", f"$ fw compare before.json worse.json\n{result.err}")
