"""Allocator: has the C library keep the memory of large tensors during a run, so that no step faults it in anew; or
return it at once, so that a peak can be told from what is kept."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Names of glibc's malloc.h, M_ left out; see mallopt(3)."""
KEEP = ((MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1))
"""Nothing is mapped on its own, and nothing given back: a freed activation is the next step's."""
RESTORE = ((MMAP_MAX, 65536), (MMAP_THRESHOLD, 32 * 2**20), (TRIM_THRESHOLD, 64 * 2**20))
"""What glibc adapts itself to in a process that frees large blocks; it cannot be asked what was set before."""
SAID_ALREADY = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")
"""Variables by which a user decides; GLIBC_TUNABLES, where it names malloc, is another."""
RETURN = ((MMAP_MAX, 65536), (MMAP_THRESHOLD, 2**17), (TRIM_THRESHOLD, 2**17))
"""glibc's own defaults; once they are stated, it no longer adapts them: each large block is mapped, and unmapped."""


_told: list[ctypes.CDLL] = []
"""The library, once it is told, which holds for the whole process: a block within a block changes nothing."""


def keeping_memory(device: torch.device) -> AbstractContextManager[None]:
    """Freed memory stays with the process within the block, and goes back to the system after it.

    glibc maps every block above 32 MiB on its own and unmaps it when it is freed, so that the activations of a CPU step
    are faulted in, page by page and zeroed, at every step. Does nothing on an accelerator, whose allocator caches, with
    another C library, or where the environment says how malloc is to behave.
    """
    return _telling(device, KEEP)


def returning_memory(device: torch.device) -> AbstractContextManager[None]:
    """Freed memory goes back to the system at once, so that resident memory is what is in use; else as above."""
    return _telling(device, RETURN)


@contextmanager
def _telling(device: torch.device, options: tuple[tuple[int, int], ...]) -> Iterator[None]:
    libc = _glibc() if device.type == "cpu" and not _is_said_already() else None
    if libc is None or _told:
        yield
        return
    _set(libc, options)
    libc.malloc_trim(0)
    _told.append(libc)
    try:
        yield
    finally:
        _told.clear()
        _set(libc, RESTORE)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None


def _is_said_already() -> bool:
    return any(name in os.environ for name in SAID_ALREADY) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")


def _set(libc: ctypes.CDLL, options: tuple[tuple[int, int], ...]) -> None:
    for option, value in options:
        libc.mallopt(option, value)
