"""Laps: each cell timed in a process of its own, in turns with the others; what is done is on disk, for good."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from framework.bench.arms import slug
from framework.bench.processes import Ended, command_of, run_process, write_once
from framework.bench.statistics import ROUNDS_FOR_AN_INTERVAL
from framework.bench.turns import Entrant, take_turns
from framework.files import write_json
from framework.recipe import Recipe
from framework.rundir import SUMMARY

AGAIN = " (again)"
"""What the second lap of the first cell in a round is called: two names for one thing, whose ratio is the noise."""
RESULT = "result.json"
FEW, MANY = 8, 20
"""Turns of a lap; many where the rounds allow for an interval, which they make narrower."""
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

    @property
    def takes_turns(self) -> bool:
        """Whether it is measured step by step, so that others can be measured in between."""
        return self.recipe is not None and not self.whole


@attrs.frozen
class Lap:
    """One measurement of one cell in a process of its own.

    Attributes:
        cell: its name; that of the first cell's second lap ends in `AGAIN`.
        round: which of the rounds.
        heat: which of the round's heats: laps of one heat took turns, and the first cell is in each.
        reason: why it failed, in one line; empty where it did not.
        seconds: of the whole process, start-up included, and the turns of others.
        peak_mb: its peak resident size, in MiB.
        facts: what the probe, the run's summary or the program's last line says.
    """

    cell: str
    round: int
    heat: int = 0
    reason: str = ""
    seconds: float = 0.0
    peak_mb: float = 0.0
    facts: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(eq=False)
class Entry:
    """A cell, and what its lap is called."""

    cell: Cell
    name: str


def run_laps(
    cells: Sequence[Cell], rounds: int, folder: Path, note: Callable[[str], None], is_warm: bool = False
) -> Iterator[Lap]:
    """Every lap of a study, each when it is there: in each round every cell, and the first one twice.

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
    first = Entry(cells[0], cells[0].name)
    entries = [first, Entry(cells[0], cells[0].name + AGAIN), *(Entry(cell, cell.name) for cell in cells[1:])]
    for number in range(rounds):
        done = _finished(folder, number)
        yield from done
        while left := [entry for entry in entries if entry.name not in {lap.cell for lap in done}]:
            if not is_warm:
                note("warming up: one measurement, not counted")
                run_heat([first], number, 0, folder)
                is_warm = True
            heat, entered = _next_heat(left, first, done)
            if len(entered) > 1:
                note(f"round {number + 1}: {len(entered)} processes take turns")
            laps = run_heat(entered, number, heat, folder, MANY if rounds >= ROUNDS_FOR_AN_INTERVAL else FEW)
            write_json(_file(folder, number, heat, entered), [attrs.asdict(lap) for lap in laps])
            yield from laps
            done += laps


def _finished(folder: Path, number: int) -> list[Lap]:
    files = sorted((folder / "heats").glob(f"{number:03d}-*.json"))
    return [Lap(**lap) for file in files for lap in json.loads(file.read_text(encoding="utf-8"))]


def _file(folder: Path, number: int, heat: int, entered: Sequence[Entry]) -> Path:
    return folder / "heats" / f"{number:03d}-{heat}-{slug(entered[0].name)}.json"


def _next_heat(left: Sequence[Entry], first: Entry, done: Sequence[Lap]) -> tuple[int, Sequence[Entry]]:
    """The number of a heat, and who is in it: one alone that takes no turns, or all that do, beside the first."""
    if not left[0].cell.takes_turns:
        return 0, left[:1]
    heat = 1 + max((lap.heat for lap in done if lap.cell == first.name), default=-1)
    together = [entry for entry in left if entry.cell.takes_turns]
    return heat, together if first in together or not first.cell.takes_turns else [first, *together]


def run_heat(entries: Sequence[Entry], number: int, heat: int, folder: Path, turns: int = FEW) -> list[Lap]:
    """One measurement of some cells, each from an empty feature store; of the first ones alone where memory is short.

    One that memory ran out for is measured once more, alone: the others may have taken it.
    """
    shutil.rmtree(folder / "lap", ignore_errors=True)
    (folder / "lap").mkdir(parents=True)
    if not entries[0].cell.takes_turns:
        return [_run_whole(entries[0], number, folder)]
    ends = take_turns([_probe(entry, number, folder, turns) for entry in entries])
    laps = [_lap(entry, number, heat, ended, folder) for entry, ended in zip(entries, ends, strict=False)]
    if len(laps) == 1:
        return laps
    return [run_heat([entry], number, heat, folder, turns)[0] if "memory" in lap.reason.lower() else lap
            for entry, lap in zip(entries, laps, strict=False)]  # fmt: skip


def _probe(entry: Entry, number: int, folder: Path, turns: int) -> Entrant:
    count = [] if number or entry.name != entry.cell.name else ["count"]  # the same in every lap
    work = folder / "lap" / slug(entry.name)
    work.mkdir()
    command = command_of("probe", str(recipe_file(entry.cell, folder)), str(work / RESULT), str(turns), *count)
    return Entrant(command, {"FW_CACHE_DIR": str(work / "cache")})


def _run_whole(entry: Entry, number: int, folder: Path) -> Lap:
    """A run to its end, or somebody else's program."""
    cell, work = entry.cell, folder / "lap" / slug(entry.name)
    if cell.recipe is None:
        ended = run_process([sys.executable if word == "python" else word for word in cell.command])
        facts = _said(ended.out)
    else:
        command = [*FW, "run", str(recipe_file(cell, folder)), "--out", str(work / "run"), "--allow-local-plugins"]
        ended = run_process(command, {"FW_CACHE_DIR": str(work / "cache")})
        facts = {} if ended.reason else _read(work / "run" / SUMMARY)
    return Lap(entry.name, number, 0, ended.reason, ended.seconds, ended.peak_mb, facts)


def _lap(entry: Entry, number: int, heat: int, ended: Ended, folder: Path) -> Lap:
    facts = {} if ended.reason else _read(folder / "lap" / slug(entry.name) / RESULT)
    return Lap(entry.name, number, heat, ended.reason, ended.seconds, ended.peak_mb, facts)


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
