"""Schedulers with one fault each: the kit names exactly the check that the fault breaks."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest
import torch

import framework as fw
from framework.testing import failures
from framework.testing.of_schedulers import CHECKS

pytestmark = pytest.mark.sweep  # every check of a kind, against every plugin with a fault


class Sound:
    """Lowers every group's rate along half a cosine, step by step."""

    every = "step"

    def __init__(self, optimizer: Any, steps: int, epochs: int) -> None:
        self.optimizer, self.steps, self.epochs = optimizer, steps, epochs
        self.count = 0
        self.rates = [group["lr"] for group in optimizer.param_groups]

    def step(self, progress: fw.Progress, metric: float | None = None) -> None:
        self.count += 1
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            self.move(group, rate * self.factor(progress, metric))

    def move(self, group: dict[str, Any], rate: float) -> None:
        group["lr"] = rate

    def factor(self, progress: fw.Progress, metric: float | None) -> float:
        return 0.5 * (1 + math.cos(math.pi * self.count / self.steps))

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


class ByEpoch(Sound):
    """Half the rate after each epoch."""

    every = "epoch"

    def factor(self, progress: fw.Progress, metric: float | None) -> float:
        return 0.5**self.count


class AsAsked(Sound):
    def __init__(self, optimizer: Any, steps: int, epochs: int, every: str = "auto") -> None:
        super().__init__(optimizer, steps if every != "epoch" else epochs, epochs)
        self.every = "epoch" if every == "epoch" else "step"


def plugin(scheduler: Any) -> object:
    """A plugin with one scheduler, `bad`."""

    @attrs.frozen(kw_only=True)
    class Bad:
        """A scheduler."""

        def build(self, optimizer: Any, steps: int, epochs: int) -> Any:
            return scheduler(optimizer, steps, epochs)

    return offering(Bad)


def plugin_of_every(scheduler: Any) -> object:
    """The same, where the recipe says when it moves."""

    @attrs.frozen(kw_only=True)
    class Bad:
        """A scheduler."""

        def build(self, optimizer: Any, steps: int, epochs: int, every: str = "auto") -> Any:
            return scheduler(optimizer, steps, epochs, every)

    return offering(Bad)


def offering(config: type[Any]) -> object:
    class Plugin:
        @fw.hookimpl
        def fw_schedulers(self):
            return [fw.Component("bad", config)]

    return Plugin()


# ------------------------------------------------------------------------------------------------------- faults


class EveryBatch(Sound):
    every = "batch"


class BelowZero(Sound):
    def factor(self, progress: fw.Progress, metric: float | None) -> float:
        return 1 - 1.5 * self.count / self.steps


class Tensors(Sound):
    def move(self, group: dict[str, Any], rate: float) -> None:
        group["lr"] = torch.tensor(rate, dtype=torch.float64)


class OneRate(Sound):
    def __init__(self, optimizer: Any, steps: int, epochs: int) -> None:
        super().__init__(optimizer, steps, epochs)
        self.rates = [self.rates[0]] * len(self.rates)


class MovesDecay(Sound):
    def move(self, group: dict[str, Any], rate: float) -> None:
        group["lr"], group["weight_decay"] = rate, rate / 10


class CountsTheRun(Sound):
    def factor(self, progress: fw.Progress, metric: float | None) -> float:
        return max(0.1, 1 - progress.step / (2 * self.steps))


class ForgetsItsCount(Sound):
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class KeepsAnObject(Sound):
    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "optimizer": self.optimizer}


class OneLessThanSteps(Sound):
    def factor(self, progress: fw.Progress, metric: float | None) -> float:
        return 0.5 * (1 + math.cos(math.pi * (self.count - 1) / (self.steps - 1)))


class WholeEpochs(Sound):
    def step(self, progress: fw.Progress, metric: float | None = None) -> None:
        if self.count == self.steps // self.epochs * self.epochs:
            raise ValueError("stepped too often")
        super().step(progress, metric)


class AlwaysBySteps(AsAsked):
    def __init__(self, optimizer: Any, steps: int, epochs: int, every: str = "auto") -> None:
        super().__init__(optimizer, steps, epochs)


def refuses_both(optimizer: Any, steps: int, epochs: int, every: str) -> Any:
    if every != "auto":
        raise fw.FwError("it has moments of its own")
    return Sound(optimizer, steps, epochs)


class NeedsTheMetric(ByEpoch):
    def factor(self, progress: fw.Progress, metric: float | None) -> float:
        return 0.5 ** (self.count + (round(metric, 1) > 0.5))


class SpreadsNan(ByEpoch):
    def factor(self, progress: fw.Progress, metric: float | None) -> float:
        return super().factor(progress, metric) * (1 if metric is None else 1 - metric / 10)


class NeedsMomentum(Sound):
    def move(self, group: dict[str, Any], rate: float) -> None:
        group["lr"], group["momentum"] = rate, min(group["momentum"], 0.9)


MUTANTS: list[tuple[str, object]] = [
    ("says_when_it_moves", plugin(EveryBatch)),
    ("gives_rates_to_the_end_of_a_run", plugin(BelowZero)),
    ("gives_rates_to_the_end_of_a_run", plugin(Tensors)),
    ("keeps_the_proportion_of_groups", plugin(OneRate)),
    ("moves_nothing_but_rates", plugin(MovesDecay)),
    ("begins_each_phase_alike", plugin(CountsTheRun)),
    ("resumes_bit_for_bit", plugin(ForgetsItsCount)),
    ("resumes_bit_for_bit", plugin(KeepsAnObject)),
    ("takes_the_shortest_run", plugin(OneLessThanSteps)),
    ("takes_a_run_that_ends_within_an_epoch", plugin(WholeEpochs)),
    ("moves_when_the_recipe_says", plugin_of_every(AlwaysBySteps)),
    ("moves_when_the_recipe_says", plugin_of_every(refuses_both)),
    ("takes_epochs_without_a_metric", plugin(NeedsTheMetric)),
    ("takes_epochs_without_a_metric", plugin(SpreadsNan)),
    ("drives_adam_too", plugin(NeedsMomentum)),
]
NAMES = [name for name, _ in MUTANTS]


@pytest.mark.parametrize(("check", "mutant"), MUTANTS, ids=NAMES)
def test_each_fault_breaks_one_check(check: str, mutant: object) -> None:
    found = failures(mutant)
    print(found)
    assert set(found) == {f"bad-{check}"}


def test_every_check_has_a_mutant() -> None:
    names = [check.name for check in CHECKS]
    print(f"{len(MUTANTS)} mutants for {len(names)} checks of schedulers")
    assert set(NAMES) == set(names)


@pytest.mark.parametrize("mutant", [plugin(Sound), plugin(ByEpoch), plugin_of_every(AsAsked)])
def test_a_sound_scheduler_passes(mutant: object) -> None:
    assert failures(mutant) == {}
