"""Contest: runs contestants as whole processes in alternating rounds, and says what each took beside ours.

This module imports nothing heavy: Linux counts the size of the parent, as it was when it started a process, into that
process's peak memory.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs

HERE = Path(__file__).parent
RECIPE = HERE / "frozen.toml"
FW = [sys.executable, "-c", "import sys; from framework.cli import main; sys.exit(main())"]
ROUNDS = int(os.environ.get("FW_BENCH_ROUNDS", "3"))
SHORT = bool(os.environ.get("FW_BENCH_SHORT"))
VERSIONS = ("fw-transfer", "torch", "torchvision", "timm", "lightning")
KEPT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""The environment of every process; byte code is kept, as it is for users."""
KIB = 1 if sys.platform == "darwin" else 1024
"""Bytes in the unit of ru_maxrss."""


@attrs.frozen
class Lap:
    """One process: its time and peak memory, and what it said of itself."""

    seconds: float
    peak_mb: float
    accuracy: float
    baseline_mb: float | None
    parts: Mapping[str, float]


@attrs.frozen
class Contestant:
    """A command, what has to be done before it, and where its result stands.

    Attributes:
        name: as it is printed.
        command: a whole process.
        before: called before each lap, outside its time.
        result: the output -> `accuracy`, `baseline_mb` and `seconds` by part.
    """

    name: str
    command: Sequence[str]
    before: Callable[[], object]
    result: Callable[[str], Mapping[str, Any]]


@attrs.frozen
class Claim:
    """That a rival's median time is at least `at_least` times ours; None where nothing is promised."""

    rival: str
    ours: str
    at_least: float | None


Laps = Mapping[str, Sequence[Lap]]


def epochs(full: int) -> int:
    """So many epochs, or one where FW_BENCH_SHORT is set, which tells whether a suite works."""
    return 1 if SHORT else full


@functools.cache
def photographs() -> Path:
    """The folder with the images and weights, written where it is not there yet; FW_BENCH_DATA moves it.

    Where FW_BENCH_SHORT is set, a few images in a folder that goes with the session.
    """
    kept = Path(os.environ.get("FW_BENCH_DATA", Path(tempfile.gettempdir()) / "fw-bench-photographs"))
    folder, few = (scratch() / "photographs", ["--per-class", "8", "2"]) if SHORT else (kept, [])
    subprocess.run([sys.executable, str(HERE / "data.py"), str(folder), *few], check=True)
    return folder


@functools.cache
def environment() -> dict[str, str]:
    """The environment of a contestant: a cache of its own for the framework."""
    return {**KEPT, "FW_CACHE_DIR": str(scratch() / "cache")}


@functools.cache
def scratch() -> Path:
    """A folder for the runs and the feature store of this session, gone when it ends."""
    folder = Path(tempfile.mkdtemp(prefix="fw-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def overrides(**keys: Any) -> dict[str, Any]:
    """What the recipe needs to be told, and further keys, dots written as `__`; no report, since no peer writes one."""
    data = photographs()
    told = {"data.root": str(data), "backbone.weights": [f"file:{data / 'resnet18.pth'}"], "train.report": False}
    return told | {name.replace("__", "."): value for name, value in keys.items()}


def ours(name: str, cold: bool = True, **keys: Any) -> Contestant:
    """`fw run` of the recipe; cold: with an empty feature store, the index of plugins built."""
    folder = scratch() / "run"
    given = [part for key, value in overrides(**keys).items() for part in ("--set", f"{key}={json.dumps(value)}")]

    def before() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        if cold:
            empty_store()

    def result(output: str) -> Mapping[str, Any]:
        summary = json.loads((folder / "summary.json").read_text())
        return {"accuracy": summary["metrics"]["final"]["val"]["accuracy"], "seconds": summary["time_s"]}

    return Contestant(name, [*FW, "run", str(RECIPE), "--out", str(folder), *given], before, result)


def empty_store() -> None:
    shutil.rmtree(scratch() / "cache" / "features", ignore_errors=True)


def peer(name: str, script: str, *options: str) -> Contestant:
    """One of the scripts beside this file."""
    command = [sys.executable, str(HERE / script), str(photographs()), *options]
    return Contestant(name, command, lambda: None, lambda output: json.loads(output.strip().splitlines()[-1]))


def compete(contestants: Sequence[Contestant]) -> dict[str, list[Lap]]:
    """The laps of each contestant; every round has one of each, so that a change of the load meets all alike."""
    for contestant in contestants:
        warm_up(contestant)
    laps: dict[str, list[Lap]] = {contestant.name: [] for contestant in contestants}
    for _ in range(ROUNDS):
        for contestant in contestants:
            laps[contestant.name].append(lap(contestant))
    return laps


def warm_up(contestant: Contestant) -> None:
    """Has byte code compiled, the index built and libraries read from the disk; nothing where no time counts."""
    if SHORT:
        return
    is_ours = str(RECIPE) in contestant.command
    given = [f"{key}={json.dumps(value)}" for key, value in overrides().items()]
    validate = [*FW, "validate", str(RECIPE), *(part for one in given for part in ("--set", one))]
    run_process(validate if is_ours else [*contestant.command[:2], "--help"])


def lap(contestant: Contestant) -> Lap:
    contestant.before()
    seconds, peak, output = run_process(contestant.command)
    said = contestant.result(output)
    return Lap(seconds, peak, said["accuracy"], said.get("baseline_mb"), said["seconds"])


def run_process(command: Sequence[str]) -> tuple[float, float, str]:
    """Seconds of a whole process, its peak resident size in MiB, and its output.

    Raises:
        RuntimeError: it failed; the message holds what it said.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.perf_counter()
        process = subprocess.Popen(command, env=environment(), stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)  # else Popen waits for a process that is gone
        output, errors = (file.seek(0) or file.read().decode(errors="replace") for file in (out, err))
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{output}\n{errors}")
    return seconds, usage.ru_maxrss * KIB / 2**20, output


def median_seconds(laps: Sequence[Lap]) -> float:
    return statistics.median(one.seconds for one in laps)


def median_peak(laps: Sequence[Lap]) -> float:
    return statistics.median(one.peak_mb for one in laps)


def computes_in_bf16() -> bool:
    """Whether bf16 is worth a contest here: a CPU without such instructions emulates it, far slower than fp32."""
    flags = Path("/proc/cpuinfo")
    known = flags.read_text() if flags.exists() else ""
    return bool(os.environ.get("FW_BENCH_BF16")) or "avx512_bf16" in known or "amx_bf16" in known


def figures(laps: Laps, claims: Sequence[Claim]) -> dict[str, Any]:
    """What stands in `extra_info`: each contestant's figures and each claim's."""
    return {
        "contestants": {name: _figures_of(of) for name, of in laps.items()},
        "claims": [_checked(claim, laps) for claim in claims],
    }


def _figures_of(laps: Sequence[Lap]) -> dict[str, Any]:
    baselines = [one.baseline_mb for one in laps if one.baseline_mb is not None]
    return {
        "median_s": round(median_seconds(laps), 3),
        "laps_s": [round(one.seconds, 3) for one in laps],
        "parts_s": [dict(one.parts) for one in laps],
        "accuracy": [one.accuracy for one in laps],
        "peak_mb": round(median_peak(laps), 1),
        "above_baseline_mb": round(median_peak(laps) - statistics.median(baselines), 1) if baselines else None,
    }


def _checked(claim: Claim, laps: Laps) -> dict[str, Any]:
    ratio = median_seconds(laps[claim.rival]) / median_seconds(laps[claim.ours])
    return {**attrs.asdict(claim), "ratio": round(ratio, 3), "reached": reached(ratio, at_least=claim.at_least)}


def reached(value: float, at_least: float | None = None, at_most: float | None = None) -> bool | None:
    """Whether a figure keeps its budget; None where it has none."""
    if at_least is not None:
        return value >= at_least
    return value <= at_most if at_most is not None else None


def verdict(reached: bool | None, budget: str) -> str:
    """In words whether a budget was kept."""
    return "no budget" if reached is None else f"{budget}: {'reached' if reached else 'missed'}"


def told(laps: Laps, found: Mapping[str, Any]) -> str:
    """The figures in words, a line for each contestant and each claim."""
    first = next(iter(laps))
    lines = [_line(name, of, median_seconds(of) / median_seconds(laps[first]), first) for name, of in laps.items()]
    return "\n".join([*lines, *(claim_in_words(**claim) for claim in found["claims"])])


def _line(name: str, laps: Sequence[Lap], ratio: float, first: str) -> str:
    beside = "" if name == first else f", {ratio:.2f}x {first}"
    accuracy = statistics.median(one.accuracy for one in laps)
    return f"{name}: {median_seconds(laps):.1f} s{beside}, accuracy {accuracy:.3f}, peak {median_peak(laps):.0f} MB"


def claim_in_words(rival: str, ours: str, at_least: float | None, ratio: float, reached: bool | None) -> str:
    return f"  {rival} / {ours} = {ratio:.2f}x ({verdict(reached, f'at least {at_least}x')})"


def settings(**more: Any) -> dict[str, Any]:
    """Under what the figures were taken."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "rounds": ROUNDS,
        "short": SHORT,
        "images": {split: len(list((photographs() / split).rglob("*.png"))) for split in ("train", "val")},
        "threads": os.environ.get("OMP_NUM_THREADS", usable),
        "machine": f"{platform.system()} {platform.machine()}, {usable} cores",
        "load_average": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}},
        **more,
    }
