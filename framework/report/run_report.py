"""Run report: `report.html` of a run, from its summary, its log and what its network answered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from framework import log, rundir
from framework.contracts import Data, Split, UnreadableImage
from framework.files import write_text
from framework.report import charts, mistakes
from framework.report.charts import Axis, Marks, Series
from framework.report.mistakes import Answers, Mistake
from framework.report.page import render
from framework.report.thumbnails import thumbnail
from framework.score import Scores

REPORT = "report.html"
MATRIX_AT_MOST = 30
"""Classes of a confusion matrix that is shown whole; of more, the pairs that were confused most often."""

Lines = Sequence[Mapping[str, Any]]


def write_run_report(folder: Path, summary: Mapping[str, Any], data: Data, scores: Mapping[str, Scores]) -> None:
    """Writes the report of a run that has just ended.

    Args:
        folder: the run directory; its `metrics.jsonl` and `recipe.toml` are read.
        summary: as in `summary.json`.
        data: where the images of mistakes are read again.
        scores: split -> what the selected network made of it.

    Raises:
        FwError: the disk is full.
        OSError, ValueError: a file of the run directory cannot be read.
    """
    shown = "val" if data.test is None else "test"
    answers = Answers.of(data.scored[shown], scores[shown], data.task)
    epochs = read_log(folder / log.METRICS)
    page = render(
        "run.html",
        run=summary,
        recipe=(folder / rundir.RECIPE).read_text("utf-8"),
        splits=[name for name in ("test", "val") if name in scores],
        curves=curves(summary, epochs),
        epochs=epochs,
        shown={"val": "validation", "test": "test"}[shown],
        images=len(answers),
        confusion=mistakes.confusion(answers) if is_matrix(answers) else [],
        pairs=mistakes.confused_pairs(answers) if answers.task.kind == "multiclass" and not is_matrix(answers) else [],
        labels=mistakes.label_rows(answers) if answers.task.kind == "multilabel" else [],
        worst=[Exhibit.of(mistake, answers.split) for mistake in mistakes.worst(answers)],
        time=time_spent(summary["time_s"]),
    )
    write_text(folder / REPORT, page)


def read_log(file: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, one an epoch."""
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def is_matrix(answers: Answers) -> bool:
    """Whether the confusion of these answers is shown as a matrix."""
    return answers.task.kind == "multiclass" and answers.task.num_classes <= MATRIX_AT_MOST


@attrs.frozen
class Exhibit:
    """A mistake and its picture, or why there is none."""

    mistake: Mistake
    picture: str
    lack: str

    @classmethod
    def of(cls, mistake: Mistake, split: Split) -> Exhibit:
        """The mistake as it is shown; the image may have gone since the network saw it."""
        try:
            return cls(mistake, thumbnail(split.load(mistake.position)), "")
        except UnreadableImage as error:
            return cls(mistake, "", str(error))


# ------------------------------------------------------------------------------------------------- curves


def curves(summary: Mapping[str, Any], epochs: Lines) -> list[Any]:
    """The losses by epoch and, where another metric chose the best epoch, that one too, with every change of plan."""
    best = summary["metrics"]["best"]
    marks = Marks("plan change", [epoch_of(change["step"], epochs) for change in summary["plan_changes"]])
    losses = [_by_epoch(name, key, epochs) for name, key in (("training", "train.loss"), ("validation", "val.loss"))]
    x, monitor = Axis("epoch", "whole"), best["monitor"]
    drawn = [charts.lines("Loss by epoch, in training and in validation", losses, x, Axis("loss"), marks)]
    if monitor != "val.loss":
        name = monitor.removeprefix("val.")
        selected = summary["metrics"].get("raw", best)
        chosen = Series("best epoch", [selected["epoch"]], [selected["val"].get(name, float("nan"))])
        metric = [_by_epoch("validation", monitor, epochs), chosen]
        drawn.append(charts.lines(f"Validation {name} by epoch", metric, x, Axis(name), marks))
    return drawn


def _by_epoch(name: str, key: str, epochs: Lines) -> Series:
    """A metric of the log; an epoch of which no image could be read leaves a gap."""
    return Series(name, [line["epoch"] for line in epochs], [line.get(key, float("nan")) for line in epochs])


def epoch_of(step: int, epochs: Lines) -> float:
    """Where a step stands among epochs: 1.5 is the middle of the second, 2 its end."""
    import numpy as np

    done = [(line["step"], line["epoch"]) for line in epochs]
    return float(np.interp(step, [0, *(steps for steps, _ in done)], [0, *(epoch for _, epoch in done)]))


def time_spent(seconds: Mapping[str, float]) -> Any:
    """The seconds of a run by what they were spent on, as one bar."""
    parts = {name.replace("_", "-"): [value] for name, value in seconds.items() if name != "total"}
    return charts.stacked_bars("Seconds by what they were spent on", [""], parts, Axis("seconds"))
