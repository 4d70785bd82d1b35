"""Bench: a study from its arms to what its figures come from; what a stopped process did is not done again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from framework.bench.arms import Arm
from framework.bench.laps import Cell, Lap, run_laps
from framework.bench.study import ENGINES, StudyKeys
from framework.bench.trained import Trained
from framework.bench.tuning import Tuned, settings_of_finals, tune_and_train
from framework.errors import FwError
from framework.files import write_json

STUDY = "study.json"


class Told(Protocol):
    """Who hears how a study goes."""

    def note(self, text: str) -> None:
        """Something that is no result."""

    def run(self, kind: str, run: Trained) -> None:
        """A `trial` or `final` has ended."""

    def lap(self, lap: Lap) -> None:
        """A cell was timed."""


def open_study(folder: Path, keys: StudyKeys, arms: Sequence[Arm], overwrite: bool) -> None:
    """Makes a study's folder, or finds in it the same study, to be gone on with; rounds and target may differ.

    Raises:
        FwError: it holds another study or other files, or cannot be written.
    """
    file, facts = folder / STUDY, facts_of(keys, arms)
    try:
        if file.is_file() and json.loads(file.read_text(encoding="utf-8")) == facts:
            return
        if folder.is_dir() and any(folder.iterdir()):
            if not file.is_file():
                raise FwError(f"{folder} holds other files", "--out DIR writes elsewhere")
            if not overwrite:
                raise FwError(f"{folder} holds another study", "--overwrite replaces it, --out DIR writes elsewhere")
            shutil.rmtree(folder)
        write_json(file, facts)
    except OSError as error:
        raise FwError(
            f"cannot write the study's folder {folder}: {error.strerror}", "--out DIR writes elsewhere"
        ) from error


def facts_of(keys: StudyKeys, arms: Sequence[Arm]) -> dict[str, Any]:
    """What makes a study the same study, as JSON values."""
    return {
        "cells": {arm.name: {str(seed): arm.cell(seed).digest() for seed in keys.seeds} for arm in arms},
        "trials": {arm.name: [dict(settings) for settings in arm.trials] for arm in arms},
        "seeds_of_trials": list(keys.seeds_of_trials) if arms[0].trials else [],
        "timed": keys.timed, "protocol": keys.protocol,
        "engines": list(keys.engines),  # a lone one is not part of a cell's name
        "others": {name: list(command) for name, command in keys.others.items()},
    }  # fmt: skip


def run_study(
    keys: StudyKeys, arms: Sequence[Arm], folder: Path, told: Told
) -> tuple[list[Tuned], list[Cell], list[Lap]]:
    """Trains, then times, everything that is not done yet.

    Args:
        keys: of the study.
        arms: what is compared, the baseline first.
        folder: of the study, made by `open_study`.
        told: hears how it goes.

    Returns:
        what the scores come from, the cells, and their laps.

    Raises:
        FwError: every run failed; the folder cannot be written.
        KeyboardInterrupt: somebody stopped it.
    """
    trained: list[Trained] = []

    def note(kind: str, run: Trained) -> None:
        trained.append(run)
        told.run(kind, run)

    tuned = tune_and_train(arms, keys, folder, note)
    if all(run.reason for one in tuned for run in one.finals):
        first = next((run.reason for one in tuned for run in one.finals), "every trial failed")
        raise FwError(f"every run failed; the first: {first}", f"fw run {folder}/recipes/FILE tells more of one")
    cells = cells_of(keys, tuned)
    laps = []
    for lap in run_laps(cells, keys.rounds, folder, told.note, is_warm=bool(trained)):
        told.lap(lap)
        laps.append(lap)
    for scratch in ("cache", "lap"):
        shutil.rmtree(folder / scratch, ignore_errors=True)
    return tuned, cells, laps


def cells_of(keys: StudyKeys, tuned: Sequence[Tuned]) -> list[Cell]:
    """What is timed: each arm, with what was chosen for it, under each engine setting; and the programs of others."""
    whole = keys.timed == "whole"
    cells = [
        Cell(_name(one.arm, engine, keys), one.arm.name, engine,
             one.arm.cell(keys.seeds[0], engine, settings_of_finals(keys, one.settings)), whole=whole)
        for one in tuned for engine in ENGINES if engine in keys.engines
    ]  # fmt: skip
    return [*cells, *(Cell(name, name, "", command=command, whole=True) for name, command in keys.others.items())]


def _name(arm: Arm, engine: str, keys: StudyKeys) -> str:
    return f"{arm.name} / {engine}" if len(keys.engines) > 1 else arm.name
