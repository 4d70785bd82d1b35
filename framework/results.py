"""Results: what a finished run leaves beside its model: predictions, and the summary."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import attrs
from torch import nn

from framework.contracts import Split
from framework.files import write_text
from framework.measure import peak_device_mb, peak_rss_mb
from framework.recipe import Recipe
from framework.running import Run
from framework.score import Scores, higher_is_better
from framework.task import Task
from framework.train import images_per_s

SELECTION = "the best epoch by {monitor}, chosen on the validation split"
NO_SELECTION = "the last epoch, whatever its scores: the validation images were trained on"
FINISHED = "what {finisher} made of the run; the raw weights beside it: "
TESTED = "; the test split was scored once, after that"
TESTED_BOTH = "; the test split was scored once with each, after that"
UNTESTED = "; no test split: validation, also used for selection"


def prediction_rows(split: Split, scores: Scores, task: Task) -> list[dict[str, Any]]:
    """One row an image: name, target, predicted class or classes, a probability per class.

    A multilabel image is predicted to have the classes whose probability is at least one half.
    """
    rows = []
    for position, probabilities in zip(scores.positions.tolist(), scores.probabilities.tolist(), strict=True):
        target = split.targets[position]
        rows.append({
            "image": split.names[position],
            "target": class_words(target.tolist(), task),
            "predicted": predicted_words(probabilities, task),
            **{f"p_{name}": f"{value:.6g}" for name, value in zip(task.classes, probabilities, strict=True)},
        })  # fmt: skip
    return rows


def class_words(target: Any, task: Task) -> str:
    """The class of a target, or the classes that it has joined by a bar."""
    if task.kind == "multiclass":
        return task.classes[int(target)]
    return "|".join(name for name, present in zip(task.classes, target, strict=True) if present)


def predicted_words(probabilities: list[float], task: Task) -> str:
    """The predicted class, or the classes joined by a bar."""
    if task.kind == "multiclass":
        return task.classes[max(range(len(probabilities)), key=probabilities.__getitem__)]
    return "|".join(name for name, value in zip(task.classes, probabilities, strict=True) if value >= 0.5)


def write_rows(path: Path, rows: list[dict[str, Any]], columns: list[str]) -> None:
    """Writes a CSV file whole or not at all."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def prediction_columns(task: Task) -> list[str]:
    """The columns of a predictions file."""
    return ["image", "target", "predicted", *(f"p_{name}" for name in task.classes)]


def selection(run: Run) -> str:
    """How the model was chosen, and what saw the test split, in a sentence."""
    recipe, finisher = run.parts.recipe, run.parts.recipe.parts.get("finisher")
    begins = FINISHED.format(finisher=finisher.use) if finisher else ""
    chosen = (NO_SELECTION if recipe.parts["data"].core.join_val else SELECTION).format(monitor=recipe.train.monitor)
    return begins + chosen + (UNTESTED if run.parts.data.test is None else TESTED_BOTH if finisher else TESTED)


def summary(
    run: Run, best: dict[str, dict[str, float]], raw: dict[str, dict[str, float]] | None = None,
    adapter: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The run in one table of facts.

    Args:
        run: finished, with the model in place that is kept.
        best: split -> metrics of that model.
        raw: split -> metrics of the selected network as it trained; None where no finisher made another one of it.
        adapter: what `models.save_model` says of it.
    """
    at, parts, facts = run.standing, run.parts, run.facts
    audit = parts.frozen.audit()
    seconds = run.clock.seconds
    return {
        "name": parts.recipe.name,
        "status": "audit failed" if audit["frozen_moved"] else "done",
        "transfer": facts["weights"]["transfer"],
        "heading": facts["heading"],
        "run_dir": str(run.folder),
        "seed": parts.recipe.seed,
        "policy": parts.recipe.parts["freezing"].plain(),
        "task": {"kind": parts.data.task.kind, "classes": list(parts.data.task.classes)},
        "data": facts["data"],
        "metrics": {
            "final": {"epoch": at.epoch, **_by_split(at.last)},
            "best": {"epoch": at.best.epoch, "monitor": parts.recipe.train.monitor,
                     "higher_is_better": higher_is_better(parts.recipe.train.monitor, parts.metrics), **best},
            **({"raw": {"epoch": at.best.epoch, **raw}} if raw is not None else {}),
        },
        "selection": selection(run),
        "weights": facts["weights"],
        "adapter": adapter,
        **{name: table.plain() if (table := parts.recipe.parts.get(name)) else None
           for name in ("regularizer", "finisher")},
        "params": parameter_counts(parts.network),
        "partition": run.feed.facts(),
        "audit": audit,
        "plan_changes": list(at.plan_changes),
        "skipped_images": dict(at.skipped),
        "epochs": at.epoch,
        "steps": at.step,
        "stopped_early": at.stopped_early,
        "time_s": {name: round(seconds.get(name, 0.0), 3) for name in ("start_up", "features", "train", "validate")}
        | {"total": round(sum(seconds.values()), 3)},
        "images_per_s": round(images_per_s(run), 1),
        "memory_mb": {"peak_rss": round(peak_rss_mb(), 1), "peak_device": peak_device_mb(parts.device)},
        "engine": {**attrs.asdict(parts.recipe.engine), "device": str(parts.device),
                   "memory_format": parts.memory_format},
        "environment": facts["environment"],
    }  # fmt: skip


def parameter_counts(network: nn.Module) -> dict[str, int]:
    """How many numbers a network has, and how many of them train."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    return {"total": sum(size for size, _ in sizes), "trainable": sum(size for size, trains in sizes if trains)}


def _by_split(metrics: dict[str, float]) -> dict[str, dict[str, float]]:
    splits: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        split, _, metric = name.partition(".")
        splits.setdefault(split, {})[metric] = value
    return splits


def recipe_with_pinned_weights(recipe: Recipe, used: dict[str, Any]) -> Recipe:
    """The recipe with the one source that was used, and its SHA-256; drawn weights follow from the seed."""
    table = recipe.parts["backbone"]
    core = attrs.evolve(table.core, weights=(used["used"],), sha256="" if used["used"] == "random" else used["sha256"])
    return attrs.evolve(recipe, parts={**recipe.parts, "backbone": attrs.evolve(table, core=core)})
