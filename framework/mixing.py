"""Mixing: mixup and cutmix of a batch of images."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from torch import Tensor

from framework.tables import TrainTable
from framework.task import Task

Inputs = Tensor | tuple[Tensor, ...]


def mix(inputs: Inputs, targets: Tensor, keys: TrainTable, task: Task) -> tuple[Inputs, Tensor]:
    """The batch, mixed as `[train]` asks; where both are on, one of the two is drawn per batch.

    Args:
        inputs: images (N, C, H, W); anything else only where nothing is mixed.
        targets: int64 (N,), or float32 (N, classes) in a multilabel task.

    Returns:
        inputs of the same shape and float targets (N, classes), or both as they were.

    Sources: mixup 1710.09412, cutmix 1905.04899, as in torchvision.transforms.v2.
    """
    if not (keys.mixup or keys.cutmix):
        return inputs, targets
    mixer: Any = _mixer(keys.mixup, keys.cutmix, task.num_classes)
    mixed: tuple[Tensor, Tensor] = mixer(inputs, targets)
    return mixed


@lru_cache
def _mixer(mixup: float, cutmix: float, num_classes: int) -> Any:
    from torchvision.transforms import v2

    mixers = [
        kind(alpha=alpha, num_classes=num_classes) for kind, alpha in ((v2.MixUp, mixup), (v2.CutMix, cutmix)) if alpha
    ]
    return v2.RandomChoice(mixers) if len(mixers) > 1 else mixers[0]
