"""fw_thaw: a freezing policy that lets one more stage train whenever training stands still."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

import framework as fw


@attrs.frozen(kw_only=True)
class Thaw:
    """The head trains; whenever a metric stands still, one more stage does, from the output back."""

    metric: str = fw.key("val.accuracy", "the validation metric that is watched")
    better: Literal["higher", "lower"] = fw.key("higher", "which values of it are better")
    patience: fw.PositiveInt = fw.key(2, "epochs without a better value before a stage thaws")
    norm: fw.NormMode = fw.key("fixed", "batch norms that are not trained: fixed, batch, or recalibrate")

    def build(self) -> fw.FreezingPolicy:
        """The policy, with nothing thawed."""
        return Thawing(self)


class Thawing(fw.FreezingPolicy):
    """Counts epochs without a better value.

    Args:
        keys: what the recipe says.
    """

    def __init__(self, keys: Thaw) -> None:
        self.keys = keys
        self.thawed = 0
        self.waited = 0
        self.best: float | None = None

    def start(self, layout: fw.Layout) -> fw.Plan:
        """The head alone."""
        return self._plan(layout)

    def moments(self) -> fw.Moments:
        """After each epoch's validation."""
        return fw.Moments(every_epoch=True)

    def next(self, layout: fw.Layout, progress: fw.Progress) -> fw.Plan | None:
        """One stage more, where the metric has stood still long enough and a stage is left.

        Raises:
            FwError: the run has no such metric.
        """
        if self.thawed == len(layout.body) or not progress.metrics:
            return None
        if self._is_better(self._value(progress)):
            return None
        self.waited += 1
        if self.waited < self.keys.patience:
            return None
        self.thawed, self.waited = self.thawed + 1, 0
        return self._plan(layout)

    def state(self) -> dict[str, Any]:
        """What it remembers."""
        return {"thawed": self.thawed, "waited": self.waited, "best": self.best}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Remembers it again."""
        self.thawed, self.waited, self.best = state["thawed"], state["waited"], state["best"]

    def _plan(self, layout: fw.Layout) -> fw.Plan:
        """The last stages that are thawed, the neck with them, and the head."""
        first = len(layout.body) - self.thawed
        stages = [*layout.body[first:], *(layout.tail if self.thawed else ()), layout.head]
        return layout.plan([name for stage in stages for name in stage.parameters], self.keys.norm)

    def _value(self, progress: fw.Progress) -> float:
        name = self.keys.metric
        if name not in progress.metrics:
            raise fw.FwError(f"freezing.metric = {name!r}: the run has no such metric",
                             fw.name_hints(name, list(progress.metrics), "metrics"))  # fmt: skip
        return progress.metrics[name]

    def _is_better(self, value: float) -> bool:
        """Whether a value is the best so far, which ends the wait."""
        sign = 1 if self.keys.better == "higher" else -1
        if self.best is not None and not sign * value > sign * self.best:
            return False
        self.best, self.waited = value, 0
        return True


@fw.hookimpl
def fw_freezing_policies() -> list[fw.Component]:
    """`thaw`."""
    return [fw.Component("thaw", Thaw)]
