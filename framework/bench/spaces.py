"""Spaces: the values that a tuned key may take, and the grid of trials over them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import attrs

from framework.component import key

Value = int | float | str | bool


@attrs.frozen(kw_only=True)
class Space:
    """What a tuned key may be: `{ log = [1e-4, 1.0], trials = 7 }`, `{ linear = ... }`, or `{ values = [...] }`."""

    log: tuple[float, float] | None = key(None, "[low, high]: values evenly spaced by their logarithms, ends included")
    linear: tuple[float, float] | None = key(None, "[low, high]: values evenly spaced, ends included")
    values: tuple[Value, ...] | None = key(None, "the values themselves")
    trials: int = key(7, "how many values of log or linear")

    def __attrs_post_init__(self) -> None:
        stated = [name for name in ("log", "linear", "values") if getattr(self, name) is not None]
        if len(stated) != 1:
            raise ValueError(f"a space has one of log, linear, values; this one has {' and '.join(stated) or 'none'}")
        low, high = self.log or self.linear or (0.0, 1.0)
        if not low < high or (self.log and low <= 0):
            raise ValueError(
                f"{stated[0]} = [{low:g}, {high:g}]: low is below high" + (", and above 0" * bool(self.log))
            )
        if self.trials < 2:
            raise ValueError("trials is at least 2")
        if self.values is not None and len(set(self.values)) < max(1, len(self.values)):
            raise ValueError("values holds something twice" if self.values else "values is empty")

    @property
    def points(self) -> tuple[Value, ...]:
        """The values, in order."""
        if self.values is not None:
            return self.values
        low, high = self.log or self.linear or (0.0, 1.0)
        shares = [number / (self.trials - 1) for number in range(self.trials)]
        if self.log:
            return tuple(_short(math.exp(math.log(low) + share * math.log(high / low))) for share in shares)
        return tuple(_short(low + share * (high - low)) for share in shares)

    def edge(self, value: Value) -> str:
        """`lowest` or `highest` where a value ends the range, so that a better one may lie outside; else nothing."""
        if self.values is not None and any(isinstance(other, (str, bool)) for other in self.values):
            return ""
        ordered = sorted(self.points, key=float)
        return "lowest" if value == ordered[0] else "highest" if value == ordered[-1] else ""


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def grid(spaces: Mapping[str, Space]) -> tuple[dict[str, Value], ...]:
    """Every combination of the points of some spaces, by key; one empty combination where there is no space."""
    combinations = itertools.product(*(space.points for space in spaces.values()))
    return tuple(dict(zip(spaces, values, strict=True)) for values in combinations)
