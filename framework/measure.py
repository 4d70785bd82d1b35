"""Measure: clocks that wait for the device, and peak memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

MIB = 2**20
CLEAR_REFS, MEMORY = Path("/proc/self/clear_refs"), Path("/proc/meminfo")
GUESSED_MB = 4096.0


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what was asked of it; a clock read before that measures the queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class Clock:
    """Seconds spent under each name, added up over a run.

    Args:
        device: synchronized before each reading.
        seconds: what earlier parts of the same run took.
    """

    def __init__(self, device: torch.device, seconds: dict[str, float] | None = None) -> None:
        self.device = device
        self.seconds: dict[str, float] = dict(seconds or {})
        self._open: list[float] = []

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Adds the time of the block to `name`, less that of blocks inside it, which have names of their own."""
        synchronize(self.device)
        start = time.perf_counter()
        self._open.append(0.0)
        try:
            yield
        finally:
            synchronize(self.device)
            spent = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + spent - self._open.pop()
            if self._open:
                self._open[-1] += spent


def peak_rss_mb() -> float:
    """Peak resident size of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024


def reset_peak(device: torch.device) -> None:
    """Has `peak_since_reset_mb` begin anew; see proc(5), clear_refs, for what resets a process's peak on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif CLEAR_REFS.exists():
        CLEAR_REFS.write_text("5")


def resident_mb(device: torch.device) -> float:
    """Memory in use now, in MiB: of the device's allocator, or resident of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / MIB
    return _status("VmRSS") if CLEAR_REFS.exists() else peak_rss_mb()


def peak_since_reset_mb(device: torch.device) -> float:
    """The largest `resident_mb` since `reset_peak`; elsewhere than on Linux and CUDA since the process began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    return _status("VmHWM") if CLEAR_REFS.exists() else peak_rss_mb()


def free_mb(device: torch.device) -> float:
    """Memory that is left, in MiB: of the device, or of this machine; a guess where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / MIB
    return _size(MEMORY, "MemAvailable") if MEMORY.exists() else GUESSED_MB


def _status(name: str) -> float:
    """A size of this process as Linux counts it, in MiB."""
    return _size(Path("/proc/self/status"), name)


def _size(file: Path, name: str) -> float:
    """A size in a table of Linux, whose unit is KiB, in MiB."""
    lines = file.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def peak_device_mb(device: torch.device) -> float | None:
    """Peak memory of the device's allocator so far, in MiB; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) / MIB if device.type == "cuda" else None


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """The context of `train.precision` for forward passes."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, torch.bfloat16)


def pick_device(name: str) -> torch.device:
    """The device of `engine.device`; `auto` takes an accelerator where there is one.

    Raises:
        FwError: the device is not there.
    """
    from framework.errors import FwError

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise FwError(
            f"engine.device = {name!r} cannot be used: {reason}", 'device = "auto" takes what is there'
        ) from None
    return device
