"""Stints: what training takes, measured a few steps at a time, so that other processes can be measured in between."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import attrs
import torch

from framework.bench.costs import TIME_PARTS
from framework.bench.steps import StepClock
from framework.measure import synchronize
from framework.running import Run
from framework.train import train_epoch, validate

SECONDS = 0.3
"""How long a turn is."""
FEWEST = 4
"""Turns where each takes much longer than that."""
AT_LEAST = 2
"""Steps of a stint, and before the first one: the very first also makes buffers and the optimizer's state."""

Done = TypeVar("Done")
Turn = Callable[[], None]
"""Comes back when it is this process's turn to measure."""


@attrs.frozen
class Stint:
    """A few steps.

    Attributes:
        seconds: all in all.
        steps_s: of the steps alone; 0 where parts were read, and an accelerator waited for between them.
        parts_s: of the steps, by part; empty where these were not read.
        images: trained on.
    """

    seconds: float
    steps_s: float
    parts_s: Mapping[str, float]
    images: int


def times_of_turns(run: Run, turn: Turn, turns: int) -> dict[str, Any]:
    """What training takes, turn by turn.

    Args:
        run: on few images, its boundary kept.
        turn: called before each.
        turns: how many there are; fewer where a few steps take longer than a turn should.

    Returns:
        seconds: `image_s` (of training on one image, in each stint), `image_parts_s` (of the same, by part: means over
        the middle half of the stints), `epoch_s` (what an epoch takes beside its steps), `validate_s`.
    """
    clock = StepClock.of(run)
    train_last(run, AT_LEAST)
    step_s = clock.steps[-1]
    steps = max(AT_LEAST, math.ceil(SECONDS / step_s))
    turns = max(FEWEST, math.ceil(turns * min(1.0, SECONDS / (steps * step_s))))
    whole: list[Stint] = []
    parts: list[Stint] = []
    validate_s: list[float] = []
    for number in range(turns):
        turn()
        if clock.waits:
            clock.split = False
            whole += for_a_while(lambda: stint(run, clock, steps))
        clock.split = True
        parts += for_a_while(lambda: stint(run, clock, steps))
        if number in (1, turns - 2):
            validate_s.append(seconds(run.parts.device, lambda: validate(run)))
    timed = whole or parts
    return {
        "image_s": [one.steps_s / one.images for one in timed], "image_parts_s": _mean_parts(parts),
        "epoch_s": statistics.median(one.seconds - one.steps_s for one in timed),
        "validate_s": statistics.fmean(validate_s),
    }  # fmt: skip


def _mean_parts(stints: Sequence[Stint]) -> dict[str, float]:
    """Seconds of each part for one image: means, so that they add up, over the middle half of the stints."""
    of_image = [{part: one.parts_s.get(part, 0.0) / one.images for part in TIME_PARTS} for one in stints]
    ordered = sorted(of_image, key=lambda parts: sum(parts.values()))
    cut = (len(ordered) - 1) // 4
    middle = ordered[cut : len(ordered) - cut]
    return {part: statistics.fmean(parts[part] for parts in middle) for part in TIME_PARTS}


def for_a_while(work: Callable[[], Done]) -> list[Done]:
    """What some work gives, done as often as a turn has time for, and once at least."""
    began = time.perf_counter()
    found = [work()]
    while (time.perf_counter() - began) * (1 + 1 / len(found)) < SECONDS:
        found.append(work())
    return found


def stint(run: Run, clock: StepClock, steps: int) -> Stint:
    """Trains the last few steps of an epoch, while a clock of the run looks on."""
    clock.forget()
    images = run.standing.images_trained
    taken = seconds(run.parts.device, lambda: train_last(run, steps))
    parts_s = {part: sum(step.get(part, 0.0) for step in clock.parts) for part in TIME_PARTS}
    return Stint(taken, sum(clock.steps), parts_s, run.standing.images_trained - images)


def train_last(run: Run, steps: int) -> None:
    """Trains the last few steps of an epoch; the standing goes back, so that the first plan stays in force."""
    at, accumulate = run.standing, run.parts.recipe.train.accumulate
    at.batch = accumulate * max(0, math.ceil(run.batches_per_epoch / accumulate) - steps)
    train_epoch(run)
    at.batch, at.step, at.asked_at = 0, 0, 0


def seconds(device: torch.device, work: Callable[[], Any]) -> float:
    """How long some work takes."""
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began
