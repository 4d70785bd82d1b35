"""Worker: trains a list of recipes in the process that this module is run in, one after another.

    python -m framework.bench worker JOBS.json

JOBS is a list of [recipe, run directory]. A line of JSON on standard output tells of each run that ended.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TextIO

import torch

from framework.allocator import keeping_memory
from framework.display import NullDisplay
from framework.errors import FwError, Interrupted
from framework.index import installed_index
from framework.measure import pick_device
from framework.recipe import load_trusted
from framework.runs import start_run
from framework.shared import Shared


def train_all(jobs: list[tuple[str, str]], out: TextIO) -> None:
    """Trains each recipe; one that fails is told of, and the others go on.

    Args:
        jobs: a resolved recipe's file and a run directory for each.
        out: where the end of each is told.

    Raises:
        Interrupted: a signal asked to stop.
    """
    recipes, index = load_trusted([Path(recipe) for recipe, _ in jobs], installed_index())
    shared = Shared()
    with keeping_memory(torch.device(pick_device(recipes[0].engine.device).type)):
        for recipe, (_, folder) in zip(recipes, jobs, strict=True):
            reason = ""
            try:
                start_run(recipe, index, Path(folder), True, NullDisplay(), shared)
            except Interrupted:
                raise
            except FwError as error:
                reason = error.message
            except Exception as error:  # a plugin's, or memory ran out: a result of this cell alone
                reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            print(json.dumps({"folder": folder, "reason": reason}), file=out, flush=True)


def main(jobs: str) -> int:
    """The process."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what plugins and libraries print is no end of a run
    try:
        train_all(json.loads(Path(jobs).read_text(encoding="utf-8")), out)
    except Interrupted as stopped:
        return stopped.exit_code
    return 0
