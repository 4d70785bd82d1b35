"""The schedule: phases in turn, each from the base rates; restart and warm-up when a plan changes; errors."""

from __future__ import annotations

import json
from typing import Any, Literal

import attrs
import pytest
import torch

import framework as fw
from framework.schedule import Phase, Schedule, build_schedule
from framework.tables import SchedulerKeys

SPE = 4


class Halving:
    """Halves the current rate at each move, as the chainable schedulers do."""

    def __init__(self, optimizer: Any, span: tuple[int, int], every: Literal["step", "epoch"]) -> None:
        self.optimizer, self.span, self.every = optimizer, span, every
        self.metrics: list[float | None] = []

    def step(self, progress: fw.Progress, metric: float | None = None) -> None:
        self.metrics.append(metric)
        for group in self.optimizer.param_groups:
            group["lr"] /= 2
            if "betas" in group:
                group["betas"] = (group["betas"][0] / 2, group["betas"][1])

    def state_dict(self) -> dict[str, Any]:
        return {"metrics": self.metrics}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.metrics = state["metrics"]


@attrs.frozen
class Halve:
    moves: Literal["step", "epoch"] = "epoch"

    def build(self, optimizer: Any, steps: int, epochs: int) -> Halving:
        return Halving(optimizer, (steps, epochs), self.moves)


def adam() -> torch.optim.Optimizer:
    first, second = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    return torch.optim.Adam([{"params": [first], "lr": 1.0}, {"params": [second], "lr": 0.5}], lr=1.0)


def schedule_of(optimizer: Any, *epochs: int | None, moves: Any = "epoch", run: int = 6, **options: int) -> Schedule:
    phases = [Phase(Halve(moves), SchedulerKeys(epochs=length)) for length in epochs]
    return build_schedule(phases, optimizer, SPE, run, **options)


def epoch(schedule: Schedule, metric: float | None = 0.5, steps: int = SPE) -> None:
    for _ in range(steps):
        schedule.after_step(fw.Progress(0, 0, 0, 0))
    if steps == SPE:
        schedule.after_epoch(fw.Progress(0, 0, 0, 0), metric)


def rates(optimizer: Any) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


def test_each_phase_begins_from_the_base_rates_and_momenta() -> None:
    optimizer = adam()
    schedule = schedule_of(optimizer, 2, None)
    assert schedule.scheduler.span == (8, 2)
    epoch(schedule)
    assert rates(optimizer) == [0.5, 0.25]
    assert optimizer.param_groups[0]["betas"] == (0.45, 0.999)
    epoch(schedule)
    assert schedule.phase == 1
    assert schedule.scheduler.span == (16, 4)
    assert rates(optimizer) == [1.0, 0.5]
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def test_the_base_rate_is_the_groups_own_even_when_its_rate_has_moved() -> None:
    optimizer = adam()
    optimizer.param_groups[0].update(lr=0.001, base_lr=2.0)
    schedule_of(optimizer, None)
    assert rates(optimizer) == [2.0, 0.5]


def test_a_phase_that_ends_before_the_run_leaves_the_rates() -> None:
    for moves in ("epoch", "step"):
        optimizer = adam()
        schedule = schedule_of(optimizer, 1, moves=moves)
        epoch(schedule)
        held = rates(optimizer)
        epoch(schedule)
        assert rates(optimizer) == held
        assert held[0] == (0.5 if moves == "epoch" else 1 / 16)


def test_the_metric_reaches_an_epoch_scheduler() -> None:
    schedule = schedule_of(adam(), None)
    epoch(schedule, 0.25)
    epoch(schedule, None)
    assert schedule.scheduler.metrics == [0.25, None]


def test_a_limit_of_steps_shortens_the_span() -> None:
    schedule = schedule_of(adam(), None, max_steps=10)
    assert schedule.scheduler.span == (10, 3)


def test_restart_begins_again_over_what_is_left() -> None:
    optimizer = adam()
    schedule = schedule_of(optimizer, 2, None)
    epoch(schedule)
    epoch(schedule)
    epoch(schedule)
    epoch(schedule, steps=1)
    schedule.restart()
    assert rates(optimizer) == [1.0, 0.5]
    assert schedule.phase == 0
    assert schedule.scheduler.span == (7, 2)  # three steps of this epoch, four of the next
    epoch(schedule, steps=3)
    schedule.after_epoch(fw.Progress(0, 0, 0, 0), 0.5)
    epoch(schedule)
    assert schedule.phase == 1
    assert schedule.scheduler.span == (4, 1)


def test_warm_up_scales_the_rates_while_the_schedule_goes_on() -> None:
    optimizer = adam()
    schedule = schedule_of(optimizer, None, moves="step")
    schedule.after_step(fw.Progress(0, 0, 0, 0))
    schedule.warm_up()
    assert rates(optimizer) == pytest.approx([0.005, 0.0025])
    seen = []
    for _ in range(4):
        schedule.after_step(fw.Progress(0, 0, 0, 0))
        seen.append(optimizer.param_groups[0]["lr"] * 2)
    assert seen[:3] == pytest.approx([0.5 * 0.2575, 0.25 * 0.505, 0.125 * 0.7525])
    assert seen[3] == 0.0625  # the schedule's own rate, to the bit


@pytest.mark.parametrize("done", range(1, 6))
def test_a_resumed_warm_up_and_restart_continue_bit_for_bit(done: int) -> None:
    def play(optimizer: Any, schedule: Schedule, actions: list[str]) -> list[Any]:
        seen = []
        for action in actions:
            if action == "step":
                schedule.after_step(fw.Progress(0, 0, 0, 0))
            else:
                getattr(schedule, action)()
            seen.append([(group["lr"], group["betas"]) for group in optimizer.param_groups])
        return seen

    script = ["step", "restart", "step", "warm_up", "step", "step", "step", "step"]
    optimizer = adam()
    schedule = schedule_of(optimizer, 2, None, moves="step")
    play(optimizer, schedule, script[:done])
    text = json.dumps(schedule.state_dict())
    whole = play(optimizer, schedule, script[done:])
    other = adam()
    again = schedule_of(other, 2, None, moves="step")
    again.load_state_dict(json.loads(text))
    assert play(other, again, script[done:]) == whole


def test_errors_say_which_phase_and_how_long() -> None:
    with pytest.raises(fw.FwError, match="phase 1 of 2 does not say"):
        schedule_of(adam(), None, 2)
    with pytest.raises(fw.FwError, match="need 7 epochs and the run has 6: 6 before the last phase"):
        schedule_of(adam(), 4, 2, None)
    with pytest.raises(fw.FwError, match="need 9 epochs and the run has 6"):
        schedule_of(adam(), 9)


def test_a_scheduler_that_takes_no_every_is_not_given_one() -> None:
    with pytest.raises(fw.FwError, match="itself decides"):
        build_schedule([Phase(Halve(), SchedulerKeys(every="step"))], adam(), SPE, 2)
