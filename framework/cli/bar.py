"""Bar: a run on a terminal: progress, loss, images per second and memory on one line that is redrawn."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from framework.cli.display import PlainDisplay, Speed
from framework.display import RANDOM_BACKBONE, Facts

_COLUMNS = ("epoch {task.fields[epoch]}/{task.fields[epochs]}", "loss {task.fields[loss]:.4f}",
            "{task.fields[speed]:.0f} images/s", "{task.fields[memory]:.0f} MB")  # fmt: skip


class BarDisplay(PlainDisplay):
    """The plain lines, with a progress bar below them while a run goes on."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._console = Console(file=stream, highlight=False)
        first, *rest = _COLUMNS
        self._progress = Progress(TextColumn(first), BarColumn(), *map(TextColumn, rest), TimeRemainingColumn(),
                                  console=self._console, transient=True, refresh_per_second=10)  # fmt: skip
        self._task: TaskID | None = None
        self._speed = Speed()

    def line(self, text: str) -> None:
        """One line above the bar."""
        self._console.print(text, style="bold red" if text == RANDOM_BACKBONE else None, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """A line above the bar, in yellow."""
        self._console.print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True)

    def started(self, facts: Facts) -> None:
        """The head of the run, and the bar."""
        super().started(facts)
        self._task = self._progress.add_task("", total=facts["steps"], completed=facts.get("step") or 0,
                                             epoch=(facts.get("epoch") or 0) + 1, epochs=facts["epochs"],
                                             loss=0.0, speed=0.0, memory=0.0)  # fmt: skip
        self._progress.start()

    def batch(self, facts: Facts) -> None:
        """Moves the bar, ten times a second at most."""
        speed = self._speed.per_second(facts["images"])
        if self._task is not None and self._speed.due():
            from framework.measure import peak_rss_mb

            self._progress.update(self._task, completed=facts["step"], epoch=facts["epoch"] + 1, loss=facts["loss"],
                                  speed=speed, memory=peak_rss_mb())  # fmt: skip

    def ended(self, summary: Facts) -> None:
        """Takes the bar away and prints the closing table."""
        self.close()
        super().ended(summary)

    def close(self) -> None:
        """Takes the bar away."""
        self._progress.stop()
