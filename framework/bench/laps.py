"""Laps: each cell timed in a process of its own, rounds interleaved; what is done is on disk and not done again."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from framework.bench.arms import slug
from framework.bench.processes import Ended, python, run_process, write_once
from framework.files import write_json
from framework.recipe import Recipe
from framework.rundir import SUMMARY

AGAIN = " (again)"
"""What the second lap of the first cell in a round is called: two names for one thing, whose ratio is the noise."""
FW = (sys.executable, "-c", "import sys; from framework.cli import main; sys.exit(main())")


@attrs.frozen(eq=False)
class Cell:
    """What is timed: a recipe under an engine setting, or somebody else's program.

    Attributes:
        name: what it is called in tables and files.
        arm, engine: of which it is the cost; a program is an arm of its own, without an engine.
        recipe: what is trained; None for a program.
        command: of a program.
        whole: whether the run goes to its end, or a few of its steps are measured.
    """

    name: str
    arm: str
    engine: str
    recipe: Recipe | None = None
    command: tuple[str, ...] = ()
    whole: bool = False


@attrs.frozen
class Lap:
    """One measurement of one cell in a process of its own.

    Attributes:
        cell: its name; that of the first cell's second lap ends in `AGAIN`.
        round: which of the rounds.
        reason: why it failed, in one line; empty where it did not.
        seconds: of the whole process, start-up included.
        peak_mb: its peak resident size, in MiB.
        facts: what the probe, the run's summary or the program's last line says.
    """

    cell: str
    round: int
    reason: str = ""
    seconds: float = 0.0
    peak_mb: float = 0.0
    facts: Mapping[str, Any] = attrs.field(factory=dict)


def run_laps(
    cells: Sequence[Cell], rounds: int, folder: Path, note: Callable[[str], None], is_warm: bool = False
) -> Iterator[Lap]:
    """Every lap of a study, each when it is there: in each round every cell once, and the first cell twice.

    What an earlier process finished is taken from the disk.

    Args:
        cells: what is timed; the first is the baseline.
        rounds: how many.
        folder: of the study.
        note: told what is not a lap.
        is_warm: whether libraries were read and byte code compiled just now; else one lap is run that is not counted.

    Raises:
        FwError: the folder cannot be written.
        KeyboardInterrupt: somebody stopped it.
    """
    in_a_round = [
        (cells[0], cells[0].name),
        (cells[0], cells[0].name + AGAIN),
        *((cell, cell.name) for cell in cells[1:]),
    ]
    for number in range(rounds):
        for cell, name in in_a_round:
            file = folder / "laps" / f"{number:03d}-{slug(name)}.json"
            if not file.is_file():
                if not is_warm:
                    note("warming up: one measurement, not counted")
                    run_lap(cell, name, number, folder)
                    is_warm = True
                write_json(file, attrs.asdict(run_lap(cell, name, number, folder)))
            yield Lap(**json.loads(file.read_text(encoding="utf-8")))


def run_lap(cell: Cell, name: str, number: int, folder: Path) -> Lap:
    """One measurement of a cell, from an empty feature store."""
    shutil.rmtree(folder / "cache", ignore_errors=True)
    shutil.rmtree(folder / "lap", ignore_errors=True)
    (folder / "lap").mkdir(parents=True)
    if cell.recipe is None:
        command = [sys.executable if word == "python" else word for word in cell.command]
        ended = run_process(command)
        return _lap(name, number, ended, lambda: _said(ended.out))
    file, result = recipe_file(cell, folder), folder / "lap" / "result.json"
    environment = {"FW_CACHE_DIR": str(folder / "cache")}
    if cell.whole:
        ended = run_process([*FW, "run", str(file), "--out", str(folder / "lap" / "run")], environment)
        return _lap(name, number, ended, lambda: _read(folder / "lap" / "run" / SUMMARY))
    count = [] if number or name != cell.name else ["count"]  # the same in every lap
    probe = python("framework.bench.probe", str(file), str(result), str(time.monotonic()), *count)
    return _lap(name, number, run_process(probe, environment), lambda: _read(result))


def _lap(name: str, number: int, ended: Ended, facts: Callable[[], Any]) -> Lap:
    if ended.reason:
        return Lap(name, number, ended.reason, ended.seconds, ended.peak_mb)
    return Lap(name, number, "", ended.seconds, ended.peak_mb, facts())


def _said(out: str) -> Mapping[str, Any]:
    """The table of JSON that is a program's last line; empty where it is none."""
    try:
        found = json.loads((out.strip().splitlines() or [""])[-1])
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def recipe_file(cell: Cell, folder: Path) -> Path:
    """The file that a cell's recipe is in."""
    assert cell.recipe is not None
    return write_once(folder / "recipes" / f"{slug(cell.name)}.toml", cell.recipe.to_toml())


def _read(file: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
