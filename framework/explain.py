"""Explain: what the engine would make of a recipe: the partition, the store, and a prediction from one timed batch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from framework.allocator import keeping_memory
from framework.assemble import flops_shares
from framework.display import NullDisplay
from framework.feed import Fed, WholeNetwork
from framework.filling import missing_from
from framework.index import Index
from framework.keeping import Keeper
from framework.measure import peak_device_mb, peak_rss_mb, synchronize
from framework.recipe import Recipe
from framework.running import Run
from framework.runs import prepare_run
from framework.stored import Divided
from framework.train import add_gradient, take_step


def explain(recipe: Recipe, index: Index) -> dict[str, Any]:
    """The partition of a recipe's first plan, and what the run would take; nothing is stored or written.

    Returns:
        `stages` (rows of `stage`, `flops_share`, `fixed`), the feed's facts (`boundary`, `bytes_per_image`, ...),
        `images`, `store` (`bytes`, `missing` images), `batch_s` (seconds of one batch: `read`, `fixed`, `step`,
        `whole_step`), `predicted` (`features_s`, `epoch_s`, `whole_epoch_s`, `repaid_after` epochs, `total_s`)
        and `memory_mb` (peaks so far).

    Raises:
        FwError: as a run of the recipe would.
    """
    run = prepare_run(recipe, index, Path(), NullDisplay())
    run.feed.divide()
    data, store, facts = run.parts.data, _store(run), run.feed.facts()
    with keeping_memory(run.parts.device):
        batch, batch_s = _time_its_way(run)
        memory_mb = {"peak_rss": peak_rss_mb(), "peak_device": peak_device_mb(run.parts.device)}
        batch_s["whole_step"] = _time_whole_step(run, batch) if facts["boundary"] is not None else batch_s["step"]
    return {
        "name": recipe.name,
        "policy": recipe.parts["freezing"].use,
        "backbone": recipe.parts["backbone"].use,
        "stages": _stages(run),
        **facts,
        "images": {"train": len(data.train), **{name: len(split) for name, split in data.scored.items()}},
        "batch_size": recipe.train.batch_size,
        "epochs": recipe.train.epochs,
        "store": store,
        "batch_s": batch_s,
        "predicted": predict(run, batch_s, store),
        "memory_mb": memory_mb,
    }


def _keeper(run: Run) -> Keeper | None:
    return run.feed.keeper if isinstance(run.feed, Divided) else None


def _stages(run: Run) -> list[dict[str, Any]]:
    keeper = _keeper(run)
    fixed = keeper.partition.stages if keeper else {}
    return [
        {"stage": stage, "flops_share": share, "fixed": fixed.get(stage, 0.0)}
        for stage, share in flops_shares(run.parts.model).items()
    ]


def _store(run: Run) -> dict[str, Any]:
    """How large the boundary of all images is, and how many are not there yet."""
    keeper = _keeper(run)
    if keeper is None or run.parts.recipe.engine.cache == "off":
        return {"bytes": 0, "missing": 0, "why_not": None}
    data = run.parts.data
    asked = [(data.train, "train"), *((split, "eval") for split in data.scored.values())]
    names = [(keeper.names(split, which), keeper.entry(which)) for split, which in asked]
    why_not = run.feed.why_not_kept(run.parts.recipe.train.epochs) if isinstance(run.feed, Divided) else None
    return {
        "bytes": keeper.partition.bytes_per_image * sum(len(of) for of, _ in names),
        "missing": sum(len(missing_from(entry, of)) for of, entry in names),
        "why_not": why_not,
    }


def _time_its_way(run: Run) -> tuple[Fed, dict[str, float]]:
    """A batch of images, and the seconds to read it, to compute its boundary, and to train on that.

    Each is timed at its second turn: the first one also makes buffers and the optimizer's state.
    """
    batches = WholeNetwork(run.parts, "for comparison").train_batches(0, 0)
    run.parts.frozen.train()
    read, batch = _timed(run, lambda: next(batches))
    keeper = _keeper(run)
    if keeper is None:
        return batch, {"read": read, "fixed": 0.0, "step": _second(run, lambda: _train_on(run, batch))}
    images = batch.inputs
    assert isinstance(images, Tensor)
    rows = keeper.boundary(images)
    fixed, _ = _timed(run, lambda: keeper.boundary(images))
    kept = Fed(rows, batch.targets, batch.positions, batch.skipped)
    return batch, {"read": read, "fixed": fixed, "step": _second(run, lambda: _train_on(run, kept))}


def _time_whole_step(run: Run, batch: Fed) -> float:
    """Seconds of the step that an undivided network would take."""
    divided, run.feed = run.feed, WholeNetwork(run.parts, "for comparison")
    seconds = _second(run, lambda: _train_on(run, batch))
    run.feed = divided
    return seconds


def _second(run: Run, work: Callable[[], Any]) -> float:
    work()
    return _timed(run, work)[0]


def _train_on(run: Run, batch: Fed) -> None:
    add_gradient(run, batch)
    run.standing.batch = 1
    take_step(run)
    run.standing.batch = 0


def _timed(run: Run, work: Callable[[], Any]) -> tuple[float, Any]:
    synchronize(run.parts.device)
    began = time.perf_counter()
    result = work()
    synchronize(run.parts.device)
    return time.perf_counter() - began, result


def predict(run: Run, batch_s: dict[str, float], store: dict[str, Any]) -> dict[str, Any]:
    """Seconds of the one pass, of an epoch either way, and when the pass is repaid.

    Scoring an image is counted as a third of training on it: a forward pass, of a forward and two backward ones.

    Args:
        run: the run.
        batch_s: seconds of one batch, as `explain` gives them.
        store: what is missing in the store.
    """
    data, keys = run.parts.data, run.parts.recipe.train
    kept = store["why_not"] is None and bool(store["bytes"])
    batches = (len(data.train) + len(data.val) / 3) / keys.batch_size
    read_all = (len(data.train) + len(data.val)) / keys.batch_size * batch_s["read"]
    whole = batches * batch_s["whole_step"] + read_all
    features = store["missing"] / keys.batch_size * (batch_s["read"] + batch_s["fixed"]) if kept else 0.0
    epoch = batches * batch_s["step"] if kept else batches * (batch_s["step"] + batch_s["fixed"]) + read_all
    gained = whole - epoch
    return {
        "features_s": features,
        "epoch_s": epoch,
        "whole_epoch_s": whole,
        "repaid_after": math.ceil(features / gained) if gained > 0 else None,
        "total_s": features + epoch * keys.epochs,
    }
