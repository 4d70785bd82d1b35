"""Policies that look at gradients: surgical fine-tuning, Auto-RGN and AutoFreeze."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import framework as fw
import fw_freezing
from framework import train
from framework.running import Run
from framework.testing import plugin_checks
from framework.testing.networks import BACKBONES, backbone_table, sample
from framework.testing.whole_runs import differences, run, run_in_pieces
from fw_freezing.auto_freeze import AutoFreeze
from fw_freezing.surgical import SCALES, AutoRgn, Surgical, relative_norms, scale_of

TOLERANCE = 1e-4
STAGES = 12
LAYOUT = fw.Layout(
    stages=(
        *(fw.Stage(f"block{n}", (f"block{n}.weight",), (f"block{n}",)) for n in range(STAGES)),
        fw.Stage("neck", ("norm.weight",), ("norm",), "neck"),
        fw.Stage("head", ("head.weight",), ("head",), "head"),
    ),
    norms={}, batch_norms=frozenset(), buffers={}, biases=frozenset(),
)  # fmt: skip
FREEZES = {"use": "auto_freeze", "intervals": 6}
MEASURES = {"use": "auto_rgn", "probe": 2}
ON = {"auto_freeze": "batch_norm", "auto_rgn": "layer_norm"}
"""The networks of whole runs; relative norms are alike in all stages of the one with batch norms."""

test_with_other_keys = plugin_checks(
    fw_freezing,
    names=("surgical", "auto_freeze"),
    keys={"surgical": {"stage": "layer2"}, "auto_freeze": {"intervals": 3, "percentile": 1.0, "norm": "batch"}},
)


def moving(layout: fw.Layout, plan: fw.Plan) -> list[str]:
    """The stages that train, none of them in part."""
    for stage in layout.stages:
        assert len({name in plan.trainable for name in stage.parameters}) == 1, stage.name
    return [stage.name for stage in layout.stages if {*stage.parameters} & plan.trainable.keys()]


# ----------------------------------------------------------------------------------------------- surgical


@pytest.mark.parametrize("network", BACKBONES)
@pytest.mark.parametrize(("position", "expected"), [(0.0, 0), (0.3, 1), (0.7, 2), (1.0, 3)])
def test_one_stage_and_the_head_train(network: str, position: float, expected: int) -> None:
    layout = sample(network).layout
    assert len(layout.body) == 4
    chosen = layout.body[expected].name
    for keys in (Surgical(position=position), Surgical(stage=chosen)):
        assert moving(layout, keys.build().start(layout)) == [chosen, "head"]


def test_the_first_stage_is_the_default_and_a_neck_can_be_named() -> None:
    assert moving(LAYOUT, Surgical().build().start(LAYOUT)) == ["block0", "head"]
    assert moving(LAYOUT, Surgical(stage="neck").build().start(LAYOUT)) == ["neck", "head"]


def test_a_stage_that_is_not_there_is_an_error_with_near_names() -> None:
    with pytest.raises(fw.FwError, match="no stage is called 'blok3'") as error:
        Surgical(stage="blok3").build().start(LAYOUT)
    assert "'block3'" in error.value.render()


# ----------------------------------------------------------------------------------------------- auto_rgn


def at(step: int, **signals: dict[str, float]) -> fw.Progress:
    return fw.Progress(step // 5, step, 20, 100, {}, signals)


def drawn(draw: random.Random, size: float = 1.0) -> dict[str, float]:
    """A norm for each stage, of some orders of magnitude."""
    return {stage.name: size * 10 ** draw.uniform(-3, 1) for stage in LAYOUT.stages}


def test_a_share_is_rounded_to_the_nearest_scale_by_ratio() -> None:
    shares = [random.Random(0).uniform(-12, 0) for _ in range(500)]
    for share in (2**power for power in shares):
        ratios = [max(share / scale, scale / share) for scale in SCALES]
        assert scale_of(share) == SCALES[int(np.argmin(ratios))]
    assert (scale_of(0.0), scale_of(1.0)) == (SCALES[-1], 1.0)


def test_rates_follow_the_relative_gradient_norms() -> None:
    draw = random.Random(0)
    policy = AutoRgn().build()
    for step in range(200):
        gradients, weights = drawn(draw), drawn(draw, 30.0)
        plan = policy.next(LAYOUT, at(step, grad_norm=gradients, weight_norm=weights))
        assert plan is not None
        relative = {stage.name: gradients[stage.name] / weights[stage.name] for stage in LAYOUT.stages[:-1]}
        rates = {stage.name: plan.trainable[stage.parameters[0]] for stage in LAYOUT.stages}
        assert rates.keys() == {stage.name for stage in LAYOUT.stages}, "everything trains"
        assert set(rates.values()) <= policy.scales()
        assert rates.pop("head") == 1.0, "whatever its own gradients are"
        for stage, rate in rates.items():
            share = relative[stage] / max(relative.values())
            assert max(rate / share, share / rate) <= 2**0.5 or (rate == SCALES[-1] and share < rate)


def test_before_anything_is_measured_all_train_at_the_lowest_rate() -> None:
    policy = AutoRgn(probe=7).build()
    start = policy.start(LAYOUT)
    assert {start.trainable[name] for name in LAYOUT.parameters if name != "head.weight"} == {SCALES[-1]}
    assert start.trainable["head.weight"] == 1.0
    assert policy.moments() == fw.Moments(steps=frozenset({7}), every_epoch=True)
    assert policy.next(LAYOUT, at(7)) is None
    nothing = dict.fromkeys((stage.name for stage in LAYOUT.stages), 0.0)
    assert policy.next(LAYOUT, at(7, grad_norm=nothing, weight_norm=nothing)) is None


def test_a_stage_of_zeros_has_no_relative_norm() -> None:
    signals = {"grad_norm": {"a": 1.0, "b": 3.0, "head": 9.0}, "weight_norm": {"a": 2.0, "b": 0.0, "head": 1.0}}
    assert relative_norms(signals, {"head"}) == {"a": 0.5}


# --------------------------------------------------------------------------------------------- auto_freeze


def authors_start(before: Sequence[float], now: Sequence[float], start: int, percentile: float) -> int:
    """The first stage that trains on, as the authors' freeze_intermediate_e2e_lr.py finds it."""
    changes = [abs(one - other) / one for one, other in zip(before, now, strict=True)]
    limit = np.percentile(changes[start:], 100 * percentile)
    return next(number for number in range(start, len(changes)) if changes[number] >= limit)


def walk(policy: fw.FreezingPolicy, norms: list[dict[str, float]], begin: int = 0) -> Iterator[list[str] | None]:
    for step, one in list(enumerate(norms))[begin:]:
        plan = policy.next(LAYOUT, at(step, grad_norm=one))
        yield None if plan is None else moving(LAYOUT, plan)


@pytest.mark.parametrize("percentile", [0.0, 0.25, 0.5, 0.8, 1.0])
def test_the_boundary_moves_as_the_authors_have_it_and_only_up(percentile: float) -> None:
    names = [stage.name for stage in LAYOUT.stages]
    moved = 0
    for seed in range(60):
        draw = random.Random(seed)
        norms = [drawn(draw) for _ in range(8)]
        policy, start = AutoFreeze(percentile=percentile).build(), 0
        assert moving(LAYOUT, policy.start(LAYOUT)) == names
        for number, said in enumerate(walk(policy, norms)):
            values = [list(one.values())[:STAGES] for one in norms[max(0, number - 1) : number + 1]]
            first = authors_start(*values, start, percentile) if number else 0
            assert said == (names[first:] if first > start else None), "what trains is the end of the network"
            moved, start = moved + (first > start), first
        assert start < STAGES, "the last stage always trains"
    print(f"{moved} moves in 480 intervals")
    assert (moved == 0) is (percentile == 0.0)


def test_it_goes_on_from_its_state() -> None:
    draw = random.Random(0)
    norms = [drawn(draw) for _ in range(12)]
    expected = list(walk(AutoFreeze().build(), norms))
    assert sum(said is not None for said in expected) > 1
    policy = AutoFreeze().build()
    policy.start(LAYOUT)
    for number in range(len(norms)):
        state = json.loads(json.dumps(policy.state()))
        resumed = AutoFreeze().build()
        resumed.start(LAYOUT)
        resumed.restore(state)
        assert list(walk(resumed, norms, number)) == expected[number:]
        policy.next(LAYOUT, at(number, grad_norm=norms[number]))


def test_without_two_intervals_there_is_nothing_to_compare() -> None:
    policy = AutoFreeze(intervals=4).build()
    assert policy.moments() == fw.Moments(fractions=frozenset({0.25, 0.5, 0.75}))
    assert policy.next(LAYOUT, at(1)) is None
    same = dict.fromkeys((stage.name for stage in LAYOUT.stages), 0.0)
    said = [policy.next(LAYOUT, at(step, grad_norm=same)) for step in (2, 3)]
    assert said == [None, None], "none changes less than another"


def test_a_stage_in_which_nothing_can_train_is_no_obstacle() -> None:
    layout = fw.Layout(LAYOUT.stages, {}, frozenset(), {}, frozenset(), frozenset({"block0.weight", "block1.weight"}))
    policy = AutoFreeze().build()
    policy.start(layout)
    first = {stage.name: 1.0 for stage in layout.stages[2:]}
    then = {stage: 1.0 + number for number, stage in enumerate(first)}
    assert policy.next(layout, at(1, grad_norm=first)) is None
    plan = policy.next(layout, at(2, grad_norm=then))
    assert plan is not None
    assert moving(layout, plan)[:2] == ["block7", "block8"], "five of ten were below the median"


# ---------------------------------------------------------------------------------------------- whole runs


def tables_of(freezing: dict[str, Any]) -> dict[str, Any]:
    return {"freezing": freezing, "backbone": backbone_table(ON[freezing["use"]]), "train": {"epochs": 6}}


def bytes_of_state(run: Run) -> int:
    states = run.parts.optimizer.state.values()
    return sum(tensor.numel() * tensor.element_size() for state in states for tensor in state.values())


@pytest.fixture
def changes(monkeypatch) -> list[dict[str, Any]]:
    """What each change of plan did to the optimizer and the division of the network."""
    found: list[dict[str, Any]] = []
    change_plan = train.change_plan

    def noted(run: Run, plan: fw.Plan) -> None:
        before = bytes_of_state(run), run.feed.facts()["fixed_flops_share"]
        change_plan(run, plan)
        after = bytes_of_state(run), run.feed.facts()["fixed_flops_share"]
        lr = run.parts.optimizer.defaults["lr"]
        rates = {name: rate / lr for name, rate in run.parts.groups.rates().items()}
        sizes = {name: 4 * p.numel() for name, p in run.parts.network.named_parameters()}
        trained = sum(sizes[name] for name in plan.trainable)
        found.append({"before": before, "after": after, "rates": rates, "trained": trained, "scales": plan.trainable})

    monkeypatch.setattr(train, "change_plan", noted)
    return found


def test_freezing_frees_optimizer_state_and_moves_the_boundary(index, tmp_path: Path, changes) -> None:
    left = run(index, tables_of(FREEZES), tmp_path / "run")
    everything = [stage.name for stage in sample("batch_norm").layout.stages]
    trained = [change["stages"] for change in left.summary["plan_changes"]]
    assert len(trained) == len(changes) >= 2
    assert all(stages == everything[-len(stages) :] for stages in trained)
    assert all(len(then) < len(one) for one, then in pairwise([everything, *trained]))
    for change in changes:
        assert change["after"][0] < change["before"][0], "momentum of what froze is gone"
        assert change["after"][0] == change["trained"]
        assert change["after"][1] > change["before"][1], "more is computed once for each image"
    assert left.summary["audit"]["frozen_moved"] == 0


def test_measured_rates_come_into_force(index, tmp_path: Path, changes) -> None:
    left = run(index, tables_of(MEASURES), tmp_path / "run")
    assert changes
    assert left.summary["plan_changes"][0]["step"] == 2
    for change in changes:
        assert change["rates"] == pytest.approx(change["scales"])
        assert len(set(change["scales"].values())) > 1
        assert change["after"][0] == change["before"][0], "nobody loses momentum"


@pytest.mark.parametrize("table", [FREEZES, MEASURES], ids=lambda table: table["use"])
def test_a_resumed_run_decides_the_same_and_so_does_a_whole_one(index, tmp_path: Path, table: dict[str, Any]) -> None:
    tables = tables_of(table)
    runs = {name: run(index, {**tables, "engine": {"partition": name}}, tmp_path / name) for name in ("off", "auto")}
    pieces = run_in_pieces(index, {**tables, "engine": {"partition": "off"}}, tmp_path / "pieces")
    assert runs["off"].summary["plan_changes"]
    assert differences(runs["off"], pieces) == []
    assert differences(runs["off"], runs["auto"], TOLERANCE) == []
