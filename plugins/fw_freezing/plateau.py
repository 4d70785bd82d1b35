"""Plateau: how long a metric has brought nothing better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import attrs

import framework as fw
from fw_freezing.moments import Moment


@attrs.define
class Plateau:
    """How a metric has done so far.

    Attributes:
        metric: as the run logs it.
        mode: whether more of it is better, or less.
        best: of the whole run so far; None before the first.
        waited: epochs in a row that brought no better one, since the newest phase began.
        seen: epochs seen.
    """

    metric: str
    mode: Literal["max", "min"]
    best: float | None = None
    waited: int = 0
    seen: int = 0

    def require_mode(self) -> None:
        """
        Raises:
            fw.FwError: more of a loss is said to be better, so that every epoch would be waited for in vain.
        """
        if self.metric.endswith("loss") and self.mode == "max":
            raise fw.FwError(f"freezing.metric = {self.metric!r} gets better as it falls", 'set freezing.mode = "min"')

    def has_come(self, moment: Moment) -> bool:
        """Whether a moment is a plateau that has lasted long enough."""
        return moment.kind == "plateau" and self.waited >= moment.at

    def see(self, now: fw.Progress) -> None:
        """Takes the metric of an epoch that is done, once."""
        if now.epoch == self.seen:
            return
        self.seen = now.epoch
        value = self._value_in(now.metrics)
        if self._is_better(value):
            self.best, self.waited = value, 0
        else:
            self.waited += 1

    def _value_in(self, metrics: Mapping[str, float]) -> float:
        """The metric; no number where no validation image could be read.

        Raises:
            fw.FwError: there are others, but not this one.
        """
        if self.metric not in metrics and any(name.startswith("val.") for name in metrics):
            raise fw.FwError(f"freezing.metric = {self.metric!r}, but the run has no such metric",
                             fw.name_hints(self.metric, list(metrics), "metrics"))  # fmt: skip
        return metrics.get(self.metric, math.nan)

    def _is_better(self, value: float) -> bool:
        if self.best is None:
            return not math.isnan(value)
        return value > self.best if self.mode == "max" else value < self.best

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"best": self.best, "waited": self.waited, "seen": self.seen}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes what `state` gave."""
        self.best, self.waited, self.seen = state["best"], state["waited"], state["seen"]
