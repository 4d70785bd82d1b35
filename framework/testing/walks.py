"""Walks: what a freezing policy decides on its way through a run in which no network takes part."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import suppress
from typing import Any

import attrs
import pytest

from framework.contracts import FreezingPolicy, Layout, Plan, Progress
from framework.testing.case import Case
from framework.testing.networks import BACKBONES, Sample, sample
from framework.train import is_due

METHODS = ("start", "scales", "moments", "wants", "next", "state", "restore")
EPOCHS, STEPS_PER_EPOCH = 6, 5
STEPS = EPOCHS * STEPS_PER_EPOCH

Course = tuple[Progress, ...]
"""The moments of a run at which a policy can be asked: one before each step."""


def course(best: int) -> Course:
    """A run whose metrics improve until `best` epochs are done, and stay as they are from there on."""
    epochs = (step // STEPS_PER_EPOCH for step in range(STEPS))
    return tuple(
        Progress(epoch, step, EPOCHS, STEPS, metrics(min(epoch, best))) for step, epoch in enumerate(epochs)
    )  # fmt: skip


def metrics(epochs: int) -> dict[str, float]:
    """What the engine knows after as many epochs, under its names; nothing before the first validation."""
    if not epochs:
        return {}
    falling = 1.0 / (1 + epochs)
    rising = dict.fromkeys(("accuracy", "balanced_accuracy", "macro_f1", "auroc"), 1.0 - falling / 2)
    return {"train.loss": falling, "val.loss": falling * 1.1, "val.ece": falling / 4,
            **{f"val.{name}": value for name, value in rising.items()}}  # fmt: skip


COURSES: Mapping[str, Course] = {"metrics that improve": course(EPOCHS), "metrics that soon stay": course(1)}
"""In words -> a run."""


def answers(policy: FreezingPolicy, layout: Layout, moments: Iterable[Progress]) -> Iterator[tuple[Progress, Any]]:
    """When a started policy is asked, and what it says; what it raises comes through and says when."""
    for now in moments:
        try:
            if not is_due(policy.moments(), now.epoch, now.step, now.steps, begins=now.step % STEPS_PER_EPOCH == 0):
                continue
            said = policy.next(layout, attrs.evolve(now, signals=signals(policy, layout, now.step)))
        except Exception as error:
            error.add_note(f"at epoch {now.epoch}, step {now.step} of a run of {now.epochs} epochs, {now.steps} steps")
            raise
        yield now, said


def signals(policy: FreezingPolicy, layout: Layout, steps: int) -> dict[str, dict[str, float]]:
    """What the engine has gathered of the signals that a policy wants; nothing before the first step."""
    wanted = policy.wants() if steps else frozenset[str]()
    return {name: {stage.name: 2.0 + math.sin(steps * place) for place, stage in enumerate(layout.stages, start=1)}
            for name in wanted}  # fmt: skip


def plans(policy: FreezingPolicy, layout: Layout, moments: Iterable[Progress]) -> Iterator[Plan]:
    """Each plan as it is given, the first included, up to where the policy fails."""
    yield policy.start(layout)
    with suppress(Exception):
        for _, said in answers(policy, layout, moments):
            if isinstance(said, Plan):
                yield said


Decision = tuple[int, Any]
"""The step before which a policy was asked, and the plan or None that it gave; -1 and a name where it failed."""


def decisions(policy: FreezingPolicy, layout: Layout, moments: Iterable[Progress]) -> list[Decision]:
    """All that a started policy decides, as it was when it was decided."""
    found: list[Decision] = []
    try:
        found.extend((now.step, as_given(said)) for now, said in answers(policy, layout, moments))
    except Exception as error:
        found.append((-1, type(error).__name__))
    return found


def as_given(said: Any) -> Any:
    """A copy of a plan that stays as it is, whatever becomes of the one that a policy gave."""
    if not isinstance(said, Plan) or fault_of(said):
        return said
    return attrs.evolve(
        said,
        trainable=dict(said.trainable),
        batch_stats=frozenset(said.batch_stats),
        recalibrate=frozenset(said.recalibrate),
    )


def fault_of(plan: Any) -> str:
    """Which of a plan's values is of another type than the contract has it; nothing where each is as it should be."""
    if not isinstance(plan.trainable, Mapping):
        return f"trainable is a {type(plan.trainable).__name__}, no mapping of names to scales"
    wrong = next((name for name in ("batch_stats", "recalibrate") if not isinstance(getattr(plan, name), Set)), None)
    return f"{wrong} is a {type(getattr(plan, wrong)).__name__}, no frozenset" if wrong else ""


# ----------------------------------------------------------------------------------------------- of a case


@attrs.frozen(eq=False)
class Way:
    """A policy on its way through one run on one network.

    Attributes:
        sample: the network and its layout, of this way alone.
        policy: not started.
        course: the run.
        words: where this is, for messages.
    """

    sample: Sample
    policy: FreezingPolicy
    course: Course
    words: str

    def plans(self) -> Iterator[Plan]:
        """Each plan as it is given, up to where the policy fails."""
        return plans(self.policy, self.sample.layout, self.course)

    def decisions(self) -> list[Decision]:
        """All that the policy decides, its first plan before step 0 included."""
        first = (0, as_given(self.policy.start(self.sample.layout)))
        return [first, *decisions(self.policy, self.sample.layout, self.course)]


def ways(case: Case, renamed: bool = False) -> Iterator[Way]:
    """Each network on which the policy starts, with each course.

    Args:
        case: of a freezing policy.
        renamed: whether the networks' modules have other names.
    """
    for name in taken(case):
        for words, moments in COURSES.items():
            yield Way(sample(name, renamed), policy_of(case), moments, f"on the kit's network {name!r} with {words}")


def taken(case: Case) -> list[str]:
    """The networks on which the policy starts; skips where there is none."""
    found = [name for name in BACKBONES if isinstance(_first_plan(policy_of(case), sample(name).layout), Plan)]
    if not found:
        pytest.skip("start() gives no plan on any network of the kit")
    return found


def _first_plan(policy: FreezingPolicy, layout: Layout) -> Any:
    try:
        return policy.start(layout)
    except Exception:
        return None


def policy_of(case: Case) -> FreezingPolicy:
    """A new policy; skips where `build` gives none, which is for a check of its own to say."""
    try:
        made = case.config().build()
    except Exception as error:
        pytest.skip(f"build() fails: {error}")
    if lacking(made):
        pytest.skip("build() gives no freezing policy")
    policy: FreezingPolicy = made
    return policy


def lacking(made: object) -> list[str]:
    """The methods of a freezing policy that an object does not have."""
    return [name for name in METHODS if not callable(getattr(made, name, None))]
