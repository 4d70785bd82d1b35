"""Studies with costs that a test chooses, as files that `fw bench` would write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from framework.bench.as_json import as_json
from framework.bench.costs import Costs, medians
from framework.bench.laps import Cell, Lap
from framework.bench.outcome import Outcome
from framework.bench.rows import Row
from framework.bench.statistics import cost_ratio

MACHINE: dict[str, Any] = {
    "node": "a", "processor": "AMD EPYC", "machine": "x86_64", "system": "Linux", "python_version": "3.11.7", "cpus": 2,
    "libraries": {"fw-transfer": "0.1.0", "torch": "2.14.1"},
}  # fmt: skip
METHOD = {"time": "the loop on a few images", "memory": "peak resident size"}
FACTS = {"params": {"total": 1000, "trainable": 10}, "threads": 2, "device": "cpu"}
STEP_S, PEAK_MB = 0.2, 300.0


@attrs.frozen
class Simulated:
    """A study whose rounds are drawn: every cell's median is that of `STEP_S` and `PEAK_MB` times its factors.

    Attributes:
        seed: of the draw.
        rounds: of each cell.
        noise, noise_mb: the relative standard deviation of a step's time, and of memory.
        time, memory: cell -> factor; a cell of `time` that is not in `memory` has 1.
        shared: the relative standard deviation of what all cells of a round have in common.
        whole: whether whole runs were timed.
    """

    seed: int = 0
    rounds: int = 10
    noise: float = 0.02
    noise_mb: float = 0.01
    time: Mapping[str, float] = attrs.field(factory=lambda: {"full / plain": 1.0, "frozen / auto": 1.0})
    memory: Mapping[str, float] = attrs.field(factory=dict)
    shared: float = 0.0
    whole: bool = False
    name: str = "photos"

    def document(self, **machine: Any) -> dict[str, Any]:
        """The JSON document; `machine` replaces what `MACHINE` says."""
        draw = np.random.default_rng(self.seed)
        common = np.exp(draw.normal(scale=self.shared, size=self.rounds))
        rows = [self._row(name, draw, common) for name in self.time]
        again = self._row(next(iter(self.time)), draw, common)
        noise = {
            ("total_s" if self.whole else "step_s"): cost_ratio(*(_seconds(row) for row in (again, rows[0]))),
            "peak_mb": cost_ratio(*([of.peak_mb for of in row.costs] for row in (again, rows[0]))),
        }
        outcome = Outcome([], rows, noise, "accuracy", True, "val", False, None)
        return as_json(self.name, outcome, METHOD, {**MACHINE, **machine})

    def write(self, file: Path, **machine: Any) -> Path:
        """The same in a file."""
        file.write_text(json.dumps(self.document(**machine)))
        return file

    def _row(self, name: str, draw: np.random.Generator, common: np.ndarray) -> Row:
        seconds = STEP_S * self.time[name] * common * np.exp(draw.normal(scale=self.noise, size=self.rounds))
        peaks = PEAK_MB * self.memory.get(name, 1.0) * np.exp(draw.normal(scale=self.noise_mb, size=self.rounds))
        steps = [None if self.whole else value for value in seconds.tolist()]
        costs = [
            Costs(total_s=value, peak_mb=peak, step_s=step)
            for value, peak, step in zip(seconds.tolist(), peaks.tolist(), steps, strict=True)
        ]
        arm, _, engine = name.partition(" / ")
        return Row(
            Cell(name, arm, engine, whole=self.whole), [Lap(name, r, facts=FACTS) for r in range(self.rounds)], costs,
            medians(costs), policy_ratio=None, policy_memory=None, engine_ratio=None, repaid=None, target_s=None,
            parts={}, failed=0, reason="",
        )  # fmt: skip


def _seconds(row: Row) -> list[float]:
    return [of.step_s or of.total_s for of in row.costs]
