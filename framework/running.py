"""Running: one training run in flight, its objects and where it stands."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
from torch import Tensor

from framework.assemble import Assembly
from framework.contracts import Progress, Split
from framework.display import Display
from framework.errors import FwError
from framework.feed import Feed
from framework.gradients import Gradients, Tally, wanted_signals
from framework.measure import Clock, autocast
from framework.schedule import Schedule, build_schedule
from framework.score import Scores
from framework.signals import StopRequest
from framework.watchers import Watchers


@attrs.define
class Best:
    """The best epoch so far by the monitored metric.

    Attributes:
        epoch: counted from 1; 0 before there is one.
        value: of the monitor.
    """

    epoch: int = 0
    value: float = math.nan


@attrs.define
class Standing:
    """Where a run stands; with the tensors, all that a resumed run needs.

    Attributes:
        epoch: epochs done.
        batch: batches done of the epoch under way.
        step: optimizer steps done.
        loss_sum, images: of the epoch under way, for its mean training loss.
        term_sum: of the regularizer's term in that epoch, as `loss_sum`.
        asked_at: the step before which the policy was last asked.
        tally: what the policy wants to know of the steps since then.
        best: the best epoch.
        last: metrics of the newest epoch (`train.loss`, `val.accuracy`, ...).
        log_bytes: length of `metrics.jsonl` up to here.
        skipped: names of images that could not be read -> why.
        movable: tensors that some plan so far let move.
        plan_changes: each change of plan so far, as the summary has it.
        images_trained: for images/s.
        stopped_early: whether patience ran out.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    term_sum: float = 0.0
    images: int = 0
    asked_at: int = -1
    tally: Tally = attrs.field(factory=Tally)
    best: Best = attrs.field(factory=Best)
    last: dict[str, float] = attrs.field(factory=dict)
    log_bytes: int = 0
    skipped: dict[str, str] = attrs.field(factory=dict)
    movable: set[str] = attrs.field(factory=set)
    plan_changes: list[dict[str, Any]] = attrs.field(factory=list)
    images_trained: int = 0
    stopped_early: bool = False

    def to_json(self) -> dict[str, Any]:
        """The standing as JSON values."""
        return {**attrs.asdict(self), "movable": sorted(self.movable)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Standing:
        """The standing that `to_json` gave."""
        parts = {"best": Best(**values["best"]), "tally": Tally(**values.get("tally", {}))}
        return cls(**{**values, **parts, "movable": set(values["movable"])})


@attrs.define(eq=False)
class Run:
    """What the loop works with.

    Attributes:
        parts: network, optimizer and the rest, as assembled.
        feed: where batches come from.
        schedule: the learning rates.
        standing: where the run stands.
        folder: the run directory.
        display, watchers: who is told.
        clock: seconds by what they were spent on.
        stop: whether a signal has asked to stop.
        pending: losses not yet looked at, each with the regularizer's term, if there is one, and its number of images.
        images_in_step: images read for the optimizer step under way.
        newest: what the newest epoch made of the validation split; None where another process trained it.
        facts: what the run started from: `weights`, `environment`, `data`, `recipe`, `heading`.
        best: what can move, as the best epoch has it, where that is not on disk.
        saved_at: when the newest checkpoint was written, or the run began, by `time.monotonic`.
        initial: every tensor as the run began with it, where the regularizer or finisher asks for that.
        gradients: looks at them where the policy wants to know; an unknown wish is an error here, before training.
    """

    parts: Assembly
    feed: Feed
    schedule: Schedule
    standing: Standing
    folder: Path
    display: Display
    watchers: Watchers
    clock: Clock
    stop: StopRequest
    pending: list[tuple[Tensor, Tensor | None, int]] = attrs.field(factory=list)
    images_in_step: int = 0
    newest: Scores | None = None
    facts: Mapping[str, Any] = attrs.field(factory=dict)
    best: dict[str, Tensor] = attrs.field(factory=dict)
    saved_at: float = attrs.field(factory=time.monotonic)
    initial: dict[str, Tensor] = attrs.field(factory=dict)
    gradients: Gradients = attrs.field(init=False)

    @gradients.default
    def _gradients(self) -> Gradients:
        parts = self.parts
        wanted = wanted_signals(parts.policy, parts.recipe.parts["freezing"].use)
        return Gradients(wanted, parts.network, parts.model.layout)

    def note_skipped(self, split: Split, skipped: Iterable[tuple[int, str]]) -> None:
        """Remembers which images of a split could not be read, by name, once."""
        self.standing.skipped.update({split.names[position]: reason for position, reason in skipped})

    def note_loss(self, loss: Tensor, term: Tensor | None, count: int) -> None:
        """Remembers a batch's mean loss, and the regularizer's term, without waiting for the device to compute it."""
        self.pending.append((loss.detach(), None if term is None else term.detach(), count))

    def settle(self) -> None:
        """Adds up what is remembered, in its order, so that no sum depends on when this is called.

        Raises:
            FwError: the loss is no number any more, so that nothing of it reaches a checkpoint.
        """
        at = self.standing
        for loss, term, count in self.pending:
            at.loss_sum += float(loss) * count
            at.term_sum += float(term) * count if term is not None else 0.0
            at.images += count
        self.pending.clear()
        self.gradients.settle(at.tally)
        if not math.isfinite(at.loss_sum + at.term_sum):
            what = "the loss" if not math.isfinite(at.loss_sum) else "the regularizer's term"
            raise FwError(f"{what} is {at.loss_sum + at.term_sum} at step {at.step}, in epoch {at.epoch + 1}",
                          "lower optimizer.lr, or set train.clip_norm")  # fmt: skip

    def take_signals(self) -> dict[str, dict[str, float]]:
        """What the policy wants to know of the steps since it was last asked; the next ones are counted anew."""
        self.settle()
        return self.standing.tally.take()

    @cached_property
    def batches_per_epoch(self) -> int:
        """Batches of an epoch."""
        return self.feed.batches_per_epoch()

    @cached_property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return math.ceil(self.batches_per_epoch / self.parts.recipe.train.accumulate)

    @cached_property
    def steps(self) -> int:
        """Optimizer steps of the whole run, `max_steps` taken into account."""
        total = self.parts.recipe.train.epochs * self.steps_per_epoch
        limit = self.parts.recipe.train.max_steps
        return min(total, limit) if limit else total

    @cached_property
    def epochs(self) -> int:
        """Epochs of the run; the last may be cut short by `max_steps`."""
        return math.ceil(self.steps / self.steps_per_epoch)

    @property
    def epoch_is_over(self) -> bool:
        """Whether every batch of the epoch under way is done, or the run's last step."""
        return self.standing.batch >= self.batches_per_epoch or self.standing.step >= self.steps

    @property
    def is_over(self) -> bool:
        """Whether no epoch is left."""
        return self.standing.epoch >= self.epochs or self.standing.stopped_early

    def progress(self) -> Progress:
        """Where the run stands, for policies and schedulers."""
        at = self.standing
        return Progress(at.epoch, at.step, self.epochs, self.steps, dict(at.last))

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of `train.precision` for forward passes."""
        return autocast(self.parts.recipe.train.precision, self.parts.device)


def new_schedule(parts: Assembly, feed: Feed) -> Schedule:
    """The learning-rate schedule of a run that begins.

    Raises:
        FwError: an epoch has no batch; the phases do not fit the run.
    """
    keys = parts.recipe.train
    steps = math.ceil(feed.batches_per_epoch() / keys.accumulate)
    if not steps:
        raise FwError(f"an epoch has no batch: there are {len(parts.data.train)} training images, "
                      f"train.batch_size = {keys.batch_size} and train.drop_last = {str(keys.drop_last).lower()}",
                      "take a smaller train.batch_size, or set train.drop_last = false")  # fmt: skip
    return build_schedule(parts.phases, parts.optimizer, steps, keys.epochs, keys.max_steps)
