"""Trained: a finished run's model, to look at, to predict with, and to score on other data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor, nn

from framework import results, rundir
from framework.assemble import loss, require_monitor, set_threads
from framework.builder import Builder
from framework.contracts import InputSpec, Pipeline, Split, UnreadableImage
from framework.errors import FwError, Problem, RecipeError
from framework.feed import Fed, read_in_order
from framework.formats import place, resolved_format
from framework.index import Index
from framework.measure import autocast, pick_device
from framework.mixing import Inputs
from framework.models import Kept, write_whole
from framework.pictures import pictures_in, read_picture
from framework.recipe import Recipe, check
from framework.score import score, to_probabilities
from framework.sources import read_document
from framework.task import Task

if TYPE_CHECKING:
    from PIL.Image import Image

MAY_BE_SET = ("data", "engine", "transform")
MAY_BE_SET_OF_TRAIN = ("batch_size", "workers", "precision")


@attrs.frozen(eq=False)
class Trained:
    """A model as a run left it.

    Attributes:
        module: images (N, C, H, W) -> logits (N, classes), in eval mode.
        transform: one image -> tensor (C, H, W), as in the run's evaluation.
        classes: names, by logit column.
        task: multiclass or multilabel.
        input: what the module expects of an image.
        summary: the run's.
    """

    module: nn.Module
    transform: Pipeline
    classes: tuple[str, ...]
    task: Task
    input: InputSpec
    summary: Mapping[str, Any]

    def predict(self, images: Iterable[Image | Tensor | str | Path], batch_size: int = 32) -> Tensor:
        """Probabilities (N, classes) of images: PIL, uint8 tensors (C, H, W), or paths.

        Raises:
            FwError: an image that cannot be read.
        """
        device = next(self.module.parameters()).device
        waiting = iter(images)
        chunks = [torch.empty(0, len(self.classes))]
        with torch.inference_mode():
            while batch := [self.transform(self._opened(image)) for image in islice(waiting, batch_size)]:
                chunks.append(self.module(torch.stack(batch).to(device)).float().cpu())
        return to_probabilities(torch.cat(chunks), self.task)

    def _opened(self, image: Image | Tensor | str | Path) -> Any:
        if not isinstance(image, (str, Path)):
            return image
        try:
            return read_picture(Path(image))
        except UnreadableImage as error:
            raise FwError(f"image {str(image)!r} cannot be read: {error}") from error


def read_trained(folder: Path, index: Index, overrides: Sequence[str] = ()) -> tuple[Recipe, Builder, Trained]:
    """A finished run's recipe, its builder, and its model.

    Raises:
        FwError: no finished run, a damaged model, or overrides that would make it another one.
    """
    recipe = _recipe(folder, index, overrides)
    kept = Kept.read(folder / rundir.MODEL)
    set_threads(recipe.engine.threads)
    builder = Builder(recipe, index)
    model, task = kept.model(builder), kept.task
    memory_format = resolved_format(recipe.engine.memory_format, model.network)
    place(model.network, pick_device(recipe.engine.device), memory_format)
    model.network.eval()
    summary = json.loads((folder / rundir.SUMMARY).read_text()) if rundir.is_finished(folder) else {}
    return (
        recipe,
        builder,
        Trained(model.network, builder.pipeline("eval", model.spec), task.classes, task, model.spec, summary),
    )


def _recipe(folder: Path, index: Index, overrides: Sequence[str]) -> Recipe:
    file = folder / rundir.RECIPE
    rundir.require_run(folder)
    for override in overrides:
        key = override.partition("=")[0].strip()
        table, _, rest = key.partition(".")
        if table not in MAY_BE_SET and not (table == "train" and rest in MAY_BE_SET_OF_TRAIN):
            raise RecipeError([Problem(f"a finished run's {key!r} cannot be set: its model would be another one", None,
                                       ("data.*, transform.eval.* and engine.* may be set",))])  # fmt: skip
    return check(read_document(file, overrides), index)


def merge(folder: Path, index: Index, out: Path | None) -> dict[str, Any]:
    """Writes the whole model of a run that kept what moved, or an adapter beside its network.

    Args:
        folder: the run directory.
        index: the plugins.
        out: the file to write; absent: the run's own model file, which is replaced.

    Returns:
        what was done, as `models.write_whole` says; `written`: the file, or None where there was nothing to merge.

    Raises:
        FwError: no finished run, a damaged model, or another base than it was trained with.
        AuditFailed: merging the adapter moves logits by more than rounding.
    """
    recipe = _recipe(folder, index, ["engine.device=cpu"])
    with rundir.locked(folder):
        kept = Kept.read(folder / rundir.MODEL)
        builder = Builder(recipe, index)
        mergeable = kept.has_adapter and builder.addition("adapter").mergeable
        if not kept.is_delta and not mergeable and out is None:
            return {"delta": False, "merged": False, "difference": None, "tensors": len(kept.tensors), "written": None}
        set_threads(recipe.engine.threads)
        path = out or folder / rundir.MODEL
        return {**write_whole(kept, builder, path), "written": str(path)}


def evaluate(folder: Path, index: Index, overrides: Sequence[str]) -> dict[str, Any]:
    """Scores a run's model on the validation and test splits of its data, or of other data with the same classes.

    Raises:
        FwError: other classes than the model's, and what `read_trained` raises.
    """
    recipe, builder, trained = read_trained(folder, index, overrides)
    data = builder.data()
    _require_same_classes(trained.task, data.task)
    metrics = builder.metrics(data.task)
    require_monitor(recipe, metrics, data.task)
    feed = _Reader(recipe, trained)
    criterion = loss(builder, data, feed.device)
    found = {
        name: score(feed, split, data.task, criterion, metrics, lambda: autocast(recipe.train.precision, feed.device))
        for name, split in data.scored.items()
    }
    return {
        "run_dir": str(folder),
        "data": {"fingerprint": data.fingerprint, "images": {name: len(s.positions) for name, s in found.items()}},
        "metrics": {name: scores.metrics for name, scores in found.items()},
        "skipped_images": {
            split.names[p]: reason for name, split in data.scored.items() for p, reason in found[name].skipped
        },
        "transfer": trained.summary.get("transfer"),
    }


def _require_same_classes(model: Task, data: Task) -> None:
    if model != data:
        raise FwError(f"the model knows the {model.kind} classes {', '.join(model.classes[:6])}, "
                      f"the data has the {data.kind} classes {', '.join(data.classes[:6])}",
                      "score it on data with the same classes in the same order")  # fmt: skip


class _Reader:
    """The feed of a model that is only scored."""

    def __init__(self, recipe: Recipe, trained: Trained) -> None:
        self.recipe, self.trained = recipe, trained
        self.device = next(trained.module.parameters()).device

    def batches(self, split: Split) -> Iterator[Fed]:
        memory_format = resolved_format(self.recipe.engine.memory_format, self.trained.module)
        return read_in_order(split, self.trained.transform, self.recipe, self.device, memory_format)

    def forward(self, inputs: Inputs) -> Tensor:
        logits: Tensor = self.trained.module(inputs)
        return logits


def predict(folder: Path, index: Index, images: Sequence[Path]) -> list[dict[str, Any]]:
    """One row an image: `image`, `predicted`, a probability per class; or `image` and `error`.

    Args:
        folder: a finished run.
        images: files, or folders of which every picture is taken.

    Raises:
        FwError: a path that is not there, a folder without pictures.
    """
    paths = [file for path in images for file in pictures_in(path)]
    _, _, trained = read_trained(folder, index, ["engine.device=auto"])  # the run's may not be here
    return [_predicted(path, trained) for path in paths]


def _predicted(path: Path, trained: Trained) -> dict[str, Any]:
    try:
        probabilities = trained.predict([read_picture(path)])[0].tolist()
    except UnreadableImage as error:
        return {"image": str(path), "error": str(error)}
    named = {f"p_{name}": value for name, value in zip(trained.classes, probabilities, strict=True)}
    return {"image": str(path), "predicted": results.predicted_words(probabilities, trained.task), **named}
