"""The one pass over the images, a later epoch from the store, and the epoch of an undivided network; one process.

    pytest -n 0 -s benchmarks/bench_passes.py --benchmark-json=passes.json

Seconds per 1,000 training images, and the epoch at which the pass is repaid. The undivided network is that of
`engine.partition = "off"` in a later epoch, when its images are decoded. Rounds of the two alternate.
"""

from __future__ import annotations

import math
import os
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from peers import contest

pytestmark = pytest.mark.timeout(0)
BACKBONES = ("torchvision/resnet18", "timm/tf_efficientnet_lite0", "timm/vit_tiny_patch16_224")
POLICIES: dict[str, dict[str, Any]] = {
    "frozen": {"freezing__use": "frozen"},
    "last_stages 1": {"freezing__use": "last_stages", "freezing__n": 1},
}
if contest.SHORT:
    del POLICIES["frozen"]
BATCH = 32
IMAGES = BATCH if contest.SHORT else 5 * BATCH
EPOCHS = 10_000
"""More than are trained: a run says how many epochs are worth a pass."""


@attrs.define
class Taken:
    """Seconds: of dividing the network, of the pass, of a later epoch, of an epoch undivided."""

    divide: list[float] = attrs.field(factory=list)
    one_pass: list[float] = attrs.field(factory=list)
    epoch: list[float] = attrs.field(factory=list)
    whole_epoch: list[float] = attrs.field(factory=list)


def seconds_of(run: Any, work: Callable[[], Any]) -> float:
    from framework.measure import synchronize

    synchronize(run.parts.device)
    began = time.perf_counter()
    work()
    synchronize(run.parts.device)
    return time.perf_counter() - began


def new_run(backbone: str, policy: str, partition: str) -> Any:
    """A run before its first step; nothing is written but the store."""
    from framework.display import NullDisplay
    from framework.index import installed_index
    from framework.recipe import load_recipe
    from framework.runs import prepare_run

    keys = contest.overrides(
        **POLICIES[policy], backbone__use=backbone, backbone__weights=["random"], data__subset={"train": IMAGES},
        train__batch_size=BATCH, train__epochs=EPOCHS, engine__partition=partition,
    )  # fmt: skip
    index = installed_index()
    return prepare_run(load_recipe(contest.RECIPE, index, keys), index, Path(), NullDisplay())


def epoch_s(run: Any) -> float:
    """Seconds of a later epoch of training; the first one also makes buffers and the optimizer's state."""
    from framework.train import train_epoch

    for _ in range(2):
        seconds = seconds_of(run, lambda: train_epoch(run))
        run.standing.epoch, run.standing.batch = run.standing.epoch + 1, 0
    return seconds


def take(taken: Taken, backbone: str, policy: str) -> dict[str, Any]:
    """One round from an empty store; gives the facts of the division."""
    from framework.allocator import keeping_memory
    from framework.passed import PASSED

    shutil.rmtree(os.environ["FW_CACHE_DIR"], ignore_errors=True)
    PASSED.clear()
    run = new_run(backbone, policy, "require")
    with keeping_memory(run.parts.device):
        taken.divide.append(seconds_of(run, run.feed.divide))
        taken.one_pass.append(seconds_of(run, lambda: run.feed.follow(EPOCHS)))
        taken.epoch.append(epoch_s(run))
        whole = new_run(backbone, policy, "off")
        whole.feed.follow(EPOCHS)
        taken.whole_epoch.append(epoch_s(whole))
    facts: dict[str, Any] = run.feed.facts()
    return facts


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_passes(benchmark, backbone: str, policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FW_CACHE_DIR", str(tmp_path))
    taken = Taken()
    facts = benchmark.pedantic(lambda: [take(taken, backbone, policy) for _ in range(contest.ROUNDS)][-1], rounds=1)
    found = {name: round(statistics.median(of) * 1000 / IMAGES, 3) for name, of in attrs.asdict(taken).items()}
    found["divide"] = round(statistics.median(taken.divide), 3)  # whatever the number of images
    gained = found["whole_epoch"] - found["epoch"]
    repaid = math.ceil(found["one_pass"] / gained) if gained > 0 else None
    benchmark.extra_info.update(
        seconds_per_1000_images=found, repaid_after_epochs=repaid, partition=facts,
        settings=contest.settings(batch=BATCH, image_size=224, precision="fp32"),
    )  # fmt: skip
    print(f"\n| {backbone} | {policy} | {found['one_pass']:.1f} | {found['epoch']:.2f} | {found['whole_epoch']:.1f} "
          f"| {repaid} |")  # fmt: skip
