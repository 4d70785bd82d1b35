"""Runs a recipe, kills it at random moments, resumes it, and compares what is left with an uninterrupted run.

A script of its own: it imports the libraries once, touches no tensor, and forks a child for each run, so that a kill
costs no import, and comes while the run does its own work. Prints one JSON line: how many interruptions there were and
which ended differently.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path


def child(action: Callable[[], object]) -> int:
    """Forks a process that does `action` and exits; gives its number."""
    pid = os.fork()
    if pid:
        return pid
    os.setpgid(0, 0)
    code = 0
    try:
        action()
    except BaseException as error:
        code = getattr(error, "exit_code", 1)
        if code == 1:
            traceback.print_exc()
        else:
            print(error, file=sys.stderr)
    sys.stderr.flush()
    os._exit(code)


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_after(pid: int, delay: float) -> bool:
    """Kills a child and its workers after `delay` seconds; False if it had ended by then."""
    deadline = time.monotonic() + delay
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False
        time.sleep(0.005)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


def difference(one: Path, other: Path) -> str:
    """The first thing in which two run directories differ, or nothing."""
    import torch
    from safetensors import safe_open

    for name in ("metrics.jsonl", "predictions/val.csv", "predictions/test.csv"):
        if (one / name).read_bytes() != (other / name).read_bytes():
            return name
    with safe_open(one / "model.safetensors", "pt") as a, safe_open(other / "model.safetensors", "pt") as b:
        if sorted(a.keys()) != sorted(b.keys()):
            return "names in the model"
        for key in a.keys():  # noqa: SIM118 - not a mapping
            if not torch.equal(a.get_tensor(key), b.get_tensor(key)):
                return f"{key} in the model"
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, other)]
    for key in ("metrics", "audit", "params", "weights", "steps", "skipped_images", "plan_changes"):
        if summaries[0][key] != summaries[1][key]:
            return f"{key} in summary.json"
    return ""


def main(folder: Path, interruptions: int, seed: int, recipe: str, overrides: list[str]) -> None:
    import timm  # noqa: F401 - what a run imports when it needs it, and takes longer than the run
    import torchmetrics.classification  # noqa: F401

    from framework.display import NullDisplay
    from framework.errors import FwError
    from framework.index import installed_index
    from framework.recipe import load_recipe
    from framework.runs import resume_run, start_run

    index = installed_index()
    checked = load_recipe(recipe, index, overrides)
    draw = random.Random(seed)

    def start(out: Path) -> Callable[[], object]:
        return lambda: start_run(checked, index, out, True, NullDisplay())

    def resume_or_start(out: Path) -> Callable[[], object]:
        def go() -> None:
            try:
                resume_run(out, index, NullDisplay())
            except FwError as error:
                if "before it began" not in str(error) and "no run directory" not in str(error):
                    raise
                start_run(checked, index, out, True, NullDisplay())

        return go

    reference = folder / "reference"
    began = time.monotonic()
    assert wait(child(start(reference))) == 0, "the uninterrupted run failed"
    whole = time.monotonic() - began
    report: dict[str, object] = {"seconds": round(whole, 2), "killed": 0, "different": []}
    differing: list[str] = []
    killed = 0
    trial = 0
    while killed < interruptions:
        trial += 1
        out = folder / f"trial{trial}"
        pid = child(start(out))
        for again in (True, False):  # the run, and then its first resume
            if not kill_after(pid, draw.uniform(0.05, 1.0) * whole):
                break
            killed += 1
            if again and not (out / "summary.json").is_file():
                pid = child(resume_or_start(out))
            else:
                break
        if not (out / "summary.json").is_file():
            assert wait(child(resume_or_start(out))) == 0, f"resuming {out} failed"
        found = difference(reference, out)
        if found:
            differing.append(f"{out.name}: {found}")
    report.update(killed=killed, trials=trial, different=differing)
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5:])
