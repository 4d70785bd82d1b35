"""One training step with the last stage trainable, from a stored boundary, beside the plain step; one process.

    pytest -n 0 benchmarks/bench_steps.py --benchmark-json=steps.json

A step is forward, backward and the optimizer's step on a batch of 32 at 224; the plain one is that of
`engine.partition = "off"`. Reading the batch, from images or from the feature store, is timed beside it and stands in
extra_info. Plain and divided steps alternate.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from peers import contest

pytestmark = pytest.mark.timeout(0)
BUDGETS = {
    "timm/tf_efficientnet_lite0": 8,
    "torchvision/densenet121": 6,
    "timm/convnext_atto": 3,
    "timm/swin_tiny_patch4_window7_224": 3,
    "timm/vit_tiny_patch16_224": 3,
}
if contest.SHORT:  # one with batch norms and one without
    BUDGETS = {name: BUDGETS[name] for name in ("timm/tf_efficientnet_lite0", "timm/vit_tiny_patch16_224")}
BATCH, BATCHES = 32, 2
STEPS = 1 if contest.SHORT else 7


@attrs.define(eq=False)
class Stepper:
    """A network under its recipe, and what it took so far.

    Attributes:
        parts: the assembly.
        feed: where its batches come from.
        steps, readings: seconds of each step, and of reading each batch.
    """

    parts: Any
    feed: Any
    steps: list[float] = attrs.field(factory=list)
    readings: list[float] = attrs.field(factory=list)
    epoch: int = 0
    batches: Iterator[Any] = attrs.field(factory=lambda: iter(()))

    def step(self) -> None:
        """Reads a batch and trains on it."""
        from framework.measure import synchronize

        self.parts.frozen.train()
        batch = self._timed(self.readings, self._next)
        synchronize(self.parts.device)
        self._timed(self.steps, lambda: self._train(batch))

    def _next(self) -> Any:
        batch = next(self.batches, None)
        while batch is None:
            self.batches, self.epoch = self.feed.train_batches(self.epoch, 0), self.epoch + 1
            batch = next(self.batches, None)
        return batch

    def _train(self, batch: Any) -> None:
        loss = self.parts.criterion(self.feed.forward(batch.inputs), batch.targets)
        loss.backward()
        self.parts.optimizer.step()
        self.parts.optimizer.zero_grad(set_to_none=True)

    def _timed(self, seconds: list[float], work: Callable[[], Any]) -> Any:
        from framework.measure import synchronize

        began = time.perf_counter()
        done = work()
        synchronize(self.parts.device)
        seconds.append(time.perf_counter() - began)
        return done


def stepper(backbone: str, partition: str) -> Stepper:
    """A network with its last stage trainable, ready for its first step."""
    from framework.assemble import assemble
    from framework.display import NullDisplay
    from framework.index import installed_index
    from framework.recipe import load_recipe
    from framework.runs import feed_of

    keys = contest.overrides(
        backbone__use=backbone, backbone__weights=["random"], freezing__use="last_stages", freezing__n=1,
        data__subset={"train": BATCH * BATCHES}, train__batch_size=BATCH, train__drop_last=True,
        engine__partition=partition,
    )  # fmt: skip
    index = installed_index()
    parts = assemble(load_recipe(contest.RECIPE, index, keys), index)
    parts.frozen.auditor.open(parts.frozen.plan)
    feed = feed_of(parts, NullDisplay(), lambda: None)
    feed.follow(STEPS)
    return Stepper(parts, feed)


@pytest.fixture
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FW_CACHE_DIR", os.environ.get("FW_CACHE_DIR", str(tmp_path)))


def alternate(plain: Stepper, divided: Stepper) -> None:
    for both in (plain, divided):
        both.step()  # the first one allocates
        both.steps.clear()
        both.readings.clear()
    for _ in range(STEPS):
        plain.step()
        divided.step()


@pytest.mark.parametrize("backbone", BUDGETS)
@pytest.mark.usefixtures("own_store")
def test_step(benchmark, backbone: str) -> None:
    plain, divided = stepper(backbone, "off"), stepper(backbone, "require")
    benchmark.pedantic(alternate, args=(plain, divided), rounds=1)
    step, with_reading = (ratio_of(plain, divided, reading) for reading in (False, True))
    reached = contest.reached(step, at_least=BUDGETS[backbone])
    benchmark.extra_info.update(
        plain_s=plain.steps, divided_s=divided.steps, plain_reading_s=plain.readings,
        divided_reading_s=divided.readings, ratio=round(step, 2), ratio_with_reading=round(with_reading, 2),
        at_least=BUDGETS[backbone], reached=reached, partition=divided.feed.facts(),
        settings=contest.settings(batch=BATCH, image_size=224, precision="fp32"),
    )  # fmt: skip
    seconds = [statistics.median(of.steps) for of in (plain, divided)]
    print(f"\n{backbone}: plain {seconds[0]:.3f} s, divided {seconds[1]:.3f} s, ratio {step:.1f} "
          f"({contest.verdict(reached, f'at least {BUDGETS[backbone]}')}); "
          f"with reading {with_reading:.1f}; boundary {divided.feed.facts()['boundary']}")  # fmt: skip


def ratio_of(plain: Stepper, divided: Stepper, reading: bool) -> float:
    """The plain step's median time over the divided one's."""
    medians = [
        statistics.median(of.steps) + (statistics.median(of.readings) if reading else 0.0) for of in (plain, divided)
    ]
    return medians[0] / medians[1]
