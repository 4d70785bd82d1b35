"""Start-up of the light commands, whole processes: beside `python -c 'import torch'`, and beside many more plugins.

    pytest benchmarks/bench_startup.py --benchmark-json=startup.json

Rounds of all commands are interleaved, so that a change of the machine's load meets them alike; the ratios of the
medians stand in each benchmark's extra_info. The index is built and byte code compiled before. A budget that is missed
is said, and fails but where FW_BENCH_SHORT is set: three rounds on a busy machine tell nothing. That light commands
import nothing heavy is a test's affair.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

import pytest
from peers.contest import FW, KEPT, SHORT, reached, verdict

TORCH = [sys.executable, "-c", "import torch"]
ROUNDS = 3 if SHORT else 11
BUDGETS = {
    "fw --help": (["--help"], 0.08),
    "fw list backbones": (["list", "backbones"], 0.2),
    "fw validate resnet18_frozen": (["validate", "resnet18_frozen"], 0.25),
}
MORE = 50
MORE_BUDGET = 1.3
"""Time of `fw list` with so many more plugins installed, as a multiple of its time without them."""
PLUGIN = """
import attrs
import framework as fw


@attrs.frozen(kw_only=True)
class Head:
    \"\"\"One of many.\"\"\"

    width: fw.PositiveInt = fw.key(8, "width")


@fw.hookimpl
def fw_heads():
    return [fw.Component("{name}", Head)]
"""


def seconds(command: Sequence[str], env: Mapping[str, str] = KEPT) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def interleaved(commands: Mapping[str, tuple[Sequence[str], Mapping[str, str]]]) -> dict[str, float]:
    """The median time of each command in its environment, after a first round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS + 1):
        for name, (command, env) in commands.items():
            times[name].append(seconds(command, env))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


@pytest.fixture(scope="module")
def medians() -> dict[str, float]:
    """The median time of each command, and of importing torch, in one interleaved run."""
    commands = {name: ([*FW, *arguments], KEPT) for name, (arguments, _) in BUDGETS.items()}
    return interleaved({"import torch": (TORCH, KEPT), **commands})


@pytest.mark.parametrize("name", BUDGETS)
def test_start_up(benchmark, medians: dict[str, float], name: str) -> None:
    arguments, budget = BUDGETS[name]
    ratio = medians[name] / medians["import torch"]
    kept = reached(ratio, at_most=budget)
    benchmark.extra_info.update(
        median_s=round(medians[name], 4),
        torch_s=round(medians["import torch"], 4),
        ratio=round(ratio, 4),
        budget=budget,
        reached=kept,
    )
    benchmark.pedantic(seconds, args=([*FW, *arguments],), rounds=3)
    print(
        f"{name}: {medians[name]:.3f} s, {ratio:.3f} of importing torch ({medians['import torch']:.3f} s); "
        f"{verdict(kept, f'at most {budget}')}"
    )
    assert kept or SHORT


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which many more distributions are installed, each with a plugin."""
    folder = tmp_path_factory.mktemp("crowd")
    for name in (f"crowd_{number:02d}" for number in range(MORE)):
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[framework.plugins]\n{name} = {name}\n")
        (folder / f"{name}.py").write_text(PLUGIN.format(name=name))
    path = os.pathsep.join(filter(None, [str(folder), KEPT.get("PYTHONPATH", "")]))
    return {**KEPT, "PYTHONPATH": path}


@pytest.mark.parametrize("arguments", [["list"], ["list", "heads"]], ids=" ".join)
def test_many_more_plugins(benchmark, crowd: dict[str, str], arguments: list[str]) -> None:
    command = [*FW, *arguments]
    shown = subprocess.run([*FW, "list", "heads"], env=crowd, capture_output=True, text=True, check=True).stdout
    assert shown.count("One of many.") == MORE
    found = interleaved({"without": (command, KEPT), "with": (command, crowd)})
    ratio = found["with"] / found["without"]
    kept = reached(ratio, at_most=MORE_BUDGET)
    benchmark.extra_info.update(
        plugins=MORE,
        median_s=round(found["with"], 4),
        without_s=round(found["without"], 4),
        ratio=round(ratio, 4),
        budget=MORE_BUDGET,
        reached=kept,
    )
    benchmark.pedantic(seconds, args=(command, crowd), rounds=3)
    print(
        f"fw {' '.join(arguments)}: {found['with']:.3f} s, {ratio:.2f} of that without {MORE} more plugins; "
        f"{verdict(kept, f'at most {MORE_BUDGET}')}"
    )
    assert kept or SHORT
