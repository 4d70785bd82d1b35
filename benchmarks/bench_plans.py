"""Policies whose plan changes, on ResNet-18: whole runs, divided against whole; and what dividing could save at most.

    pytest -n 0 -s benchmarks/bench_plans.py --benchmark-json=plans.json

A run is a process of its own that begins with an empty feature store; plain is `engine.partition = "off"`. Rounds begin
with either in turn. What is equal is said: the validation metrics of every epoch, and the steps at which plans changed.
At 36 pixels the images are digits and the weights random; at 224 they are the peers' photographs, and the weights come
from a run on Fashion-MNIST, which is trained first: when a stage comes to rest depends on both.

The bound is worked out from steps that are timed under each plan of `gradual_unfreeze`, plain and divided in turn, and
from how many steps a calendar gives to each: were boundaries there for nothing, and computed once for each plan.
`auto_freeze` has the same plans the other way round; its calendar is the shortest that can be, where a stage freezes
as soon as the percentile lets one.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from bench_steps import BATCH, BATCHES, STEPS, Stepper, alternate
from peers import contest

pytestmark = pytest.mark.timeout(0)
EPOCHS = 2 if contest.SHORT else 10
COMMON = {
    "train.epochs": EPOCHS, "optimizer.lr": 0.01, "train.report": False, "train.drop_last": True, "engine.chunk": BATCH,
}  # fmt: skip
PRETRAINING = {
    "backbone.weights": ["random"], "data.subset": {"per_class": 600, "val_per_class": 50}, "train.epochs": 5,
    "train.report": False,
}  # fmt: skip
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def digits(size: int = 36) -> Mapping[str, Any]:
    """What a run on digits is told, from random weights."""
    few = {"data.subset": {"train": 64, "val": 32, "test": 32}} if contest.SHORT else {}
    return {"backbone.weights": ["random"], "backbone.image_size": size, **few}


def photographs() -> Mapping[str, Any]:
    """What a run on photographs is told, from weights that were trained on other images."""
    data = {"use": "image_folder", "root": str(contest.photographs())}
    return {"backbone.weights": [f"run:{pretrained()}"], "backbone.image_size": 224, "data": data}


@functools.cache
def pretrained() -> Path:
    """A run that trained ResNet-18 on Fashion-MNIST; kept beside the photographs."""
    if not FASHION_MNIST.is_dir():
        pytest.skip(f"the weights are trained on Fashion-MNIST, which is not at {FASHION_MNIST}")
    folder = contest.photographs() / "pretrained"
    if not (folder / "model.safetensors").exists():  # written when all is done
        contest.run_process([*run_of("fashion_mnist_finetune", folder, PRETRAINING), "--overwrite"])
    return folder


@attrs.frozen
class Case:
    """A policy, and on what it trains which weights; `at_least` is the budget of plain over divided."""

    freezing: Mapping[str, Any]
    work: Callable[[], Mapping[str, Any]]
    at_least: float | None = None


CASES = {
    "gradual_unfreeze at 36": Case({"use": "gradual_unfreeze"}, digits),
    "auto_freeze at 36": Case({"use": "auto_freeze"}, digits),
    "gradual_unfreeze over the run at 224": Case({"use": "gradual_unfreeze", "every": EPOCHS}, photographs, 1.5),
    "auto_freeze at 224": Case({"use": "auto_freeze"}, photographs, 1.5),
    "auto_freeze(percentile=0.8) at 224": Case({"use": "auto_freeze", "percentile": 0.8}, photographs, 1.5),
    "auto_freeze(intervals=50) at 224": Case({"use": "auto_freeze", "intervals": 50}, photographs, 1.5),
}
if contest.SHORT:
    CASES = dict([*CASES.items()][:1])
UNFREEZE = {
    "gradual_unfreeze, a stage an epoch, 10 epochs": (1, 10),
    "gradual_unfreeze, a stage an epoch, 6 epochs": (1, 6),
    "gradual_unfreeze, evenly over 10 epochs": (10, 10),
    "gradual_unfreeze, every=2, 11 epochs": (2, 11),
}
"""(`every`, epochs)."""
FREEZE = {"auto_freeze, at its soonest": 0.5, "auto_freeze(percentile=0.8), at its soonest": 0.8}
"""The percentile; 10 epochs."""
SIZES = (36,) if contest.SHORT else (36, 224)


def contestant(case: Case, partition: str) -> contest.Contestant:
    """A whole run; its accuracy, its seconds, and what it left are in the result."""
    folder = contest.scratch() / f"plans-{partition}"
    keys = {**COMMON, **case.work(), "freezing": case.freezing, "engine.partition": partition}

    def before() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        contest.empty_store()

    def result(output: str) -> Mapping[str, Any]:
        summary = json.loads((folder / "summary.json").read_text())
        return {"accuracy": summary["metrics"]["final"]["val"]["accuracy"], "seconds": summary["time_s"]}

    return contest.Contestant(partition, run_of("resnet18_frozen", folder, keys), before, result)


def run_of(recipe: str, folder: Path, keys: Mapping[str, Any]) -> list[str]:
    """The command of a run of a recipe with other keys."""
    given = [part for one in assignments(keys) for part in ("--set", one)]
    return [*contest.FW, "run", recipe, "--out", str(folder), *given]


def assignments(keys: Mapping[str, Any]) -> list[str]:
    """Keys and values as `--set` takes them."""
    return [f"{key}={toml(value)}" for key, value in keys.items()]


def toml(value: Any) -> str:
    """A value as `--set` takes it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + "}"
    return json.dumps(value)


def left(partition: str) -> tuple[list[dict[str, float]], list[int]]:
    """The validation metrics of every epoch of the newest run, and the steps before which its plan changed."""
    folder = contest.scratch() / f"plans-{partition}"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    metrics = [{name: value for name, value in line.items() if name.startswith("val.")} for line in lines]
    changes = json.loads((folder / "summary.json").read_text())["plan_changes"]
    return [one for one in metrics if one], [change["step"] for change in changes]


@pytest.mark.parametrize("name", CASES)
def test_whole_runs(benchmark, name: str) -> None:
    case = CASES[name]
    both = [contestant(case, partition) for partition in ("off", "auto")]
    laps: dict[str, list[contest.Lap]] = {one.name: [] for one in both}
    if not contest.SHORT:
        contest.run_process([*contest.FW, "validate", "resnet18_frozen"])  # byte code and the index

    def rounds() -> None:
        for number in range(contest.ROUNDS):
            for one in both[:: 1 if number % 2 == 0 else -1]:
                laps[one.name].append(contest.lap(one))

    benchmark.pedantic(rounds, rounds=1)
    plain, divided = (statistics.median(lap.seconds for lap in laps[one.name]) for one in both)
    apart, moments = difference(*(left(one.name) for one in both))
    reached = contest.reached(plain / divided, at_least=case.at_least)
    benchmark.extra_info.update(
        laps={one.name: [attrs.asdict(lap) for lap in laps[one.name]] for one in both}, ratio=round(plain / divided, 3),
        at_least=case.at_least, reached=reached, largest_difference=apart, plan_changes=moments,
        settings=contest.settings(batch=BATCH, epochs=EPOCHS, precision="fp32", **case.freezing),
    )  # fmt: skip
    print(
        f"\n{name}: plain {plain:.1f} s, divided {divided:.1f} s, ratio {plain / divided:.2f} "
        f"({contest.verdict(reached, f'at least {case.at_least}')}); plans change at steps {moments['off']}, "
        f"divided at {moments['auto']}; validation metrics differ by at most {apart:.2g}"
    )


def difference(plain: Any, divided: Any) -> tuple[float, dict[str, list[int]]]:
    """The largest difference of any metric of any epoch, and when the plans changed."""
    pairs = zip(plain[0], divided[0], strict=True)
    apart = max(abs(one[name] - other[name]) for one, other in pairs for name in one)
    return apart, {"off": plain[1], "auto": divided[1]}


@pytest.fixture
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FW_CACHE_DIR", os.environ.get("FW_CACHE_DIR", str(tmp_path)))


@attrs.frozen
class Timed:
    """Seconds of a batch under one plan: its step plain, its step divided, its way through the fixed part."""

    plain: float
    divided: float
    fixed: float


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.usefixtures("own_store")
def test_bound(benchmark, size: int) -> None:
    timed: list[Timed] = []
    benchmark.pedantic(lambda: timed.extend(timed_plans(size)), rounds=1)
    found = {name: bounds(timed, thawing_steps(*keys), sum) for name, keys in UNFREEZE.items()} | {
        name: bounds(timed, freezing_steps(percentile), max) for name, percentile in FREEZE.items()
    }
    benchmark.extra_info.update(plans=[attrs.asdict(one) for one in timed], bounds=found,
                                settings=contest.settings(batch=BATCH, image_size=size, precision="fp32"))  # fmt: skip
    print(f"\nResNet-18 at {size}, a batch under each plan of gradual_unfreeze, head to everything:")
    for number, one in enumerate(timed):
        print(f"  {number} stages: plain {one.plain:.4f} s, divided {one.divided:.4f} s, fixed part {one.fixed:.4f} s")
    for name, (free, filled) in found.items():
        print(f"  {name}: at most {free:.2f}x, with each boundary computed once {filled:.2f}x")


def timed_plans(size: int) -> list[Timed]:
    """Every plan of `gradual_unfreeze` in turn, on a network of either kind."""
    plain, divided = (stepper(size, partition) for partition in ("off", "auto"))
    timed = []
    for plan in plans_of(plain):
        for one in (plain, divided):
            put_in_force(one, plan)
        alternate(plain, divided)
        medians = [statistics.median(one.steps) for one in (plain, divided)]
        timed.append(Timed(*medians, fixed_seconds(plain, divided)))
    return timed


def stepper(size: int, partition: str) -> Stepper:
    from framework.assemble import assemble
    from framework.display import NullDisplay
    from framework.index import installed_index
    from framework.recipe import load_recipe
    from framework.runs import feed_of

    index = installed_index()
    keys = {**COMMON, **digits(size), "freezing": {"use": "gradual_unfreeze"}, "engine.partition": partition,
            "data.subset": {"train": BATCH * BATCHES}}  # fmt: skip
    parts = assemble(load_recipe("resnet18_frozen", index, assignments(keys)), index)
    parts.frozen.auditor.open(parts.frozen.plan)
    return Stepper(parts, feed_of(parts, NullDisplay(), lambda: None))


def plans_of(one: Stepper) -> Sequence[Any]:
    """Its plans, asked for as in a run with a change at every epoch."""
    import framework as fw

    layout, count = one.parts.model.layout, len(one.parts.model.layout.stages) + 1
    asked = [one.parts.policy.next(layout, fw.Progress(epoch, epoch, count, count, {})) for epoch in range(count)]
    return [plan for number, plan in enumerate(asked) if plan not in asked[:number]]


def put_in_force(one: Stepper, plan: Any) -> None:
    one.parts.frozen.auditor.close()
    one.parts.frozen.apply(plan)
    one.parts.groups.follow(plan)
    one.parts.frozen.auditor.open(plan)
    one.feed.follow(EPOCHS)
    one.batches = iter(())


def fixed_seconds(plain: Stepper, divided: Stepper) -> float:
    """Of a batch through the fixed part while every lane has one; 0 where nothing is fixed."""
    if divided.feed.keeper is None:
        return 0.0
    lanes = divided.feed.keeper.fixed.lanes
    images = next(iter(plain.feed.train_batches(0, 0))).inputs.repeat(lanes, 1, 1, 1)
    seconds = []
    for _ in range(1 + STEPS):
        began = time.perf_counter()
        divided.feed.keeper.boundary(images)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:]) / lanes


def thawing_steps(every: int, epochs: int, per_epoch: int = 60) -> list[int]:
    """How many of a run's steps each plan of `gradual_unfreeze` has, from the head's to everything."""
    import framework as fw
    from fw_freezing.head_first import GradualUnfreeze

    keys, steps = GradualUnfreeze(every=every), epochs * per_epoch
    calendar = keys.calendar(5)
    places = [fw.Progress(step // per_epoch, step, epochs, steps, {}) for step in range(steps)]
    counts = Counter(calendar.changes(place) for place in places)
    return [counts[number] for number in range(6)]


def freezing_steps(percentile: float, epochs: int = 10, per_epoch: int = 60) -> list[int]:
    """How many of a run's steps each plan of `auto_freeze` has, from the head's to everything.

    Its changes of gradients are as it would have them: they grow from stage to stage, at every comparison.
    """
    from fw_freezing.auto_freeze import AutoFreeze, leading

    intervals, counts = AutoFreeze().intervals, [0] * 6
    stages = [f"stage {number}" for number in range(5)]
    for interval in range(intervals):
        counts[len(stages)] += epochs * per_epoch // intervals
        if interval:  # two intervals are compared
            changes = {stage: float(number) for number, stage in enumerate(stages)}
            stages = stages[leading(stages, changes, percentile) :]
    return counts


def bounds(
    timed: Sequence[Timed], steps: Sequence[int], computed: Callable[[Iterable[float]], float], per_epoch: int = 60
) -> tuple[float, float]:
    """Plain over divided: with boundaries for nothing, and each computed once, for all images, under its plan.

    `computed` makes one sum of the fixed parts of all plans: `sum` where each begins with the images, `max` where each
    goes on from the one before.
    """
    plain = sum(count * one.plain for count, one in zip(steps, timed, strict=True))
    divided = sum(count * one.divided for count, one in zip(steps, timed, strict=True))
    once = per_epoch * computed(one.fixed for count, one in zip(steps, timed, strict=True) if count)
    return round(plain / divided, 3), round(plain / (divided + once), 3)
