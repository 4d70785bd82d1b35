"""Schedulers of fw_training and fw_timm: each moves, over its span, and a resumed one continues bit for bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from typing import Any

import attrs
import pytest
import torch

import framework as fw
import fw_training
from framework.component import recipe_fields
from framework.schedule import Phase, Schedule, build_schedule
from framework.tables import SchedulerKeys
from fw_timm.schedulers import scheduler_family as timm_family

STEPS_PER_EPOCH, EPOCHS = 3, 6
METRICS = (0.5, 0.5, 0.6, 0.4, 0.7, 0.7)
REQUIRED: dict[str, Any] = {
    "step_size": 2, "milestones": (1, 3), "gamma": 0.7, "base_lr": 0.01, "T_0": 2,
    "patience": 0, "patience_t": 0, "step_size_up": 2, "decay_rate": 0.5, "noise_range_t": (1, 5),
}  # fmt: skip
DECAY_T = {"timm/step": 2.0, "timm/multistep": (1, 2), "timm/wsd": 1}


@cache
def components() -> dict[str, fw.Component]:
    listed: list[fw.Component] = []
    for item in [*fw_training.fw_schedulers(), timm_family()]:
        listed += item.members() if isinstance(item, fw.Family) else [item]
    return {component.name: component for component in listed}


NAMES = list(components())


def config_of(name: str, **keys: Any) -> Any:
    component = components()[name]
    known = {field.name for field in recipe_fields(component)}
    chosen = {key: value for key, value in REQUIRED.items() if key in known}
    if name in DECAY_T:
        chosen["decay_t"] = DECAY_T[name]
    if getattr(component.config, "by_metric", False):
        chosen["mode"] = "max"
    return component.config(**chosen, **keys)


def make_optimizer(momentum: float = 0.9) -> torch.optim.Optimizer:
    first, second = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    groups = [{"params": [first], "lr": 0.1}, {"params": [second], "lr": 0.02}, {"params": [], "lr": 0.1}]
    return torch.optim.SGD(groups, lr=0.1, momentum=momentum)


def build(optimizer: torch.optim.Optimizer, *phases: tuple[Any, SchedulerKeys]) -> Schedule:
    return build_schedule([Phase(config, keys) for config, keys in phases], optimizer, STEPS_PER_EPOCH, EPOCHS)


def drive(optimizer: Any, schedule: Schedule, done: int = 0) -> Iterator[list[tuple[float, float]]]:
    """Runs from after step `done` on; yields every group's rate and momentum after each step."""
    for step in range(done, STEPS_PER_EPOCH * EPOCHS):
        optimizer.step()
        epoch, last = divmod(step + 1, STEPS_PER_EPOCH)
        schedule.after_step(fw.Progress(step // STEPS_PER_EPOCH, step + 1, EPOCHS, STEPS_PER_EPOCH * EPOCHS))
        if last == 0:
            schedule.after_epoch(fw.Progress(epoch, step + 1, EPOCHS, STEPS_PER_EPOCH * EPOCHS), METRICS[epoch - 1])
        yield [(group["lr"], group["momentum"]) for group in optimizer.param_groups]


def phases_of(name: str, place: str, every: str) -> tuple[tuple[Any, SchedulerKeys], ...]:
    keys = SchedulerKeys(every=every)
    if place == "alone":
        return ((config_of(name), keys),)
    if place == "first":
        return ((config_of(name), attrs.evolve(keys, epochs=2)), (config_of("timm/cosine"), SchedulerKeys()))
    return ((config_of("warmup"), SchedulerKeys(epochs=2)), (config_of(name), keys))


def test_names() -> None:
    print(f"{len(NAMES)} schedulers")
    assert {"constant", "warmup", "torch/StepLR", "torch/OneCycleLR", "torch/ReduceLROnPlateau"} <= set(NAMES)
    assert {f"timm/{name}" for name in ("cosine", "tanh", "step", "multistep", "plateau", "poly")} <= set(NAMES)
    assert not {"torch/LambdaLR", "torch/SequentialLR", "torch/ChainedScheduler", "torch/LRScheduler"} & set(NAMES)


@pytest.mark.parametrize("every", ["auto", "step", "epoch"])
@pytest.mark.parametrize("place", ["alone", "first", "second"])
def test_every_scheduler_resumes_bit_for_bit(place: str, every: str) -> None:
    covered = 0
    for name in NAMES:
        if every == "step" and getattr(components()[name].config, "by_metric", False):
            continue
        optimizer = make_optimizer()
        schedule = build(optimizer, *phases_of(name, place, every))
        before = [(group["lr"], group["momentum"]) for group in optimizer.param_groups]
        whole, states = [], []
        for rates in drive(optimizer, schedule):
            whole.append(rates)
            states.append((deepcopy(optimizer.state_dict()), json.dumps(schedule.state_dict(), allow_nan=False)))
        assert name == "constant" or any(rates != before for rates in whole), name
        for done in range(1, STEPS_PER_EPOCH * EPOCHS):
            assert resumed(name, place, every, states[done - 1], done) == whole[done:], (name, done)
            covered += 1
    print(f"{covered} resumes of {len(NAMES)} schedulers, {place}, every = {every}")


def resumed(name: str, place: str, every: str, state: tuple[Any, str], done: int) -> Any:
    optimizer = make_optimizer()
    schedule = build(optimizer, *phases_of(name, place, every))
    loads = [lambda: optimizer.load_state_dict(state[0]), lambda: schedule.load_state_dict(json.loads(state[1]))]
    for load in loads if done % 2 else reversed(loads):  # either order
        load()
    return list(drive(optimizer, schedule, done))


@pytest.mark.parametrize("name", NAMES)
def test_a_phase_runs_as_it_would_alone(name: str) -> None:
    optimizer, alone = make_optimizer(), make_optimizer()
    one_cycle = (config_of("torch/OneCycleLR"), SchedulerKeys(epochs=2))
    both = build(optimizer, one_cycle, (config_of(name), SchedulerKeys()))
    rest = build_schedule([Phase(config_of(name))], alone, STEPS_PER_EPOCH, EPOCHS - 2)
    driven = list(drive(optimizer, both))
    before, rates = driven[2 * STEPS_PER_EPOCH - 1], driven[2 * STEPS_PER_EPOCH :]
    assert [(group["lr"], group["momentum"]) for group in alone.param_groups] == before, "what its first step takes"
    metrics = iter(METRICS[2:])
    for step, seen in enumerate(rates, start=1):
        rest.after_step(fw.Progress(0, step, 0, 0))
        if step % STEPS_PER_EPOCH == 0:
            rest.after_epoch(fw.Progress(0, step, 0, 0), next(metrics))
        assert [(group["lr"], group["momentum"]) for group in alone.param_groups] == seen


@pytest.mark.parametrize("name", NAMES)
def test_groups_keep_their_proportion(name: str) -> None:
    optimizer = make_optimizer()
    schedule = build(optimizer, (config_of(name), SchedulerKeys()))
    for (first, _), (second, _), (empty, _) in drive(optimizer, schedule):
        assert first == empty
        assert second == pytest.approx(first / 5, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("name", ["torch/CosineAnnealingLR", "timm/cosine", "timm/poly", "torch/PolynomialLR"])
@pytest.mark.parametrize("every", ["epoch", "step"])
def test_a_span_that_the_recipe_leaves_out_is_the_whole_run(name: str, every: str) -> None:
    optimizer = make_optimizer()
    schedule = build(optimizer, (config_of(name), SchedulerKeys(every=every)))
    rates = [step[0][0] for step in drive(optimizer, schedule)]
    assert schedule.scheduler.every == every
    assert rates[-1] < 1e-6
    assert rates[-STEPS_PER_EPOCH - 1] > 1e-4


def test_one_cycle_moves_every_step_from_each_groups_own_rate() -> None:
    optimizer = make_optimizer()
    schedule = build(optimizer, (config_of("torch/OneCycleLR"), SchedulerKeys()))
    rates = [step[0][0] for step in drive(optimizer, schedule)]
    assert schedule.scheduler.every == "step"
    assert max(rates) == pytest.approx(0.1, rel=0.05)
    assert len(set(rates)) > STEPS_PER_EPOCH * EPOCHS - 3


def test_a_stated_peak_is_shared_in_proportion() -> None:
    config = components()["torch/OneCycleLR"].config(max_lr=1.0)
    optimizer = make_optimizer()
    config.build(optimizer, 10, 2)
    assert [group["max_lr"] for group in optimizer.param_groups] == pytest.approx([1.0, 0.2, 1.0])


def test_one_cycle_shorter_than_the_run_stays_at_its_last_rate() -> None:
    optimizer = make_optimizer()
    schedule = build(optimizer, (components()["torch/OneCycleLR"].config(total_steps=5), SchedulerKeys()))
    rates = [step[0][0] for step in drive(optimizer, schedule)]
    assert rates[4:] == [rates[4]] * (len(rates) - 4)
    assert rates[4] == pytest.approx(0.1 / 25 / 1e4)


def test_plateau_lowers_the_rate_when_the_metric_stalls_in_the_stated_direction() -> None:
    def last_rate(mode: str) -> float:
        optimizer = make_optimizer()
        config = components()["torch/ReduceLROnPlateau"].config(mode=mode, patience=0, factor=0.5)
        schedule = build(optimizer, (config, SchedulerKeys()))
        return [step[0][0] for step in drive(optimizer, schedule)][-1]

    assert last_rate("max") == pytest.approx(0.1 * 0.5**3)  # 0.5 again, 0.4, 0.7 again
    assert last_rate("min") == pytest.approx(0.1 * 0.5**4)  # 0.5 again, 0.6, 0.7, 0.7


@pytest.mark.parametrize("name", ["torch/ReduceLROnPlateau", "timm/plateau"])
def test_a_metrics_scheduler_must_be_told_the_direction_and_moves_at_epochs(name: str) -> None:
    with pytest.raises(TypeError, match="mode"):
        components()[name].config()
    with pytest.raises(fw.FwError, match="waits for the validation metric"):
        build(make_optimizer(), (config_of(name), SchedulerKeys(every="step")))


def test_a_librarys_complaint_names_the_scheduler() -> None:
    config = components()["torch/CyclicLR"].config(base_lr=0.01)
    optimizer = torch.optim.Adagrad([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    with pytest.raises(fw.FwError, match=r"CyclicLR.*momentum"):
        config.build(optimizer, 10, 2)


def test_wsd_and_prefixed_warm_ups_fit_the_run() -> None:
    for name in ("timm/wsd", "timm/cosine"):
        keys = {"warmup_t": 2} if name == "timm/wsd" else {"warmup_t": 2, "warmup_prefix": True}
        schedule = build(make_optimizer(), (config_of(name, **keys), SchedulerKeys()))
        assert schedule.scheduler.inner.t_initial == EPOCHS - 2


def test_warm_up_is_linear_and_then_holds() -> None:
    optimizer = make_optimizer()
    scheduler = config_of("warmup", start=0.1).build(optimizer, 4, 1)
    rates = [optimizer.param_groups[0]["lr"]]
    for step in range(6):
        scheduler.step(fw.Progress(0, step + 1, 1, 4))
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.01, 0.0325, 0.055, 0.0775, 0.1, 0.1, 0.1])
    assert rates[-1] == 0.1


def test_unknown_names_get_near_ones() -> None:
    families = [item for item in fw_training.fw_schedulers() if isinstance(item, fw.Family)]
    with pytest.raises(fw.FwError, match="StepLR"):
        families[0].member("StepLr")
    with pytest.raises(fw.FwError, match="cosine"):
        timm_family().member("cosin")
