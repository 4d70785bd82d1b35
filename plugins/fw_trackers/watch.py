"""Watch: which trackers watch which run; one that fails is reported once, and the others go on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

import framework as fw
from fw_trackers.jsonl import Jsonl
from fw_trackers.mlflow import Mlflow
from fw_trackers.tensorboard import TensorBoard
from fw_trackers.tracker import Facts, Tracker

VARIABLE = "FW_TRACKERS"
ALWAYS = "jsonl"
TRACKERS: Mapping[str, Callable[[Facts], Tracker]] = {ALWAYS: Jsonl, "tensorboard": TensorBoard, "mlflow": Mlflow}
"""Name -> what makes the tracker of one run from the facts of `fw_run_started`."""


class Watch:
    """The trackers of every run under way in this process."""

    def __init__(self) -> None:
        self._of_run: dict[str, dict[str, Tracker]] = {}

    def begin(self, facts: Facts) -> None:
        """Makes the trackers of a run: `jsonl`, and those that FW_TRACKERS names.

        Args:
            facts: of `fw_run_started`.

        Raises:
            FwError: a name that is no tracker, or one that cannot begin; the others watch all the same.
        """
        trackers = self._of_run[facts["run_dir"]] = {}

        def make(name: str) -> None:
            trackers[name] = _made(name, facts)

        _report(_failures(_wanted(), make))

    def tell(self, facts: Facts, what: Callable[[Tracker], None]) -> None:
        """Tells every tracker of a run something.

        Args:
            facts: of the hook; `run_dir` says which run.
            what: calls the tracker's method.

        Raises:
            FwError: one failed; it is told nothing more.
        """
        trackers = self._of_run.get(facts["run_dir"], {})
        failed = _failures(list(trackers), lambda name: what(trackers[name]))
        for name in failed:
            del trackers[name]
        _report(failed)

    def end(self, facts: Facts) -> None:
        """Tells every tracker of a run that it is over, and lets go of them.

        Raises:
            FwError: one failed.
        """
        try:
            self.tell(facts, lambda tracker: tracker.run_ended(facts))
        finally:
            self._of_run.pop(facts["run_dir"], None)


def _wanted() -> list[str]:
    """The names of the trackers, each once."""
    asked = (name.strip() for name in os.environ.get(VARIABLE, "").split(","))
    return list(dict.fromkeys([ALWAYS, *filter(None, asked)]))


def _made(name: str, facts: Facts) -> Tracker:
    """The tracker of a run.

    Raises:
        FwError: there is no such tracker, or its library is not installed.
    """
    if name not in TRACKERS:
        raise fw.FwError(f"{VARIABLE} names {name!r}, which is no tracker",
                         fw.name_hints(name, list(TRACKERS), "trackers"))  # fmt: skip
    try:
        return TRACKERS[name](facts)
    except ImportError as error:
        raise fw.FwError(f"the tracker {name!r} needs a library that cannot be imported: {error}",
                         f"pip install 'fw-transfer[{name}]', or take it out of {VARIABLE}") from error  # fmt: skip


def _failures(names: Iterable[str], action: Callable[[str], None]) -> dict[str, Exception]:
    """What goes wrong with each name."""
    failed: dict[str, Exception] = {}
    for name in names:
        try:
            action(name)
        except Exception as error:  # a full disk, a server that is away: the other trackers and the run go on
            failed[name] = error
    return failed


def _report(failed: Mapping[str, Exception]) -> None:
    """
    Raises:
        FwError: says of every tracker that failed what was wrong, and what to do.
    """
    if not failed:
        return
    said = [
        error.message if isinstance(error, fw.FwError)
        else f"the tracker {name!r} failed and is told no more: {type(error).__name__}: {error}"
        for name, error in failed.items()
    ]  # fmt: skip
    raise fw.FwError("; ".join(said), [hint for error in failed.values() for hint in getattr(error, "hints", ())])
