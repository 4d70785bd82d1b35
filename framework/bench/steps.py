"""Steps: what each training step takes, and which part of it, read at the seams of the loop."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from framework.additions import Regularizer
from framework.contracts import Split
from framework.feed import Fed, Feed
from framework.measure import synchronize
from framework.mixing import Inputs
from framework.running import Run


@attrs.define(eq=False)
class StepClock:
    """Watches a run's steps from outside: its loop stays the one that trains.

    Attributes:
        device: waited for before each reading.
        split: whether parts are read, for each of which an accelerator has to be waited for.
        steps: seconds of each step, but for those in which that waiting is.
        parts: seconds by part of each step while they were read.
    """

    device: torch.device
    split: bool = False
    steps: list[float] = attrs.field(factory=list)
    parts: list[dict[str, float]] = attrs.field(factory=list)
    _now: dict[str, float] = attrs.field(factory=dict)
    _last: float = 0.0
    _is_moved: bool = False

    @property
    def waits(self) -> bool:
        """Whether a reading has to wait, so that steps whose parts are read take longer."""
        return self.device.type != "cpu"

    @classmethod
    def of(cls, run: Run) -> StepClock:
        """A clock that from now on sees every batch, loss, term and step of a run."""
        clock = cls(run.parts.device)
        criterion, regularizer = run.parts.criterion, run.parts.regularizer

        def timed(logits: Tensor, targets: Tensor) -> Tensor:
            loss = criterion(logits, targets)
            clock.mark("forward")
            return loss

        run.feed = Watched(run.feed, clock)
        weighed = None if regularizer is None else Weighed(regularizer, clock)
        run.parts = attrs.evolve(run.parts, criterion=timed, regularizer=weighed)
        run.parts.optimizer.register_step_pre_hook(lambda *_: clock.mark("backward"))
        run.parts.optimizer.register_step_post_hook(lambda *_: clock.moved())
        return clock

    def begin(self) -> None:
        """An epoch begins."""
        synchronize(self.device)
        self._now, self._is_moved, self._last = {}, False, time.perf_counter()

    def mark(self, part: str) -> None:
        """What passed since the last mark was this part."""
        if self.split:
            self._add(part)

    def moved(self) -> None:
        """The optimizer has moved the parameters: the step ends when the next batch is asked for."""
        self._is_moved = True

    def asked(self) -> None:
        """The loop is done with a batch."""
        if not self._is_moved:
            self.mark("backward")  # of a batch that accumulates
            return
        self._add("optimizer")
        if self.split:
            self.parts.append(self._now)
        if not self.split or not self.waits:
            self.steps.append(sum(self._now.values()))
        self._now, self._is_moved = {}, False

    def _add(self, part: str) -> None:
        synchronize(self.device)
        now = time.perf_counter()
        self._now[part] = self._now.get(part, 0.0) + now - self._last
        self._last = now

    def forget(self) -> None:
        """Begins to read anew."""
        self.steps, self.parts = [], []


class Weighed(Regularizer):
    """A regularizer that has been started, and tells a clock when its term is there.

    Args:
        regularizer: of the run.
        clock: that is told.
    """

    def __init__(self, regularizer: Regularizer, clock: StepClock) -> None:
        self.regularizer, self.clock, self.needs_images = regularizer, clock, regularizer.needs_images

    def term(self, trainable: Mapping[str, nn.Parameter], images: Tensor | None) -> Tensor:
        """As the regularizer gives it."""
        term = self.regularizer.term(trainable, images)
        self.clock.mark("forward")
        return term


@attrs.frozen(eq=False)
class Watched:
    """A feed that tells a clock when a batch is asked for and when it is there."""

    feed: Feed
    clock: StepClock

    def train_batches(self, epoch: int, start: int) -> Iterator[Fed]:
        """As the feed gives them."""
        self.clock.begin()
        for batch in self.feed.train_batches(epoch, start):
            self.clock.mark("data")
            try:
                yield batch
            finally:  # also where the loop leaves, as it does after an epoch's last batch
                self.clock.asked()

    def batches(self, split: Split) -> Iterator[Fed]:
        """As the feed gives them."""
        return self.feed.batches(split)

    def forward(self, inputs: Inputs) -> Tensor:
        """As the feed does it."""
        return self.feed.forward(inputs)

    def batches_per_epoch(self) -> int:
        """As the feed has it."""
        return self.feed.batches_per_epoch()

    def divide(self) -> None:
        """As the feed does it."""
        self.feed.divide()

    def follow(self, passes: float) -> None:
        """As the feed does it."""
        self.feed.follow(passes)

    def facts(self) -> dict[str, Any]:
        """As the feed says."""
        return self.feed.facts()
