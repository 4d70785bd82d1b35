"""Checks of freezing policies by what becomes of a network: under their plans, by real steps, and in whole runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from framework.freezing import Change, FrozenNetwork, all_tensors, same_bits
from framework.testing.additions import TOLERANCE, some
from framework.testing.case import Case, Check, check
from framework.testing.chance import seeded
from framework.testing.networks import SIDE, backbone_table
from framework.testing.walks import taken, ways
from framework.testing.whole_runs import differences, run, run_in_pieces

STEPS = 2
"""Real steps under each plan: the second one has what the first one left, momentum among it."""


@check
def a_plan_twice_is_a_plan_once(case: Case) -> None:
    """A plan that is put in force again changes nothing."""
    for way in ways(case):
        frozen = FrozenNetwork(way.sample.network, way.sample.layout)
        for plan in way.plans():
            frozen.apply(plan)
            once = _in_force(frozen)
            change = frozen.apply(plan)
            assert (change, _in_force(frozen)) == (Change((), ()), once), (
                f"{way.words}: a plan that is put in force again adds {len(change.added)} parameters and removes "
                f"{len(change.removed)}; a plan is data that reads the same each time, fw.Plan(dict(...))"
            )


def _in_force(frozen: FrozenNetwork) -> tuple[dict[str, bool], dict[str, bool], int]:
    """What trains, which modules are in train mode, and how many hooks see to it."""
    frozen.train()
    network = frozen.network
    trains = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    return trains, {name: module.training for name, module in network.named_modules()}, len(network._forward_pre_hooks)


@check
def keeps_what_it_freezes(case: Case) -> None:
    """What a plan freezes, buffers too, has the same bits after real steps, whoever calls `train()` in between."""
    for way in ways(case):
        frozen = FrozenNetwork(way.sample.network, way.sample.layout)
        with seeded(0):
            for plan in way.plans():
                frozen.apply(plan)
                moved = _moved_by_steps(frozen)
                assert not moved, (
                    f"{way.words}: {len(moved)} tensors move that a plan freezes, {some(moved)}; "
                    "the policy writes to the network, or its plan trains what it does not list"
                )


def _moved_by_steps(frozen: FrozenNetwork) -> list[str]:
    """The tensors that the plan in force freezes and that have other bits after some steps."""
    free = frozen.moving()
    before = {name: tensor.clone() for name, tensor in all_tensors(frozen.network).items() if name not in free}
    _real_steps(frozen.network)
    now = all_tensors(frozen.network)
    return [name for name, tensor in before.items() if not same_bits(tensor, now[name])]


def _real_steps(network: nn.Module) -> None:
    """Steps as a loop of one's own has them, with momentum, weight decay, and calls of `train()` and `eval()`."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not trained:
        return
    optimizer = torch.optim.SGD(trained, lr=0.05, momentum=0.9, weight_decay=0.01)
    for _ in range(STEPS):
        network.train()
        logits: Tensor = network(torch.randn(4, 3, SIDE, SIDE))
        logits.square().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        network.eval()
        network(torch.randn(2, 3, SIDE, SIDE))


@check
def resumes_to_the_bit(case: Case) -> None:
    """A run that ends in every step and is resumed each time leaves what one leaves that does not, bit for bit."""
    tables = {**_tables(case), "engine": {"partition": "off"}}
    whole = run(case.index(), tables, case.folder / "whole")
    pieces = run_in_pieces(case.index(), tables, case.folder / "pieces")
    found = differences(whole, pieces)
    assert not found, (
        f"a run that is stopped and resumed ends otherwise than one that is not: {some(found)}; "
        "put all that next() reads and changes into state(), and take all of it back in restore()"
    )


@check
def trains_divided_as_whole(case: Case) -> None:
    """A run that computes the fixed part once for each image leaves what one leaves that computes all of it always."""
    runs = {
        partition: run(case.index(), {**_tables(case), "engine": {"partition": partition}}, case.folder / partition)
        for partition in ("off", "auto")
    }
    found = differences(runs["off"], runs["auto"], TOLERANCE)
    assert not found, (
        f"a divided network trains otherwise than a whole one: {some(found)}; "
        "decide by the layout, the progress and the policy's own state alone"
    )


def _tables(case: Case) -> dict[str, Any]:
    """The policy, and the first network that it takes."""
    return {"freezing": case.table(), "backbone": backbone_table(taken(case)[0])}


CHECKS: tuple[Check, ...] = (
    a_plan_twice_is_a_plan_once,
    keeps_what_it_freezes,
    resumes_to_the_bit,
    trains_divided_as_whole,
)
