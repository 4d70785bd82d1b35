"""Start-up of the light commands, whole processes, as a share of `python -c 'import torch'` in the same run.

    pytest benchmarks/bench_startup.py --benchmark-json=startup.json

Rounds of all commands are interleaved, so that a change of the machine's load meets them alike; the ratios of the
medians stand in each benchmark's extra_info. The index is built and byte code compiled before.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import pytest
from peers.contest import FW, KEPT

TORCH = [sys.executable, "-c", "import torch"]
ROUNDS = 11
BUDGETS = {
    "fw --help": (["--help"], 0.08),
    "fw list backbones": (["list", "backbones"], 0.2),
    "fw validate resnet18_frozen": (["validate", "resnet18_frozen"], 0.25),
}


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, env=KEPT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


@pytest.fixture(scope="module")
def medians() -> dict[str, float]:
    """The median time of each command, and of importing torch, in one interleaved run."""
    commands = {"import torch": TORCH, **{name: [*FW, *arguments] for name, (arguments, _) in BUDGETS.items()}}
    for command in commands.values():
        seconds(command)
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            times[name].append(seconds(command))
    return {name: statistics.median(values) for name, values in times.items()}


@pytest.mark.parametrize("name", BUDGETS)
def test_start_up(benchmark, medians: dict[str, float], name: str) -> None:
    arguments, budget = BUDGETS[name]
    ratio = medians[name] / medians["import torch"]
    benchmark.extra_info.update(
        median_s=round(medians[name], 4),
        torch_s=round(medians["import torch"], 4),
        ratio=round(ratio, 4),
        budget=budget,
    )
    benchmark.pedantic(seconds, args=([*FW, *arguments],), rounds=3)
    print(f"{name}: {medians[name]:.3f} s, {ratio:.3f} of importing torch ({medians['import torch']:.3f} s)")
    assert ratio <= budget
