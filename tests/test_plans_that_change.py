"""Plans that change: policies that thaw, freeze again and rescale, at epoch starts and within epochs, by the real loop.

A toy plugin brings one policy, which follows a script of moves. Every run is watched step by step against what the
script says, and a run that was stopped and resumed at every step must end bit for bit as one that was not.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Literal

import attrs
import pytest
import torch
from interruptions import difference
from sweeps import often, share

import framework as fw
from framework import captures, checkpoint, data, train
from framework.assemble import assemble
from framework.catalog import PluginSource
from framework.display import NullDisplay
from framework.errors import Interrupted
from framework.files import load_tensors
from framework.freezing import all_tensors
from framework.index import Index, build_index
from framework.recipe import load_recipe
from framework.running import Run
from framework.runs import feed_of, resume_run, start_run

LR = 0.02
STEPS_PER_EPOCH, EPOCHS = 2, 3
SMALL = [
    *("data.images=40", "data.classes=2", "data.size=32", "train.batch_size=12", f"train.epochs={EPOCHS}"),
    *("engine.threads=1", "engine.device=cpu", f"optimizer.lr={LR}", "optimizer.weight_decay=0.01"),
    "train.report=false",
]
NETWORKS = {
    "batch_norm": ["backbone.use=timm/test_resnet", "backbone.image_size=32"],
    "layer_norm": ["backbone.use=timm/test_vit", "data.size=64", "backbone.image_size=64", "head.use=mlp",
                   "head.dropout=0.2"],
}  # fmt: skip
SCHEDULERS = {
    "step": "scheduler={use='torch/StepLR', step_size=1, gamma=0.5}",
    "cosine": "scheduler={use='torch/CosineAnnealingLR'}",
    "plateau": "scheduler={use='torch/ReduceLROnPlateau', mode='min', patience=0, factor=0.5, threshold=10.0}",
    "one_cycle": f"scheduler={{use='torch/OneCycleLR', max_lr={LR}}}",
    "phases": "scheduler=[{use='warmup', epochs=1}, {use='torch/ExponentialLR', gamma=0.5}]",
}


@attrs.frozen
class Move:
    """One move of a script: before a step (counted from 0) or at the beginning of an epoch.

    Attributes:
        stages: how many stages train, counted from the output, beside neck and head.
        scale: learning-rate scale of the stages; the head's is 1.
    """

    at: tuple[Literal["start", "step", "epoch"], int]
    stages: int
    scale: float = 1.0
    norm: fw.NormMode = "fixed"
    schedule: Literal["continue", "restart", "warm_up"] = "continue"

    @property
    def step(self) -> int:
        return self.at[1] * (STEPS_PER_EPOCH if self.at[0] == "epoch" else 1)

    def plan(self, layout: fw.Layout) -> fw.Plan:
        moving = [*layout.body[len(layout.body) - self.stages :], *layout.tail] if self.stages else []
        scales = {name: self.scale for stage in moving for name in stage.parameters}
        plan = layout.plan({**scales, **dict.fromkeys(layout.head.parameters, 1.0)}, self.norm)
        return attrs.evolve(plan, schedule=self.schedule)


START: tuple[Literal["start"], int] = ("start", 0)
SCRIPTS = {
    "thaw by epochs": (Move(START, 0), Move(("epoch", 1), 1), Move(("epoch", 2), 2, schedule="restart")),
    "freeze by epochs": (
        Move(START, 2, norm="batch"),
        Move(("epoch", 1), 1, schedule="warm_up"),
        Move(("epoch", 2), 0),
    ),
    "there and back in mid-epoch": (
        Move(START, 0),
        Move(("step", 1), 1, schedule="warm_up"),
        Move(("step", 3), 0, norm="batch"),
        Move(("step", 5), 1),
    ),
    "other rates": (
        Move(START, 1, 0.1),
        Move(("step", 1), 1, 0.5),
        Move(("epoch", 1), 2, 0.1, schedule="restart"),
        Move(("step", 3), 1, 1.0),
    ),
    "recalibrate": (
        Move(START, 0, norm="recalibrate"),
        Move(("step", 3), 1, norm="batch", schedule="restart"),
        Move(("epoch", 2), 0, norm="recalibrate"),
    ),
}


class Scripted(fw.FreezingPolicy):
    """Follows a script; its state counts the moves made, under keys that plain JSON would not bring back."""

    def __init__(self, moves: tuple[Move, ...]) -> None:
        self.moves = moves
        self.made: dict[int, tuple[int, ...]] = {}

    def start(self, layout: fw.Layout) -> fw.Plan:
        return self.moves[0].plan(layout)

    def scales(self) -> frozenset[float]:
        return frozenset({1.0, *(move.scale for move in self.moves)})

    def moments(self) -> fw.Moments:
        by_kind = {kind: frozenset(m.at[1] for m in self.moves if m.at[0] == kind) for kind in ("epoch", "step")}
        return fw.Moments(epochs=by_kind["epoch"], steps=by_kind["step"])

    def next(self, layout: fw.Layout, progress: fw.Progress) -> fw.Plan | None:
        number = 1 + len(self.made)
        assert self.moves[number].step == progress.step, "asked at another moment than it named, or more than once"
        self.made[number] = (progress.epoch, progress.step)
        return self.moves[number].plan(layout)

    def state(self) -> dict[str, object]:
        return {"made": self.made}

    def restore(self, state) -> None:
        assert all(type(key) is int and type(value) is tuple for key, value in state["made"].items())
        self.made = dict(state["made"])


@attrs.frozen(kw_only=True)
class ScriptKeys:
    """A policy that follows a script."""

    script: str = fw.key(doc="its name")

    def build(self) -> fw.FreezingPolicy:
        return Scripted(SCRIPTS[self.script])


class Plugin:
    """The toy plugin."""

    @fw.hookimpl
    def fw_freezing_policies(self):
        return [fw.Component("scripted", ScriptKeys)]


@pytest.fixture(scope="module")
def plugged(index) -> Index:
    """The installed plugins and the toy."""
    return Index((*index.plugins, *build_index([PluginSource.of(Plugin(), "scripts", "acme-scripts")]).plugins))


class Watch:
    """Looks at a run before and after every optimizer step."""

    def __init__(self, moves: tuple[Move, ...], scheduler: str) -> None:
        self.moves, self.scheduler = moves, scheduler
        self.steps: list[int] = []
        self.frozen_at_begin: tuple[int, dict[str, torch.Tensor]] = (-1, {})
        self.new_states = 0

    def take_step(self, original: Callable[[Run], None]) -> Callable[[Run], None]:
        def step(run: Run) -> None:
            self.before(run)
            original(run)
            self.after(run)

        return step

    def before(self, run: Run) -> None:
        step = run.standing.step
        number = max(i for i, move in enumerate(self.moves) if move.step <= step)
        plan = self.moves[number].plan(run.parts.model.layout)
        assert plan == run.parts.frozen.plan
        named = dict(run.parts.network.named_parameters())
        assert {name for name, p in named.items() if p.requires_grad} == set(plan.trainable)
        assert all(p.grad is None for name, p in named.items() if name not in plan.trainable)
        require_modes(run, plan)
        require_rates(run, plan, self.moves[: number + 1], self.scheduler)
        if self.frozen_at_begin[0] != number:
            self.frozen_at_begin = (number, {n: t.clone() for n, t in frozen_tensors(run, plan).items()})
            self.require_states(run, plan)

    def require_states(self, run: Run, plan: fw.Plan) -> None:
        """At the beginning of an interval only what trained before and still trains has a state."""
        names = {id(p): name for name, p in run.parts.network.named_parameters()}
        with_state = {names[id(p)] for p in run.parts.optimizer.state}
        assert with_state <= set(plan.trainable)
        self.new_states += len(set(plan.trainable) - with_state)

    def after(self, run: Run) -> None:
        self.steps.append(run.standing.step)
        plan = run.parts.frozen.plan
        for name, tensor in frozen_tensors(run, plan).items():
            assert torch.equal(tensor, self.frozen_at_begin[1][name]), name
        names = {id(p): name for name, p in run.parts.network.named_parameters()}
        assert {names[id(p)] for p in run.parts.optimizer.state} == set(plan.trainable)
        assert run.parts.frozen.auditor.moved == set(), "the audit of the intervals before this one"


def frozen_tensors(run: Run, plan: fw.Plan) -> dict[str, torch.Tensor]:
    """By a rule of its own: what is no trainable parameter, and no buffer of a norm with batch statistics."""
    return {name: tensor for name, tensor in all_tensors(run.parts.network).items()
            if name not in plan.trainable and name.rpartition(".")[0] not in plan.batch_stats}  # fmt: skip


def require_modes(run: Run, plan: fw.Plan) -> None:
    layout, modules = run.parts.model.layout, dict(run.parts.network.named_modules())
    moving = [bool(plan.trainable.keys() & {*stage.parameters} or plan.batch_stats & {*stage.modules})
              for stage in layout.stages]  # fmt: skip
    for number, stage in enumerate(layout.stages):
        for name in stage.modules:
            expected = name in plan.batch_stats if name in layout.batch_norms else any(moving[: number + 1])
            assert modules[name].training is expected, name


def require_rates(run: Run, plan: fw.Plan, moves: tuple[Move, ...], scheduler: str) -> None:
    rates = run.parts.groups.rates()
    assert rates.keys() == plan.trainable.keys()
    whole = rates[run.parts.model.layout.head.parameters[0]]
    for name, rate in rates.items():
        assert rate == pytest.approx(whole * plan.trainable[name], rel=1e-12), name
    expected = defined_rate(run.standing.step, run.standing.epoch, moves, scheduler)
    if expected is not None:
        assert whole == pytest.approx(expected, rel=1e-9)


def defined_rate(step: int, epoch: int, moves: tuple[Move, ...], scheduler: str) -> float | None:
    """The head's rate in closed form: since the last restart, times the ramp of a warm-up that is under way."""
    since, ramp_from = 0, -1
    for move in moves:
        since = move.step if move.schedule == "restart" else since
        ramp_from = {"restart": -1, "warm_up": move.step, "continue": ramp_from}[move.schedule]
    first = since // STEPS_PER_EPOCH
    done, whole = epoch - first, EPOCHS - first
    shape = {"step": 0.5**done, "cosine": (1 + math.cos(math.pi * done / whole)) / 2}.get(scheduler)
    length = min(STEPS_PER_EPOCH, EPOCHS * STEPS_PER_EPOCH - ramp_from)
    ramp = 0.01 + 0.99 * (step - ramp_from) / length if ramp_from >= 0 and step - ramp_from < length else 1.0
    return LR * shape * ramp if shape is not None else None


class StopAtEveryStep(NullDisplay):
    """Asks the run to stop after the first step that it sees."""

    def batch(self, facts) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def check(plugged: Index, tmp_path: Path, monkeypatch):
    """Runs a script whole, watched; stops and resumes it at every step, watched too; compares the two."""

    def run(network: str, script: str, scheduler: str, *more: str) -> dict:
        overrides = [*SMALL, *NETWORKS[network], f"freezing={{use='scripted', script='{script}'}}",
                     SCHEDULERS[scheduler], *more]  # fmt: skip
        recipe = load_recipe("smoke", plugged, overrides)
        whole, parts = tmp_path / "whole", tmp_path / "parts"
        original = train.take_step
        watch = Watch(SCRIPTS[script], scheduler)
        monkeypatch.setattr(train, "take_step", watch.take_step(original))
        summary = start_run(recipe, plugged, whole, True, NullDisplay())
        again = Watch(SCRIPTS[script], scheduler)
        monkeypatch.setattr(train, "take_step", again.take_step(original))
        stops = resumed_at_every_step(recipe, plugged, parts)
        assert again.steps == watch.steps
        assert stops == len(watch.steps)
        assert difference(whole, parts) == ""
        assert watch.new_states > 2
        return summary

    return run


def resumed_at_every_step(recipe, plugged: Index, folder: Path) -> int:
    stops = 0
    go: Callable[[], object] = lambda: start_run(recipe, plugged, folder, True, StopAtEveryStep())  # noqa: E731
    while True:
        try:
            go()
            return stops
        except Interrupted:
            stops += 1
            go = lambda: resume_run(folder, plugged, StopAtEveryStep())  # noqa: E731


CASES = [
    ("batch_norm", "thaw by epochs", "step"),
    ("batch_norm", "there and back in mid-epoch", "cosine"),
    ("layer_norm", "freeze by epochs", "step"),
    ("layer_norm", "other rates", "cosine"),
]


@pytest.mark.parametrize(("network", "script", "scheduler"), often(CASES, quick=CASES[-1:]))
def test_every_interval_is_as_the_plan_says_and_resuming_changes_nothing(
    check, network: str, script: str, scheduler: str
) -> None:
    # each stop and each plan would capture the network anew; one case shows that it may
    partition = "auto" if (network, scheduler) == ("layer_norm", "step") else "off"
    summary = check(network, script, scheduler, "train.monitor=val.loss", f"engine.partition={partition}")
    assert summary["steps"] == EPOCHS * STEPS_PER_EPOCH
    assert summary["audit"]["frozen_moved"] == 0
    if script in ("thaw by epochs", "there and back in mid-epoch"):
        assert set(summary["audit"]["trainable_never_moved"]) == set()


@pytest.mark.sweep
@pytest.mark.parametrize(("script", "scheduler"), share([*product(SCRIPTS, SCHEDULERS)], 3))
def test_every_script_with_every_scheduler(check, script: str, scheduler: str) -> None:
    """Networks take turns, so that each script and each scheduler meets both."""
    turn = list(SCRIPTS).index(script) + list(SCHEDULERS).index(scheduler)
    network, seed = list(NETWORKS)[turn % 2], 1 + turn % 3
    optimizer = ["optimizer={use='torch/AdamW'}", f"optimizer.lr={LR}"] if network == "layer_norm" else []
    more = ["train.mixup=0.2", "train.sampler=balanced"] if seed == 2 else ["train.batch_size=6", "train.accumulate=2"]
    same = ["train.monitor=val.loss", f"seed={seed}", "engine.partition=off"]
    check(network, script, scheduler, *same, *optimizer, *more)


@pytest.mark.parametrize("script", often(("thaw by epochs", "recalibrate"), quick=("thaw by epochs",)))
def test_the_selected_model_is_the_best_epochs_though_more_moved_later(
    plugged: Index, tmp_path: Path, monkeypatch, script: str
) -> None:
    """The first epoch is made the best; what only later plans let move must be as it was then."""
    kept: dict[str, torch.Tensor] = {}
    validate, keep_best = train.validate, checkpoint.keep_best

    def worse_and_worse(run: Run) -> dict[str, float]:
        return {**validate(run), "accuracy": -float(run.standing.epoch)}

    def keep(run: Run) -> None:
        kept.update({name: tensor.clone() for name, tensor in run.parts.network.state_dict().items()})
        keep_best(run)

    monkeypatch.setattr(train, "validate", worse_and_worse)
    monkeypatch.setattr(checkpoint, "keep_best", keep)
    overrides = [*SMALL, *NETWORKS["batch_norm"], f"freezing={{use='scripted', script='{script}'}}",
                 "engine.partition=off"]  # fmt: skip
    summary = start_run(load_recipe("smoke", plugged, overrides), plugged, tmp_path / "run", True, NullDisplay())
    assert summary["metrics"]["best"]["epoch"] == 1
    tensors, _ = load_tensors(tmp_path / "run" / "model.safetensors")
    assert [name for name in kept if not torch.equal(kept[name], tensors[name])] == []


BEST = [*product(NETWORKS, SCRIPTS, (1, EPOCHS))]
QUICK_BEST = [("layer_norm", "there and back in mid-epoch", 1), ("batch_norm", "recalibrate", EPOCHS)]
TAKEN_BEST = [*dict.fromkeys([*QUICK_BEST, *share(BEST, 3)])]


@pytest.mark.parametrize(("network", "script", "best"), often(TAKEN_BEST, quick=QUICK_BEST))
def test_a_divided_network_follows_its_plans_to_the_bit(
    plugged: Index, tmp_path: Path, monkeypatch, network: str, script: str, best: int
) -> None:
    """The selected model is that of the first epoch, under the plan of the last, or that of the last itself."""
    monkeypatch.setattr(train, "monitored", lambda run, metrics: float(run.standing.epoch + 1 == best))
    tensors, metrics = {}, {}
    for partition in ("off", "auto"):
        overrides = [*SMALL, *NETWORKS[network], f"freezing={{use='scripted', script='{script}'}}",
                     f"engine.partition={partition}", "engine.chunk=12"]  # fmt: skip
        recipe = load_recipe("smoke", plugged, overrides)
        summary = start_run(recipe, plugged, tmp_path / partition, True, NullDisplay())
        assert summary["metrics"]["best"]["epoch"] == best
        tensors[partition] = load_tensors(tmp_path / partition / "model.safetensors")[0]
        metrics[partition] = summary["metrics"]["best"]
    assert [name for name, one in tensors["off"].items() if not torch.equal(one, tensors["auto"][name])] == []
    for split in ("val", "test"):
        assert metrics["auto"][split] == pytest.approx(metrics["off"][split], rel=1e-4)


def test_a_boundary_is_computed_from_that_of_the_plan_before(plugged: Index, tmp_path: Path, monkeypatch) -> None:
    """Where more is frozen, no image is read again; what comes of it is compared in the test above."""
    read: list[int] = []
    honest = data.Images.__getitem__
    monkeypatch.setattr(data.Images, "__getitem__", lambda self, place: read.append(place[1]) or honest(self, place))
    monkeypatch.setenv("FW_CACHE_DIR", str(tmp_path / "store"))
    overrides = [*SMALL, *NETWORKS["layer_norm"], "freezing={use='scripted', script='freeze by epochs'}",
                 "engine.partition=require"]  # fmt: skip
    summary = start_run(load_recipe("smoke", plugged, overrides), plugged, tmp_path / "run", True, NullDisplay())
    images = summary["data"]["images"]
    assert summary["partition"]["images_carried"] == images["train"] + images["val"]
    assert summary["partition"]["images_computed"] == images["test"], "which no earlier plan was scored on"
    assert len(read) == sum(images.values())


def test_entries_of_plans_gone_by_are_let_go(plugged: Index, tmp_path: Path, monkeypatch) -> None:
    """But for those that the boundary in force is computed from."""
    monkeypatch.setenv("FW_CACHE_DIR", str(tmp_path))
    overrides = [*SMALL, *NETWORKS["batch_norm"], "freezing={use='scripted', script='freeze by epochs'}"]
    run = assemble(load_recipe("smoke", plugged, overrides), plugged)
    feed = feed_of(run, NullDisplay(), lambda: None)

    def opened_under(stages: int) -> set[str]:
        run.frozen.apply(Move(START, stages).plan(run.model.layout))
        feed.follow(9.0)
        return {key for key, entry in feed.filler.entries.items() if entry.facts["boundary"] != "decoded images"}

    two, one, none, thawed = (opened_under(stages) for stages in (2, 1, 0, 2))
    assert two < one, "one is computed from two"
    assert none > one - two
    assert not none & two
    assert not thawed & (none | one - two)


@pytest.mark.parametrize("network", often(NETWORKS, quick=("batch_norm",)))
def test_plans_that_follow_share_two_captures_and_change_no_bit(
    plugged: Index, tmp_path: Path, monkeypatch, network: str
) -> None:
    counts, tensors, metrics = {}, {}, {}
    honest = captures.capture
    for way in ("spliced", "each"):
        calls: list[object] = []
        monkeypatch.setattr(captures, "capture", lambda *given, calls=calls: calls.append(given) or honest(*given))
        if way == "each":
            monkeypatch.setattr(captures, "splice", refuse)
        overrides = [*SMALL, *NETWORKS[network], "freezing={use='scripted', script='there and back in mid-epoch'}",
                     "engine.partition=require"]  # fmt: skip
        recipe = load_recipe("smoke", plugged, overrides)
        start_run(recipe, plugged, tmp_path / way, True, NullDisplay())
        counts[way] = len(calls)
        tensors[way] = load_tensors(tmp_path / way / "model.safetensors")[0]
        metrics[way] = (tmp_path / way / "metrics.jsonl").read_text()
    assert counts["spliced"] == 2
    assert counts["each"] > 4
    assert [name for name, one in tensors["each"].items() if not torch.equal(one, tensors["spliced"][name])] == []
    assert metrics["each"] == metrics["spliced"]


def refuse(*given: object) -> None:
    raise captures.NotSpliced("as if nothing fitted")


def test_a_spliced_graph_that_computes_something_else_is_captured_anew(plugged: Index, monkeypatch) -> None:
    monkeypatch.setattr(captures, "splice", lambda evaluating, training, modes: evaluating)
    script = "freezing={use='scripted', script='freeze by epochs'}"
    overrides = [*SMALL, *NETWORKS["batch_norm"], script, "engine.partition=require"]
    run = assemble(load_recipe("smoke", plugged, overrides), plugged)
    feed = feed_of(run, NullDisplay(), lambda: None)
    feed.divide()
    assert feed.facts()["reason"] is None
    assert not feed.captures.several


def test_a_scale_that_was_not_declared_is_an_error_that_says_so(plugged: Index, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Scripted, "scales", fw.FreezingPolicy.scales)
    script = "freezing={use='scripted', script='other rates'}"
    overrides = [*SMALL, *NETWORKS["layer_norm"], script, "engine.partition=off"]
    with pytest.raises(fw.FwError, match=r"by 0\.5, which its scales\(\) does not name"):
        start_run(load_recipe("smoke", plugged, overrides), plugged, tmp_path / "run", True, NullDisplay())


@pytest.mark.parametrize(("share", "steps", "expected"), [(0.07, 100, 7), (0.29, 100, 29), (1 / 3, 9, 3), (0.34, 9, 4),
                                                          (0.1 + 0.2, 10, 4), (0.0, 5, 0)])  # fmt: skip
def test_a_share_of_the_steps_comes_when_progress_says_so(share: float, steps: int, expected: int) -> None:
    come = [step for step in range(steps) if train.has_come(share, step, steps)]
    assert come == [expected]
    assert [fw.Progress(0, step, 1, steps).fraction >= share for step in come] == [True]
