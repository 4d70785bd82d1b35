"""Log: `metrics.jsonl`, equal whenever the run is equal, and `timing.jsonl`, which never is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from framework.errors import FwError
from framework.measure import peak_device_mb, peak_rss_mb
from framework.running import Run

METRICS = "metrics.jsonl"
TIMING = "timing.jsonl"


def log_epoch(run: Run, rates: list[float]) -> None:
    """One line in each log for the epoch that is done."""
    at = run.standing
    line = {
        "epoch": at.epoch,
        "step": at.step,
        **at.last,
        "lr": rates,
        "trainable": len(run.parts.frozen.plan.trainable),
    }
    at.log_bytes = _append(run.folder / METRICS, line)
    _append(run.folder / TIMING, {"epoch": at.epoch, "seconds": dict(run.clock.seconds), "peak_rss_mb": peak_rss_mb(),
                                  "peak_device_mb": peak_device_mb(run.parts.device)})  # fmt: skip


def _append(path: Path, values: dict[str, Any]) -> int:
    """Adds a line; gives the file's new length.

    Raises:
        FwError: the disk is full; half a line is cut off when the run is resumed.
    """
    try:
        with path.open("ab") as file:
            file.write((json.dumps(values) + "\n").encode())
            file.flush()
            return file.tell()
    except OSError as error:
        raise FwError(f"cannot write {path}: {error.strerror}", f"make room, then: fw resume {path.parent}") from error


def sync(folder: Path) -> None:
    """Has the lines so far on disk, as a checkpoint needs that counts them.

    Raises:
        FwError: the disk is full.
    """
    try:
        with (folder / METRICS).open("rb") as file:
            os.fsync(file.fileno())
    except OSError as error:
        raise FwError(f"cannot write {folder / METRICS}: {error.strerror}",
                      f"make room, then: fw resume {folder}") from error  # fmt: skip


def cut(path: Path, length: int) -> None:
    """Takes off what a run wrote after the checkpoint from which it goes on."""
    if path.is_file():
        os.truncate(path, length)
    elif length == 0:
        path.touch()
