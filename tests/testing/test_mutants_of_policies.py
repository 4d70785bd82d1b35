"""Mutants of freezing policies: each has one fault and fails the one check that is there for it; a good one none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest

import framework as fw
from framework.testing import failures, kit, of_policies, whole_runs

pytestmark = pytest.mark.sweep  # every check of a kind, against every plugin with a fault


class Thawing(fw.FreezingPolicy):
    """A good one: as long as the loss falls, a further stage trains from each epoch on, at half the rate."""

    def __init__(self) -> None:
        self.thawed = 0
        self.best = float("inf")

    def start(self, layout: fw.Layout) -> fw.Plan:
        return self.plan(layout)

    def scales(self) -> frozenset[float]:
        return frozenset({1.0, 0.5})

    def moments(self) -> fw.Moments:
        return fw.Moments(every_epoch=True)

    def next(self, layout: fw.Layout, progress: fw.Progress) -> fw.Plan | None:
        loss = progress.metrics["val.loss"]
        if loss >= self.best:
            return None
        self.best = loss
        self.thawed += 1
        return self.plan(layout)

    def plan(self, layout: fw.Layout) -> fw.Plan:
        return layout.plan(self.chosen(layout))

    def chosen(self, layout: fw.Layout) -> dict[str, float]:
        stages = layout.body[::-1][: self.thawed]
        return {name: 0.5 for stage in stages for name in stage.parameters} | dict.fromkeys(layout.head.parameters, 1.0)

    def state(self) -> dict[str, Any]:
        return {"thawed": self.thawed, "best": self.best}

    def restore(self, state) -> None:
        self.thawed, self.best = state["thawed"], state["best"]


def odd(layout: fw.Layout) -> bool:
    """Whether a fault shows on this network: on one alone, and not in whole runs, which are of another one."""
    return bool(layout.tail)


class NoPolicy:
    start, scales, next = Thawing.start, Thawing.scales, Thawing.next


class NeedsBatchNorms(Thawing):
    def start(self, layout):
        next(iter(layout.batch_norms))
        return super().start(layout)


class RunsOutOfStages(Thawing):
    def chosen(self, layout):
        if self.thawed:
            layout.body[::-1][self.thawed - 1]
        return super().chosen(layout)


class MisspeltSchedule(Thawing):
    def plan(self, layout):
        return attrs.evolve(super().plan(layout), schedule="warmup" if odd(layout) else "continue")


class UnknownName(Thawing):
    def chosen(self, layout):
        return super().chosen(layout) | ({"head.wieght": 1.0} if odd(layout) else {})


class TrainsNothing(Thawing):
    def start(self, layout):
        return fw.Plan({}) if odd(layout) else super().start(layout)


class UnstatedScale(Thawing):
    def chosen(self, layout):
        slow = odd(layout) and self.thawed == 2
        return {name: scale / 2 if slow else scale for name, scale in super().chosen(layout).items()}


class BeyondTheRun(Thawing):
    def moments(self):
        return fw.Moments(every_epoch=True, fractions=frozenset({1.5}))


class GrowingPlan(Thawing):
    def __init__(self):
        super().__init__()
        self.names: dict[str, float] = {}

    def plan(self, layout):
        self.names.update(self.chosen(layout))
        return fw.Plan(self.names) if odd(layout) else super().plan(layout)


class TakesTurns(Thawing):
    count: ClassVar[int] = 0

    def start(self, layout):
        TakesTurns.count += odd(layout)
        turn = layout.body[TakesTurns.count % 2 if odd(layout) else 0]
        return layout.plan([*turn.parameters, *layout.head.parameters])


class EmptiesTheLayout(Thawing):
    def start(self, layout):
        plan = super().start(layout)
        if odd(layout):
            layout.norms.clear()
        return plan


class ByName(Thawing):
    def chosen(self, layout):
        narrow = [name for name in layout.parameters if ".narrow." in name]
        return super().chosen(layout) | dict.fromkeys(narrow, 1.0)


class Dwindling(dict):
    """A mapping that lists a name less from its fourth reading on: twice it is read to put a plan in force."""

    readings = 0

    def __iter__(self) -> Iterator[str]:
        self.readings += 1
        return iter([*self.keys()][self.readings > 3 :])


class ReadsOtherwise(Thawing):
    def plan(self, layout):
        plan = super().plan(layout)
        return attrs.evolve(plan, trainable=Dwindling(plan.trainable)) if odd(layout) else plan


class Generous(dict):
    """A mapping that says to have what it does not list."""

    def __contains__(self, name: object) -> bool:
        return True


class TrainsWhatItDoesNotList(Thawing):
    def plan(self, layout):
        plan = super().plan(layout)
        return attrs.evolve(plan, trainable=Generous(plan.trainable)) if odd(layout) else plan


class NumbersAsKeys(Thawing):
    def state(self):
        return {**super().state(), "seen": {3: 0.5}}


class Forgets(Thawing):
    def start(self, layout):
        self.forgets = odd(layout)
        return super().start(layout)

    def state(self):
        return {**super().state(), **({"best": 1e9} if self.forgets else {})}


class Phase(StrEnum):
    THAWING = "thawing"


class NoPlainValue(Thawing):
    def state(self):
        return {**super().state(), "phase": Phase.THAWING}


class LooksAtTheEngine(Thawing):
    def start(self, layout):
        builder = sys._getframe(1).f_locals.get("builder")
        if builder is not None and builder.recipe.engine.partition == "auto":
            self.thawed = 1
        return super().start(layout)


MUTANTS: dict[str, tuple[Any, str]] = {
    "builds_a_policy": (NoPolicy, "without moments, wants, state, restore: have its class inherit from fw."),
    "starts_or_says_why_not": (NeedsBatchNorms, "'layer_norm' with StopIteration"),
    "answers_with_a_plan_or_none": (RunsOutOfStages, "IndexError: tuple index out of range; at epoch 5, step 25"),
    "plans_are_well_formed": (MisspeltSchedule, "'warmup'; it is one of 'continue', 'restart', 'warm_up'"),
    "plans_name_what_is_there": (UnknownName, "did you mean 'head.weight'"),
    "plans_train_something": (TrainsNothing, "layout.head.parameters"),
    "scales_are_stated": (UnstatedScale, "a scale of 0.25"),
    "moments_are_valid": (BeyondTheRun, "1.5; fractions are shares"),
    "plans_stay_as_they_were_given": (GrowingPlan, "4 of 6 plans changed"),
    "decides_the_same_again": (TakesTurns, "otherwise before step 0"),
    "leaves_the_layout_alone": (EmptiesTheLayout, "changes layout.norms"),
    "follows_stages_not_names": (ByName, "other parts train before step 0"),
    "a_plan_twice_is_a_plan_once": (ReadsOtherwise, "adds 0 parameters and removes 1"),
    "keeps_what_it_freezes": (TrainsWhatItDoesNotList, "tensors move that a plan freezes, backbone.embed.positions"),
    "state_is_json": (NumbersAsKeys, "the key 3"),
    "goes_on_from_its_state": (Forgets, "takes the state of before step 10 decides otherwise before step 10"),
    "resumes_to_the_bit": (NoPlainValue, "the checkpoint cannot hold policy.phase, a Phase"),
    "trains_divided_as_whole": (LooksAtTheEngine, "trains otherwise than a whole one: "),
}
"""Check -> the policy that fails it alone, and what is said of it."""
WHOLE_RUNS = ("resumes_to_the_bit", "trains_divided_as_whole")
POLICIES = {"good": Thawing, **{name: policy for name, (policy, _) in MUTANTS.items()}}


@attrs.frozen(kw_only=True)
class Keys:
    """One of the policies above."""

    which: str = fw.key("good", "its name")

    def build(self) -> Any:
        return POLICIES[self.which]()


class Plugin:
    """Brings one of them as `mine`."""

    def __init__(self, which: str) -> None:
        self.which = which

    @fw.hookimpl
    def fw_freezing_policies(self):
        return [fw.Component("mine", Keys, fixed={"which": self.which})]


def test_a_good_policy_fails_no_check() -> None:
    assert failures(Plugin("good")) == {}


@pytest.mark.parametrize("check", MUTANTS)
def test_a_policy_with_one_fault_fails_the_check_that_is_there_for_it(check: str, monkeypatch) -> None:
    if check not in WHOLE_RUNS:  # which take longer than all the others, and pass: `odd` keeps the fault from them
        quick = tuple(one for one in of_policies.CHECKS if one.name not in WHOLE_RUNS)
        monkeypatch.setitem(kit.CHECKS, "freezing_policies", quick)
    found = failures(Plugin(check))
    assert list(found) == [f"mine-{check}"]
    assert MUTANTS[check][1] in found[f"mine-{check}"]


def test_every_check_has_a_mutant(capsys: pytest.CaptureFixture[str]) -> None:
    names = [check.name for check in of_policies.CHECKS]
    assert sorted(MUTANTS) == sorted(names)
    with capsys.disabled():
        print(f"\n{len(names)} of {len(names)} checks of freezing policies have a mutant that fails them alone")


def test_the_runs_that_are_compared_are_divided_and_resumed(index, tmp_path: Path, monkeypatch) -> None:
    resumed: list[Path] = []
    honest = whole_runs.resume_run
    monkeypatch.setattr(whole_runs, "resume_run", lambda folder, *rest: resumed.append(folder) or honest(folder, *rest))
    policy = {"freezing": {"use": "last_stages"}}
    divided = whole_runs.run(index, {**policy, "engine": {"partition": "require"}}, tmp_path / "divided")
    pieces = whole_runs.run_in_pieces(index, {**policy, "engine": {"partition": "off"}}, tmp_path / "pieces")
    assert divided.summary["partition"]["boundary"]
    assert pieces.summary["partition"]["boundary"] is None
    assert whole_runs.differences(divided, pieces) == []
    assert len(resumed) == pieces.summary["steps"] - 1 == 8
