"""Checks of schedulers: what one must hold over the life of a run, driven through the engine's own schedule."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import attrs
import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer

from framework.contracts import Progress
from framework.schedule import MOVED, Phase, Schedule, build_schedule
from framework.tables import SchedulerKeys
from framework.testing.case import Case, Check, check
from framework.testing.training import numbers, through_a_checkpoint, told, undisturbed, unless_refused

STEPS_PER_EPOCH, EPOCHS = 3, 4
METRICS = (0.5, 0.5, 0.4, 0.6)
"""The monitored value at the end of each epoch: it stalls, falls and rises, so that a plateau moves either way."""
FIRST, SECOND = 0.1, 0.02
"""Base rates of the two groups that have members."""
PROPORTION = 0.05
"""How far rates may be from the groups' proportion: a floor that all groups share is small beside them."""

WITH_MOMENTUM = partial(SGD, momentum=0.9)
EVERY: tuple[Literal["step", "epoch"], ...] = ("step", "epoch")
ALONE = (SchedulerKeys(),)
"""The keys of a scheduler that is the only phase."""

Setting = dict[str, Any]
"""What a scheduler moves in a group: the rate, and a momentum where there is one."""


# ------------------------------------------------------------------------------------------------------ driving


def optimizer_of(kind: Callable[..., Optimizer] = WITH_MOMENTUM, **keys: Any) -> Optimizer:
    """An optimizer with two groups of different rates, and an empty one, as a freezing policy can leave it."""
    first, second = (torch.nn.Parameter(numbers((3,), seed)) for seed in range(2))
    groups = [{"params": [first], "lr": FIRST}, {"params": [second], "lr": SECOND}, {"params": [], "lr": FIRST}]
    return kind(groups, lr=FIRST, **keys)


@attrs.frozen(eq=False)
class Life:
    """A scheduler in a run.

    Attributes:
        optimizer: whose rates it moves.
        schedule: the engine's, with the scheduler in it.
        steps_per_epoch, epochs, steps: how long the run is.
    """

    optimizer: Optimizer
    schedule: Schedule
    steps_per_epoch: int
    epochs: int
    steps: int

    @property
    def settings(self) -> list[Setting]:
        """What each group has now."""
        names = ("lr", *MOVED)
        return [{name: group[name] for name in names if name in group} for group in self.optimizer.param_groups]

    def go_on(self, done: int = 0, metrics: Sequence[float | None] = METRICS) -> Iterator[list[Setting]]:
        """Takes the steps that are left as the training loop does.

        Args:
            done: how many steps are done.
            metrics: the monitored value of each epoch, in turn.

        Returns:
            what each group has after each step.
        """
        for number in range(done, self.steps):
            epoch = number // self.steps_per_epoch
            now = Progress(epoch, number + 1, self.epochs, self.steps)
            self.optimizer.step()
            self.schedule.after_step(now)
            if (number + 1) % self.steps_per_epoch == 0 or number + 1 == self.steps:
                self.schedule.after_epoch(attrs.evolve(now, epoch=epoch + 1), metrics[epoch % len(metrics)])
            yield self.settings

    def live(self, metrics: Sequence[float | None] = METRICS) -> list[list[Setting]]:
        """What each group has at first, and after each step of the whole run."""
        return [self.settings, *self.go_on(metrics=metrics)]


def run_of(
    case: Case, optimizer: Optimizer | None = None, *, keys: Sequence[SchedulerKeys] = ALONE,
    steps_per_epoch: int = STEPS_PER_EPOCH, epochs: int = EPOCHS, max_steps: int = 0,
) -> Life:  # fmt: skip
    """A run that begins.

    Args:
        case: the scheduler.
        optimizer: absent: SGD with momentum.
        keys: the core's keys of each phase.
        steps_per_epoch, epochs, max_steps: how long the run is, as `build_schedule` takes them.
    """
    chosen = optimizer or optimizer_of()
    phases = [Phase(case.config(), own) for own in keys]
    schedule = build_schedule(phases, chosen, steps_per_epoch, epochs, max_steps)
    return Life(chosen, schedule, steps_per_epoch, epochs, max_steps or steps_per_epoch * epochs)


def rates_of(settings: Sequence[Mapping[str, Any]]) -> list[float]:
    """The learning rate of each group."""
    return [setting["lr"] for setting in settings]


def require_finite(life: Life, run: str) -> None:
    """Lives a run to its end.

    Args:
        life: the run.
        run: how messages call it.

    Raises:
        AssertionError: the scheduler fails in it, or gives rates that are no numbers.
    """
    with told(f"it fails in {run}"):
        lived = life.live()
    for moment, settings in enumerate(lived):
        found = rates_of(settings)
        assert all(map(math.isfinite, found)), f"in {run} the learning rates are {found} after step {moment}"


# ------------------------------------------------------------------------------------------------------- checks


@check
@undisturbed()
def says_when_it_moves(case: Case) -> None:
    """The scheduler has `every`, "step" or "epoch", which says when `step` is called."""
    every = getattr(run_of(case).schedule.scheduler, "every", None)
    assert every in ("step", "epoch"), f'its `every` is {every!r}: "step" or "epoch" says when `step` is called'


@check
@undisturbed()
def gives_rates_to_the_end_of_a_run(case: Case) -> None:
    """At every moment of a run, each group has a learning rate: a number, finite and not negative."""
    for moment, settings in enumerate(run_of(case).live()):
        for rate in rates_of(settings):
            where = f"after step {moment} of {STEPS_PER_EPOCH * EPOCHS}, in {EPOCHS} epochs,"
            assert isinstance(rate, (int, float)), f"{where} a group's lr is a {type(rate).__name__}: make it a float"
            assert 0 <= rate < math.inf, f"{where} a group's learning rate is {rate}: is the span counted in steps?"


@check
@undisturbed()
def keeps_the_proportion_of_groups(case: Case) -> None:
    """A group whose rate is a fifth of another's keeps to a fifth, so that a freezing policy's scales hold."""
    for moment, settings in enumerate(run_of(case).live()):
        first, second, empty = rates_of(settings)
        if first < FIRST / 100:
            continue  # so near to zero a floor may be all that is left
        assert math.isclose(second * FIRST / SECOND, first, rel_tol=PROPORTION), (
            f"groups that begin with {FIRST} and {SECOND} have {first:.4g} and {second:.4g} after step {moment}: "
            "scale each group's own rate"
        )
        assert empty == first, f"a group without members has {empty:.4g} after step {moment}, its like {first:.4g}"


@check
@undisturbed()
def moves_nothing_but_rates(case: Case) -> None:
    """Of a group, a scheduler moves `lr`, and `momentum` or `betas`; what else the engine put there stays."""
    life = run_of(case, optimizer_of(weight_decay=0.1))
    groups = list(life.optimizer.param_groups)
    before = [_rest(group) for group in groups]
    life.live()
    assert len(groups) == len(life.optimizer.param_groups), "it adds or removes groups, which are the engine's"
    for now, was in zip(map(_rest, life.optimizer.param_groups), before, strict=True):
        changed = [name for name in was if now.get(name) != was[name]]
        assert not changed, (
            f"it changes {', '.join(changed)} of a group: move lr, momentum and betas alone, which a restart sets back"
        )


def _rest(group: Mapping[str, Any]) -> dict[str, Any]:
    """What no scheduler moves, its members by identity."""
    kept = {name: value for name, value in group.items() if name not in ("params", "lr", "initial_lr", *MOVED)}
    return {**kept, "params": [id(parameter) for parameter in group["params"]]}


@check
@undisturbed()
def begins_each_phase_alike(case: Case) -> None:
    """In a second phase, as after a restart, it moves the rates exactly as in a first of the same length."""
    half = EPOCHS // 2
    life = run_of(case, keys=[SchedulerKeys(epochs=half), SchedulerKeys()])
    lived = life.live(metrics=METRICS[:half])
    middle = half * STEPS_PER_EPOCH  # after this step the second phase is in force
    first, second = lived[:middle], lived[middle:-1]
    assert first == second, (
        f"as a second phase it moves the rates otherwise than as a first (at first {rates_of(second[0])}, and "
        f"{rates_of(first[0])}): count its own steps and epochs, since Progress counts those of the run, and begin "
        "from the rates that groups have when it is built"
    )


@check
@undisturbed()
def resumes_bit_for_bit(case: Case) -> None:
    """Built anew and given its saved state, after any step, it goes on as if it had never stopped."""
    life = run_of(case)
    whole, saved = [], []
    with told("a checkpoint cannot hold its state_dict()"):
        for settings in life.go_on():
            whole.append(settings)
            saved.append(through_a_checkpoint([life.optimizer.state_dict(), life.schedule.state_dict()]))
    for done, (of_optimizer, of_schedule) in enumerate(saved, start=1):
        again = run_of(case)
        again.optimizer.load_state_dict(of_optimizer)
        with told(f"load_state_dict() fails after {done} of {life.steps} steps"):
            again.schedule.load_state_dict(of_schedule)
        assert list(again.go_on(done)) == whole[done:], (
            f"resumed after {done} of {life.steps} steps, it moves the rates otherwise than without a stop: "
            "state_dict() gives all that changes as it goes, load_state_dict() takes it"
        )


@check
@undisturbed()
def takes_the_shortest_run(case: Case) -> None:
    """A run of one step in one epoch has learning rates, or is refused when the scheduler is built."""
    failing = "build(optimizer, steps=1, epochs=1) fails"
    life = unless_refused(lambda: run_of(case, steps_per_epoch=1, epochs=1), failing)
    if life is not None:
        require_finite(life, "a run of one step")


@check
@undisturbed()
def takes_a_run_that_ends_within_an_epoch(case: Case) -> None:
    """A run that `train.max_steps` ends in the middle of an epoch has learning rates to its end."""
    steps = STEPS_PER_EPOCH * EPOCHS - 1
    run = f"a run of {steps} steps in {EPOCHS} epochs, the last of them cut short,"
    with told(f"it cannot be built for {run}"):
        life = run_of(case, max_steps=steps)
    require_finite(life, run)


@check
@undisturbed()
def moves_when_the_recipe_says(case: Case) -> None:
    """Where `build` takes `every`, the scheduler moves at steps, or at epochs, as it says, or refuses one of them."""
    if "every" not in inspect.signature(case.config().build).parameters:
        pytest.skip("build() takes no `every`: the scheduler itself decides when it moves")
    taken = [every for every in EVERY if _moves(case, every)]
    assert taken, 'it refuses every = "step" and every = "epoch": take one of the two, or leave out the argument'


def _moves(case: Case, every: Literal["step", "epoch"]) -> bool:
    keys = [SchedulerKeys(every=every)]
    life = unless_refused(lambda: run_of(case, keys=keys), f"it cannot be built with every = {every!r}")
    if life is None:
        return False
    found = life.schedule.scheduler.every
    assert found == every, f"with every = {every!r} its `every` is {found!r}: do as build(..., every=...) says"
    require_finite(life, f"a run with every = {every!r}")
    return True


@check
@undisturbed()
def takes_epochs_without_a_metric(case: Case) -> None:
    """The monitored value may be None or nan, where no validation image could be read or a metric is undefined."""
    for metric in (None, math.nan):
        with told(f"it fails at an epoch whose metric is {metric}: let such an epoch pass"):
            lived = run_of(case).live(metrics=[metric])
        found = rates_of(lived[-1])
        assert all(map(math.isfinite, found)), f"epochs whose metric is {metric} leave learning rates of {found}"


@check
@undisturbed()
def drives_adam_too(case: Case) -> None:
    """It moves the rates of AdamW, whose groups have `betas` and no `momentum`, or refuses to when built."""
    life = unless_refused(lambda: run_of(case, optimizer_of(AdamW)), "it cannot be built with AdamW")
    if life is not None:
        require_finite(life, "a run with AdamW, whose groups have betas and no momentum,")


CHECKS: tuple[Check, ...] = (
    says_when_it_moves,
    gives_rates_to_the_end_of_a_run,
    keeps_the_proportion_of_groups,
    moves_nothing_but_rates,
    begins_each_phase_alike,
    resumes_bit_for_bit,
    takes_the_shortest_run,
    takes_a_run_that_ends_within_an_epoch,
    moves_when_the_recipe_says,
    takes_epochs_without_a_metric,
    drives_adam_too,
)
