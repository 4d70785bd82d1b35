"""Trained: real runs in a process of their own. One that fails, or dies, is a result of its own cell alone."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from framework.bench import trained, worker
from framework.bench.arms import arms_of
from framework.bench.processes import lines_of_process, reason_of, run_process
from framework.bench.study import read_study
from framework.bench.trained import Job, Trained, train
from framework.files import write_json
from framework.index import installed_index

TINY = """\
extends = "smoke"
name = "tiny"

[data]
images = 24
classes = 2
size = 32

[backbone]
use = "timm/test_byobnet"
image_size = 32

[freezing]
use = "full"

[loss]
use = "moody"

[train]
batch_size = 8
epochs = 1
"""
PLUGIN = '''\
"""A loss that goes wrong as it is told."""
import os, signal
import attrs
import framework as fw
from torch.nn import functional


@attrs.frozen(kw_only=True)
class Moody:
    """Cross entropy, in a mood."""
    mood: str = fw.key("good", "what goes wrong")

    def build(self, task, class_counts, images):
        print("a loss is built, and this line is no result")
        os.system("echo '{nor is this}'")
        if self.mood == "unfit":
            raise fw.FwError("the loss does not fit the head", "take another")
        if self.mood == "bug":
            raise ZeroDivisionError("division\\nby zero")
        if self.mood == "killed":
            return lambda logits, targets: os.kill(os.getpid(), signal.SIGKILL)
        return functional.cross_entropy


@fw.hookimpl
def fw_losses():
    return [fw.Component("moody", Moody)]
'''


@pytest.fixture
def jobs(site, here: Path, monkeypatch: pytest.MonkeyPatch):
    """`jobs({"loss.mood": "bug"}, {})`: a run for each of some settings, of a recipe whose loss a plugin gives."""
    monkeypatch.setenv("PYTHONPATH", str(site("moody", PLUGIN).parent), prepend=":")
    (here / "tiny.toml").write_text(TINY)
    (arm,) = arms_of(read_study(["tiny.toml"], {}), installed_index())

    def of(*settings: Mapping[str, Any]) -> list[Job]:
        return [Job(arm, 0, wishes, here / "study" / "trials" / f"{n}") for n, wishes in enumerate(settings)]

    return of


@pytest.mark.sweep
def test_what_fails_is_recorded_and_the_others_go_on_and_nothing_is_done_twice(jobs, here: Path, monkeypatch) -> None:
    """Two processes are needed: the first dies with the fourth run."""
    wishes: list[dict[str, Any]] = [
        {"optimizer.lr": 1e30}, {"loss.mood": "unfit"}, {"loss.mood": "bug"}, {"loss.mood": "killed"},
        {"optimizer.lr": 0.05},
    ]  # fmt: skip
    asked = jobs(*wishes)
    started: list[Any] = []
    monkeypatch.setattr(trained, "lines_of_process", lambda of: started.append(of) or lines_of_process(of))
    noted: list[Trained] = []
    runs = train(asked, here / "study", noted.append)
    assert [run.job for run in runs] == [run.job for run in noted] == asked
    diverged, *others, last = [run.reason for run in runs]
    assert diverged.startswith("the loss is nan at step ")
    assert others == [
        "the loss does not fit the head",
        "ZeroDivisionError: division",
        "killed by the system (signal 9), as where memory runs out",
    ]
    assert last == ""
    assert [run.score("val") is None for run in runs] == [True, True, True, True, False]
    assert len(started) == 2

    again = train(asked, here / "study", noted.append)
    assert (len(started), len(noted)) == (2, 5), "no process is started, and nobody is told again"
    assert [(run.reason, run.summary) for run in again] == [(run.reason, run.summary) for run in runs]


def test_a_run_that_failed_its_audit_has_failed_though_it_left_a_summary(jobs, monkeypatch) -> None:
    (job,) = jobs({})
    write_json(job.folder / "summary.json", {"status": "audit failed"})
    assert trained._ended(job) is None
    write_json(job.folder.with_suffix(trained.FAILED), {"reason": "1 frozen tensors moved"})
    ended = trained._ended(job)
    assert ended is not None
    assert ended.reason == "1 frozen tensors moved"


def test_a_worker_tells_of_each_run_in_a_line(jobs, here: Path) -> None:
    asked = jobs({"loss.mood": "unfit"}, {"loss.mood": "good"})
    rows = []
    for number, job in enumerate(asked):
        file = here / f"{number}.toml"
        file.write_text(job.arm.cell(job.seed, "auto", job.settings).to_toml())
        rows.append((str(file), str(job.folder)))
    told = io.StringIO()
    worker.train_all(rows, told)
    lines = [json.loads(line) for line in told.getvalue().splitlines()]
    assert lines == [
        {"folder": str(asked[0].folder), "reason": "the loss does not fit the head"},
        {"folder": str(asked[1].folder), "reason": ""},
    ]
    assert json.loads((asked[1].folder / "summary.json").read_text())["status"] == "done"


# --------------------------------------------------------------------------------------------------- processes


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_process_is_told_of_by_its_code_time_memory_and_words() -> None:
    code = (
        "import sys, time; block = bytearray(200 * 2**20); time.sleep(0.2); print('said'); sys.exit('error: no room')"
    )
    ended = run_process(python(code))
    assert (ended.code, ended.out, ended.reason) == (1, "said\n", "no room")
    assert 0.2 < ended.seconds < 30
    assert ended.peak_mb > 200
    missing = run_process(["/no/such/program"])
    assert (missing.code, missing.reason) == (127, "cannot run /no/such/program: No such file or directory")


def test_the_end_of_a_process_in_one_line() -> None:
    assert reason_of(0, "warning: nothing") == ""
    assert reason_of(-9, "") == "killed by the system (signal 9), as where memory runs out"
    assert reason_of(-11, "x") == "ended by signal 11"
    assert reason_of(1, "Traceback\n  File\nValueError: bad\n\n") == "ValueError: bad"
    assert reason_of(2, "warning: x\nerror: no such recipe\n  help: y\n") == "no such recipe"
    assert reason_of(3, "") == "ended with 3"


@pytest.mark.parametrize(
    "end", ["sys.exit(130)", "sys.exit(143)", "os.kill(os.getpid(), 2)", "os.kill(os.getpid(), 15)"]
)
def test_whoever_stops_a_process_stops_the_study(end: str) -> None:
    code = f"import os, signal, sys; signal.signal(2, signal.SIG_DFL); print('one', flush=True); {end}"
    with pytest.raises(KeyboardInterrupt):
        run_process(python(code))
    told = lines_of_process(python(code))
    assert next(told) == "one\n"
    with pytest.raises(KeyboardInterrupt):
        next(told)
