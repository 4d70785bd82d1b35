"""Policies, adapters, regularizers and finishers on families of networks: each trains, divides, resumes and reloads.

`FW_WHOLE_SWEEPS=1 pytest -m sweep tests/test_matrix.py` takes every cell; without it, a share of the two complete rows.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

import pytest
from matrix import COMPLETE, DOES_NOT_APPLY, NETWORKS, TABLES, Cell, Outcome, cells, outcome_of
from sweeps import share

from framework.errors import FwError
from framework.hooks import KIND_OF_TABLE
from framework.index import Index
from framework.shared import Shared

QUICK = (
    Cell("no norm layers", "freezing", "phases"),
    Cell("no norm layers", "freezing", "norm_only"),
    Cell("no norm layers", "adapter", "lora"),
    Cell("no norm layers", "regularizer", "l2_sp"),
    Cell("no norm layers", "finisher", "ema"),
)
"""Some of each kind, on the smallest network."""
GROUPS = [*((row, (table,)) for row in COMPLETE for table in TABLES),
          *((row, TABLES) for row in NETWORKS if row not in COMPLETE)]  # fmt: skip
"""Cells that one test goes through: a row, and which of its tables."""
EVERY = {"ResNet-18": 2, "ViT-Tiny": 4}
"""Of which rows so-manieth cells alone are taken, unless all are asked for."""


@pytest.mark.parametrize("cell", QUICK, ids=str)
def test_a_cell_trains_divides_resumes_and_reloads(cell: Cell, index: Index, tmp_path: Path) -> None:
    outcome_of(cell, index, tmp_path / "runs", Shared())


@pytest.mark.sweep
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("row", "tables"), GROUPS, ids=[f"{row}, {' '.join(tables)}" for row, tables in GROUPS])
def test_every_cell_trains_divides_resumes_and_reloads(
    row: str, tables: Sequence[str], index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = Shared()
    taken = share([cell for cell in cells(index) if cell.network == row and cell.table in tables], EVERY.get(row, 1))
    held: list[Outcome] = []
    problems: dict[str, str] = {}
    for cell in taken:
        try:
            held.append(outcome_of(cell, index, tmp_path / "runs", shared))
        except (AssertionError, FwError, pytest.fail.Exception) as error:
            problems[str(cell)] = str(error)
    with capsys.disabled():
        print(f"\n{row}, {', '.join(tables)}: {counts(held)} of {len(taken)} cells", file=sys.stderr)
        for outcome in held:
            print(f"  {what_became_of(outcome)}", file=sys.stderr)
    assert problems == {}


def counts(held: Sequence[Outcome]) -> str:
    """How many cells were run, and how many do not apply."""
    run = [outcome for outcome in held if outcome.applies]
    divided = sum(bool(outcome.boundary) for outcome in run)
    return f"{len(run)} run ({divided} divided at the end), {len(held) - len(run)} that do not apply"


def what_became_of(outcome: Outcome) -> str:
    """A line of the list of cells."""
    if not outcome.applies:
        return f"{outcome.cell}: does not apply: {outcome.reason}"
    how = f"divided {outcome.boundary}" if outcome.boundary else f"whole: {outcome.reason}"
    return shorten(f"{outcome.cell}: {how}", 160)


def test_the_matrix_holds_every_component_twice_and_every_kind_on_every_row(index: Index) -> None:
    matrix = cells(index)
    assert len(matrix) == len(set(matrix))
    for table in TABLES:
        offered = index.names(KIND_OF_TABLE[table].registry)
        assert len(offered) > 1
        for row in NETWORKS:
            found = [cell.name for cell in matrix if (cell.network, cell.table) == (row, table)]
            expected = offered if row in COMPLETE else found[:1]
            assert [name for name in found if Cell(row, table, name) not in DOES_NOT_APPLY] == expected
