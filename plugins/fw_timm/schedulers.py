"""timm's schedulers: the family `timm/<scheduler>`, after an epoch or a step as the recipe's `every` says."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import framework as fw
from fw_training.schedulers import Every, LibraryScheduler, SchedulerConfig, scheduler_config

SUFFIX = "LRScheduler"


class TimmScheduler(LibraryScheduler):
    """A scheduler of timm, which is told how many steps or epochs are done."""

    def advance(self, metric: float | None) -> None:
        """Moves it to `count`."""
        move = self.inner.step_update if self.every == "step" else self.inner.step
        move(self.count, metric)


class TimmSchedulerConfig(SchedulerConfig):
    """Builds a scheduler of timm."""

    wrapper = TimmScheduler

    def build(self, optimizer: Any, steps: int, epochs: int, every: Every = "auto") -> LibraryScheduler:
        """The scheduler over this span; `step_update` or `step` is called as `every` says."""
        with warnings.catch_warnings():
            # timm warns that a plateau's state is not saved in its checkpoints; in ours it is.
            warnings.simplefilter("ignore", FutureWarning)
            return super().build(optimizer, steps, epochs, every)

    def arguments(self, optimizer: Any, span: int, moves: str) -> dict[str, Any]:
        """Adds the unit of time, and takes a warm-up that comes before the schedule off the schedule's length."""
        chosen = super().arguments(optimizer, span, moves)
        known = inspect.signature(type(self).library_class).parameters
        if "t_in_epochs" in known:
            chosen["t_in_epochs"] = moves == "epoch"
        # Where a class has no choice (wsd), its warm-up always comes first.
        if "t_initial" in known and getattr(self, "t_initial", None) is None and getattr(self, "warmup_prefix", True):
            chosen["t_initial"] = span - chosen.get("warmup_t", 0)
        return chosen


def scheduler_family() -> fw.Family:
    """The family `timm/<scheduler>`: timm's classes `<Name>LRScheduler`, named in lower case as its factory does."""
    return fw.Family("timm", lambda: list(_classes()), _member)


def _member(name: str) -> fw.Component:
    library = _classes().get(name)
    if library is None:
        hints = fw.name_hints(name, list(_classes()), "schedulers")
        raise fw.FwError(f"timm.scheduler has no scheduler {name!r}", "; ".join(hints))
    by_metric = "mode" in inspect.signature(library).parameters
    doc = (inspect.getdoc(library) or "").strip().partition("\n")[
        0
    ] or f"timm's {name} schedule with warm-up and noise."
    config = scheduler_config(name, library, TimmSchedulerConfig, meant="epoch", by_metric=by_metric, doc=doc)
    return fw.Component(f"timm/{name}", config)


def _classes() -> dict[str, type[Any]]:
    import timm.scheduler

    members = {name: thing for name, thing in vars(timm.scheduler).items() if name.endswith(SUFFIX)}
    return {name.removesuffix(SUFFIX).lower(): thing for name, thing in members.items()}
