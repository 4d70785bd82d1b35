"""The matrix: every policy, adapter, regularizer and finisher on families of networks, and what each cell must hold."""

from __future__ import annotations

import csv
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from interruptions import difference

import framework as fw
from framework import rundir
from framework.assemble import assemble
from framework.builder import Builder
from framework.display import Facts, NullDisplay
from framework.errors import FwError, Interrupted
from framework.hooks import KIND_OF_TABLE
from framework.index import Index
from framework.recipe import Recipe, load_recipe
from framework.runs import resume_run, start_run
from framework.shared import Shared

BATCH, STEPS_PER_EPOCH = 8, 3
RUN = {
    "data.images": 40, "data.classes": 2, "head.use": "mlp", "head.dropout": 0.2,
    "train.epochs": 2, "train.batch_size": BATCH, "train.report": False,
    "engine.device": "cpu", "engine.threads": 1, "engine.chunk": BATCH, "engine.cache": "memory",
}  # fmt: skip
"""Two epochs of three full batches, and a split of one full batch each for validation and test."""
NETWORKS = {
    "ResNet-18": ("torchvision/resnet18", 32),
    "ViT-Tiny": ("timm/vit_tiny_patch16_224", 32),
    "EfficientNet-Lite0": ("timm/tf_efficientnet_lite0", 32),
    "ConvNeXt-Atto": ("timm/convnext_atto", 32),
    "Swin-Tiny": ("timm/swin_tiny_patch4_window7_224", 28),
    "MLP-Mixer": ("timm/mixer_s32_224", 64),
    "GroupNorm": ("timm/test_efficientnet_gn", 32),
    "no norm layers": ("torchvision/squeezenet1_1", 32),
}
"""What a row is called -> its backbone, and the side of its images in pixels."""
COMPLETE = ("ResNet-18", "ViT-Tiny")
"""The rows that hold every component; the others hold one of each kind, in turn."""
AS_WRITTEN, MERGED = 1e-6, 1e-4
"""How far a loaded model's probabilities may be from those in a predictions file: by its digits, or by a merge."""
UNDER = {
    "adapter": {"use": "frozen"},
    "regularizer": {"use": "last_stages"},
    "finisher": {"use": "last_stages"},
}
"""The tables beside `freezing` that a cell may be about, and the policy beside them."""
TABLES = ("freezing", *UNDER)
KEYS: Mapping[str, Callable[[fw.Layout], Mapping[str, Any]]] = {
    "stages": lambda layout: {"names": [layout.body[-1].name]},
    "pattern": lambda layout: {"patterns": [n for n in layout.body[-1].parameters if n.endswith("weight")]},
    "phases": lambda layout: {"phases": [
        {"train": "head"}, {"fraction": 0.5, "unfreeze": "last:1", "scale": 0.1}, {"step": 5, "train": "head"}
    ]},
    "surgical": lambda layout: {"stage": layout.body[len(layout.body) // 2].name},
    "auto_rgn": lambda layout: {"probe": 2},
    "auto_freeze": lambda layout: {"intervals": 6},
}  # fmt: skip
"""Keys of components that have none by default, or whose defaults are for runs of more than a few steps.

The schedule of phases changes the plan once before a run is stopped, and once after it goes on.
"""


@attrs.frozen
class Cell:
    """A component on a network.

    Attributes:
        network: one of `NETWORKS`.
        table: of the recipe, one of `TABLES`.
        name: of the component.
    """

    network: str
    table: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} on {self.network}"


DOES_NOT_APPLY = {Cell("no norm layers", "freezing", "norm_only"): "this backbone has no norm layer"}
"""The cells that a run refuses before it trains, and what the reason that it gives must match."""


def cells(index: Index) -> list[Cell]:
    """The whole matrix, by what is installed."""
    offered = {table: index.names(KIND_OF_TABLE[table].registry) for table in TABLES}
    complete = [Cell(row, table, name) for row in COMPLETE for table in TABLES for name in offered[table]]
    rest = [row for row in NETWORKS if row not in COMPLETE]
    in_turn = [Cell(row, table, names[turn * len(names) // len(rest)])
               for turn, row in enumerate(rest) for table, names in offered.items()]  # fmt: skip
    return list(dict.fromkeys([*complete, *in_turn, *DOES_NOT_APPLY]))


@attrs.frozen
class Outcome:
    """What became of a cell that holds all that it must.

    Attributes:
        cell: which.
        applies: whether it was run; `reason` says why not.
        boundary: where the network was divided at the end, or nothing: `reason` says why it trained whole then.
    """

    cell: Cell
    applies: bool = True
    boundary: str = ""
    reason: str = ""


def outcome_of(cell: Cell, index: Index, folder: Path, shared: Shared) -> Outcome:
    """Runs a cell twice, whole, and divided with a stop; and loads what is left. The folder is emptied again.

    Raises:
        AssertionError: it does not hold, or is refused for another reason than is known.
        FwError: it is refused, which is not known of it.
    """
    try:
        if cell not in DOES_NOT_APPLY:
            return _held(cell, index, folder, shared)
        return _refused(cell, index, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _refused(cell: Cell, index: Index, folder: Path) -> Outcome:
    with pytest.raises(FwError, match=DOES_NOT_APPLY[cell]) as refusal:
        start_run(recipe_of(cell, index), index, folder / "run", False, NullDisplay())
    assert not (folder / "run").exists(), "refused after something was written"
    return Outcome(cell, applies=False, reason=refusal.value.message)


def _held(cell: Cell, index: Index, folder: Path, shared: Shared) -> Outcome:
    """One run is whole and goes through, the other is divided and stopped: where they are equal, neither matters."""
    recipe, resumed = recipe_of(cell, index), folder / "resumed"
    summary = _stopped_and_resumed(recipe, index, resumed, shared)
    whole = recipe_of(cell, index, {"engine.partition": "off"})
    for of in (summary, start_run(whole, index, folder / "whole", False, NullDisplay(), shared)):
        assert of["status"] == "done"
        assert of["audit"]["frozen_moved"] == 0
        assert of["steps"] == 2 * STEPS_PER_EPOCH
    if found := difference(folder / "whole", resumed):
        start_run(recipe, index, folder / "divided", False, NullDisplay(), shared)
        _require("divided and whole", difference(folder / "whole", folder / "divided"))
        _require("resumed and uninterrupted", found)
    _require("loaded and as it was scored", _unlike_its_predictions(recipe, index, resumed))
    return Outcome(cell, boundary=summary["partition"]["boundary"] or "", reason=summary["partition"]["reason"] or "")


def _require(what: str, found: str) -> None:
    assert not found, f"{what} differ: {found}"


def recipe_of(cell: Cell, index: Index, more: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a cell, the keys of its component by what its network offers; `more` overrides stand above it."""
    backbone, size = NETWORKS[cell.network]
    network = {**RUN, "backbone.use": backbone, "backbone.image_size": size, "data.size": size}
    keys: Mapping[str, Any] = {}
    if cell.name in KEYS:
        plain = load_recipe("smoke", index, {**network, "freezing": {"use": "full"}})
        keys = KEYS[cell.name](assemble(plain, index, bare=True).model.layout)
    tables = {"freezing": UNDER.get(cell.table), cell.table: {"use": cell.name, **keys}}
    return load_recipe("smoke", index, {**network, **tables, **(more or {})})


class _StopsInTheSecondEpoch(NullDisplay):
    """Asks the run to stop, as a person or a cluster would, when one step of the second epoch is done."""

    def batch(self, facts: Facts) -> None:
        """Sends the signal."""
        if facts["step"] == STEPS_PER_EPOCH + 1:
            os.kill(os.getpid(), signal.SIGTERM)


def _stopped_and_resumed(recipe: Recipe, index: Index, folder: Path, shared: Shared) -> Mapping[str, Any]:
    with pytest.raises(Interrupted):
        start_run(recipe, index, folder, False, _StopsInTheSecondEpoch(), shared)
    assert not rundir.is_finished(folder)
    return resume_run(folder, index, NullDisplay(), shared)


def _unlike_its_predictions(recipe: Recipe, index: Index, folder: Path) -> str:
    """The first image of which a loaded model says something else than the run's predictions, or nothing."""
    loaded = fw.load(folder, "cpu")
    bound = MERGED if (loaded.summary["adapter"] or {}).get("merged") else AS_WRITTEN
    for which, split in Builder(recipe, index).data().scored.items():
        with (folder / "predictions" / f"{which}.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        found = loaded.predict([split.load(place) for place in range(len(split))], BATCH).tolist()
        assert len(rows) == len(found) == BATCH
        for row, now in zip(rows, found, strict=True):
            before = [float(row[f"p_{name}"]) for name in loaded.classes]
            if now != pytest.approx(before, rel=0, abs=bound):
                return f"{which} {row['image']}: {before} before, {now} now"
    return ""
