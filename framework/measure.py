"""Measure: clocks that wait for the device, and peak memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

MIB = 2**20


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
