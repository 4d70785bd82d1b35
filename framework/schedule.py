"""Schedule: the recipe's scheduler phases, one after the other, over one optimizer with groups that stay."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs

from framework.contracts import Progress, Scheduler
from framework.errors import FwError
from framework.tables import SchedulerKeys

if TYPE_CHECKING:
    from torch.optim import Optimizer

MOVED = ("momentum", "betas")
"""What schedulers move in a group beside its `lr` (OneCycleLR, CyclicLR)."""

WARM_UP_START = 0.01
"""The factor at which `Schedule.warm_up` begins."""


@attrs.frozen
class Phase:
    """One `[[scheduler]]` table.

    Attributes:
        config: the bound component; `config.build(optimizer, steps, epochs)` gives a `Scheduler`.
        keys: the core's keys of the table.
    """

    config: Any
    keys: SchedulerKeys = attrs.field(factory=SchedulerKeys)


@attrs.frozen
class Span:
    """How long a phase lasts: optimizer steps, and the epochs that hold them."""

    steps: int
    epochs: int


def build_schedule(
    phases: Sequence[Phase], optimizer: Optimizer, steps_per_epoch: int, epochs: int, max_steps: int = 0
) -> Schedule:
    """The schedule of a run, its first phase begun.

    Each group's base rate is `group["base_lr"]`, else the `lr` it has now. Every phase begins from the base rates.

    Args:
        phases: the recipe's tables, at least one; each but the last states its length.
        optimizer: with every group that it will ever have.
        steps_per_epoch: optimizer steps in a whole epoch.
        epochs: epochs of the run.
        max_steps: the run stops after this many steps; 0: no limit.

    Raises:
        FwError: a phase before the last without `epochs`; phases longer than the run.
    """
    for group in optimizer.param_groups:
        group.setdefault("base_lr", group["lr"])
    whole = steps_per_epoch * epochs
    steps = min(max_steps, whole) if max_steps else whole
    _check(phases, epochs)
    return Schedule(tuple(phases), optimizer, steps_per_epoch, steps)


def _check(phases: Sequence[Phase], epochs: int) -> None:
    for number, phase in enumerate(phases[:-1], start=1):
        if phase.keys.epochs is None:
            raise FwError(
                f"[[scheduler]] phase {number} of {len(phases)} does not say how long it lasts",
                "give it a key epochs; only the last phase takes what is left",
            )
    stated = sum(phase.keys.epochs or 0 for phase in phases)
    left = phases[-1].keys.epochs is None and len(phases) > 1
    if stated + left > epochs:
        raise FwError(
            f"the [[scheduler]] phases need {stated + left} epochs and the run has {epochs}"
            + (f": {stated} before the last phase, which needs one" if left else ""),
            "shorten a phase, or raise train.epochs",
        )


class Schedule:
    """Moves the learning rates through the phases; a phase that has ended before the run leaves them where they are.

    Attributes:
        scheduler: that of the phase in force.
        phase: its number, from 0.
    """

    scheduler: Scheduler

    def __init__(self, phases: tuple[Phase, ...], optimizer: Optimizer, steps_per_epoch: int, steps: int) -> None:
        self._phases = phases
        self._optimizer = optimizer
        self._steps_per_epoch = steps_per_epoch
        self._steps = steps
        self._step = 0
        self._ramp: tuple[int, int] | None = None
        self._begin(0)

    def after_step(self, progress: Progress) -> None:
        """An optimizer step is done."""
        self._step += 1
        with self._scheduled_rates():
            if self.scheduler.every == "step" and self._step - self._begun <= self._span.steps:
                self.scheduler.step(progress)
            if self._ramp:
                done, length = self._ramp
                self._ramp = (done + 1, length) if done + 1 < length else None

    def after_epoch(self, progress: Progress, metric: float | None) -> None:
        """An epoch is done and validated; the next phase begins where this one's epochs are over.

        Args:
            metric: the monitored value.
        """
        self._epochs_done += 1
        with self._scheduled_rates():
            if self.scheduler.every == "epoch" and self._epochs_done <= self._span.epochs:
                self.scheduler.step(progress, metric)
            if self._epochs_done == self._span.epochs and self._later_phase_fits():
                self._begin(self.phase + 1)

    def restart(self) -> None:
        """Starts over with the first phase, over what is left of the run; a phase that no longer fits is left out."""
        self._ramp = None
        self._begin(0)

    def warm_up(self) -> None:
        """Ramps the rates up linearly from a hundredth over one epoch's steps, while the schedule goes on beneath."""
        with self._scheduled_rates():
            self._ramp = (0, min(self._steps_per_epoch, max(1, self._steps - self._step)))

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, as JSON values; floats keep every bit."""
        return {
            "step": self._step,
            "phase": self.phase,
            "begun": self._begun,
            "epochs_done": self._epochs_done,
            "ramp": list(self._ramp) if self._ramp else None,
            "rates": list(self._rates),
            "moved": [{name: _as_list(group[name]) for name in MOVED if name in group} for group in self._groups],
            "scheduler": self.scheduler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what `state_dict` gave, on a schedule built from the same recipe; sets the groups' rates too."""
        # The phase is built as it was when it began, so that its scheduler holds the same constants.
        self._step = state["begun"]
        self._begin(state["phase"])
        self._step, self._epochs_done = state["step"], state["epochs_done"]
        self._ramp = tuple(state["ramp"]) if state["ramp"] else None
        self.scheduler.load_state_dict(state["scheduler"])
        for group, moved in zip(self._groups, state["moved"], strict=True):
            group.update({name: _like(group[name], value) for name, value in moved.items()})
        self._rates = list(state["rates"])
        self._apply_ramp()

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return self._optimizer.param_groups

    def _begin(self, phase: int) -> None:
        """Builds a phase's scheduler on groups that are as the recipe's optimizer made them."""
        self.phase, self._begun, self._epochs_done = phase, self._step, 0
        self._span = self._length(phase)
        for group in self._groups:
            _reset(group, self._optimizer.defaults)
        self.scheduler = _build(self._phases[phase], self._optimizer, self._span)
        self._rates = [group["lr"] for group in self._groups]

    def _length(self, phase: int) -> Span:
        """A phase's span from here: its epochs, of which a restart can have cut the first short, or what is left."""
        left = self._steps - self._step
        first = self._steps_per_epoch - self._step % self._steps_per_epoch
        epochs_left = 1 + max(0, -(-(left - first) // self._steps_per_epoch))
        epochs = min(self._phases[phase].keys.epochs or epochs_left, epochs_left)
        steps = min(first + (epochs - 1) * self._steps_per_epoch, left)
        return Span(max(1, steps), epochs)

    def _later_phase_fits(self) -> bool:
        return self.phase + 1 < len(self._phases) and self._step < self._steps

    @contextmanager
    def _scheduled_rates(self) -> Iterator[None]:
        """The groups with the schedule's own rates, which many schedulers compute the next ones from."""
        for group, rate in zip(self._groups, self._rates, strict=True):
            group["lr"] = rate
        yield
        self._rates = [group["lr"] for group in self._groups]
        self._apply_ramp()

    def _apply_ramp(self) -> None:
        done, length = self._ramp or (1, 1)
        factor = WARM_UP_START + (1.0 - WARM_UP_START) * (done / length)
        for group, rate in zip(self._groups, self._rates, strict=True):
            group["lr"] = rate * factor if self._ramp else rate


def _build(phase: Phase, optimizer: Optimizer, span: Span) -> Scheduler:
    build: Callable[..., Scheduler] = phase.config.build
    if phase.keys.every == "auto":
        return build(optimizer, span.steps, span.epochs)
    if "every" not in inspect.signature(build).parameters:
        raise FwError("this scheduler itself decides when it moves", 'leave out the key every, or set it to "auto"')
    return build(optimizer, span.steps, span.epochs, every=phase.keys.every)


def _reset(group: dict[str, Any], defaults: dict[str, Any]) -> None:
    group["lr"] = group["base_lr"]
    group.pop("initial_lr", None)  # left by an earlier scheduler, from which the next would take its first rates
    group.update({name: defaults[name] for name in MOVED if name in group and name in defaults})


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _like(old: Any, value: Any) -> Any:
    return tuple(value) if isinstance(old, tuple) else value
