"""Display: who is told how a run goes. The engine talks to this, and never to a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

Facts = Mapping[str, Any]

RANDOM_BACKBONE = "RANDOM BACKBONE: not transfer learning"
"""The heading of every run whose backbone learned nothing elsewhere."""


class Display(Protocol):
    """What the engine tells as a run goes on. No call may fail a run."""

    def note(self, text: str) -> None:
        """Something worth knowing: data set notes, a change of plan."""
        ...

    def warn(self, text: str) -> None:
        """Something that should not have happened and does not stop the run."""
        ...

    def started(self, facts: Facts) -> None:
        """Before the first step. Facts: `name`, `run_dir`, `epochs`, `steps`, `step`, `transfer`, `weights`,
        `params`.
        """
        ...

    def batch(self, facts: Facts) -> None:
        """After some steps. Facts: `epoch`, `step`, `steps`, `loss`, `images` (trained on so far)."""
        ...

    def epoch(self, facts: Facts) -> None:
        """After an epoch's validation. Facts: `epoch`, `epochs`, `metrics`, `lr`, `seconds` (of the run so far)."""
        ...

    def ended(self, summary: Facts) -> None:
        """After the summary is on disk."""
        ...


class NullDisplay:
    """Says nothing; for scripts and tests."""

    def note(self, text: str) -> None:
        """Says nothing."""

    def warn(self, text: str) -> None:
        """Says nothing."""

    def started(self, facts: Facts) -> None:
        """Says nothing."""

    def batch(self, facts: Facts) -> None:
        """Says nothing."""

    def epoch(self, facts: Facts) -> None:
        """Says nothing."""

    def ended(self, summary: Facts) -> None:
        """Says nothing."""
