"""Phases: the policy whose schedule is data: what trains, at which rates, from which moment on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

import framework as fw
from fw_freezing.moments import asked_at, require_order
from fw_freezing.phase import Phase, moments_of, plans_of, table_of
from fw_freezing.plateau import Plateau


@attrs.frozen(kw_only=True)
class Phases:
    """Phases, one after the other: what trains, at which rates, from which moment on.

    Papers compare schedules of this kind. LP-FT (2202.10054) trains the head first and then everything, and claims that
    this distorts the features less and is better on shifted data; ULMFiT (1801.06146) adds one stage after the other,
    lower ones at lower rates, and claims that less is forgotten. In a recipe:

        [[freezing.phases]]
        train = "head"

        [[freezing.phases]]
        fraction = 0.3
        unfreeze = "last:1"
        scale = 0.1
        schedule = "warm_up"

        [[freezing.phases]]
        plateau = 3
        train = "all"
        scale = { head = 1.0, backbone = 0.1 }

    `train` says anew what trains, `unfreeze` adds to it, `freeze` takes away from it. What they name is `all`, `head`,
    `backbone` (all but the head), `first:N` (the first N stages), `last:N` (the last N stages and all that follows:
    neck and head), a stage, or a glob over parameter names; one of them, or an array. A number as `scale` is for what
    begins to train, in a phase that names nothing to train for all that does; of several words in a table the one that
    means the fewest parameters decides.

    The first phase begins with the run, every other one at the one moment that it states. One at an epoch, a step or a
    fraction begins then, even if a plateau that is stated before it has not come; one that the run does not get to,
    never.
    """

    phases: tuple[Phase, ...] = fw.key(doc="tables [[freezing.phases]]; the first begins with the run")
    metric: str = fw.key("val.accuracy", "the metric whose plateau counts")
    mode: Literal["max", "min"] = fw.key("max", "whether more of the metric is better, or less")

    def build(self) -> fw.FreezingPolicy:
        """The policy.

        Raises:
            fw.FwError: a phase that states no moment or several, phases out of order, a loss of which more is better.
        """
        return PhasesPolicy(self)


class PhasesPolicy(fw.FreezingPolicy):
    """Gives each phase's plan at its moment; all plans are made, and checked, before the first step."""

    def __init__(self, keys: Phases) -> None:
        self.keys = keys
        self.begins = moments_of(keys.phases)
        self.watches = any(moment.kind == "plateau" for moment in self.begins)
        self.watch = Plateau(keys.metric, keys.mode)
        self.plans: tuple[fw.Plan, ...] = ()
        self.at = 0
        require_order(self.begins)
        if self.watches:
            self.watch.require_mode()

    def start(self, layout: fw.Layout) -> fw.Plan:
        """The first phase's plan."""
        self.plans = plans_of(self.keys.phases, layout)
        return self.plans[0]

    def scales(self) -> frozenset[float]:
        """Every scale that a phase states, and 1."""
        tables = [table_of(phase.scale) for phase in self.keys.phases]
        return frozenset({1.0, *(float(scale) for table in tables for scale in table.values())})

    def moments(self) -> fw.Moments:
        """When phases begin; before the first step, too, for not earlier is it known how long the run is."""
        return asked_at(self.begins) if len(self.begins) > 1 else fw.Moments()

    def next(self, layout: fw.Layout, progress: fw.Progress) -> fw.Plan | None:
        """The plan of the phase that begins now."""
        if not progress.step:
            require_order(self.begins, progress)
        if self.watches:
            self.watch.see(progress)
        due = self._due(progress)
        if due == self.at:
            return None
        self.at, self.watch.waited = due, 0
        return self.plans[due]

    def _due(self, now: fw.Progress) -> int:
        """The phase that is to be in force: the last whose moment has come, or the next where that is a plateau."""
        coming = list(enumerate(self.begins))[self.at + 1 :]
        come = [number for number, moment in coming if moment.has_come(now)]
        waited_for = [number for number, moment in coming[:1] if self.watch.has_come(moment)]
        return max([self.at, *waited_for, *come])

    def state(self) -> dict[str, Any]:
        """The phase in force, and how the metric has done."""
        return {"phase": self.at, **self.watch.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes what `state` gave."""
        self.at = state["phase"]
        self.watch.restore(state)
