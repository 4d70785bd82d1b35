"""As JSON, as CSV: a study's outcome in pytest-benchmark's schema, so that `pytest-benchmark compare` reads it."""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import attrs

from framework.bench.costs import TIME_PARTS, Costs
from framework.bench.outcome import Outcome, Scores
from framework.bench.rows import Row
from framework.bench.statistics import Estimate


def as_json(name: str, outcome: Outcome, method: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, Any]:
    """The document: a benchmark for each cell, with its other figures in `extra_info`; the scores under `study`.

    `stats` are seconds of a training step, round by round; of whole runs, seconds of the run.

    Args:
        name: the study's; the group of every benchmark.
        outcome: its figures.
        method: how the figures were taken.
        machine: on what.
    """
    return {
        "machine_info": dict(machine),
        "commit_info": {},
        "benchmarks": [_benchmark(name, row) for row in outcome.rows if row.laps],
        "failures": _failures(outcome),
        "study": {
            "name": name, "method": dict(method), "metric": outcome.metric, "split": outcome.split,
            "higher_is_better": outcome.higher_is_better, "tuned": outcome.is_tuned, "target": outcome.target,
            "scores": [_scores(one) for one in outcome.scores],
            "noise": {cost: estimate(of) for cost, of in outcome.noise.items()},
        },
        "datetime": datetime.datetime.now(datetime.UTC).isoformat(),
        "version": version("pytest-benchmark"),  # whose schema this is
    }  # fmt: skip


def _failures(outcome: Outcome) -> list[dict[str, Any]]:
    cells = [{"cell": row.cell.name, "laps": row.failed, "reason": row.reason} for row in outcome.rows if row.failed]
    arms = [{"arm": one.arm, "runs": one.failed, "reason": one.reason} for one in outcome.scores if one.reason]
    return [*arms, *cells]


def _scores(scores: Scores) -> dict[str, Any]:
    return {
        **{name: getattr(scores, name) for name in ("arm", "p_value", "p_of_images", "verdict", "epoch_of_target")},
        "settings": dict(scores.settings), "edges": dict(scores.edges),
        "trials": [{"settings": dict(settings), "val": value} for settings, value in scores.trials],
        "each": {split: {str(seed): value for seed, value in of.items()} for split, of in scores.each.items()},
        "difference": estimate(scores.difference),
        "curves": {str(seed): list(curve) for seed, curve in scores.curves.items()},
    }  # fmt: skip


def _benchmark(name: str, row: Row) -> dict[str, Any]:
    timed = timings_of(row)
    return {
        "group": name,
        "name": row.cell.name,
        "fullname": f"{name}::{row.cell.name}",
        "params": None,
        "param": None,
        "extra_info": {
            "arm": row.cell.arm, "engine": row.cell.engine,
            "recipe": row.cell.recipe and row.cell.recipe.digest(),
            "timed": "whole runs" if row.cell.whole else "steps",
            "costs": [attrs.asdict(one) for one in row.costs],
            "peak_mb": [one.peak_mb for one in row.costs],
            "policy_ratio": estimate(row.policy_ratio), "policy_memory": estimate(row.policy_memory),
            "engine_ratio": estimate(row.engine_ratio), "repaid_in_epoch": row.repaid, "target_s": row.target_s,
            "params": row.facts.get("params"), "partition": row.facts.get("partition"),
            "threads": row.facts.get("threads"), "device": row.facts.get("device"), **row.parts,
        },
        "options": {
            "disable_gc": False, "timer": "perf_counter", "min_rounds": len(timed), "max_time": 0.0, "min_time": 0.0,
            "warmup": True,
        },
        "stats": stats_of(timed),
    }  # fmt: skip


def timings_of(row: Row) -> list[float]:
    """Seconds of a training step in each round; of whole runs, of the run."""
    return [one.step_s or one.total_s for one in row.costs]


def stats_of(seconds: Sequence[float]) -> dict[str, Any]:
    """pytest-benchmark's own statistics of some timings."""
    from pytest_benchmark.stats import Stats

    stats: Any = Stats()  # type: ignore[no-untyped-call]
    for value in seconds:
        stats.update(value)
    return {**stats.as_dict(), "data": list(seconds), "iterations": 1}


def estimate(of: Estimate | None) -> dict[str, Any] | None:
    """An estimate as JSON values."""
    return None if of is None else attrs.asdict(of)


def as_csv(outcome: Outcome) -> str:
    """A line for each cell: its median costs, its ratios, and its arm's mean score."""
    scores = {one.arm: one for one in outcome.scores}
    lines = [_line(row, scores.get(row.cell.arm), outcome) for row in outcome.rows]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def _line(row: Row, scores: Scores | None, outcome: Outcome) -> dict[str, Any]:
    costs = {field.name: None for field in attrs.fields(Costs)} if row.median is None else attrs.asdict(row.median)
    parts = {f"step_{name}_s": value for name, value in (costs.pop("parts_s") or {}).items()}
    params = row.facts.get("params") or {}
    return {
        "cell": row.cell.name, "arm": row.cell.arm, "engine": row.cell.engine, "rounds": len(row.laps), **costs,
        **{f"step_{name}_s": parts.get(f"step_{name}_s") for name in TIME_PARTS},
        "policy_ratio": row.policy_ratio and row.policy_ratio.value,
        "policy_memory_ratio": row.policy_memory and row.policy_memory.value,
        "engine_ratio": row.engine_ratio and row.engine_ratio.value,
        "repaid_in_epoch": row.repaid, "target_s": row.target_s,
        "trainable": params.get("trainable"), "parameters": params.get("total"),
        f"{outcome.split}_{outcome.metric}": scores and scores.mean(outcome.split),
        "failed": row.reason,
    }  # fmt: skip
