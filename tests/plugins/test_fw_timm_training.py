"""timm's optimizers and schedulers: the names, timm's own defaults, and that each optimizer trains and resumes."""

from __future__ import annotations

import inspect
import json
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import timm.optim
import torch
from torch import nn

import framework as fw
from framework.codec import pack, unpack
from framework.component import recipe_fields
from fw_timm.optimizers import optimizer_family
from fw_timm.schedulers import scheduler_family

OPTIMIZERS = optimizer_family()
SCHEDULERS = scheduler_family()


@cache
def listed() -> tuple[fw.Component, ...]:
    return tuple(OPTIMIZERS.members())


def here() -> list[fw.Component]:
    return [component for component in listed() if not component.requires]


def rate_of(component: fw.Component) -> float:
    default = inspect.signature(component.config).parameters["lr"].default
    return default if isinstance(default, float) else 0.01


def step(net: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(images), torch.arange(6) % 3).backward()
    torch.manual_seed(7)  # a resumed run has its random streams back; Kron draws from them
    # torch.compile, which one of them calls, would take a minute
    with torch.compiler.set_stance("force_eager"):
        optimizer.step()


def make(component: fw.Component) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 16, 3))
    lr = rate_of(component)
    groups: list[dict[str, Any]] = [
        {"params": list(net[:2].parameters()), "lr": lr * 0.1},
        {"params": list(net[3:].parameters()), "lr": lr, "weight_decay": 0.0},
        {"params": [], "lr": lr},
    ]
    return net, component.config(lr=lr).build(groups)


def test_all_names_but_those_that_the_loop_cannot_drive() -> None:
    names = {component.name.removeprefix("timm/") for component in listed()}
    left_out = set(timm.optim.list_optimizers()) - names
    missing = [component for component in listed() if component.requires]
    print(f"{len(names)} listed, {len(missing)} of them need a package, left out: {sorted(left_out)}")
    assert left_out == {"adahessian"}
    assert {component.requires for component in missing} <= {"install apex", "install bitsandbytes"}


def test_every_optimizer_trains_two_groups_and_continues_from_a_checkpoint() -> None:
    images = torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    not_alike = []
    for component in here():
        net, optimizer = make(component)
        start = deepcopy(net.state_dict())
        for _ in range(3):
            step(net, optimizer, images)
        assert [group["lr"] for group in optimizer.param_groups][:2] == pytest.approx(
            [rate_of(component) * 0.1, rate_of(component)]
        )
        for name in ("0.weight", "3.weight"):
            assert torch.isfinite(net.state_dict()[name]).all(), component.name
            assert not torch.equal(net.state_dict()[name], start[name]), component.name
        other, again = make(component)
        other.load_state_dict(net.state_dict())
        facts, tensors = pack(optimizer.state_dict(), "optimizer")
        again.load_state_dict(unpack(json.loads(json.dumps(facts)), tensors))
        step(net, optimizer, images)
        step(other, again, images)
        if any(not torch.equal(value, other.state_dict()[name]) for name, value in net.state_dict().items()):
            not_alike.append(component.name)
    print(f"{len(here())} optimizers of timm trained; not continued bit for bit: {not_alike}")
    assert not not_alike


def test_defaults_are_those_of_timms_own_factory() -> None:
    for component in here():
        parameter = [nn.Parameter(torch.ones(2, 2))]
        ours = component.config(lr=0.05).build(parameter)
        theirs = timm.optim.create_optimizer_v2(parameter, component.name.removeprefix("timm/"), lr=0.05)
        assert type(ours) is type(theirs), component.name
        for name, value in theirs.defaults.items():
            assert ours.defaults[name] == value, (component.name, name)


def test_a_rate_is_required_where_timm_has_none() -> None:
    for name in ("adafactor", "sgdp"):
        lr = inspect.signature(OPTIMIZERS.member(name).config).parameters["lr"]
        assert lr.default is inspect.Parameter.empty, name
    assert OPTIMIZERS.member("lion").config().lr == 1e-4


def test_a_missing_package_is_named() -> None:
    component = OPTIMIZERS.member("fusedadam")
    if not component.requires:
        pytest.skip("apex is installed")
    assert component.requires == "install apex"
    with pytest.raises(fw.FwError, match="fusedadam needs the package apex"):
        component.config(lr=0.1).build([{"params": [nn.Parameter(torch.ones(1))]}])


def test_every_component_has_keys_and_a_doc_line() -> None:
    schedulers = list(SCHEDULERS.members())
    print(f"{len(schedulers)} schedulers of timm")
    for component in [*listed(), *schedulers]:
        assert component.config.__doc__, component.name
        keys = {field.name for field in recipe_fields(component)}
        assert not keys & {"params", "optimizer", "t_in_epochs", "initialize"}, component.name


def test_unknown_names_get_near_ones() -> None:
    with pytest.raises(fw.FwError, match="adamw"):
        OPTIMIZERS.member("adamww")
