"""Checks of freezing policies: by what they decide on several layouts, on their way through runs of two kinds."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

import attrs
import pytest

from framework.component import config_fields
from framework.contracts import FreezingPolicy, Layout, Moments, Plan
from framework.errors import FwError
from framework.freezing import check_plan
from framework.testing import of_plans
from framework.testing.case import Case, Check, check
from framework.testing.chance import seeded
from framework.testing.networks import BACKBONES, Sample, sample
from framework.testing.walks import Decision, Way, answers, as_given, decisions, fault_of, lacking, policy_of, ways

SCHEDULES = next(get_args(field.type) for field in config_fields(Plan) if field.name == "schedule")

# ------------------------------------------------------------------------------------------------- what it is


@check
def builds_a_policy(case: Case) -> None:
    """`build()` gives an object with every method of `fw.FreezingPolicy`."""
    made = case.config().build()
    missing = lacking(made)
    assert not missing, (
        f"build() gave a {type(made).__name__} without {', '.join(missing)}: have its class inherit from "
        "fw.FreezingPolicy, which has them all for a policy that decides once"
    )


@check
def starts_or_says_why_not(case: Case) -> None:
    """`start` gives a plan on a network, or a `fw.FwError` that says what the policy lacks there."""
    refused: list[str] = []
    for name in BACKBONES:
        try:
            plan = policy_of(case).start(sample(name).layout)
        except FwError as error:
            refused.append(f"{name}: {error}")
            continue
        except Exception as error:
            raise AssertionError(
                f"start() fails on the kit's network {name!r} with {type(error).__name__}: {error}; "
                "where a network lacks what the policy needs, raise fw.FwError and say what that is"
            ) from error
        assert isinstance(plan, Plan), f"start() gave a {type(plan).__name__}: give layout.plan(names), or fw.Plan(...)"
    assert len(refused) < len(BACKBONES), (
        "start() refuses every network of the kit; plugin_checks(..., keys=...) can set keys that fit one:\n"
        + "\n".join(refused)
    )


@check
def answers_with_a_plan_or_none(case: Case) -> None:
    """`next` gives a plan or None whenever it is asked, to the end of a run."""
    for way in ways(case):
        way.policy.start(way.sample.layout)
        asked = answers(way.policy, way.sample.layout, way.course)
        try:
            wrong = next((said for _, said in asked if not (said is None or isinstance(said, Plan))), None)
        except Exception as error:
            raise AssertionError(
                f"{way.words}: next() fails with {type(error).__name__}: {error}; {'; '.join(_notes(error))}; "
                "give None where there is nothing to change"
            ) from error
        assert wrong is None, f"{way.words}: next() gave {wrong!r}; give fw.Plan(...), or None to keep the plan"


def _notes(error: Exception) -> list[str]:
    notes: list[str] = getattr(error, "__notes__", [])
    return notes


# ----------------------------------------------------------------------------------------- what its plans say


@check
def plans_are_well_formed(case: Case) -> None:
    """Every plan has a mapping of names to scales, frozen sets of norm layers, and a schedule that there is."""
    for way in ways(case):
        for plan in way.plans():
            fault = fault_of(plan)
            assert not fault, f"{way.words}: a plan's {fault}; layout.plan(names) makes one that is right"
            assert plan.schedule in SCHEDULES, (
                f"{way.words}: a plan's schedule is {plan.schedule!r}; it is one of {', '.join(map(repr, SCHEDULES))}"
            )


@check
def plans_name_what_is_there(case: Case) -> None:
    """Every plan names parameters, and norm layers with statistics, that the network has."""
    for way in ways(case):
        for plan in (plan for plan in way.plans() if plan.trainable):
            try:
                check_plan(way.sample.layout, plan, case.name)
            except FwError as error:
                raise AssertionError(f"{way.words}: {error}") from None


@check
def plans_train_something(case: Case) -> None:
    """Every plan trains something."""
    for way in ways(case):
        for plan in way.plans():
            assert plan.trainable, (
                f"{way.words}: a plan trains nothing, which the engine refuses; let the head train, "
                "layout.head.parameters"
            )


@check
def scales_are_stated(case: Case) -> None:
    """Every learning-rate scale is a positive number, and one that the first plan has or `scales` names."""
    for way in ways(case):
        given = way.plans()
        stated = {*next(given).trainable.values(), *way.policy.scales()}
        wrong = [scale for scale in stated if not (scale > 0 and math.isfinite(scale))]
        assert not wrong, f"{way.words}: there is a scale of {wrong[0]!r}; leave out of a plan what shall not train"
        for plan in given:
            missing = {*plan.trainable.values()} - stated
            assert not missing, (
                f"{way.words}: a later plan has a scale of {min(missing)!r}, which neither the first plan nor scales() "
                "has; name every scale in scales(), for the optimizer's groups are built before the first step"
            )


@check
def moments_are_valid(case: Case) -> None:
    """`moments` names epochs and steps from 0 on, and fractions from 0 to 1."""
    for way in ways(case):
        for _ in way.plans():
            wrong = _wrong_moment(way.policy.moments())
            assert not wrong, f"{way.words}: moments() gives {wrong}"


def _wrong_moment(moments: Any) -> str:
    if not isinstance(moments, Moments):
        return f"a {type(moments).__name__}; give fw.Moments(...)"
    counts = [*moments.epochs, *moments.steps]
    wrong = next((count for count in counts if type(count) is not int or count < 0), None)
    if wrong is not None:
        return f"{wrong!r}; epochs and steps are integers, counted from 0"
    outside = next((share for share in moments.fractions if not 0 <= share <= 1), None)
    return "" if outside is None else f"{outside!r}; fractions are shares of the run's steps, from 0 to 1"


@check
def plans_stay_as_they_were_given(case: Case) -> None:
    """A plan does not change once it has been given."""
    for way in ways(case):
        kept = [(plan, as_given(plan)) for plan in way.plans()]
        changed = sum(as_given(plan) != as_it_was for plan, as_it_was in kept)
        assert not changed, (
            f"{way.words}: {changed} of {len(kept)} plans changed after they were given, so that the engine cannot see "
            "what is new; give each plan a dict of its own, fw.Plan(dict(self.names)), or take layout.plan(names)"
        )


# -------------------------------------------------------------------------------------------- what it decides by


@check
def decides_the_same_again(case: Case) -> None:
    """Two policies with the same keys decide the same on the same network and the same metrics."""
    for one, other in zip(ways(case), ways(case), strict=True):
        first, second = _decided(one, 1), _decided(other, 2)
        assert first == second, (
            f"{one.words}: two policies with equal keys decide otherwise {_where(first, second)}; decide by the "
            "layout, the progress and the policy's own state alone, and draw from a generator that a key seeds"
        )


def _decided(way: Way, seed: int) -> list[Decision]:
    """What a policy decides while the generators that everybody shares stand somewhere."""
    with seeded(seed):
        return way.decisions()


def _where(expected: Sequence[Decision], found: Sequence[Decision]) -> str:
    """Before which step two policies first differ, in words."""
    pairs = zip(expected, found, strict=False)
    step = next((one[0] for one, other in pairs if one != other), -1)
    return f"before step {step}" if step >= 0 else "where one of them fails or is asked no more"


@check
def leaves_the_layout_alone(case: Case) -> None:
    """The layout is the same after a run as before."""
    for way in ways(case):
        before = copy.deepcopy(way.sample.layout)
        for _ in way.plans():
            pass
        names = [field.name for field in attrs.fields(Layout)]
        changed = [name for name in names if getattr(before, name) != getattr(way.sample.layout, name)]
        assert not changed, f"{way.words}: the policy changes layout.{changed[0]}; copy what you want to change"


@check
def follows_stages_not_names(case: Case) -> None:
    """The same parts train where the network's modules have other names, or the policy says what it lacks."""
    for way, other in zip(ways(case), ways(case, renamed=True), strict=True):
        expected = way.decisions()
        if expected != Way(sample(way.sample.name), policy_of(case), way.course, way.words).decisions():
            pytest.skip("it decides otherwise each time, whatever the names")
        names = _twin_names(way.sample, other.sample)
        wanted = [(step, _translated(said, names)) for step, said in expected]
        try:
            found = other.decisions()
        except FwError:
            continue
        except Exception as error:
            raise AssertionError(f"{way.words}: {_NAMED_OTHERWISE.format(f'start() fails with {error!r}')}") from error
        said = f"other parts train {_where(wanted, found)}"
        assert found == wanted, f"{way.words}: {_NAMED_OTHERWISE.format(said)}"


_NAMED_OTHERWISE = (
    "{} when the network's modules have other names; choose by layout.stages, layout.norms and layout.biases, and "
    "raise fw.FwError where a name that the user gave is not there"
)


def _twin_names(one: Sample, other: Sample) -> dict[str, str]:
    """Names of parameters and modules of a network -> those of the same in its twin."""
    own, twins = ([name for name, _ in (*each.network.named_parameters(), *each.network.named_modules())]
                  for each in (one, other))  # fmt: skip
    return dict(zip(own, twins, strict=True))


def _translated(said: Any, names: Mapping[str, str]) -> Any:
    """A plan in other names; what is not among them keeps its own."""
    if not isinstance(said, Plan) or fault_of(said):
        return said

    def those(modules: Iterable[str]) -> frozenset[str]:
        return frozenset(names.get(module, module) for module in modules)

    trainable = {names.get(name, name): scale for name, scale in said.trainable.items()}
    return attrs.evolve(
        said, trainable=trainable, batch_stats=those(said.batch_stats), recalibrate=those(said.recalibrate)
    )


# ------------------------------------------------------------------------------------------------- its state


@check
def state_is_json(case: Case) -> None:
    """`state` gives what JSON brings back as it was: dicts with strings as keys, lists, numbers and strings."""
    for way in ways(case):
        for _ in way.plans():
            state = way.policy.state()
            wrong = _unlike_json(state) if isinstance(state, dict) else f"a {type(state).__name__} and no dict"
            assert not wrong, (
                f"{way.words}: state() gives {wrong}; give a dict with strings as keys, and in it dicts, lists, "
                "numbers, strings, True, False and None"
            )


def _unlike_json(value: Any) -> str:
    """The first part of a value that JSON would not bring back, in words."""
    if isinstance(value, dict):
        wrong = next((key for key in value if not isinstance(key, str)), None)
        return f"the key {wrong!r}" if wrong is not None else _first_unlike(value.values())
    if isinstance(value, list):
        return _first_unlike(value)
    return "" if value is None or isinstance(value, bool | int | float | str) else f"a {type(value).__name__}"


def _first_unlike(values: Iterable[Any]) -> str:
    return next((wrong for value in values if (wrong := _unlike_json(value))), "")


@check
def goes_on_from_its_state(case: Case) -> None:
    """A fresh policy that takes the state of another decides as that one does from there on, from any moment."""
    for way in ways(case):
        expected = way.decisions()[1:]
        for step, state in _states(policy_of(case), way):
            resumed = policy_of(case)
            resumed.start(way.sample.layout)  # as the engine does, which assembles a run before it restores it
            resumed.restore(state)
            wanted = [decision for decision in expected if not 0 <= decision[0] < step]
            found = decisions(resumed, way.sample.layout, way.course[step:])
            assert found == wanted, (
                f"{way.words}: a policy that takes the state of before step {step} decides otherwise "
                f"{_where(wanted, found)}; put into state() all that next() reads and changes, and take it in restore()"
            )


def _states(policy: FreezingPolicy, way: Way) -> Iterator[tuple[int, Any]]:
    """The state before each step before which the policy is asked, as a checkpoint brings it back."""
    policy.start(way.sample.layout)
    for now in way.course:
        state = policy.state()
        try:
            kept = json.loads(json.dumps(state))
        except (TypeError, ValueError) as error:
            pytest.skip(f"state() is not JSON: {error}")
        if decisions(policy, way.sample.layout, [now]):
            yield now.step, kept


CHECKS: tuple[Check, ...] = (
    builds_a_policy,
    starts_or_says_why_not,
    answers_with_a_plan_or_none,
    plans_are_well_formed,
    plans_name_what_is_there,
    plans_train_something,
    scales_are_stated,
    moments_are_valid,
    plans_stay_as_they_were_given,
    decides_the_same_again,
    leaves_the_layout_alone,
    follows_stages_not_names,
    state_is_json,
    goes_on_from_its_state,
    *of_plans.CHECKS,
)
