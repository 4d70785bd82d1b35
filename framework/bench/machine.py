"""Machine: on what, and how, a study's figures were taken. Imports nothing heavy."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from framework.bench.statistics import CONFIDENCE, ROUNDS_FOR_AN_INTERVAL, SEEDS_FOR_AN_INTERVAL
from framework.bench.study import StudyKeys

LIBRARIES = ("fw-transfer", "torch", "torchvision", "timm")


def machine() -> dict[str, Any]:
    """The machine and the libraries, as pytest-benchmark names them."""
    return {
        "node": platform.node(),
        "processor": _processor(),
        "machine": platform.machine(),
        "system": platform.system(),
        "release": platform.release(),
        "python_version": platform.python_version(),
        "cpus": usable_cpus(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def usable_cpus() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    """What Linux calls the processor; platform knows its architecture alone there."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def method(keys: StudyKeys, trials: int) -> dict[str, str]:
    """How the figures were taken, each point in words.

    Args:
        keys: of the study.
        trials: how many settings each policy was tried with.
    """
    seeds, tried = ", ".join(map(str, keys.seeds)), ", ".join(map(str, keys.seeds_of_trials))
    whole = keys.timed == "whole"
    return {
        "scores": f"every policy trained with seeds {seeds} on one split; differences are paired by seed",
        "tuning": f"{trials} trials of each policy with seed {tried}, chosen by validation alone; the choice is "
                  "trained anew and scored once on test" if trials else "none: one setting for all",
        "intervals": f"{CONFIDENCE:.0%}: of costs from {ROUNDS_FOR_AN_INTERVAL} rounds on, by bootstrap over "
                     f"rounds; of scores from {SEEDS_FOR_AN_INTERVAL} seeds on, by Student's t; p-values after Holm",
        "timing": f"{keys.rounds} rounds, every cell in each, in a fresh process from an empty store; medians; ratios "
                  "are paired by round; libraries were read and code compiled before the first" + ("" if whole else
                  "; the processes of a round measure in turns of a third of a second, every other time the other way "
                  "round, and wait meanwhile"),
        "time": "of the whole process, start-up included" if whole else
                "the loop on a few images, its first steps not counted; time to the end of training is worked out from "
                "start-up, the one pass and an epoch, for the images and epochs of the whole run",
        "memory": "peak resident size of the whole process" if whole else
                  "peak resident size (on CUDA: of the allocator) above that of the process with all imported",
        "engines": "plain: network undivided, nothing kept, contiguous images, as in the loop that everybody writes; "
                   "auto: as the recipe's [engine] says",
        "threads": os.environ.get("OMP_NUM_THREADS", str(usable_cpus())),
        "noise": "the first cell is timed twice in each round; the ratio of the two is the machine's own noise",
    }  # fmt: skip
