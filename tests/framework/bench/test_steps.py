"""Steps, their parts, operations and memory, of real runs on few images."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sweeps import share
from torch import Tensor, nn

from framework.bench.memory import PARTS, Block, in_use_at_peak
from framework.bench.parts import counting, flops_of, parts_of
from framework.bench.processes import command_of
from framework.bench.steps import StepClock
from framework.bench.stints import stint, times_of_turns, train_last
from framework.bench.turns import Entrant, take_turns
from framework.display import NullDisplay
from framework.index import Index
from framework.recipe import load_recipe
from framework.running import Run
from framework.runs import prepare_run
from framework.stored import Divided
from framework.train import train_epoch

SMALL = {
    "data.images": 50, "data.classes": 2, "data.size": 64, "backbone.use": "timm/test_efficientnet",
    "backbone.image_size": 64, "train.batch_size": 8, "freezing.use": "full", "engine.cache": "memory",
}  # fmt: skip
"""30 training images: three batches of 8 and one of 6."""


@pytest.fixture
def run(index: Index, tmp_path: Path) -> Callable[..., Run]:
    """`run({"freezing.use": "frozen"})`: a run before its first step, its boundary kept."""

    def start(overrides: dict[str, Any] | None = None) -> Run:
        recipe = load_recipe("smoke", index, {**SMALL, **(overrides or {})})
        made = prepare_run(recipe, index, tmp_path, NullDisplay())
        made.feed.follow(recipe.train.epochs)
        return made

    return start


def one_epoch(run: Run) -> None:
    """What is left of an epoch; the standing goes back."""
    train_epoch(run)
    run.standing.batch = run.standing.step = 0


def tensors(run: Run) -> dict[str, Tensor]:
    state = {f"{number}.{name}": value for number, of in enumerate(run.parts.optimizer.state.values())
             for name, value in of.items() if isinstance(value, Tensor)}  # fmt: skip
    return {**run.parts.network.state_dict(), **state}


# ------------------------------------------------------------------------------------------------------- steps

KINDS: dict[str, dict[str, Any]] = {
    "whole": {"engine.partition": "off"},
    "divided": {"freezing.use": "last_stages", "engine.partition": "require"},
    "head": {"freezing.use": "frozen", "engine.partition": "require"},
    "accumulating": {"train.accumulate": 3, "train.clip_norm": 1.0},
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_step_is_seen_once_and_its_parts_are_the_epoch(run, kind: str) -> None:
    """Four batches, the last of them short; three and one of them make a step where three accumulate."""
    watched = run(KINDS[kind])
    assert isinstance(watched.feed, Divided) is (kind != "whole")
    assert (watched.feed.facts()["boundary"] is not None) is (kind in ("divided", "head"))
    steps = 2 if kind == "accumulating" else 4
    clock = StepClock.of(watched)
    began = time.perf_counter()
    one_epoch(watched)
    wall = time.perf_counter() - began
    assert (len(clock.steps), len(clock.parts)) == (steps, 0)
    assert 0.75 * wall < sum(clock.steps) <= wall
    clock.forget()
    clock.split = True
    began = time.perf_counter()
    one_epoch(watched)
    wall = time.perf_counter() - began
    assert (len(clock.steps), len(clock.parts)) == (steps, steps), "on a CPU nothing has to be waited for"
    assert all(set(step) == {"data", "forward", "backward", "optimizer"} for step in clock.parts)
    assert all(seconds > 0 for step in clock.parts for seconds in step.values())
    total = sum(sum(step.values()) for step in clock.parts)
    print(f"\n{kind}: {steps} steps, {total / wall:.1%} of the epoch's {1000 * wall:.1f} ms")
    assert 0.75 * wall < total <= wall


@pytest.mark.parametrize("kind", ["whole", "head", "accumulating"])
def test_watching_changes_nothing(run, kind: str) -> None:
    watched, alone = run(KINDS[kind]), run(KINDS[kind])
    clock = StepClock.of(watched)
    for clock.split in (False, True):
        for one in (watched, alone):
            one_epoch(one)
    found, expected = tensors(watched), tensors(alone)
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert watched.standing.loss_sum == alone.standing.loss_sum
    fresh = run(KINDS[kind])
    moved = [name for name, tensor in fresh.parts.network.state_dict().items() if not torch.equal(tensor, found[name])]
    assert moved, "there was something that could have changed"


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_steps_of_an_epoch_are_trained_and_the_standing_goes_back(run, kind: str) -> None:
    """Of three batches of 8 and one of 6; three and one of them make a step where three accumulate."""
    measured = run(KINDS[kind])
    clock, at = StepClock.of(measured), measured.standing
    expected = {1: 6, 2: 30, 3: 30} if kind == "accumulating" else {1: 6, 2: 14, 3: 22, 9: 30}
    for steps, images in expected.items():
        done = stint(measured, clock, steps)
        assert (done.images, len(clock.steps)) == (images, min(steps, 2 if kind == "accumulating" else 4))
        assert 0 < done.steps_s < done.seconds
        assert (at.epoch, at.batch, at.step) == (0, 0, 0)


def test_what_a_stint_trains_is_what_the_loop_would(run) -> None:
    """No image counts more for being among the last: the mean gradient of a step is that of its own images."""
    measured, alone = run(KINDS["accumulating"]), run(KINDS["accumulating"])
    train_last(measured, 1)
    alone.standing.batch = 3
    one_epoch(alone)
    found, expected = tensors(measured), tensors(alone)
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_steps_are_measured_in_turns(run, monkeypatch) -> None:
    monkeypatch.setattr("framework.bench.stints.SECONDS", 0.02)
    turns: list[int] = []
    measured = run({"freezing.use": "frozen"})
    found = times_of_turns(measured, lambda: turns.append(measured.standing.images_trained), 9)
    assert 4 <= len(turns) <= 9
    assert len(found["image_s"]) >= len(turns)
    assert turns == sorted(turns), "something is trained in each turn"
    assert len(set(turns)) == len(turns)
    assert 0 < found["epoch_s"] < found["validate_s"] < 10
    middle = sum(found["image_parts_s"].values())
    assert min(found["image_s"]) <= middle <= max(found["image_s"]), "parts add up to the step"
    assert set(found["image_parts_s"]) == {"data", "forward", "backward", "optimizer"}


def test_where_a_reading_waits_for_the_device_whole_steps_are_measured_apart(run, monkeypatch) -> None:
    """On an accelerator the parts of a step cannot overlap while they are read, which makes it longer."""
    monkeypatch.setattr("framework.bench.stints.SECONDS", 0.02)
    monkeypatch.setattr(StepClock, "waits", True)
    slow, measured = 0.02, run({"freezing.use": "frozen"})
    clocks: list[StepClock] = []
    made = StepClock.of.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(StepClock, "of", classmethod(lambda cls, of: clocks.append(made(cls, of)) or clocks[-1]))
    measured.parts.optimizer.register_step_pre_hook(lambda *_: time.sleep(slow * clocks[-1].split))
    found = times_of_turns(measured, lambda: None, 4)
    assert max(found["image_s"]) < slow / 8 < sum(found["image_parts_s"].values())


# -------------------------------------------------------------------------------------------------- operations


def counted(network: nn.Module, images: Tensor) -> tuple[int, int]:
    """Operations of the way forward, and of the way back."""
    with counting() as forward:
        loss = network(images).sum()
    with counting() as backward:
        loss.backward()
    return forward.get_total_flops(), backward.get_total_flops()


def test_operations_of_known_layers() -> None:
    """Two for each multiplication with its addition: a convolution's output times what each value is a sum of."""
    linear = 2 * 4 * 10 * 3
    assert counted(nn.Linear(10, 3, bias=False), torch.randn(4, 10)) == (linear, linear), "no gradient for images"
    assert counted(nn.Linear(10, 3), torch.randn(4, 10, requires_grad=True)) == (linear, 2 * linear)
    conv = 2 * (4 * 16 * 8 * 8) * (6 * 3 * 3)
    images = torch.randn(4, 6, 8, 8)
    assert counted(nn.Conv2d(6, 16, 3, padding=1), images) == (conv, conv)
    assert counted(nn.Conv2d(6, 16, 3, padding=1), images.requires_grad_()) == (conv, 2 * conv)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_the_way_back_through_groups_is_counted_group_by_group(groups: int) -> None:
    conv = 2 * (4 * 8 * 8 * 8) * (8 // groups * 3 * 3)
    images = torch.randn(4, 8, 8, 8, requires_grad=True)
    assert counted(nn.Conv2d(8, 8, 3, padding=1, groups=groups), images) == (conv, 2 * conv)


def test_a_divided_network_computes_what_the_whole_does_and_no_more(run) -> None:
    whole = flops_of(run({"freezing.use": "last_stages", "engine.partition": "off"}))
    divided = flops_of(run({"freezing.use": "last_stages", "engine.partition": "require"}))
    assert whole["fixed"] == 0
    assert 0 < divided["forward"] < whole["forward"]
    assert divided["fixed"] + divided["forward"] == pytest.approx(whole["forward"])
    assert divided["backward"] == pytest.approx(whole["backward"]), "autograd goes no further back in either"
    full = flops_of(run({"engine.partition": "off"}))
    assert full["forward"] == whole["forward"]
    assert whole["backward"] < full["backward"] < 2 * full["forward"]


# ------------------------------------------------------------------------------------------------------ memory


def test_what_is_out_at_the_peak_is_told_by_when_and_where_it_was_seen() -> None:
    """An address is given out again and again, to things of different use."""
    blocks = [
        Block(1, 100, 0, 10),  # an activation, gone before the peak
        Block(1, 40, 12, 30),  # the same place at the peak: work
        Block(2, 70, 5),  # an activation that nobody takes back
        Block(3, 8, 11, 25),  # a gradient
        Block(3, 500, 40, 41),  # with the 70 that stay, the peak of all; without it, the next is
        Block(4, 450, 13, 20),
    ]
    found = in_use_at_peak(blocks, gradients=[(3, 12)], saved=[(1, 4), (2, 6)])
    assert found == {"gradients": 0, "activations": 70, "workspace": 500, "saved": 170}
    found = in_use_at_peak([*blocks[:4], blocks[5]], gradients=[(3, 12)], saved=[(1, 4), (2, 6)])
    assert found == {"gradients": 8, "activations": 70, "workspace": 490, "saved": 170}
    assert in_use_at_peak([], [], []) == {"gradients": 0, "activations": 0, "workspace": 0, "saved": 0}


def test_memory_that_is_taken_back_and_given_out_at_the_same_time_counts_once() -> None:
    found = in_use_at_peak([Block(1, 100, 0, 10), Block(1, 100, 10, 20)], [], [(1, 10)])
    assert found == {"gradients": 0, "activations": 0, "workspace": 100, "saved": 100}


def memory(run: Run) -> dict[str, float]:
    """What a step keeps, in bytes."""
    return {name: size * 2**20 for name, size in parts_of(run)["memory_mb"].items()}


@pytest.mark.parametrize(("optimizer", "kept"), [("torch/SGD", 1), ("torch/Adam", 2)])
@pytest.mark.parametrize("policy", ["full", "last_stages", "frozen"])
def test_the_state_of_the_optimizer_is_what_shapes_say(run, optimizer: str, kept: int, policy: str) -> None:
    keys = {"momentum": 0.9} if kept == 1 else {}
    started = run({"optimizer": {"use": optimizer, "lr": 0.01, **keys}, "freezing.use": policy,
                   "engine.partition": "off"})  # fmt: skip
    found = memory(started)
    trainable = [p for p in started.parts.network.parameters() if p.requires_grad]
    values = 4 * sum(p.numel() for p in trainable)
    steps = 4 * len(trainable) if kept == 2 else 0  # Adam counts each tensor's
    assert found["optimizer"] == kept * values + steps
    state = started.parts.network.state_dict().values()
    assert found["parameters"] == sum(tensor.numel() * tensor.element_size() for tensor in state)
    assert 0 <= found["gradients"] <= values


def test_copies_are_what_a_regularizer_and_a_finisher_keep_of_the_network(run) -> None:
    """L2-SP and WiSE-FT the start; DELTA a network as well, whose maps are no copies; EMA the mean of what moves."""
    common = {"freezing.use": "last_stages", "engine.partition": "off"}
    of = {
        name: run({**common, **more})
        for name, more in {
            "none": {}, "l2_sp": {"regularizer": {"use": "l2_sp"}}, "delta": {"regularizer": {"use": "delta"}},
            "ema": {"finisher": {"use": "ema"}}, "wise_ft": {"finisher": {"use": "wise_ft"}},
            "both": {"regularizer": {"use": "l2_sp"}, "finisher": {"use": "ema"}},
        }.items()
    }  # fmt: skip
    found = {name: memory(one) for name, one in of.items()}
    network = found["none"]["parameters"]
    parts = of["none"].parts
    tensors = [p for p in parts.network.parameters() if p.requires_grad]
    tensors += [b for name in parts.frozen.plan.batch_stats for b in parts.network.get_submodule(name).buffers()]
    moving = sum(tensor.nbytes for tensor in tensors)
    assert {name: one["copies"] for name, one in found.items()} == {
        "none": 0, "l2_sp": network, "delta": 2 * network, "ema": moving, "wise_ft": network,
        "both": network + moving,
    }  # fmt: skip
    assert {one["parameters"] for one in found.values()} == {network}


def test_saved_activations_grow_with_the_batch_and_fixed_parts_save_none(run) -> None:
    whole = {"engine.partition": "off"}
    small, large = (memory(run({**whole, "train.batch_size": size, "data.images": 60})) for size in (8, 16))
    assert large["saved"] == pytest.approx(2 * small["saved"], rel=0.05)
    frozen = run({**whole, "freezing.use": "frozen"})
    features = frozen.parts.network.head.in_features if hasattr(frozen.parts.network.head, "in_features") else None
    found = memory(frozen)
    print(f"\nsaved: {small['saved'] / 2**20:.2f} MB of full, {found['saved']} bytes of frozen, {features} features")
    assert found["saved"] < 0.002 * small["saved"], "the head's input, and what the loss keeps"


PROBE = """
extends = "smoke"
name = "memory"
data = {{ images = 160, size = 224 }}
backbone.image_size = {size}
freezing.use = "{policy}"
train.batch_size = {batch}
engine = {{ partition = "off", cache = "off" }}
optimizer = {{ use = "torch/{optimizer}", lr = 0.001 }}
"""


def probed(folder: Path, **keys: Any) -> dict[str, Any]:
    """What the probe says of ResNet-18, in a process of its own."""
    recipe, result = folder / "recipe.toml", folder / "result.json"
    recipe.write_text(PROBE.format(**{"size": 224, "policy": "full", "batch": 16, "optimizer": "SGD", **keys}))
    command = command_of("probe", str(recipe), str(result), "4", "count")
    [ended] = take_turns([Entrant(command, {})])
    assert not ended.reason, ended.errors
    found: dict[str, Any] = json.loads(result.read_text())
    return found


@pytest.mark.sweep
@pytest.mark.parametrize(("batch", "optimizer"), share([(8, "Adam"), (16, "SGD")], 2))
def test_the_parts_of_memory_are_the_peak_of_a_step(tmp_path: Path, batch: int, optimizer: str) -> None:
    found = probed(tmp_path, batch=batch, optimizer=optimizer)
    memory = found["memory_mb"]
    parts = sum(memory[name] for name in PARTS)
    peak = memory["peak"] - found["base_mb"]
    print(f"\nbatch {batch}, {optimizer}: parts {parts:.0f} MB, peak {peak:.0f} MB above the base; {memory}")
    assert parts == pytest.approx(peak, rel=0.1)


@pytest.mark.sweep
def test_a_frozen_network_saves_nothing_but_for_its_head(tmp_path: Path) -> None:
    full, frozen = (probed(tmp_path, size=64, policy=policy)["memory_mb"]["saved"] for policy in ("full", "frozen"))
    print(f"\nsaved: {full:.1f} MB of full, {frozen:.4f} MB of frozen")
    assert frozen * 2**20 <= 16 * (512 + 4 * 10) * 4
