"""Laps: who is measured when, beside whom, and what a stopped study need not measure again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from framework.bench import laps
from framework.bench.laps import AGAIN, Cell, Entry, Lap, run_heat, run_laps
from framework.bench.processes import Ended
from framework.bench.turns import Entrant

RECIPE: Any = type("Stub", (), {"to_toml": lambda self: ""})()
A, B, C = (Cell(name, name, "", RECIPE) for name in "abc")
SCRIPT = Cell("script", "script", "", command=("python", "x.py"), whole=True)


class Heats:
    """Stands where laps are run: notes who entered, and lets so many of them finish."""

    def __init__(self, room: int) -> None:
        self.room, self.entered, self.turns = room, list[tuple[int, int, str]](), set[int]()

    def __call__(self, entries: Sequence[Entry], number: int, heat: int, folder: Path, turns: int = 0) -> list[Lap]:
        self.entered.append((number, heat, " ".join(entry.name for entry in entries)))
        self.turns.add(turns)
        return [Lap(entry.name, number, heat) for entry in entries[: self.room]]


def heats(monkeypatch: pytest.MonkeyPatch, room: int = 99) -> Heats:
    stub = Heats(room)
    monkeypatch.setattr(laps, "run_heat", stub)
    return stub


def names(found: Sequence[Lap]) -> list[str]:
    return [lap.cell for lap in found]


def test_a_round_has_every_cell_and_the_first_one_twice_all_in_turns(tmp_path: Path, monkeypatch) -> None:
    ran = heats(monkeypatch)
    found = list(run_laps([A, B, C], 2, tmp_path, print, is_warm=True))
    assert ran.entered == [(0, 0, f"a a{AGAIN} b c"), (1, 0, f"a a{AGAIN} b c")]
    assert names(found) == ["a", f"a{AGAIN}", "b", "c"] * 2


def test_one_measurement_before_the_first_is_not_counted(tmp_path: Path, monkeypatch) -> None:
    ran, told = heats(monkeypatch), list[str]()
    assert len(list(run_laps([A, B], 1, tmp_path, told.append))) == 3
    assert ran.entered == [(0, 0, "a"), (0, 0, f"a a{AGAIN} b")]
    assert told == ["warming up: one measurement, not counted", "round 1: 3 processes take turns"]


def test_where_memory_is_short_the_first_cell_is_in_every_heat(tmp_path: Path, monkeypatch) -> None:
    ran = heats(monkeypatch, room=2)
    found = list(run_laps([A, B, C], 1, tmp_path, print, is_warm=True))
    assert ran.entered == [(0, 0, f"a a{AGAIN} b c"), (0, 1, "a b c"), (0, 2, "a c")]
    assert names(found) == ["a", f"a{AGAIN}", "a", "b", "a", "c"]
    assert [lap.heat for lap in found] == [0, 0, 1, 1, 2, 2]


def test_programs_run_alone_and_are_never_in_a_heat(tmp_path: Path, monkeypatch) -> None:
    ran = heats(monkeypatch)
    found = list(run_laps([A, SCRIPT, B], 1, tmp_path, print, is_warm=True))
    assert ran.entered == [(0, 0, f"a a{AGAIN} b"), (0, 0, "script")]
    assert {lap.heat for lap in found} == {0}


def test_whole_runs_go_one_after_another(tmp_path: Path, monkeypatch) -> None:
    whole = Cell("a", "a", "", RECIPE, whole=True)
    ran = heats(monkeypatch)
    list(run_laps([whole, SCRIPT], 1, tmp_path, print, is_warm=True))
    assert ran.entered == [(0, 0, "a"), (0, 0, f"a{AGAIN}"), (0, 0, "script")]


def test_what_is_on_disk_is_not_measured_again_and_what_is_new_is_beside_the_first(tmp_path: Path, monkeypatch) -> None:
    ran = heats(monkeypatch)
    first = list(run_laps([A, B], 1, tmp_path, print, is_warm=True))
    assert list(run_laps([A, B], 1, tmp_path, print, is_warm=True)) == first
    assert len(ran.entered) == 1
    more = list(run_laps([A, B, C], 2, tmp_path, print, is_warm=True))
    assert ran.entered[1:] == [(0, 1, "a c"), (1, 0, f"a a{AGAIN} b c")]
    assert more[:3] == first


def test_a_stopped_heat_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    def stopped(*_: Any) -> list[Lap]:
        raise KeyboardInterrupt

    monkeypatch.setattr(laps, "run_heat", stopped)
    with pytest.raises(KeyboardInterrupt):
        list(run_laps([A], 1, tmp_path, print, is_warm=True))
    assert list(tmp_path.rglob("*.json")) == []


@pytest.mark.parametrize("reason", ["killed by the system (signal 9), as where memory runs out", "MemoryError: 3 GB"])
def test_one_whose_memory_the_others_may_have_taken_is_measured_once_more_alone(
    tmp_path: Path, monkeypatch, reason: str
) -> None:
    """b fails beside others, c fails for good, a fails for another reason."""
    started: list[list[str]] = []

    def turns(entrants: Sequence[Entrant]) -> list[Ended]:
        cells = [Path(entrant.command[5]).parent.name for entrant in entrants]
        started.append(cells)
        fails = {"a": "ValueError: no", "c": reason} | ({"b": reason} if len(cells) > 1 else {})
        for cell in cells:
            (tmp_path / "lap" / cell / "result.json").write_text(json.dumps({"of": cell}))
        return [Ended(1 if cell in fails else 0, 1.0, 1.0, "", f"error: {fails.get(cell, '')}") for cell in cells]

    monkeypatch.setattr(laps, "take_turns", turns)
    found = run_heat([Entry(cell, cell.name) for cell in (A, B, C)], 0, 1, tmp_path)
    assert started == [["a", "b", "c"], ["b"], ["c"]]
    assert [(lap.cell, lap.reason) for lap in found] == [("a", "ValueError: no"), ("b", ""), ("c", reason)]
    assert {lap.heat for lap in found} == {1}
    assert found[1].facts == {"of": "b"}


@pytest.mark.parametrize(("rounds", "turns"), [(5, laps.FEW), (6, laps.MANY)])
def test_laps_are_longer_where_there_will_be_an_interval(tmp_path: Path, monkeypatch, rounds: int, turns: int) -> None:
    ran = heats(monkeypatch)
    list(run_laps([A, B], rounds, tmp_path, print, is_warm=True))
    assert ran.turns == {turns}
