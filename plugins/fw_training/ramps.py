"""Ramps: the first-party schedulers, `constant` and `warmup`."""

from __future__ import annotations

from typing import Any, Literal

import attrs
from torch.optim import Optimizer

import framework as fw
from fw_training.schedulers import Every


class Ramp:
    """Moves every group's learning rate linearly from `start` times its own to its own.

    Args:
        optimizer: its groups hold the rates to reach.
        start: the factor before the first step.
        span: steps or epochs, as `every` says, until the factor is 1; from there on it stays.
    """

    def __init__(self, optimizer: Optimizer, start: float, span: int, every: Literal["step", "epoch"]) -> None:
        self.optimizer = optimizer
        self.start = start
        self.span = span
        self.every = every
        self.count = 0
        self.rates = [float(group["lr"]) for group in optimizer.param_groups]
        self._apply()

    def step(self, progress: fw.Progress, metric: float | None = None) -> None:
        """One step or epoch is done."""
        self.count += 1
        self._apply()

    def _apply(self) -> None:
        done = min(self.count / self.span, 1.0)
        factor = self.start + (1.0 - self.start) * done
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate if done == 1.0 else rate * factor

    def state_dict(self) -> dict[str, Any]:
        """How far it is, and the rates that it leads to."""
        return {"count": self.count, "rates": self.rates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what `state_dict` gave; learning rates are the optimizer's."""
        self.count, self.rates = state["count"], list(state["rates"])


@attrs.frozen(kw_only=True)
class Constant:
    """The learning rate stays as the optimizer has it."""

    def build(self, optimizer: Optimizer, steps: int, epochs: int, every: Every = "auto") -> Ramp:
        """A ramp that starts at its end."""
        return Ramp(optimizer, 1.0, 1, "step" if every == "step" else "epoch")


@attrs.frozen(kw_only=True)
class Warmup:
    """Linear warm-up to the optimizer's learning rate, step by step over the whole span (1706.02677)."""

    start: fw.Fraction = fw.key(0.01, "the learning rate before the first step, as a share of the optimizer's")

    def build(self, optimizer: Optimizer, steps: int, epochs: int, every: Every = "auto") -> Ramp:
        """A ramp over the span: steps, or epochs where `every` says so."""
        moves: Literal["step", "epoch"] = "epoch" if every == "epoch" else "step"
        return Ramp(optimizer, self.start, max(1, steps if moves == "step" else epochs), moves)
