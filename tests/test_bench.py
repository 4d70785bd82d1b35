"""`fw bench`: a study from the command line to its figures, its mistakes, and what an interruption leaves."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sweeps import WHOLE

from framework.bench import worker
from framework.bench.arms import Arm, arms_of
from framework.bench.combination import policies_from
from framework.bench.study import StudyKeys, read_study
from framework.bench.tuning import tune_and_train
from framework.files import write_json
from framework.index import Index, installed_index
from framework.rundir import SUMMARY

TINY = """\
extends = "smoke"
name = "tiny"

[data]
images = 20
classes = 2
size = 32

[backbone]
use = "timm/test_byobnet"
image_size = 32

[train]
batch_size = 6
epochs = 1
"""
STUDY = """\
[study]
base = "tiny.toml"
policies = [{ use = "full" }, { use = "frozen" }]
seeds = [0, 1]
engines = ["auto"]
tune = { "optimizer.lr" = [0.1, 0.01] }
"""
COMMAND = ("bench", "which.toml")
INDEXING = "indexing plugins (once per installed version) ...\n"

pytestmark = pytest.mark.usefixtures("index")


def write(folder: Path) -> Path:
    (folder / "tiny.toml").write_text(TINY)
    (folder / "which.toml").write_text(STUDY)
    return folder


@pytest.fixture
def tiny(here: Path) -> Path:
    """The study `which.toml` of the recipe `tiny.toml`, in the working directory."""
    return write(here)


# ----------------------------------------------------------------------------------------------------- mistakes

MISTAKES: dict[str, tuple[str, dict[str, str]]] = {
    "bench_unknown_policy": ("tiny.toml --policies frozen,ful", {}),
    "bench_unknown_key_of_a_policy": ("tiny.toml --policies frozen,last_stages(m=2)", {}),
    "bench_policies_that_are_none": ("tiny.toml --policies frozen,last_stages(2", {}),
    "bench_no_policies": ("tiny.toml --policies=", {}),
    "bench_same_policy_twice": ("tiny.toml --policies frozen,frozen", {}),
    "bench_unknown_addition": ("tiny.toml --policies frozen,full+emma", {}),
    "bench_policy_added_to_a_policy": ("tiny.toml --policies frozen+full", {}),
    "bench_two_adapters": ("tiny.toml --policies frozen+lora+ssf", {}),
    "bench_addition_without_a_policy": ("tiny.toml --policies frozen,lora(rank=4)", {}),
    "bench_unknown_key_of_an_addition": ("tiny.toml --policies frozen,frozen+lora(rang=4)", {}),
    "bench_same_combination_twice": ("tiny.toml --policies frozen+ema,frozen+ema", {}),
    "bench_finisher_that_is_an_adapter": ("which.toml", {'{ use = "full" }': '{ use = "full", finisher = "lora" }'}),
    "bench_misspelt_kind_of_an_addition": (
        "which.toml", {'{ use = "full" }': '{ use = "full", finsher = "ema" }'}
    ),
    "bench_addition_that_names_nothing": (
        "which.toml", {'{ use = "full" }': '{ use = "full", adapter = { rank = 4 } }'}
    ),
    "bench_spaces_for_another_addition": (
        "which.toml", {'{ use = "full" }': '{ use = "full", finisher = "ema" }',
                       "tune =": 'tune_for = { "full + swa" = { "optimizer.lr" = [1, 2] } }\ntune ='}
    ),
    "bench_zero_rounds": ("which.toml --rounds 0", {}),
    "bench_seeds_that_are_none": ("which.toml --seeds 0-", {}),
    "bench_engine_that_is_none": ("which.toml --engines plain,fast", {}),
    "bench_unknown_tuned_key": ("which.toml --tune optimizer.rate=[0.1,0.2]", {}),
    "bench_tuned_key_that_a_policy_lacks": (
        "tiny.toml --policies last_stages,frozen --tune freezing.n=[1,2]", {}
    ),
    "bench_tuned_value_out_of_bounds": ("which.toml --tune optimizer.lr=[0.1,0]", {}),
    "bench_empty_space": ("which.toml --tune optimizer.lr=[]", {}),
    "bench_no_space": ("which.toml --tune optimizer.lr=0.1", {}),
    "bench_range_upside_down": ("which.toml --tune optimizer.lr={log=[1.0,0.1],trials=3}", {}),
    "bench_unequal_trials": ("which.toml", {"tune =": 'tune_for = { full = { "optimizer.lr" = [1, 2, 3] } }\ntune ='}),
    "bench_spaces_for_nobody": ("which.toml", {"tune =": 'tune_for = { ful = { "optimizer.lr" = [1, 2] } }\ntune ='}),
    "bench_typo_in_a_study": ("which.toml", {"seeds =": "sedes ="}),
    "bench_table_beside_a_study": ("which.toml", {"[study]": "[train]\nepochs = 2\n\n[study]"}),
    "bench_other_data": ("tiny.toml other.toml", {}),
    "bench_other_data_declared": ("tiny.toml other.toml --vary data.images", {}),
    "bench_other_weights": ("tiny.toml pretrained.toml", {}),
    "bench_undeclared_difference": ("tiny.toml longer.toml", {}),
    "bench_varied_key_that_no_recipe_has": ("tiny.toml longer.toml --vary train.epocs", {}),
    "bench_missing_recipe": ("tiny.toml tinny.toml", {}),
    "bench_study_beside_a_recipe": ("which.toml tiny.toml", {}),
    "bench_programs_by_steps": ("which.toml", {"tune = {": 'others = { script = ["python", "x.py"] }\ntune = {'}),
    "bench_folder_of_other_files": ("which.toml --out photos", {}),
    "bench_folder_of_another_study": ("which.toml --out older", {}),
    "bench_folder_that_cannot_be": ("which.toml --out tiny.toml/study", {}),
    "bench_json_that_cannot_be": ("which.toml --json nowhere/bench.json", {}),
    "run_a_study": ("", {}),
}  # fmt: skip


OTHERS = {
    "other": ("images = 20", "images = 50"),
    "longer": ("epochs = 1", "epochs = 2"),
    "pretrained": ("[backbone]", '[backbone]\nweights = ["default"]'),
}
"""Recipes in which one thing differs."""


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process may be started."""

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_before_anything_is_measured(tiny: Path, cli, snapshot, name: str) -> None:
    arguments, changes = MISTAKES[name]
    text = STUDY
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (tiny / "which.toml").write_text(text)
    for other, (old, new) in OTHERS.items():
        (tiny / f"{other}.toml").write_text(TINY.replace(old, new))
    (tiny / "photos").mkdir()
    (tiny / "photos" / "cat.jpg").write_bytes(b"")
    write_json(tiny / "older" / "study.json", {"cells": {}})
    before = sorted(tiny.rglob("*"))
    words = ["bench", *arguments.split()] if name.startswith("bench") else ["run", "which.toml"]
    result = cli(*words)
    said = result.err.replace(INDEXING, "")
    assert (result.code, result.out) == (2, ""), said
    assert "Traceback" not in said
    assert sorted(tiny.rglob("*")) == before, "nothing is left behind"
    snapshot(name, f"$ fw {' '.join(words)}\n{said}")


@pytest.mark.usefixtures("nothing_runs")
def test_force_compares_what_would_be_refused_and_a_dry_run_writes_nothing(tiny: Path, cli) -> None:
    (tiny / "other.toml").write_text(TINY.replace("20", "50"))
    before = sorted(tiny.rglob("*"))
    result = cli("bench", "tiny.toml", "other.toml", "--force", "--dry-run")
    assert result.code == 0, result.err
    assert "tiny-other: 2 ways of training, 1 seed, 1 round of timing" in result.err
    assert "data.images              tiny: 20, other: 50" in result.err
    assert cli(*COMMAND, "--dry-run").code == 0
    assert sorted(tiny.rglob("*")) == before


def test_a_study_is_checked_without_torch(tiny: Path) -> None:
    code = ("import sys; from framework.cli import main; code = main();"
            "print(*{'torch', 'torchvision', 'timm'} & set(sys.modules)); sys.exit(code)")  # fmt: skip
    for words in (["validate", "which.toml"], [*COMMAND, "--dry-run"]):
        done = subprocess.run([sys.executable, "-c", code, *words], cwd=tiny, capture_output=True, text=True,
                              check=False)  # fmt: skip
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, ""), done.stderr
        assert "which: 2 ways of training, 2 trials each, 2 seeds, 1 round of timing" in done.stdout + done.stderr


# ---------------------------------------------------------------------------------------------- what is added

WORDS = "frozen,frozen+lora(rank=2),full+ema(decay=0.5)"
ADDED = ("frozen", "frozen + lora(rank=2)", "full + ema(decay=0.5)")


def arms_of_words(seeds: list[int]) -> tuple[StudyKeys, tuple[Arm, ...]]:
    """The study that `WORDS` mean, of the recipe `tiny.toml`, and its arms."""
    index = installed_index()
    study = read_study(["tiny.toml"], {"seeds": seeds, "engines": ["auto"]}).under(policies_from(WORDS, index))
    return study.keys, arms_of(study, index, ["engine.partition=off"])


def test_scores_are_of_the_model_that_a_finisher_made_and_runs_of_one_process_do_not_mix(tiny: Path) -> None:
    keys, arms = arms_of_words([1])
    tuned = tune_and_train(arms, keys, tiny / "study", lambda *_: None)
    assert [(one.arm.name, len(one.finals), one.finals[0].reason) for one in tuned] == [(name, 1, "") for name in ADDED]
    for one in tuned:
        [run], folder = one.finals, tiny / one.arm.slug
        (tiny / "alone.toml").write_text(one.arm.cell(1).to_toml())
        worker.train_all([(str(tiny / "alone.toml"), str(folder))], io.StringIO())
        for name in ("metrics.jsonl", "predictions/val.csv", "predictions/test.csv"):
            assert (run.job.folder / name).read_bytes() == (folder / name).read_bytes(), (one.arm.name, name)
        for split in ("val", "test"):
            right, score = run.is_right(split), run.score(split)
            assert score == run.summary["metrics"]["best"][split]["accuracy"]
            assert sum(right) / len(right) == pytest.approx(score), "images are paired by the same model"
    metrics = [one.finals[0].summary["metrics"] for one in tuned]
    assert ["raw" in of for of in metrics] == [False, False, True]
    assert metrics[2]["raw"]["test"]["loss"] != metrics[2]["best"]["test"]["loss"], "the finished model is another"
    assert tuned[2].finals[0].reached == metrics[2]["raw"]["val"]["accuracy"] == metrics[2]["final"]["val"]["accuracy"]


@pytest.mark.sweep
def test_an_adapter_and_a_finisher_are_compared_like_policies(tiny: Path, cli) -> None:
    result = cli("bench", "tiny.toml", "--policies", WORDS, "--engines", "auto", "--out", "study")
    assert result.code == 0, result.err
    document = json.loads((tiny / "study" / "bench.json").read_text())
    assert document["failures"] == []
    assert [one["name"] for one in document["benchmarks"]] == list(ADDED)
    assert [one["arm"] for one in document["study"]["scores"]] == list(ADDED)
    page = (tiny / "study" / "report.html").read_text()
    assert all(name in page for name in ADDED)
    info = [one["extra_info"] for one in document["benchmarks"]]
    trainable = [one["params"]["trainable"] for one in info]
    assert trainable == sorted(set(trainable)), "the head; what was added, too; all"
    assert [bool(one["partition"]["boundary"]) for one in info] == [True, False, False], "the first layer is adapted"


# ---------------------------------------------------------------------------------------------- from end to end


def bench(folder: Path) -> subprocess.Popen[str]:
    """The command in a process group of its own, as a shell starts it; SIGINT is not ignored there."""
    code = ("import signal, sys; signal.signal(2, signal.default_int_handler);"
            "from framework.cli import main; sys.exit(main())")  # fmt: skip
    return subprocess.Popen([sys.executable, "-c", code, *COMMAND], cwd=folder, stdout=subprocess.PIPE, text=True,
                            stderr=subprocess.PIPE, start_new_session=True)  # fmt: skip


def interrupt(study: subprocess.Popen[str], after: str) -> tuple[int, list[str]]:
    """Sends Ctrl-C to the whole group once a line says `after`; gives the exit code and the lines that followed."""
    assert study.stderr is not None
    for line in study.stderr:
        if after in line:
            break
    os.killpg(study.pid, signal.SIGINT)
    said = study.communicate(timeout=120)[1]
    return study.returncode, said.splitlines()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, index: Index) -> tuple[Path, tuple[int, list[str]], str]:
    """A study that was stopped after its first trial, then finished: its folder, how it stopped, what it said later."""
    folder = write(tmp_path_factory.mktemp("study"))
    end = interrupt(bench(folder), "[trial 1/4]")
    return folder, end, finish(folder)


def finish(folder: Path) -> str:
    """The same command once more, to its end; gives what it said, its tables in `out.txt`."""
    last = bench(folder)
    out, said = last.communicate(timeout=300)
    assert last.returncode == 0, said
    (folder / "out.txt").write_text(out)
    return said


def require_stopped_in_one_line(code: int, said: list[str]) -> None:
    assert code == 130
    assert said[-2:] == ["error: stopped; what is done lies in runs/which", "  help: the same command goes on"]
    assert not any("Traceback" in line for line in said)


@pytest.mark.sweep
def test_an_interrupted_study_ends_with_130_and_one_clear_line(stopped) -> None:
    require_stopped_in_one_line(*stopped[1])


@pytest.mark.sweep
def test_the_same_command_does_the_rest_and_no_more(stopped) -> None:
    folder, _, said = stopped
    assert 1 <= said.count("[trial ") <= 3, "the first trial was done"
    assert said.count("[final ") == 4
    assert said.count("[lap ") == 3
    assert "[lap 3/3] frozen: " in said
    assert "warming up" not in said, "libraries were read when it trained"
    left = sorted(path.name for path in (folder / "runs" / "which").iterdir())
    assert left == ["bench.csv", "bench.json", "finals", "heats", "jobs.json", "recipes", "report.html",
                    "score-against-time.svg", "study.json", "trials"]  # fmt: skip


@pytest.mark.sweep
def test_its_scores_are_those_of_a_study_that_nobody_stopped(stopped, tmp_path: Path, monkeypatch) -> None:
    """Bit for bit, each final against a run of the same recipe in this process."""
    folder, *_ = stopped
    monkeypatch.chdir(folder)
    document = json.loads((folder / "runs" / "which" / "bench.json").read_text())
    compared = 0
    for arm in arms_of(read_study(["which.toml"], {}), installed_index()):
        (scores,) = [one for one in document["study"]["scores"] if one["arm"] == arm.name]
        for kind, seed, settings in [
            *(("trials", 2, one["settings"]) for one in scores["trials"]),
            *(("finals", seed, scores["settings"]) for seed in (0, 1)),
        ]:
            recipe, alone = tmp_path / f"{compared}.toml", tmp_path / f"{compared}"
            recipe.write_text(arm.cell(seed, "auto", settings).to_toml())
            worker.train_all([(str(recipe), str(alone))], io.StringIO())
            number = [one["settings"] for one in scores["trials"]].index(settings)
            of = folder / "runs" / "which" / kind / arm.slug / (f"{number:02d}-2" if kind == "trials" else str(seed))
            for name in ("metrics.jsonl", "predictions/val.csv", "predictions/test.csv"):
                assert (of / name).read_bytes() == (alone / name).read_bytes(), (of, name)
            best = json.loads((alone / SUMMARY).read_text())["metrics"]["best"]
            assert kind == "trials" or scores["each"]["test"][str(seed)] == best["test"]["accuracy"]
            compared += 1
    assert compared == 8


@pytest.mark.sweep
def test_a_study_that_is_stopped_wherever_it_stands_ends_the_same(stopped, tmp_path: Path) -> None:
    write(tmp_path)
    for after in ("[final 2/4]", "[lap 1/3]") if WHOLE else ("[lap 1/3]",):
        require_stopped_in_one_line(*interrupt(bench(tmp_path), after))
    assert "[final" not in finish(tmp_path)
    found, expected = (json.loads((of / "runs" / "which" / "bench.json").read_text())["study"]
                       for of in (tmp_path, stopped[0]))  # fmt: skip
    for document in (found, expected):
        del document["noise"]
    assert found == expected


@pytest.mark.sweep
def test_the_table_the_csv_and_the_json_have_every_cell(stopped) -> None:
    folder, _, said = stopped
    out = (folder / "out.txt").read_text().splitlines()
    rows = list(csv.DictReader((folder / "runs" / "which" / "bench.csv").open()))
    document = json.loads((folder / "runs" / "which" / "bench.json").read_text())
    cells = ["full", "frozen"]
    assert [row["cell"] for row in rows] == [one["name"] for one in document["benchmarks"]] == cells
    tables = [line.split()[0] for line in out if line.startswith(("full ", "frozen "))]
    assert tables == [*cells, *cells], "once with its score, once with its costs"
    assert all(float(row[name]) > 0 for row in rows for name in ("total_s", "peak_mb", "step_s", "epoch_s"))
    assert float(rows[1]["policy_ratio"]) == document["benchmarks"][1]["extra_info"]["policy_ratio"]["value"]
    assert float(rows[1]["step_s"]) < float(rows[0]["step_s"]), "only the head of a divided network"
    info = [one["extra_info"] for one in document["benchmarks"]]
    assert [set(one["memory_mb"]) >= {"saved", "peak"} and one["flops"]["backward"] > 0 for one in info] == [True, True]
    assert any(line.startswith("noise, full against itself: to the end ") for line in out)
    assert said.splitlines()[-1] == ("figures in runs/which/bench.json and bench.csv, report in runs/which/report.html")
    page = (folder / "runs" / "which" / "report.html").read_text()
    assert all(cell in page for cell in cells)


@pytest.mark.sweep
def test_what_is_done_is_only_read_and_another_study_is_refused(stopped, cli, monkeypatch, nothing_runs) -> None:
    folder, *_ = stopped
    monkeypatch.chdir(folder)
    before = {file: file.stat().st_mtime_ns for file in (folder / "runs").rglob("*") if "bench" not in file.name}
    figures = json.loads(Path("runs/which/bench.json").read_text())
    result = cli(*COMMAND, "--json", "copy.json", "--html", "copy.html")
    assert result.code == 0, result.err
    assert "[trial" not in result.err + result.out
    again = json.loads(Path("copy.json").read_text())
    assert again["benchmarks"] == figures["benchmarks"]
    assert again["study"] == figures["study"]
    assert Path("copy.html").is_file()
    changed = [file for file, when in before.items() if file.stat().st_mtime_ns != when and file.is_file()]
    assert {file.name for file in changed} <= {"report.html", "score-against-time.svg"}
    for change in (["--seeds", "0,1,2"], ["--engines", "plain"], ["--set", "train.epochs=2"], ["--timed", "whole"]):
        refused = cli(*COMMAND, *change)
        assert refused.code == 2
        assert "error: runs/which holds another study\n" in refused.err
