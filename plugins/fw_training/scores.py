"""Scores: the torchmetrics metrics that torchmetrics lacks, or computes otherwise where a class does not occur."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import BinaryCalibrationError, MulticlassStatScores
from torchmetrics.functional.classification import binary_auroc
from torchmetrics.utilities.data import dim_zero_cat


class MulticlassBalancedAccuracy(MulticlassStatScores):
    """Mean recall of the classes that occur in the targets; torchmetrics' macro average counts absent ones as 0."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def compute(self) -> Tensor:
        """The figure, 0..1."""
        right, _, _, _, support = super().compute().unbind(dim=1)
        occurs = support > 0
        return (right[occurs] / support[occurs]).mean()


class LabelCounts(Metric):
    """Counts of each label's right and wrong predictions; works for a single label too."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    hits: Tensor
    false_alarms: Tensor
    misses: Tensor
    rejections: Tensor

    def __init__(self, labels: int, **options: Any) -> None:
        super().__init__(**options)
        for name in ("hits", "false_alarms", "misses", "rejections"):
            self.add_state(name, default=torch.zeros(labels, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Adds a batch: probabilities and 0/1 targets, both (N, labels)."""
        said, true = preds >= 0.5, target >= 0.5
        self.hits += (said & true).sum(dim=0)
        self.false_alarms += (said & ~true).sum(dim=0)
        self.misses += (~said & true).sum(dim=0)
        self.rejections += (~said & ~true).sum(dim=0)


class MultilabelAccuracy(LabelCounts):
    """Share of image and label pairs that are right."""

    def compute(self) -> Tensor:
        """The figure, 0..1."""
        right = (self.hits + self.rejections).sum()
        return right / (right + (self.false_alarms + self.misses).sum())


class MultilabelBalancedAccuracy(LabelCounts):
    """Mean over labels of the mean recall of the sides (present, absent) that occur."""

    def compute(self) -> Tensor:
        """The figure, 0..1."""
        right = torch.stack([self.hits, self.rejections])
        support = torch.stack([self.hits + self.misses, self.rejections + self.false_alarms])
        recall = torch.where(support > 0, right / support.clamp(min=1), 0.0)
        return (recall.sum(dim=0) / (support > 0).sum(dim=0)).mean()


class MultilabelMacroF1(LabelCounts):
    """Mean F1 over all labels; 0 for one without a positive target or prediction."""

    def compute(self) -> Tensor:
        """The figure, 0..1."""
        whole = 2 * self.hits + self.false_alarms + self.misses
        return (2 * self.hits / whole.clamp(min=1)).mean()


class ClassAuroc(Metric):
    """Mean over classes of the area under the ROC curve against the rest.

    A class that no target has, or all have, is left out; nan, with a warning, where that is every class.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    preds: list[Tensor]
    target: list[Tensor]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("preds", default=[], dist_reduce_fx="cat")
        self.add_state("target", default=[], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Adds a batch: probabilities (N, classes); targets (N,) or (N, classes)."""
        self.preds.append(preds.float())
        self.target.append(target.long())

    def compute(self) -> Tensor:
        """The figure, 0..1."""
        preds, target = dim_zero_cat(self.preds), dim_zero_cat(self.target)
        areas = []
        for number in range(preds.shape[1]):
            positive = (target == number).long() if target.ndim == 1 else target[:, number]
            if 0 < int(positive.sum()) < len(positive):
                areas.append(binary_auroc(preds[:, number], positive, validate_args=False))
        if not areas:
            warnings.warn("AUROC is not defined: no class has images on both sides", UserWarning, stacklevel=2)
            return torch.tensor(float("nan"))
        return torch.stack(areas).mean()


class MultilabelCalibrationError(BinaryCalibrationError):
    """Calibration error of the probabilities of all image and label pairs together."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Adds a batch: probabilities and 0/1 targets, both (N, labels)."""
        super().update(preds.flatten(), target.long().flatten())
