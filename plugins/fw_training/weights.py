"""Weights: what each class counts in a loss, from a recipe's key and the training images' counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

import framework as fw

Weights = Literal["none", "balanced"] | tuple[fw.PositiveFloat, ...]
"""None, computed from the training images, or stated by class."""


def class_weights(weights: Weights, task: fw.Task, counts: Sequence[int]) -> Tensor | None:
    """A weight per class, float32 (classes,), or None.

    Balanced weights are scikit-learn's, sum(counts) / (classes that occur * count); a class without a training image,
    which only the validation loss can meet, weighs 1.

    Raises:
        FwError: a list of another length; balanced weights without any image.
    """
    if weights == "none":
        return None
    if not isinstance(weights, str):
        return _stated("class_weights", weights, task)
    occurring = sum(count > 0 for count in counts)
    if not occurring:
        raise fw.FwError('[loss] class_weights = "balanced": no class has a training image', 'use "none"')
    total = sum(counts)
    return torch.tensor([total / (occurring * count) if count else 1.0 for count in counts])


def positive_weights(weights: Weights, task: fw.Task, counts: Sequence[int], images: int) -> Tensor | None:
    """A weight of each class's positives, float32 (classes,), or None; balanced is negatives / positives.

    Args:
        weights: the recipe's key.
        task: names the classes.
        counts: training images that have each class.
        images: all training images.

    Raises:
        FwError: a list of another length; a class without a positive image.
    """
    if weights == "none":
        return None
    if not isinstance(weights, str):
        return _stated("pos_weight", weights, task)
    empty = [name for name, count in zip(task.classes, counts, strict=True) if not count]
    if empty:
        raise fw.FwError(
            f'[loss] pos_weight = "balanced": no training image has {", ".join(map(repr, empty[:5]))}',
            "state one weight per class",
        )
    return torch.tensor([(images - count) / count for count in counts])


def _stated(key: str, weights: tuple[float, ...], task: fw.Task) -> Tensor:
    if len(weights) != task.num_classes:
        raise fw.FwError(
            f"[loss] {key} has {len(weights)} numbers and the task has {task.num_classes} classes",
            f"give one per class, in this order: {', '.join(task.classes[:12])}"
            + (", ..." if task.num_classes > 12 else ""),
        )
    return torch.tensor(weights, dtype=torch.float32)
