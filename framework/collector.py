"""Collector: spares a process of ours the looks of Python's garbage collector at objects that are there to stay."""

from __future__ import annotations

import atexit
import gc

OBJECTS_BETWEEN_COLLECTIONS = 100_000
"""Imports make two million objects and free none: looking through them at every 700th takes a seventh of start-up."""


def ease_collector() -> None:
    """To be called in a new process, before anything large is imported."""
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    atexit.register(gc.freeze)  # else the interpreter looks through all of them once more before it ends: a second
