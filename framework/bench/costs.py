"""Costs: what a cell takes, from one measurement of a few of its steps or of a whole run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from framework.bench.laps import Cell, Lap

TIME_PARTS = ("data", "forward", "backward", "optimizer")
"""What a step is divided into. The loss and a regularizer's term count as forward; clipping as backward; what the loop
does between the optimizer's step and the next batch, a finisher's work on it among that, as optimizer."""


@attrs.frozen
class Costs:
    """What one measurement says that training takes. What it does not say is None.

    Attributes:
        total_s: to the end of training, start-up included; of a few steps it is worked out, of a whole run measured,
            with what comes after the last epoch: the test images, and what a finisher makes of the run.
        start_up_s: until the network stands and is divided.
        features_s: the one pass over all images of training and validation; 0 where nothing is kept.
        epoch_s: a later epoch, its validation included.
        step_s: a step of a full batch, or of as many as are accumulated: the median over turns.
        parts_s: of a step, by `TIME_PARTS`.
        images_per_s: trained on.
        features_per_1000_s: the one pass, for 1,000 images.
        peak_mb: above what the process takes once it has imported all; of a program, of the whole process.
    """

    total_s: float
    peak_mb: float
    start_up_s: float | None = None
    features_s: float | None = None
    epoch_s: float | None = None
    step_s: float | None = None
    parts_s: Mapping[str, float] = attrs.field(factory=dict)
    images_per_s: float | None = None
    features_per_1000_s: float | None = None


def costs_of(lap: Lap, cell: Cell) -> Costs:
    """What a lap that did not fail says.

    Args:
        lap: of a cell.
        cell: tells how it was measured.
    """
    if cell.recipe is None:
        return Costs(lap.seconds, lap.peak_mb)
    return _of_whole(lap) if cell.whole else _of_steps(lap.facts)


def _of_whole(lap: Lap) -> Costs:
    times, epochs = lap.facts["time_s"], lap.facts["epochs"]
    return Costs(
        total_s=lap.seconds, peak_mb=lap.peak_mb, start_up_s=times["start_up"], features_s=times["features"],
        epoch_s=(times["train"] + times["validate"]) / max(1, epochs), images_per_s=lap.facts["images_per_s"],
    )  # fmt: skip


def _of_steps(facts: Mapping[str, Any]) -> Costs:
    """From a few images to all of them: each cost grows with the images that it is paid for."""
    images, few, image_s = facts["images"], facts["thinned"], statistics.median(facts["image_s"])
    validate_s = facts["validate_s"] * images["val"] / few["val"]
    train_features_s = facts["features_s"] * images["train"] / few["train"]
    val_features_s = max(0.0, facts["first_validate_s"] - facts["validate_s"]) * images["val"] / few["val"]
    kept = bool(facts["partition"]["boundary"]) and not facts["partition"].get("not_kept")
    features_s = train_features_s + val_features_s if kept else train_features_s
    epoch_s = facts["epoch_s"] + image_s * images["train"] + validate_s
    start_up_s = facts["start_up_s"] + facts["divide_s"]
    return Costs(
        total_s=start_up_s + features_s + facts["epochs"] * epoch_s,
        peak_mb=max(1.0, facts["peak_mb"] - facts["base_mb"]),
        start_up_s=start_up_s, features_s=features_s, epoch_s=epoch_s,
        step_s=facts["images_of_step"] * image_s, images_per_s=1 / image_s,
        parts_s={name: facts["images_of_step"] * part for name, part in facts["image_parts_s"].items()},
        features_per_1000_s=1000 * facts["features_s"] / few["train"] if kept else None,
    )  # fmt: skip


def repaid_in_epoch(pairs: Sequence[tuple[Costs, Costs]]) -> int | None:
    """The epoch in which the one pass is repaid, against the usual loop; None where it never is, or nobody knows.

    Args:
        pairs: of the divided network and of the usual loop, measured together.
    """
    gains = [plain.epoch_s - divided.epoch_s for divided, plain in pairs if divided.epoch_s and plain.epoch_s]
    passes = [divided.features_s for divided, _ in pairs if divided.features_s is not None]
    if not gains or not passes or statistics.median(gains) <= 0:
        return None
    return max(1, math.ceil(statistics.median(passes) / statistics.median(gains)))


def seconds_to_epoch(costs: Costs, epoch: int) -> float | None:
    """Seconds until an epoch, counted from 1, is done and validated."""
    if costs.epoch_s is None or costs.start_up_s is None or costs.features_s is None:
        return None
    return costs.start_up_s + costs.features_s + epoch * costs.epoch_s


def medians(costs: Sequence[Costs]) -> Costs:
    """The median over rounds of each cost; parts are those of the median step."""
    found: dict[str, Any] = {}
    for name in (field.name for field in attrs.fields(Costs) if field.name != "parts_s"):
        known = [value for one in costs if (value := getattr(one, name)) is not None]
        found[name] = statistics.median(known) if known else None
    steps = sorted((one for one in costs if one.parts_s), key=lambda one: sum(one.parts_s.values()))
    return Costs(**found, parts_s=steps[len(steps) // 2].parts_s if steps else {})
