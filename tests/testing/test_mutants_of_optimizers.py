"""Optimizers with one fault each: the kit names exactly the check that the fault breaks."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

import framework as fw
from framework.testing import failures
from framework.testing.of_optimizers import CHECKS

pytestmark = pytest.mark.sweep  # every check of a kind, against every plugin with a fault


class Sound(Optimizer):
    """Gradient descent with momentum and weight decay."""

    def __init__(self, groups: Any, lr: float, momentum: float = 0.5, weight_decay: float = 0.0) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.move(parameter, parameter.grad, group)

    def move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        slope = gradient + self.decay_of(group) * parameter
        parameter -= self.rate_of(parameter, group) * self.direction(parameter, slope, group)

    def direction(self, parameter: Tensor, slope: Tensor, group: dict[str, Any]) -> Tensor:
        speed = self.memory(parameter)
        speed.mul_(group["momentum"]).add_(slope)
        return speed

    def memory(self, parameter: Tensor) -> Tensor:
        return self.state[parameter].setdefault("speed", torch.zeros_like(parameter))

    def rate_of(self, parameter: Tensor, group: dict[str, Any]) -> float:
        return group["lr"]

    def decay_of(self, group: dict[str, Any]) -> float:
        return group["weight_decay"]


def plugin(library: Any) -> object:
    """A plugin with one optimizer, `bad`."""

    @attrs.frozen(kw_only=True)
    class Bad:
        """An optimizer."""

        lr: fw.PositiveFloat = fw.key(0.01, "learning rate")
        weight_decay: fw.NonNegative = fw.key(0.0, "weight decay")

        def build(self, groups: list[dict[str, Any]]) -> Optimizer:
            return library(groups, lr=self.lr, weight_decay=self.weight_decay)

    return offering(Bad)


def offering(config: type[Any]) -> object:
    class Plugin:
        @fw.hookimpl
        def fw_optimizers(self):
            return [fw.Component("bad", config)]

    return Plugin()


# ------------------------------------------------------------------------------------------------------- faults


@attrs.frozen(kw_only=True)
class WithoutLr:
    """An optimizer whose learning rate has another name."""

    rate: fw.PositiveFloat = fw.key(0.01, "learning rate")

    def build(self, groups: list[dict[str, Any]]) -> Optimizer:
        return Sound(groups, lr=self.rate)


@attrs.frozen(kw_only=True)
class AnotherDefault:
    """An optimizer that does not pass its learning rate on."""

    lr: fw.PositiveFloat = fw.key(0.01, "learning rate")

    def build(self, groups: list[dict[str, Any]]) -> Optimizer:
        return Sound(groups, lr=0.5)


class TurnedRound(Sound):
    def __init__(self, groups: Any, **keys: Any) -> None:
        super().__init__(list(reversed(groups)), **keys)


class NeedsMembers(Sound):
    def __init__(self, groups: Any, **keys: Any) -> None:
        super().__init__(groups, **keys)
        self.first = [group["params"][0] for group in self.param_groups]


class NoKernels(Sound):
    def direction(self, parameter: Tensor, slope: Tensor, group: dict[str, Any]) -> Tensor:
        return super().direction(parameter, slope, group) if slope.dim() < 4 else slope @ torch.ones(3, 3)


class NoScalars(Sound):
    def direction(self, parameter: Tensor, slope: Tensor, group: dict[str, Any]) -> Tensor:
        return super().direction(parameter, slope, group) * (slope.dim() > 0)


class Climbs(Sound):
    def direction(self, parameter: Tensor, slope: Tensor, group: dict[str, Any]) -> Tensor:
        return -super().direction(parameter, slope, group)


class DecaysAll(Sound):
    def step(self, closure: Any = None) -> None:
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
        super().step(closure)

    def decay_of(self, group: dict[str, Any]) -> float:
        return 0.0


class NeedsGradients(Sound):
    def step(self, closure: Any = None) -> None:
        assert all(parameter.grad is not None for group in self.param_groups for parameter in group["params"])
        super().step(closure)


class Normalises(Sound):
    def direction(self, parameter: Tensor, slope: Tensor, group: dict[str, Any]) -> Tensor:
        return super().direction(parameter, slope / slope.norm(), group)


class RateOfTheFirst(Sound):
    def rate_of(self, parameter: Tensor, group: dict[str, Any]) -> float:
        return self.param_groups[0]["lr"]


class RateAtFirst(Sound):
    def rate_of(self, parameter: Tensor, group: dict[str, Any]) -> float:
        return self.state[parameter].setdefault("rate", group["lr"])


class LowersItsRate(Sound):
    def step(self, closure: Any = None) -> None:
        super().step(closure)
        for group in self.param_groups:
            group["lr"] *= 0.99


class OneDecay(Sound):
    def decay_of(self, group: dict[str, Any]) -> float:
        return self.defaults["weight_decay"]


class NoDecay(Sound):
    def decay_of(self, group: dict[str, Any]) -> float:
        return 0.0


class StateAtFirst(Sound):
    def __init__(self, groups: Any, **keys: Any) -> None:
        super().__init__(groups, **keys)
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["speed"] = torch.zeros_like(parameter)

    def memory(self, parameter: Tensor) -> Tensor:
        return self.state[parameter]["speed"]


class MembersAtFirst(Sound):
    def __init__(self, groups: Any, **keys: Any) -> None:
        super().__init__(groups, **keys)
        self.members = [(parameter, group) for group in self.param_groups for parameter in group["params"]]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for parameter, group in self.members:
            if parameter.grad is not None:
                self.move(parameter, parameter.grad, group)


class MemoryBesideState(Sound):
    def __init__(self, groups: Any, **keys: Any) -> None:
        super().__init__(groups, **keys)
        self.speeds: dict[Tensor, Tensor] = {}

    def memory(self, parameter: Tensor) -> Tensor:
        return self.speeds.setdefault(parameter, torch.zeros_like(parameter))


class KeepsAnObject(Sound):
    def direction(self, parameter: Tensor, slope: Tensor, group: dict[str, Any]) -> Tensor:
        self.state[parameter]["shape"] = object()
        return super().direction(parameter, slope, group)


MUTANTS: list[tuple[str, object]] = [
    ("has_a_learning_rate", offering(WithoutLr)),
    ("has_a_learning_rate", offering(AnotherDefault)),
    ("keeps_the_groups_that_it_is_given", plugin(TurnedRound)),
    ("takes_groups_without_members", plugin(NeedsMembers)),
    ("takes_every_shape_of_parameter", plugin(NoKernels)),
    ("takes_every_shape_of_parameter", plugin(NoScalars)),
    ("lowers_a_convex_loss", plugin(Climbs)),
    ("leaves_what_has_no_gradient", plugin(DecaysAll)),
    ("leaves_what_has_no_gradient", plugin(NeedsGradients)),
    ("stays_finite_without_a_slope", plugin(Normalises)),
    ("honours_the_rate_of_each_group", plugin(RateOfTheFirst)),
    ("follows_a_changed_rate", plugin(RateAtFirst)),
    ("leaves_rates_to_the_scheduler", plugin(LowersItsRate)),
    ("honours_the_weight_decay_of_each_group", plugin(OneDecay)),
    ("honours_the_weight_decay_of_each_group", plugin(NoDecay)),
    ("lets_parameters_come_and_go", plugin(StateAtFirst)),
    ("lets_parameters_come_and_go", plugin(MembersAtFirst)),
    ("resumes_bit_for_bit", plugin(MemoryBesideState)),
    ("resumes_bit_for_bit", plugin(KeepsAnObject)),
]
NAMES = [name for name, _ in MUTANTS]


@pytest.mark.parametrize(("check", "mutant"), MUTANTS, ids=NAMES)
def test_each_fault_breaks_one_check(check: str, mutant: object) -> None:
    found = failures(mutant)
    print(found)
    assert set(found) == {f"bad-{check}"}


def test_every_check_has_a_mutant() -> None:
    names = [check.name for check in CHECKS]
    print(f"{len(MUTANTS)} mutants for {len(names)} checks of optimizers")
    assert set(NAMES) == set(names)


@pytest.mark.parametrize("library", [Sound, SGD, torch.optim.AdamW])
def test_a_sound_optimizer_passes(library: Any) -> None:
    assert failures(plugin(library)) == {}
