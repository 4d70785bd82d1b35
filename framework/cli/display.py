"""Display: how a run looks: a progress bar on a terminal, plain lines elsewhere, and a closing table."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, TextIO

from framework.cli.common import aligned
from framework.display import RANDOM_BACKBONE, Facts

_REDRAW_S = 0.1


class PlainDisplay:
    """A line for each thing worth telling; one an epoch. A reader that goes away never stops a run."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def line(self, text: str) -> None:
        """One line."""
        with suppress(OSError, ValueError):  # the other end of the pipe is closed
            print(text, file=self._stream, flush=True)

    def note(self, text: str) -> None:
        """Something worth knowing."""
        self.line(text)

    def warn(self, text: str) -> None:
        """Something that should not have happened; on standard error."""
        with suppress(OSError, ValueError):
            print(f"warning: {text}", file=sys.stderr, flush=True)

    def started(self, facts: Facts) -> None:
        """What runs, and on what."""
        for text in started_lines(facts):
            self.line(text)

    def batch(self, facts: Facts) -> None:
        """Nothing: a line a batch is too many."""

    def epoch(self, facts: Facts) -> None:
        """One line."""
        self.line(epoch_line(facts))

    def ended(self, summary: Facts) -> None:
        """The closing table."""
        for text in ended_lines(summary):
            self.line(text)


class Speed:
    """Images per second since the last few readings, and whether it is time to show them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shown = float("-inf")
        self._began: tuple[float, int] | None = None

    def due(self) -> bool:
        """Whether a tenth of a second has gone by since it last was."""
        now = self._clock()
        if now - self._shown < _REDRAW_S:
            return False
        self._shown = now
        return True

    def per_second(self, images: int) -> float:
        """Images a second since the first reading; 0 at that one."""
        now = self._clock()
        if self._began is None or images < self._began[1]:
            self._began = (now, images)
            return 0.0
        return (images - self._began[1]) / max(now - self._began[0], 1e-9)


def started_lines(facts: Facts) -> Iterator[str]:
    """The head of a run."""
    yield f"{facts['name']} -> {facts['run_dir']}"
    if facts.get("transfer") is False:
        yield RANDOM_BACKBONE
    yield f"weights {weights_words(facts.get('weights') or {})}"
    params, done = facts["params"], facts.get("step") or 0
    steps = f"{counted(facts['epochs'], 'epoch')}, {counted(facts['steps'], 'step')}" + (
        f", {done} of them done" if done else ""
    )
    yield f"{params['trainable']:,} of {params['total']:,} parameters train; {steps}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 epoch, 2 epochs."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def weights_words(weights: Mapping[str, Any]) -> str:
    """Which weights were used, and why not the first choice."""
    used = str(weights.get("used") or "random")
    why = weights.get("why")
    return f"{used} ({why})" if why and why != "first choice" else used


def epoch_line(facts: Facts) -> str:
    """One epoch: losses, the validation metrics, learning rate, time."""
    width = len(str(facts["epochs"]))
    numbers = "  ".join(f"{name} {value:.4f}" for name, value in _leading(facts["metrics"]))
    epoch = f"{facts['epoch']:>{width}}/{facts['epochs']}"
    return f"epoch {epoch}  {numbers}  lr {facts['lr']:.3g}  {facts['seconds']:.1f} s"


def _leading(metrics: Mapping[str, float]) -> list[tuple[str, float]]:
    """Losses, a regularizer's term, and the first metric of the recipe; metrics.jsonl holds the others."""
    of_training = [item for item in metrics.items() if item[0].startswith("train.") or item[0] == "val.loss"]
    return of_training + [item for item in metrics.items() if item not in of_training][:1]


def ended_lines(summary: Facts) -> Iterator[str]:
    """The end of a run: metrics by split, weights, audit, time, and where everything is."""
    yield ""
    if summary.get("transfer") is False:
        yield RANDOM_BACKBONE
    yield from metric_lines(summary.get("metrics") or {})
    yield from aligned(_closing(summary))


def _closing(summary: Facts) -> Iterator[tuple[str, str]]:
    best = (summary.get("metrics") or {}).get("best") or {}
    if best.get("monitor"):
        finisher = summary.get("finisher")
        yield (
            "best",
            f"epoch {best['epoch']}, by {best['monitor']}"
            + (f"; the model is what {finisher['use']} made, raw the best epoch" if finisher else ""),
        )
    yield "weights", weights_words(summary.get("weights") or {})
    if summary.get("adapter"):
        yield "adapter", adapter_words(summary["adapter"])
    audit = summary.get("audit")
    if audit:
        yield "audit", f"{audit['frozen_tensors']} frozen tensors, {audit['frozen_moved']} moved"
    skipped = summary.get("skipped_images")
    if skipped:
        yield "skipped", f"{counted(len(skipped), 'unreadable image')}, listed in summary.json"
    seconds = summary.get("time_s") or {}
    parts = [f"{name} {value:.1f}" for name, value in seconds.items() if name != "total" and value]
    yield "time", f"{seconds.get('total', 0.0):.1f} s" + (f" ({', '.join(parts)})" if parts else "")
    yield "run", str(summary.get("run_dir", ""))


def adapter_words(adapter: Mapping[str, Any]) -> str:
    """What an adapter added, and what became of it."""
    added = f"{adapter['use']}: {adapter['parameters']:,} parameters"
    if adapter["merged"]:
        return f"{added}, merged (logits within {adapter['difference']:.1g} of the largest)"
    return f"{added}, not merged: {adapter['reason']}"


def metric_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Metrics as a table: a row for each moment and split, a column for each metric."""
    rows = dict(_metric_rows(metrics, ()))
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    if not rows:
        return []
    cells = [["", *names]]
    cells += [[title, *(f"{row[name]:.4f}" if name in row else "" for name in names)] for title, row in rows.items()]
    return aligned(cells)


def _metric_rows(metrics: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, dict[str, float]]]:
    numbers = {name: value for name, value in metrics.items() if isinstance(value, float)}
    if numbers and path:
        yield " ".join(path), numbers
    for name, inner in metrics.items():
        if isinstance(inner, Mapping):
            yield from _metric_rows(inner, (*path, name))
