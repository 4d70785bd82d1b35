"""Compare: what became slower or larger between two studies, beyond the noise of either."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs

from framework.bench.figures import Figures, Key, Measured
from framework.bench.statistics import ROUNDS_FOR_AN_INTERVAL, Estimate, cost_change
from framework.errors import FwError

Verdict = Literal["worse", "better", "same", "unclear", "undecided"]
COSTS = ("time", "memory")
WORDS = {"time": {"worse": "slower", "better": "faster"}, "memory": {"worse": "larger", "better": "smaller"}}
_MOST_HINTS = 8


class Worse(FwError):
    """Something became slower or larger beyond noise, or failed where it did not before."""

    exit_code = 3


@attrs.frozen
class Change:
    """How one cost of one cell changed.

    Attributes:
        key: (group, name) of the cell.
        cost: `time` or `memory`.
        before, after: medians over rounds, in seconds or MiB.
        rounds: of the side that has fewer.
        ratio: after to before.
        beside: the same for time as a multiple of the baseline's in the same round, from which is gone whatever all
            cells share; None for memory, for the baseline, without one, or where rounds make no pairs.
        margin: the share by which a ratio must exceed 1 to count.
    """

    key: Key
    cost: str
    before: float
    after: float
    rounds: int
    ratio: Estimate
    beside: Estimate | None
    margin: float

    @property
    def verdict(self) -> Verdict:
        """What may be said of the ratio."""
        return verdict_of(self.ratio, self.margin)

    @property
    def verdict_beside(self) -> Verdict:
        """What may be said of the change beside the baseline's."""
        return "undecided" if self.beside is None else verdict_of(self.beside, self.margin)

    @property
    def words(self) -> str:
        """The verdict for people."""
        if self.verdict == "undecided":
            return f"n = {self.rounds} round{'s' if self.rounds > 1 else ''}: no verdict"
        plain = {"same": "no change", "unclear": f"unclear, up to {self.ratio.high:.2f}x"}
        return {**plain, **WORDS[self.cost]}[self.verdict]


@attrs.frozen(eq=False)
class Comparison:
    """Two files, side by side.

    Attributes:
        before, after: the files.
        margins: cost -> the share that a ratio must exceed.
        baseline: the cell that both studies begin with; None without one.
        changes: of each cell in both files, time before memory.
        left_out: cells that could not be compared, and why.
        lost: cells of the first file that failed in the second, and why.
    """

    before: Figures
    after: Figures
    margins: Mapping[str, float]
    baseline: Key | None
    changes: Sequence[Change]
    left_out: Mapping[Key, str]
    lost: Mapping[Key, str]

    def of(self, *verdicts: Verdict) -> list[Change]:
        """The changes of some verdicts."""
        return [change for change in self.changes if change.verdict in verdicts]

    @property
    def verdict(self) -> Verdict:
        """`worse` where a change is, or a cell is lost; `undecided`: all are; `unclear`: one is either; else `same`."""
        if self.of("worse") or self.lost:
            return "worse"
        if len(self.of("undecided")) == len(self.changes):
            return "undecided"
        return "unclear" if self.of("unclear", "undecided") else "same"

    def label(self, key: Key) -> str:
        """A cell's name, with its group where there are several."""
        groups = {group for group, _ in (*self.before.cells, *self.after.cells)}
        return key[1] if len(groups) == 1 else f"{key[0] or '-'}: {key[1]}"


def compare(before: Figures, after: Figures, fail_above: float) -> Comparison:
    """What changed from one file to the other.

    Args:
        before, after: as they were read.
        fail_above: the share by which a cost may grow, unless noise is larger: 0.05.

    Raises:
        FwError: no cell in common that was timed in the same way.
    """
    keys = [key for key in before.cells if key in after.cells and _is_timed_alike(before.cells[key], after.cells[key])]
    if not keys:
        raise _nothing_in_common(before, after)
    margins = {cost: max(fail_above, before.noise.get(cost, 0.0), after.noise.get(cost, 0.0)) for cost in COSTS}
    base = _baseline(before, after, keys)
    changes = [
        _change(key, cost, (before, after), base, margins[cost])
        for key in keys for cost in COSTS if all(cost in of.cells[key].costs for of in (before, after))
    ]  # fmt: skip
    return Comparison(before, after, margins, base, changes, _left_out(before, after), _lost(before, after))


def verdict_of(ratio: Estimate, margin: float) -> Verdict:
    """What may be said of a cost's ratio, after to before.

    Returns:
        `worse` or `better`: the interval excludes 1, and the ratio is beyond the margin; `same`: the interval ends
        within the margin; `unclear`: it does not, and more rounds would tell; `undecided`: there is no interval.
    """
    if ratio.low is None or ratio.high is None:
        return "undecided"
    if ratio.low > 1 and ratio.value > 1 + margin:
        return "worse"
    if ratio.high < 1 and ratio.value < 1 / (1 + margin):
        return "better"
    return "unclear" if ratio.high > 1 + margin else "same"


# ------------------------------------------------------------------------------------------------------- cells


def _is_timed_alike(old: Measured, new: Measured) -> bool:
    return bool(old.facts.get("timed") == new.facts.get("timed"))


def _baseline(before: Figures, after: Figures, keys: Sequence[Key]) -> Key | None:
    """Each study's first cell, where it is the same; other files know none, and do not interleave their rounds."""
    firsts = {next(iter(of.cells)) for of in (before, after)}
    is_shared = before.is_study and after.is_study and firsts == {keys[0]}
    return keys[0] if is_shared else None


def _change(key: Key, cost: str, files: tuple[Figures, Figures], base: Key | None, margin: float) -> Change:
    old, new = (of.cells[key].costs[cost] for of in files)
    beside = None
    if cost == "time" and base and base != key:
        beside = _beside((old, new), [of.cells[base].costs[cost] for of in files])
    medians = statistics.median(old), statistics.median(new)
    return Change(key, cost, *medians, min(len(old), len(new)), cost_change(old, new), beside, margin)


def _beside(cell: Sequence[Sequence[float]], base: Sequence[Sequence[float]]) -> Estimate | None:
    """The change of a cell as a multiple of the baseline, round by round."""
    if any(len(mine) != len(first) for mine, first in zip(cell, base, strict=True)):
        return None
    old, new = ([a / b for a, b in zip(*side, strict=True)] for side in zip(cell, base, strict=True))
    return cost_change(old, new)


def _left_out(before: Figures, after: Figures) -> dict[Key, str]:
    """Cells of one file only, why they failed in the other, and cells that were timed in two ways."""
    found = {}
    for here, other in ((before, after), (after, before)):
        for key in (key for key in here.cells if key not in other.cells):
            failed = other.failed.get(key[1])
            found[key] = f"only in {here.file}" + (f"; it failed in {other.file}: {failed}" if failed else "")
    for key, old in before.cells.items():
        new = after.cells.get(key)
        if new is not None and not _is_timed_alike(old, new):
            ways = [cell.facts.get("timed", "something else") for cell in (old, new)]
            found[key] = f"its times are of {ways[0]} in {before.file}, of {ways[1]} in {after.file}"
    return found


def _lost(before: Figures, after: Figures) -> dict[Key, str]:
    return {key: after.failed[key[1]] for key in before.cells if key not in after.cells and key[1] in after.failed}


def _nothing_in_common(before: Figures, after: Figures) -> FwError:
    message = f"{before.file} and {after.file} have no cell in common"
    mine, theirs = ({group for group, _ in of.cells} for of in (before, after))
    if mine and theirs and "" not in mine | theirs and mine.isdisjoint(theirs):
        names = " and ".join(", ".join(sorted(groups)) for groups in (mine, theirs))
        mend = "to compare them all the same, name both alike: study.name in a recipe, 'group' in a file"
        return FwError(message, (f"they are of two studies: {names}", mend))
    left_out = _left_out(before, after)
    hints = [f"{name}: {why}" for (_, name), why in list(left_out.items())[:_MOST_HINTS]]
    hints += [f"... ({len(left_out)} in all)"] if len(left_out) > _MOST_HINTS else []
    return FwError(message, hints or "neither holds a cell: no measurement was finished")


# -------------------------------------------------------------------------------------------------- conclusion


def conclusion(found: Comparison) -> str:
    """All that was found, in a line."""
    undecided, unclear, number = (len(of) for of in (found.of("undecided"), found.of("unclear"), found.changes))
    if found.verdict == "worse":
        lost = [f"{found.label(key)} failed: {why}" for key, why in found.lost.items()]
        return "; ".join([*_listed(found, "worse"), *lost])
    if found.verdict == "undecided":
        return (f"nothing was decided: none of {number} figures has {ROUNDS_FOR_AN_INTERVAL} rounds on both sides; "
                f"take both with --rounds {ROUNDS_FOR_AN_INTERVAL}, or 10 on a noisy machine")  # fmt: skip
    parts = ["nothing became slower or larger beyond noise", *_listed(found, "better")]
    parts += [f"{undecided} of {number} figures undecided: too few rounds"] if undecided else []
    parts += [f"{unclear} of {number} figures unclear: more rounds would tell"] if unclear else []
    return "; ".join(parts)


def _listed(found: Comparison, verdict: Verdict) -> list[str]:
    """For each cost, the cells of one verdict."""
    cells = {
        cost: [f"{found.label(of.key)} ({of.ratio.value:.2f}x)" for of in found.of(verdict) if of.cost == cost]
        for cost in COSTS
    }
    return [f"{WORDS[cost][verdict]} beyond noise: {', '.join(names)}" for cost, names in cells.items() if names]


def require_no_worse(found: Comparison) -> None:
    """
    Raises:
        Worse: something became slower or larger beyond noise, or failed.
    """
    if found.verdict == "worse":
        mend = "where more is what you want to pay, a higher --fail-above lets it pass" if found.of("worse") else ""
        raise Worse(conclusion(found), mend)


def comparison_json(found: Comparison) -> dict[str, Any]:
    """A comparison as JSON values; times in seconds, memory in MiB."""
    return {
        "before": str(found.before.file), "after": str(found.after.file), "verdict": found.verdict,
        "margins": dict(found.margins), "baseline": found.baseline and found.baseline[1],
        "changes": [
            {"group": of.key[0], "cell": of.key[1], "verdict": of.verdict,
             **attrs.asdict(of, filter=lambda field, _: field.name != "key")}
            for of in found.changes
        ],
        "lost": [{"group": group, "cell": name, "why": why} for (group, name), why in found.lost.items()],
        "left_out": [{"group": group, "cell": name, "why": why} for (group, name), why in found.left_out.items()],
        "conclusion": conclusion(found),
    }  # fmt: skip
