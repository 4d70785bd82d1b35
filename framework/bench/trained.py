"""Trained: the runs that a study's scores come from, trained in one process that shares what they have in common."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from framework.bench.arms import Arm
from framework.bench.processes import command_of, lines_of_process, write_once
from framework.files import write_json
from framework.rundir import SUMMARY

FAILED = ".failed.json"
"""Ends the name of the file beside a run directory that says why the run failed."""


@attrs.frozen(eq=False)
class Job:
    """A run that is to be trained.

    Attributes:
        arm: whose.
        seed: of everything but the split.
        settings: what was chosen, or is tried, by dotted key.
        folder: its run directory.
    """

    arm: Arm
    seed: int
    settings: Mapping[str, Any]
    folder: Path


@attrs.frozen(eq=False)
class Trained:
    """A run that ended.

    Attributes:
        job: what was to be trained.
        reason: why it failed; empty where it did not.
        summary: of the run; empty where it failed.
    """

    job: Job
    reason: str = ""
    summary: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def metric(self) -> str:
        """The name of the monitored metric."""
        return str(self.summary["metrics"]["best"]["monitor"]).removeprefix("val.")

    def score(self, split: str) -> float | None:
        """The monitored metric of the model, a finisher's where there is one; None without such a split or number."""
        return self._score("best", split)

    @property
    def reached(self) -> float | None:
        """The monitored metric on validation of the selected epoch, which its curve has, too; no finisher's."""
        return self._score("raw" if "raw" in self.summary.get("metrics", {}) else "best", "val")

    def _score(self, which: str, split: str) -> float | None:
        found = self.summary["metrics"][which] if self.summary else {}
        value = float(found[split][self.metric]) if split in found else math.nan
        return None if math.isnan(value) else value

    def curve(self, name: str) -> list[float]:
        """A column of `metrics.jsonl`, such as `val.accuracy`, epoch by epoch: of the network as it trains."""
        lines = (self.job.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [float(json.loads(line)[name]) for line in lines]

    def is_right(self, split: str) -> list[bool] | None:
        """Whether each image of a split, in order of names, was predicted right; None where there is no such split."""
        file = self.job.folder / "predictions" / f"{split}.csv"
        if not file.is_file():
            return None
        with file.open(newline="", encoding="utf-8") as lines:
            rows = sorted(csv.DictReader(lines), key=lambda row: row["image"])
        return [row["target"] == row["predicted"] for row in rows]


def train(jobs: Sequence[Job], folder: Path, note: Callable[[Trained], None]) -> list[Trained]:
    """Every job's run; what an earlier process finished is taken from the disk.

    Args:
        jobs: what is to be trained.
        folder: of the study.
        note: told of each run when it is there.

    Raises:
        FwError: the folder cannot be written.
        KeyboardInterrupt: somebody stopped it.
    """
    while left := [job for job in jobs if _ended(job) is None]:
        for job in _train_some(left, folder):
            ended = _ended(job)
            assert ended is not None
            note(ended)
    return [ended for job in jobs if (ended := _ended(job)) is not None]


def _train_some(jobs: Sequence[Job], folder: Path) -> Iterator[Job]:
    """The jobs that one process ends; where it dies, the one under way is its last."""
    files = [
        str(
            write_once(
                folder / "recipes" / f"{_name(job, folder)}.toml",
                job.arm.cell(job.seed, "auto", job.settings).to_toml(),
            )
        )
        for job in jobs
    ]
    write_json(folder / "jobs.json", [[file, str(job.folder)] for file, job in zip(files, jobs, strict=True)])
    waiting = list(jobs)
    for line in lines_of_process(command_of("worker", str(folder / "jobs.json"))):
        reason = json.loads(line)["reason"] if line.startswith("{") else line
        if not waiting or not (reason or line):
            continue
        job = waiting.pop(0)
        if reason:
            write_json(job.folder.with_suffix(FAILED), {"reason": reason})
        yield job


def _name(job: Job, folder: Path) -> str:
    return "-".join(job.folder.relative_to(folder).parts)


def _ended(job: Job) -> Trained | None:
    """What is on disk of a job's run: how it ended; None where it did not."""
    summary, failed = job.folder / SUMMARY, job.folder.with_suffix(FAILED)
    if failed.is_file():  # first: a run that fails its audit leaves a summary, too
        return Trained(job, json.loads(failed.read_text(encoding="utf-8"))["reason"])
    found = json.loads(summary.read_text(encoding="utf-8")) if summary.is_file() else {}
    return Trained(job, "", found) if found.get("status") == "done" else None
