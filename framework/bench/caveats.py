"""Caveats: why two studies may differ though no cell changed, and what their changes have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from framework.bench.compare import COSTS, Change, Comparison


def warnings_of(found: Comparison) -> Iterator[str]:
    """What stands against a comparison: other machines, libraries, methods or settings. One line each."""
    before, after = found.before, found.after
    if changed := differences(before.machine, after.machine):
        yield f"these are figures of two machines ({changed}): what changed may be due to that"
    if changed := differences(before.libraries, after.libraries):
        yield f"the libraries differ ({changed})"
    for cost in COSTS:
        if len({of.method[cost] for of in (before, after) if cost in of.method}) > 1:
            yield f"{cost} was not measured in the same way: see study.method in both files"
    yield from _of_cells(found)


def _of_cells(found: Comparison) -> Iterator[str]:
    """Each difference once, with the cells that have it."""
    cells: dict[str, list[str]] = {}
    for key in dict.fromkeys(change.key for change in found.changes):
        changed = differences(found.before.cells[key].facts, found.after.cells[key].facts)
        cells.setdefault(changed, []).append(found.label(key))
    for changed, names in cells.items():
        if changed:
            yield f"other settings under one name ({changed}): {', '.join(names)}"


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What both say, and say differently: `cpus 2, then 4; python 3.11.7, then 3.12.1`."""
    names = [name for name in before if name in after and before[name] != after[name]]
    return "; ".join(f"{name} {before[name]}, then {after[name]}" for name in names)


def remarks_of(found: Comparison) -> Iterator[str]:
    """What the cells' changes in time have in common with the baseline's, and what that hides. One line each."""
    first, *others = (change for change in found.changes if change.cost == "time")
    if others:
        yield from _moved_together(first, others)
        yield from (_hidden(found, change, first) for change in others if _is_hidden(change))


def _moved_together(first: Change, others: Sequence[Change]) -> Iterator[str]:
    """Where the baseline moved and every other cell with it."""
    moved = [change.ratio.value for change in (first, *others)]
    low, high = f"{min(moved):.2f}x", f"{max(moved):.2f}x"
    is_one_way = min(moved) > 1 or max(moved) < 1
    has_moved = first.verdict in ("worse", "better") and is_one_way
    if has_moved and all(change.verdict_beside in ("same", "unclear") for change in others):
        span = low if low == high else f"{low} to {high}"
        yield f"all cells moved together in time, by {span}: the machine, or something that they share"


def _is_hidden(change: Change) -> bool:
    return change.verdict_beside == "worse" and change.verdict != "worse"


def _hidden(found: Comparison, change: Change, first: Change) -> str:
    assert change.beside is not None
    return (
        f"{found.label(change.key)} became slower beside the baseline ({change.beside.value:.2f}x), though not by "
        f"itself: the baseline moved by {first.ratio.value:.2f}x"
    )
