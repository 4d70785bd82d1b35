"""What a regularizer and a finisher do is part of the step that a study times, and of what it counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

import framework as fw
from framework.bench import steps
from framework.bench.parts import flops_of, parts_of
from framework.bench.steps import StepClock
from framework.bench.stints import train_last
from framework.catalog import PluginSource
from framework.display import NullDisplay
from framework.index import Index
from framework.recipe import load_recipe
from framework.running import Run
from framework.runs import prepare_run

TERM_S, STEP_S = 1000.0, 70.0
"""What a term and a step of the finisher take, on a clock that stands still otherwise."""
SMALL = {
    "data.images": 50, "data.classes": 2, "data.size": 32, "backbone.use": "timm/test_efficientnet",
    "backbone.image_size": 32, "train.batch_size": 8, "engine.partition": "off",
}  # fmt: skip
"""30 training images: three batches of 8 and one of 6."""
now = SimpleNamespace(seconds=0.0)


@attrs.frozen(kw_only=True)
class Slow:
    """A pull to zero; with `looks`, a convolution of the images with it, too."""

    looks: bool = fw.key(False, "whether it reads the images")

    def build(self) -> fw.Regularizer:
        return SlowTerm(self.looks)


class SlowTerm(fw.Regularizer):
    """What it gives has a gradient to everything that trains."""

    def __init__(self, needs_images: bool) -> None:
        self.needs_images = needs_images

    def term(self, trainable: Mapping[str, nn.Parameter], images: Tensor | None) -> Tensor:
        now.seconds += TERM_S
        total = torch.stack([parameter.square().sum() for parameter in trainable.values()]).sum()
        return total if images is None else total + conv2d(images, total.expand(1, 3, 3, 3)).mean()


@attrs.frozen(kw_only=True)
class Last:
    """The last weights."""

    def build(self) -> fw.Finisher:
        return SlowSteps()


class SlowSteps(fw.Finisher):
    def after_step(self, moving: Mapping[str, Tensor], progress: fw.Progress) -> None:
        now.seconds += STEP_S

    def finish(self, selected: Mapping[str, Tensor], initial: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {}


class Plugin:
    @fw.hookimpl
    def fw_regularizers(self):
        return [fw.Component("slow_term", Slow)]

    @fw.hookimpl
    def fw_finishers(self):
        return [fw.Component("slow_steps", Last)]


@pytest.fixture
def run(index: Index, tmp_path: Path) -> Callable[..., Run]:
    """`run({"freezing.use": "frozen"})`: a run before its first step, its boundary kept."""
    known = index.including([PluginSource.of(Plugin(), "slow", "acme-slow")])

    def start(overrides: dict[str, Any]) -> Run:
        recipe = load_recipe("smoke", known, {**SMALL, **overrides})
        made = prepare_run(recipe, known, tmp_path, NullDisplay())
        made.feed.follow(recipe.train.epochs)
        return made

    return start


TERM, STEPS = {"regularizer.use": "slow_term"}, {"finisher.use": "slow_steps"}
CASES: dict[str, tuple[dict[str, Any], float, float]] = {
    "neither": ({}, 0, 0),
    "a regularizer": (TERM, TERM_S, 0),
    "a finisher": (STEPS, 0, STEP_S),
    "both, divided": ({**TERM, **STEPS, "freezing.use": "frozen", "engine.partition": "require"}, TERM_S, STEP_S),
    "both, of two batches": ({**TERM, **STEPS, "train.accumulate": 2}, 2 * TERM_S, STEP_S),
    "with images": ({**TERM, "regularizer.looks": True}, TERM_S, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_the_clock_sees_each_term_as_forward_and_a_finishers_step_as_the_optimizers(run, monkeypatch, case) -> None:
    overrides, term_s, step_s = CASES[case]
    monkeypatch.setattr(steps, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    measured = run(overrides)
    clock = StepClock.of(measured)
    for clock.split in (False, True):
        clock.forget()
        train_last(measured, 9)
        assert clock.steps == [term_s + step_s] * (2 if "train.accumulate" in overrides else 4)
    of_each = {"data": 0, "forward": term_s, "backward": 0, "optimizer": step_s}
    assert clock.parts == [of_each] * len(clock.steps)


def test_a_watched_term_acts_on_training_as_it_does_alone(run) -> None:
    watched, alone, without = run(TERM), run(TERM), run({})
    StepClock.of(watched).split = True
    for one in (watched, alone, without):
        train_last(one, 9)
    found, expected, bare = (one.parts.network.state_dict() for one in (watched, alone, without))
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert [name for name in bare if not torch.equal(found[name], bare[name])], "the term moved something"
    assert watched.standing.term_sum == alone.standing.term_sum > 0


def test_what_a_term_computes_is_counted(run) -> None:
    bare, looking = (flops_of(run(of)) for of in ({}, {**TERM, "regularizer.looks": True}))
    for way in ("forward", "backward"):
        assert looking[way] - bare[way] == pytest.approx(2 * 27 * 30 * 30), "a convolution with one filter"


def test_a_counted_step_has_its_term_and_its_finisher(run) -> None:
    measured = run({**TERM, **STEPS})
    before = now.seconds
    assert parts_of(measured)["memory_mb"]["peak"] > 0
    done = 4  # two, one whose peak is taken, and one that is recorded; a term more where operations are counted
    assert now.seconds - before == done * (TERM_S + STEP_S) + TERM_S
