"""Finishing: a finisher beside tensors that move as in a run, in which no network computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from framework.additions import Finisher
from framework.contracts import Plan, Progress
from framework.files import tensor_digests
from framework.freezing import all_tensors, allowed_to_move
from framework.testing.additions import Contract, some
from framework.testing.case import Case
from framework.testing.chance import seeded
from framework.testing.networks import Sample, sample
from framework.testing.training import numbers

FINISHER = Contract(
    "fw.Finisher", ("follow", "after_step", "after_epoch", "finish", "state", "restore"),
    ("needs_initial", "recalibrates"),
)  # fmt: skip
TAKEN = ("batch_norm", "layer_norm")
"""Networks of the kit with buffers and without, and with a neck and without."""
EPOCHS, STEPS_PER_EPOCH, BEST = 4, 3, 3
STEPS = EPOCHS * STEPS_PER_EPOCH
MOVED = 0.1
"""How far a step takes every number that moves."""

Tensors = Mapping[str, Tensor]
Between = Callable[[int, Finisher, Tensors], Finisher]
"""What is done after each step: (steps done, the finisher, what moves) -> the finisher that goes on."""


@attrs.frozen(eq=False)
class Course:
    """A run's way through plans.

    Attributes:
        words: for messages.
        trains: epoch -> the first of the stages that train from there on, counted from the head; all: -1.
    """

    words: str
    trains: Mapping[int, int]


ONE_PLAN = Course("under one plan", {0: 3})
PLANS_THAT_CHANGE = Course("under plans that let more move, then less", {0: 1, 1: 3, 3: 2})


@attrs.frozen(eq=False)
class Ended:
    """What a run leaves.

    Attributes:
        weights: that `finish` gave.
        selected, initial: that it was given; `initial` as it was, whether the finisher needs it or not.
        live: the network's tensors.
        moved: names of what some plan let move.
    """

    weights: Any
    selected: Tensors
    initial: Tensors
    live: Tensors
    moved: frozenset[str]


@attrs.frozen(eq=False)
class Way:
    """A network of the kit on a course.

    Attributes:
        name: of the network.
        course: through plans.
    """

    name: str
    course: Course

    @property
    def words(self) -> str:
        """Where this is, for messages."""
        return f"on the kit's network {self.name!r} {self.course.words}"

    def go(
        self, finisher: Finisher, between: Between = lambda step, finisher, moving: finisher, seed: int = 0
    ) -> Ended:
        """Moves the network's tensors step by step, the same at each call; what the finisher raises comes through.

        Args:
            finisher: new.
            between: called after each step, and after the end of an epoch that it may be.
            seed: of the generators that all libraries share.
        """
        with seeded(seed):
            return self._go(finisher, between)

    def _go(self, finisher: Finisher, between: Between) -> Ended:
        here = sample(self.name)
        live = all_tensors(here.network)
        initial, selected = copies(live), copies(live)
        moving: dict[str, Tensor] = {}
        moved: set[str] = set()
        for step in range(1, STEPS + 1):
            epoch, done = divmod(step - 1, STEPS_PER_EPOCH)
            if done == 0 and epoch in self.course.trains:
                free = allowed_to_move(here.layout, plan_of(here, self.course.trains[epoch]))
                moving = {name: live[name] for name in live if name in free}
                moved |= free
                finisher.follow(moving)
            move(moving, step)
            finisher.after_step(moving, Progress(epoch, step, EPOCHS, STEPS))
            if done == STEPS_PER_EPOCH - 1:
                finisher.after_epoch(moving, Progress(epoch + 1, step, EPOCHS, STEPS))
                selected = copies(live) if epoch + 1 == BEST else selected
            finisher = between(step, finisher, moving)
        weights: Any = finisher.finish(selected, initial if finisher.needs_initial else {})
        return Ended(weights, selected, initial, live, frozenset(moved))


def plan_of(here: Sample, count: int) -> Plan:
    """Trains so many stages, the head first."""
    return here.layout.plan(name for stage in here.layout.stages[-count:] for name in stage.parameters)


def move(moving: Tensors, step: int) -> None:
    """What a step does: numbers move, and counters count."""
    with torch.no_grad():
        for seed, tensor in enumerate(moving.values(), 1000 * step):
            tensor.add_(MOVED * numbers(tensor.shape, seed) if tensor.is_floating_point() else 1)


def copies(tensors: Tensors) -> dict[str, Tensor]:
    """What tensors hold now."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


class Watch(Finisher):
    """A finisher that looks whether another one writes to what it is given.

    Args:
        watched: that other one.

    Attributes:
        found: the first method that writes to something, and to what, in words; empty where none does.
    """

    def __init__(self, watched: Finisher) -> None:
        self.watched = watched
        self.needs_initial = watched.needs_initial
        self.found = ""

    def follow(self, moving: Tensors) -> None:
        """Passes it on."""
        self._watching("follow", moving)

    def after_step(self, moving: Tensors, progress: Any) -> None:
        """Passes it on."""
        self._watching("after_step", moving, progress)

    def after_epoch(self, moving: Tensors, progress: Any) -> None:
        """Passes it on."""
        self._watching("after_epoch", moving, progress)

    def finish(self, selected: Tensors, initial: Tensors) -> Any:
        """Passes it on."""
        return self._watching("finish", selected, initial)

    def _watching(self, method: str, *given: Any) -> Any:
        shown = {f"{name} of argument {place}": tensor for place, tensors in enumerate(given, 1)
                 if isinstance(tensors, Mapping) for name, tensor in tensors.items()}  # fmt: skip
        before = tensor_digests(shown)
        said = getattr(self.watched, method)(*given)
        written = [name for name, digest in tensor_digests(shown).items() if digest != before[name]]
        self.found = self.found or (f"{method}() writes to {some(written)}" if written else "")
        return said


# ---------------------------------------------------------------------------------------------------- of a case


def finisher_of(case: Case) -> Finisher:
    """A new one; skips where `build` gives none."""
    made: Finisher = FINISHER.made(case)
    return made


def ways(case: Case) -> Iterator[Way]:
    """Each network on the course on which plans change, or on the other one where that fails; skips where both do."""
    found = [way for name in TAKEN if (way := _way(case, name)) is not None]
    if not found:
        pytest.skip("see finishes_a_run")
    yield from found


def _way(case: Case, name: str) -> Way | None:
    there = (Way(name, course) for course in (PLANS_THAT_CHANGE, ONE_PLAN))
    return next((way for way in there if _works(case, way)), None)


def _works(case: Case, way: Way) -> bool:
    try:
        return isinstance(way.go(finisher_of(case)).weights, Mapping)
    except Exception:  # a finisher may raise anything, of which one check alone tells
        return False
