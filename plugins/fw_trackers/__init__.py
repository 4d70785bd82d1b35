"""fw_trackers: what happens in a run, as lines of a file and in the trackers that people already use.

`jsonl` is always on: `events.jsonl` in the run directory. FW_TRACKERS="tensorboard,mlflow" switches others on.
"""

from __future__ import annotations

import framework as fw
from fw_trackers.tracker import Facts
from fw_trackers.watch import Watch

_WATCH = Watch()
"""Hooks are functions, so what they know of a run must stand beside them; it is kept by run directory."""


@fw.hookimpl
def fw_run_started(facts: Facts) -> None:
    """Makes the trackers of the run."""
    _WATCH.begin(facts)


@fw.hookimpl
def fw_epoch_ended(facts: Facts) -> None:
    """Tells the trackers of the run."""
    _WATCH.tell(facts, lambda tracker: tracker.epoch_ended(facts))


@fw.hookimpl
def fw_plan_changed(facts: Facts) -> None:
    """Tells the trackers of the run."""
    _WATCH.tell(facts, lambda tracker: tracker.plan_changed(facts))


@fw.hookimpl
def fw_checkpoint_written(facts: Facts) -> None:
    """Tells the trackers of the run."""
    _WATCH.tell(facts, lambda tracker: tracker.checkpoint_written(facts))


@fw.hookimpl
def fw_run_ended(facts: Facts) -> None:
    """Tells the trackers of the run, and lets go of them."""
    _WATCH.end(facts)
