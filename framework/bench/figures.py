"""Figures: what a file of `fw bench`, or any file of pytest-benchmark, says of its cells, its machine and its noise."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import attrs

from framework.errors import FwError, did_you_mean

Key = tuple[str, str]

MOST_ROUNDS = 500
"""More timings of one cell are thinned out evenly, which leaves the median: resampling is to take no minutes."""
WRITERS = (
    "fw bench writes such a file: bench.json in the study's folder, or what --json says",
    "pytest-benchmark writes one with --benchmark-json=FILE",
)


@attrs.frozen(eq=False)
class Measured:
    """What a file says of one cell.

    Attributes:
        group, name: what it is called; the group is the study's name.
        costs: `time`, in seconds of a step or of a whole run, and `memory`, the peak in MiB: a value for each round.
            A cost that was not measured is absent.
        facts: under what it was measured; what the file does not say is absent.
    """

    group: str
    name: str
    costs: Mapping[str, tuple[float, ...]]
    facts: Mapping[str, Any]


@attrs.frozen(eq=False)
class Figures:
    """What a file says.

    Attributes:
        file: its path, as it was given.
        cells: (group, name) -> cell, in the file's order; a study's baseline comes first.
        machine, libraries: on what, and with what; name -> value.
        method: how each cost was taken, in words.
        noise: cost -> the share by which two measurements of one cell differ, as the study itself found.
        failed: cell -> why it could not be measured.
        is_study: whether `fw bench` wrote it, which measures all cells in each round.
    """

    file: Path
    cells: Mapping[Key, Measured]
    machine: Mapping[str, Any]
    libraries: Mapping[str, str]
    method: Mapping[str, str]
    noise: Mapping[str, float]
    failed: Mapping[str, str]
    is_study: bool


def read_figures(file: Path) -> Figures:
    """Reads a file.

    Raises:
        FwError: there is none, it is not JSON, or it is no file of figures.
    """
    document = _document(file)
    study = _table(document, "study")
    info = _table(document, "machine_info")
    return Figures(
        file, _cells(file, document["benchmarks"]), _machine(info), _table(info, "libraries"), _table(study, "method"),
        {cost: share for cost, of in _noise(study).items() if (share := strays(of))},
        _failed(document), bool(study),
    )  # fmt: skip


def _document(file: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = did_you_mean(file.name, [other.name for other in file.parent.glob("*.json")])
        raise FwError(f"there is no file {file}", (near, *WRITERS)) from None
    except OSError as error:
        inside = file / "bench.json"
        hint = f"its figures are in {inside}" if inside.is_file() else WRITERS
        raise FwError(f"cannot read {file}: {error.strerror}", hint) from None
    except ValueError as error:
        raise FwError(f"{file} is not JSON: {error}", ("was it cut short?", *WRITERS)) from None
    if not isinstance(document, dict) or not isinstance(document.get("benchmarks"), list):
        raise FwError(f"{file} holds no figures: it has no list of 'benchmarks'", WRITERS)
    return document


def _cells(file: Path, benchmarks: Iterable[Any]) -> dict[Key, Measured]:
    cells: dict[Key, Measured] = {}
    for number, benchmark in enumerate(benchmarks):
        if not isinstance(benchmark, dict) or not isinstance(benchmark.get("name"), str):
            raise FwError(f"{file}: benchmarks[{number}] has no name", WRITERS)
        cell = _measured(file, benchmark)
        if (cell.group, cell.name) in cells:
            raise FwError(f"{file}: two benchmarks of one group are called {cell.name!r}",
                          "give each a name, or a group, of its own")  # fmt: skip
        cells[cell.group, cell.name] = cell
    return cells


def _measured(file: Path, benchmark: Mapping[str, Any]) -> Measured:
    extra, where = _table(benchmark, "extra_info"), f"{file}: {benchmark['name']!r}"
    params = _table(extra, "params")
    facts = {
        **{name: extra.get(name) for name in ("recipe", "timed", "device", "threads")},
        "parameters": params.get("total"), "trainable parameters": params.get("trainable"),
    }  # fmt: skip
    costs = {
        "time": _rounds(f"{where}: stats.data", _table(benchmark, "stats").get("data")),
        **({"memory": _rounds(f"{where}: extra_info.peak_mb", extra["peak_mb"])} if "peak_mb" in extra else {}),
    }
    known = {name: value for name, value in facts.items() if value is not None}
    return Measured(str(benchmark.get("group") or ""), benchmark["name"], costs, known)


def _rounds(where: str, values: Any) -> tuple[float, ...]:
    if values is None:
        raise FwError(f"{where} is missing: without single timings there is no telling noise from change",
                      "save them too: --benchmark-json=FILE, or --benchmark-save-data")  # fmt: skip
    if not isinstance(values, list) or not values or not all(_is_cost(value) for value in values):
        raise FwError(f"{where} is no list of positive numbers, one for each round", WRITERS)
    return tuple(float(value) for value in values[:: math.ceil(len(values) / MOST_ROUNDS)])


def _is_cost(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def _machine(info: Mapping[str, Any]) -> dict[str, Any]:
    """What decides on speed, as `fw bench` or pytest-benchmark itself calls it; a node's name does not."""
    cpu = _table(info, "cpu")
    known = {
        "processor": cpu.get("brand_raw") or info.get("processor"), "cpus": info.get("cpus") or cpu.get("count"),
        "system": info.get("system"), "python": info.get("python_version"),
    }  # fmt: skip
    return {name: value for name, value in known.items() if value}


def _failed(document: Mapping[str, Any]) -> dict[str, str]:
    failures = [of for of in document.get("failures") or () if isinstance(of, dict)]
    return {of["cell"]: str(of.get("reason", "")) for of in failures if "cell" in of}


def _noise(study: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    noise = _table(study, "noise")
    return {"time": _table(noise, "step_s") or _table(noise, "total_s"), "memory": _table(noise, "peak_mb")}


def strays(ratio: Mapping[str, Any]) -> float:
    """How far a ratio that should be 1 is from it at most, as a share: by its interval, or without one by any round.

    Args:
        ratio: an `Estimate` as JSON has it.
    """
    edges = [ratio.get("low"), ratio.get("high")]
    known = [of for of in (edges if None not in edges else ratio.get("each") or ()) if _is_cost(of)]
    return max((max(of, 1 / of) - 1 for of in known), default=0.0)


def _table(of: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The table of a name; an empty one where there is none."""
    found = of.get(name)
    return found if isinstance(found, dict) else {}
