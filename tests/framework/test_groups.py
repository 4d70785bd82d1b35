"""Groups: built once, members move, schedulers never notice."""

from __future__ import annotations

import torch
from torch import nn

import framework as fw
from framework.groups import Groups
from framework.layout import derive_layout, extended
from framework.network import Network


def network() -> Network:
    backbone = nn.Sequential()
    backbone.add_module("one", nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
    backbone.add_module("two", nn.Sequential(nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.ReLU()))
    backbone.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    return Network(backbone, nn.Linear(5, 2))


def sgd(groups):
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.01)


def test_a_change_of_plan_moves_members_and_drops_the_state_of_what_leaves() -> None:
    net = network()
    layout = derive_layout(net, None, (3, 16, 16))
    head, everything = layout.head.parameters, layout.parameters
    groups = Groups(net, layout, (), {1.0, 0.1})
    optimizer = groups.build(fw.Plan(dict.fromkeys(head, 1.0)), 0.1, sgd, fixed=False)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 0]

    def step() -> None:
        net(torch.randn(4, 3, 16, 16)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()

    step()
    scales = {name: 1.0 if name in head else 0.1 for name in everything}
    groups.follow(fw.Plan(scales))
    step()
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, len(everything) - 2]
    rates = groups.rates()
    assert rates["head.weight"] == 0.1 * 0.5**2
    assert abs(rates["backbone.one.0.weight"] - 0.01 * 0.5**2) < 1e-12
    assert len(optimizer.state) == len(everything)

    groups.follow(fw.Plan(dict.fromkeys(head, 1.0)))
    assert len(optimizer.state) == 2
    assert groups.members == [list(head), []]


def test_weight_decay_leaves_norms_and_biases_alone_where_asked() -> None:
    net = network()
    layout = derive_layout(net, None, (3, 16, 16))
    groups = Groups(net, layout, ("norm", "bias"), {1.0})
    optimizer = groups.build(fw.Plan(dict.fromkeys(layout.parameters, 1.0)), 0.1, sgd, fixed=True)
    decayed = {name for group, names in zip(optimizer.param_groups, groups.members, strict=True)
               for name in names if group["weight_decay"]}  # fmt: skip
    assert decayed == {"backbone.one.0.weight", "backbone.two.0.weight", "head.weight"}
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]


def test_weight_decay_leaves_what_an_adapter_added_alone_where_asked() -> None:
    net = network()
    layout = derive_layout(net, None, (3, 16, 16))
    net.backbone.one[0].register_module("scale", nn.Conv2d(4, 4, 1))
    layout = extended(layout, net)
    groups = Groups(net, layout, ("added",), {1.0})
    optimizer = groups.build(fw.Plan(dict.fromkeys(layout.parameters, 1.0)), 0.1, sgd, fixed=True)
    left_alone = {name for group, names in zip(optimizer.param_groups, groups.members, strict=True)
                  for name in names if not group["weight_decay"]}  # fmt: skip
    assert left_alone == {"backbone.one.0.scale.weight", "backbone.one.0.scale.bias"}


def test_a_plan_that_never_changes_has_no_empty_groups() -> None:
    net = network()
    layout = derive_layout(net, None, (3, 16, 16))
    groups = Groups(net, layout, ("norm",), {1.0})
    optimizer = groups.build(fw.Plan(dict.fromkeys(layout.head.parameters, 1.0)), 0.1, sgd, fixed=True)
    assert len(optimizer.param_groups) == 1
