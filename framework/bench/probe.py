"""Probe: what one cell costs, measured in the process that this module is run in.

    python -m framework.bench probe RECIPE.toml RESULT.json TURNS [count] BEGAN

The real loop trains on a few images; BEGAN is when the process was started, by the system's monotonic clock. It says on
its output when it waits for its turn, and measures when a line comes to its input.
"""

from __future__ import annotations

import gc
import math
import time
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import nn

from framework.allocator import keeping_memory, returning_memory
from framework.bench.parts import parts_of
from framework.bench.stints import Turn, seconds, times_of_turns
from framework.bench.turns import turns
from framework.contracts import Moments
from framework.display import NullDisplay
from framework.files import write_json
from framework.formats import place
from framework.index import Index, installed_index
from framework.measure import free_mb, peak_since_reset_mb, pick_device, reset_peak, resident_mb, synchronize
from framework.recipe import Recipe, load_trusted
from framework.results import parameter_counts
from framework.running import Run
from framework.runs import prepare_run
from framework.train import validate

IMAGES, BATCHES = 256, 4
"""Of each split: this many images, or so many batches where that is more."""
EPOCHS = 100_000
"""More than a lap has, so that a scheduler moves at each of its steps, as it does in a run."""


def probe(recipe: Recipe, index: Index, began: float, count: bool, turn: Turn, turns: int) -> dict[str, Any]:
    """What a recipe costs under its first plan; from an empty store, unless somebody filled it.

    Args:
        recipe: what is measured; its images are thinned out.
        index: the plugins.
        began: when the process was started, by `time.monotonic`.
        count: whether operations and memory of a step are counted, too.
        turn, turns: as `times_of_turns` takes them.

    Returns:
        seconds: `start_up_s` (until the network stands), `divide_s`, `features_s` (the one pass over the thinned
        training images), `first_validate_s`, and what `times_of_turns` gives; `base_mb` and `peak_mb` (resident, or of
        the device's allocator; the base is what it takes when all is imported and nothing built); `thinned` and
        `images` by split; `later_plans`, whether others than the first can follow; `params`, `partition`, `epochs`,
        `images_of_step`, `threads`, `device`; and what `parts_of` gives.
    """
    device = pick_device(recipe.engine.device)
    with returning_memory(device):
        found = rehearse(recipe, index, began, count)
    gc.collect()  # the rehearsal's network
    found["base_mb"] = resident_mb(device)
    reset_peak(device)
    run = new_run(recipe, index)
    sizes = run.facts["data"]["images"]
    with keeping_memory(device):
        passes = recipe.train.epochs * sizes["train"] / len(run.parts.data.train)
        found["features_s"] = seconds(device, lambda: run.feed.follow(passes))
        found["first_validate_s"] = seconds(device, lambda: validate(run))
        found |= times_of_turns(run, turn, turns)
        found["peak_mb"] = peak_since_reset_mb(device)
    return {
        **found, "images": sizes, "thinned": {"train": len(run.parts.data.train), "val": len(run.parts.data.val)},
        "params": parameter_counts(run.parts.network), "partition": run.feed.facts(),
        "later_plans": run.parts.policy.moments() != Moments(),
        "epochs": epochs_of(recipe, run), "images_of_step": recipe.train.batch_size * recipe.train.accumulate,
        "threads": torch.get_num_threads(), "device": str(device), "memory_format": run.parts.memory_format,
    }  # fmt: skip


def rehearse(recipe: Recipe, index: Index, began: float, count: bool) -> dict[str, Any]:
    """What a run takes to begin with, and what its step computes and keeps, with nothing in the store afterwards."""
    engine = attrs.evolve(recipe.engine, cache="off" if recipe.engine.cache == "off" else "memory")
    run = new_run(attrs.evolve(recipe, engine=engine), index)
    found: dict[str, Any] = {"start_up_s": time.monotonic() - began}
    found["divide_s"] = seconds(run.parts.device, run.feed.divide)
    if not count:
        use_libraries(run.parts.device)
        return found
    run.feed.follow(recipe.train.epochs)
    return found | parts_of(run)


def new_run(recipe: Recipe, index: Index) -> Run:
    """A run on few images, before its first step."""
    images = max(IMAGES, BATCHES * recipe.train.batch_size)
    return prepare_run(for_long(recipe), index, Path(), NullDisplay(), images=images)


def for_long(recipe: Recipe) -> Recipe:
    """The recipe with epochs for as long as it is measured, so that no scheduler comes to its end."""
    keys = attrs.evolve(recipe.train, epochs=max(recipe.train.epochs, EPOCHS), max_steps=0)
    return attrs.evolve(recipe, train=keys)


def epochs_of(recipe: Recipe, run: Run) -> float:
    """How many epochs the whole run has."""
    keys, images = recipe.train, run.facts["data"]["images"]["train"]
    batches = images // keys.batch_size if keys.drop_last else math.ceil(images / keys.batch_size)
    per_epoch = math.ceil(batches / keys.accumulate)
    return min(keys.epochs, keys.max_steps / per_epoch) if keys.max_steps else keys.epochs


def use_libraries(device: torch.device) -> None:
    """Trains a toy, so that what libraries load at their first use counts as theirs and not as the cell's."""
    toy = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 30 * 30, 2))
    place(toy, device, "channels_last")
    optimizer = torch.optim.SGD(toy.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        toy(torch.zeros(4, 3, 32, 32, device=device)).sum().backward()
        optimizer.step()
    synchronize(device)


def main(recipe: str, result: str, many: str, *count_and_began: str) -> int:
    """The process: reads the recipe, writes the result."""
    *count, began = count_and_began
    wait = turns()
    [loaded], index = load_trusted([Path(recipe)], installed_index())
    device = pick_device(loaded.engine.device)

    def turn() -> None:
        wait(peak_since_reset_mb(device), free_mb(device))

    write_json(Path(result), probe(loaded, index, float(began), bool(count), turn, int(many)))
    return 0
