"""Jsonl: `events.jsonl` in the run directory, a JSON object for each thing that happens, ready for `tail -f`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fw_trackers.tracker import Facts, Tracker, numbers_of_best

EVENTS = "events.jsonl"
_STARTED = "run_started"
Line = dict[str, Any]


class Jsonl(Tracker):
    """A line for each event: `event`, `time` (UTC), and what it is about; numbers that are none are null.

    A resumed run goes on in the same file with another `run_started`. What it tells again, since it went on from an
    earlier checkpoint, takes the place of what stood there.

    Args:
        facts: of `fw_run_started`.
    """

    def __init__(self, facts: Facts) -> None:
        self._file = Path(facts["run_dir"]) / EVENTS
        self._earlier = _whole_lines(self._file)
        started = _line(_STARTED, name=facts["name"], classes=list(facts["classes"]), epochs=facts["epochs"],
                        steps=facts["steps"])  # fmt: skip
        self._earlier.append(started)
        self._replace(self._earlier)

    def epoch_ended(self, facts: Facts) -> None:
        """Its metrics, learning rate and speed."""
        self._add(_line("epoch_ended", epoch=facts["epoch"], step=facts["step"], metrics=_finite(facts["metrics"]),
                        lr=facts["lr"], images_per_s=facts["images_per_s"]))  # fmt: skip

    def plan_changed(self, facts: Facts) -> None:
        """How many parameter tensors train from here on, which came and went, at which rates."""
        self._add(_line("plan_changed", epoch=facts["epoch"], step=facts["step"], trainable=len(facts["trainable"]),
                        added=sorted(facts["added"]), removed=sorted(facts["removed"]), schedule=facts["schedule"],
                        scales=list(facts["scales"])))  # fmt: skip

    def checkpoint_written(self, facts: Facts) -> None:
        """Where it is."""
        self._add(_line("checkpoint_written", epoch=facts["epoch"], step=facts["step"], path=facts["path"]))

    def run_ended(self, facts: Facts) -> None:
        """The scores of the selected network."""
        summary = facts["summary"]
        self._add(_line("run_ended", epoch=summary["epochs"], step=summary["steps"], status=facts["status"],
                        metrics=_finite(numbers_of_best(summary))))  # fmt: skip

    def _add(self, line: Line) -> None:
        """Writes a line; the first of a resumed run shows from where it goes on."""
        if len(self._earlier) > 1:
            self._replace([*_standing(self._earlier, line), line])
        else:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(_text([line]))
        self._earlier = []

    def _replace(self, lines: Iterable[Line]) -> None:
        """Writes the whole file, or leaves it as it is."""
        scratch = self._file.with_name(f".{EVENTS}.new")
        scratch.write_text(_text(lines), encoding="utf-8")
        os.replace(scratch, self._file)


def _standing(lines: Sequence[Line], line: Line) -> list[Line]:
    """The lines that stand when `line` is told: those before it or something later was told, and every start."""
    told = (line["event"], line["step"])
    again = next(
        (at for at, one in enumerate(lines)
         if one.get("step", 0) > line["step"] or (one["event"], one.get("step")) == told), len(lines),
    )  # fmt: skip
    return [*lines[:again], *(one for one in lines[again:] if one["event"] == _STARTED)]


def _line(event: str, **values: Any) -> Line:
    return {"event": event, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **values}


def _finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no word for what is no number."""
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def _text(lines: Iterable[Line]) -> str:
    return "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)


def _whole_lines(file: Path) -> list[Line]:
    """What a run wrote before it was stopped; a kill may have cut its last line short."""
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
