"""Rows: what the laps of a study say of each cell, beside the first cell and beside the usual loop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import attrs

from framework.bench.costs import Costs, costs_of, medians, repaid_in_epoch, seconds_to_epoch
from framework.bench.laps import AGAIN, Cell, Lap
from framework.bench.statistics import Estimate, cost_ratio

PARTS = ("memory_mb", "flops")
"""What a lap counts beside timing."""
Heat = tuple[int, int]
"""A round, and one of its heats."""
Found = Mapping[str, Mapping[Heat, Costs]]
"""Cell -> heat -> its costs."""


@attrs.frozen(eq=False)
class Row:
    """A cell's costs. What needs a lap is None where none was finished.

    Attributes:
        cell: what was timed.
        laps: those that were finished.
        costs: of each of them; `median` over them.
        policy_ratio, policy_memory: time and memory beside the first arm under the same engine setting.
        engine_ratio: time beside the same arm under the first engine setting.
        repaid: the epoch in which the one pass is repaid.
        target_s: seconds to the target.
        parts: what a step computes and keeps.
        facts: of the first lap.
        failed: how many laps failed; `reason` of the first.
    """

    cell: Cell
    laps: Sequence[Lap]
    costs: Sequence[Costs]
    median: Costs | None
    policy_ratio: Estimate | None
    policy_memory: Estimate | None
    engine_ratio: Estimate | None
    repaid: int | None
    target_s: float | None
    parts: Mapping[str, Any]
    failed: int
    reason: str

    @property
    def caution(self) -> str:
        """What must be known of the figures; nothing where they are what they seem."""
        later = self.facts.get("later_plans")
        return "its plan changes, and it was timed as it begins: time whole runs instead" if later else ""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the first lap says."""
        return self.laps[0].facts if self.laps else {}


def rows_and_noise(
    cells: Sequence[Cell], laps: Sequence[Lap], epochs: Mapping[str, float | None]
) -> tuple[list[Row], dict[str, Estimate]]:
    """Each cell's costs; and the first cell's beside itself: the noise of the machine.

    Args:
        cells: what was timed, the baseline first.
        laps: of these, finished or failed.
        epochs: arm -> the epoch that reaches the target.
    """
    of = {cell.name: cell for cell in cells} | {cells[0].name + AGAIN: cells[0]}
    found = {name: {(lap.round, lap.heat): costs_of(lap, cell) for lap in laps if lap.cell == name and not lap.reason}
             for name, cell in of.items()}  # fmt: skip
    return [_row(cell, cells, found, laps, epochs.get(cell.arm)) for cell in cells], _noise(found, cells[0].name)


def _row(cell: Cell, cells: Sequence[Cell], found: Found, laps: Sequence[Lap], epoch: float | None) -> Row:
    done = [lap for lap in laps if lap.cell == cell.name and not lap.reason]
    failed = [lap for lap in laps if lap.cell == cell.name and lap.reason]
    first = next(other for other in cells if other.engine == cell.engine or cell.recipe is None)
    plain = next(other for other in cells if other.arm == cell.arm)
    costs = list(found[cell.name].values())
    median = medians(costs) if costs else None
    is_repaid = cell is not plain and _is_divided(done)
    return Row(
        cell, done, costs, median,
        policy_ratio=_ratio(found, cell.name, first.name, "total_s"),
        policy_memory=_ratio(found, cell.name, first.name, "peak_mb"),
        engine_ratio=_ratio(found, cell.name, plain.name, "total_s"),
        repaid=repaid_in_epoch(_pairs(found, cell.name, plain.name)) if is_repaid else None,
        target_s=seconds_to_epoch(median, math.ceil(epoch)) if median and epoch is not None else None,
        parts={name: done[0].facts[name] for name in PARTS if name in done[0].facts} if done else {},
        failed=len(failed), reason=failed[0].reason if failed else "",
    )  # fmt: skip


def _is_divided(laps: Sequence[Lap]) -> bool:
    """Whether a pass over the images was paid for, which later epochs can repay."""
    return bool(laps) and bool((laps[0].facts.get("partition") or {}).get("boundary"))


def _pairs(found: Found, name: str, other: str) -> list[tuple[Costs, Costs]]:
    """A cell's costs and another's, of one heat or else of one round, where both finished."""
    pairs = [(mine, _beside(found[other], heat)) for heat, mine in sorted(found[name].items(), key=itemgetter(0))]
    return [(mine, theirs) for mine, theirs in pairs if theirs is not None]


def _beside(costs: Mapping[Heat, Costs], heat: Heat) -> Costs | None:
    return costs.get(heat) or next((of for (number, _), of in costs.items() if number == heat[0]), None)


def _ratio(found: Found, name: str, other: str, cost: str) -> Estimate | None:
    """Of a cost, over what both finished; None of a cell to itself, or where it is not known."""
    if name == other:
        return None
    known = [pair for pair in ([getattr(of, cost) for of in both] for both in _pairs(found, name, other)) if all(pair)]
    return cost_ratio([mine for mine, _ in known], [theirs for _, theirs in known]) if known else None


def _noise(found: Found, name: str) -> dict[str, Estimate]:
    ratios = {cost: _ratio(found, name + AGAIN, name, cost) for cost in ("total_s", "step_s", "peak_mb")}
    return {cost: of for cost, of in ratios.items() if of is not None}
