"""Each check of run hooks fails for a plugin with exactly the fault that it is about, and for no other."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import framework as fw
from framework.hooks import RUN_HOOKS
from framework.testing import failures
from framework.testing.of_hooks import CHECKS

pytestmark = pytest.mark.sweep  # every check of a kind, against every plugin with a fault


class Tracker:
    """Writes a line of its own file for everything that it is told."""

    def __init__(self) -> None:
        self.folder = Path()
        self.lines: list[str] = []

    def write(self, event: str, **values: Any) -> None:
        with (self.folder / "events.jsonl").open("a") as file:
            file.write(json.dumps({"event": event, **values}) + "\n")
        self.lines.append(event)

    @fw.hookimpl
    def fw_run_started(self, facts: Any) -> None:
        self.folder = Path(facts["run_dir"])
        self.write("started", classes=facts["classes"])

    @fw.hookimpl
    def fw_epoch_ended(self, facts: Any) -> None:
        self.write("epoch", metrics=facts["metrics"], size=sum(p.numel() for p in facts["network"].parameters()))

    @fw.hookimpl
    def fw_plan_changed(self, facts: Any) -> None:
        self.write("plan", added=list(facts["added"]))

    @fw.hookimpl
    def fw_checkpoint_written(self, facts: Any) -> None:
        self.write("checkpoint", bytes=Path(facts["path"]).stat().st_size)

    @fw.hookimpl
    def fw_run_ended(self, facts: Any) -> None:
        self.write("ended", status=facts["status"], model=(self.folder / "model.safetensors").stat().st_size)


def at(hook: str, action: Callable[[Any], Any]) -> type[Tracker]:
    """A tracker that also does this when it is told of that."""

    def also(self: Tracker, facts: Any) -> None:
        getattr(super(made, self), hook)(facts)
        action(facts)

    also.__name__ = hook
    made = type("Tracker", (Tracker,), {hook: fw.hookimpl(also)})
    return made


def scale_the_network(facts: Any) -> None:
    with torch.no_grad():
        for parameter in facts["network"].parameters():
            parameter.mul_(0.9)


def stop_learning(facts: Any) -> None:
    torch.set_grad_enabled(False)


MUTANTS = {
    "a fact that there is not": (at("fw_epoch_ended", lambda facts: facts["loss"]), "hooks_raise_nothing"),
    "leaves the process": (at("fw_run_ended", lambda facts: sys.exit(3)), "hooks_raise_nothing"),
    "writes to the facts": (at("fw_plan_changed", lambda facts: facts.update(mine=1)), "hooks_raise_nothing"),
    "begins a file twice": (
        at("fw_run_started", lambda facts: (Path(facts["run_dir"]) / "log").touch(exist_ok=False)),
        "a_resumed_run_is_followed"),
    "changes the network": (at("fw_epoch_ended", scale_the_network), "a_run_computes_the_same"),
    "stops learning": (at("fw_plan_changed", stop_learning), "a_run_computes_the_same"),
    "adds a metric": (at("fw_epoch_ended", lambda facts: facts["metrics"].update(mine=1)), "facts_are_only_read"),
    "writes where it stands": (
        at("fw_run_ended", lambda facts: Path("events.jsonl").touch()), "files_stay_in_the_run_directory"),
    "makes a folder": (at("fw_run_started", lambda facts: os.makedirs("mlruns", exist_ok=True)),
                       "files_stay_in_the_run_directory"),
    "adds to the summary": (
        at("fw_run_ended", lambda facts: (Path(facts["run_dir"]) / "summary.json").open("a").write("\n")),
        "files_stay_in_the_run_directory"),
    "takes the model away": (
        at("fw_run_ended", lambda facts: (Path(facts["run_dir"]) / "model.safetensors").unlink()),
        "files_stay_in_the_run_directory"),
    "draws from Python": (at("fw_run_started", lambda facts: random.random()), "nothing_is_drawn"),
    "draws from numpy": (at("fw_epoch_ended", lambda facts: np.random.rand()), "nothing_is_drawn"),
    "seeds torch": (at("fw_plan_changed", lambda facts: torch.manual_seed(0)), "nothing_is_drawn"),
}  # fmt: skip


def test_a_good_tracker_passes_and_is_told_of_everything() -> None:
    tracker = Tracker()
    assert failures(tracker) == {}
    assert len(set(tracker.lines)) == len(RUN_HOOKS)
    assert tracker.lines[0] == "started"
    assert tracker.lines.count("started") == 2, "the run was resumed"
    assert tracker.lines.count("epoch") == 2
    assert tracker.lines[-1] == "ended"


@pytest.mark.parametrize(("plugin", "check"), MUTANTS.values(), ids=MUTANTS)
def test_a_fault_fails_its_check_and_no_other(plugin: type[Tracker], check: str) -> None:
    found = failures(plugin())
    assert found.keys() == {f"tracker-{check}"}, found
    assert found[f"tracker-{check}"].startswith("AssertionError: ")


def test_every_check_has_a_mutant() -> None:
    covered = {check for _, check in MUTANTS.values()}
    print(f"{len(MUTANTS)} mutants of {len(covered)} checks")
    assert covered == {check.name for check in CHECKS}


def test_a_careless_hook_changes_nothing_for_what_comes_after_it() -> None:
    before = (os.getcwd(), torch.is_grad_enabled(), torch.get_num_threads(), torch.get_rng_state().tolist())
    failures(at("fw_plan_changed", stop_learning)())
    assert before == (os.getcwd(), torch.is_grad_enabled(), torch.get_num_threads(), torch.get_rng_state().tolist())
