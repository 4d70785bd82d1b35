"""Optimizers of torch: which are listed, what a recipe may set, and that each trains a small net."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import framework as fw
from framework.component import recipe_fields
from fw_training.optimizers import CODE_ONLY, optimizer_family, steps_alone

FAMILY = optimizer_family()
NAMES = list(FAMILY.names())


class Net(nn.Module):
    """A convolution, a norm layer and a linear layer, with the usual shapes of parameters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def train(config: Any, steps: int = 3, decay: float | None = None) -> tuple[Net, torch.optim.Optimizer, float]:
    """Takes steps on one batch with two groups of different rates and an empty one; gives the loss's change."""
    net = Net()
    own = {} if decay is None else {"weight_decay": decay}
    optimizer = config.build(
        [
            {"params": list(net.body.parameters()), "lr": config.lr * 0.1},
            {"params": list(net.head.parameters()), "lr": config.lr, **own},
            {"params": [], "lr": config.lr},
        ]
    )
    images, targets = torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 3
    losses = []
    for _ in range(steps):
        loss = nn.functional.cross_entropy(net(images), targets)
        losses.append(float(loss))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net, optimizer, losses[-1] - losses[0]


def test_the_rule_leaves_out_what_the_loop_cannot_drive() -> None:
    print(f"{len(NAMES)} optimizers of torch")
    assert {"SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adafactor"} <= set(NAMES)
    assert not {"LBFGS", "SparseAdam", "Muon", "Optimizer"} & set(NAMES)


def test_a_trial_draws_no_random_number_and_leaves_no_trace() -> None:
    before = torch.random.get_rng_state()
    assert steps_alone(torch.optim.Adam)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_trains_groups_of_different_rates(name: str) -> None:
    config = FAMILY.member(name).config(lr=0.01)
    start = Net()
    net, optimizer, change = train(config)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.001, 0.01, 0.01])
    for moved, old in zip(net.parameters(), start.parameters(), strict=True):
        assert torch.isfinite(moved).all()
        # a convolution's bias before a batch norm has no gradient but rounding
        assert old.ndim < 2 or not torch.equal(moved, old)
    assert change < 0


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_has_a_rate_a_doc_line_and_no_key_for_code_alone(name: str) -> None:
    component = FAMILY.member(name)
    keys = {field.name for field in recipe_fields(component)}
    assert "lr" in keys
    assert not keys & (CODE_ONLY | {"params"})
    assert component.config.__doc__


def test_a_group_may_have_a_decay_of_its_own() -> None:
    _, optimizer, _ = train(FAMILY.member("AdamW").config(lr=0.01, weight_decay=0.3), decay=0.0)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0, 0.3]


def test_a_librarys_complaint_names_the_optimizer() -> None:
    config = FAMILY.member("SGD").config(lr=0.01, nesterov=True)
    with pytest.raises(fw.FwError, match=r"SGD: Nesterov momentum requires a momentum"):
        config.build([{"params": [nn.Parameter(torch.ones(1))]}])


def test_an_unknown_name_gets_near_ones() -> None:
    with pytest.raises(fw.FwError, match="SGD"):
        FAMILY.member("SGDD")
