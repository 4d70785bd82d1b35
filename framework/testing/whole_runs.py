"""Whole runs: small real runs of a recipe, whole or stopped and resumed at every step, and in what two runs differ."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
from torch import Tensor

from framework import log, rundir
from framework.display import Facts, NullDisplay
from framework.files import load_tensors
from framework.index import Index
from framework.recipe import Recipe, check
from framework.runs import resume_run, start_run
from framework.sources import Document
from framework.testing.chance import seeded
from framework.testing.networks import NETWORKS, SIDE, backbone_table
from framework.testing.surroundings import settings_put_back

TABLES: Mapping[str, Mapping[str, Any]] = {
    "data": {"use": "random", "images": 40, "classes": 2, "size": SIDE},
    "backbone": backbone_table("batch_norm"),
    "head": {"use": "linear"},
    "freezing": {"use": "last_stages"},
    "loss": {"use": "torch/CrossEntropyLoss"},
    "optimizer": {"use": "torch/SGD", "lr": 0.05, "momentum": 0.9},
    "train": {"epochs": 3, "batch_size": 8, "report": False},
    "engine": {"device": "cpu", "threads": 1, "memory_format": "contiguous", "cache": "memory", "chunk": 8},
}
"""A recipe of three epochs of three full batches; nothing of it is kept outside the run directory."""
MERGED = ("train", "engine")
"""The tables of which only the keys that are given are replaced; of a component's, all are."""


@attrs.frozen(eq=False)
class Left:
    """What a finished run leaves.

    Attributes:
        summary: as in `summary.json`.
        epochs: the lines of `metrics.jsonl`.
        tensors: of the selected network.
    """

    summary: Mapping[str, Any]
    epochs: list[dict[str, Any]]
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, folder: Path) -> Left:
        """What lies in a run directory."""
        summary = json.loads((folder / rundir.SUMMARY).read_text(encoding="utf-8"))
        lines = (folder / log.METRICS).read_text(encoding="utf-8").splitlines()
        return cls(summary, [json.loads(line) for line in lines], load_tensors(folder / rundir.MODEL)[0])


def run(index: Index, tables: Mapping[str, Any], folder: Path) -> Left:
    """Trains the kit's recipe with some of its tables replaced.

    Args:
        index: of the plugins that the tables name (`case.index()`); the kit's networks are added.
        tables: a recipe's tables by name, `{"freezing": case.table(), "train": {"epochs": 2}}`.
        folder: the run directory, made here.

    Raises:
        FwError: whatever the engine finds wrong, an audit that failed included.
    """
    with seeded(0), settings_put_back():
        known = index.including([NETWORKS])
        start_run(recipe_of(known, tables), known, folder, False, NullDisplay())
    return Left.read(folder)


def run_in_pieces(index: Index, tables: Mapping[str, Any], folder: Path) -> Left:
    """The same, where the process ends in every step but the first and is resumed from the checkpoint before it.

    Args:
        index, tables, folder: as `run` takes them; `train.checkpoint_every` is 1.

    Raises:
        FwError: whatever the engine finds wrong, an audit that failed included.
    """
    train = {**tables.get("train", {}), "checkpoint_every": 1}
    with seeded(0), settings_put_back():
        known = index.including([NETWORKS])
        with suppress(_Ended):
            start_run(recipe_of(known, {**tables, "train": train}), known, folder, False, _EndsInTheSecondStep())
        while not rundir.is_finished(folder):
            with suppress(_Ended):
                resume_run(folder, known, _EndsInTheSecondStep())
    return Left.read(folder)


def recipe_of(index: Index, tables: Mapping[str, Any]) -> Recipe:
    """The kit's recipe with some of its tables replaced, checked.

    Raises:
        RecipeError: everything that is wrong with them.
    """
    merged = {name: {**TABLES[name], **tables.get(name, {})} for name in MERGED}
    return check(Document({**TABLES, **tables, **merged}, {}, "a recipe of the kit", "kit"), index)


class _Ended(Exception):
    """Stands for the end of a process: it leaves what a kill leaves."""


class _EndsInTheSecondStep(NullDisplay):
    """Raises as soon as it is told of the second step, of which there is no checkpoint yet."""

    def __init__(self) -> None:
        self.steps = 0

    def batch(self, facts: Facts) -> None:
        """Counts."""
        self.steps += 1
        if self.steps > 1:
            raise _Ended


def differences(expected: Left, found: Left, tolerance: float = 0.0) -> list[str]:
    """In what two runs differ: changes of plan, losses of an epoch, and tensors, by name.

    Args:
        expected, found: the runs.
        tolerance: largest relative difference of a loss, and of a tensor's numbers to its largest; 0: to the bit.
    """
    if len(expected.epochs) != len(found.epochs):
        return ["the number of epochs"]
    plans = [] if expected.summary["plan_changes"] == found.summary["plan_changes"] else ["changes of plan"]
    losses = [
        f"{name} of epoch {one['epoch']}"
        for one, other in zip(expected.epochs, found.epochs, strict=True) for name in ("train.loss", "val.loss")
        if not math.isclose(one[name], other[name], rel_tol=tolerance)
    ]  # fmt: skip
    tensors = [name for name, one in expected.tensors.items() if not distance(one, found.tensors[name]) <= tolerance]
    return [*plans, *losses, *tensors]


def distance(expected: Tensor, found: Tensor) -> float:
    """The largest difference over the largest value."""
    scale = float(expected.double().abs().max()) or 1.0
    return float((expected.double() - found.double()).abs().max()) / scale
