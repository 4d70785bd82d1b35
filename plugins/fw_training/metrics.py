"""Metrics: accuracy, balanced accuracy, macro-F1, AUROC and calibration error, for both tasks, through torchmetrics.

Where a class does not occur in the targets, the figures are scikit-learn's: it is left out of what cannot be computed
for it. A metric is updated with probabilities (N, classes) and targets as `fw.Task` describes them. A label of a
multilabel task counts as predicted from probability 1/2 on. torchmetrics is imported where a metric is built: it takes
as long as torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

import framework as fw

if TYPE_CHECKING:
    from torchmetrics import Metric


@attrs.frozen(kw_only=True)
class Accuracy:
    """Share of right predictions: of images (multiclass), of image and label pairs (multilabel: 1 - Hamming loss)."""

    def build(self, task: fw.Task) -> Metric:
        """The metric."""
        from torchmetrics.classification import MulticlassAccuracy

        from fw_training.scores import MultilabelAccuracy

        if task.kind == "multilabel":
            return MultilabelAccuracy(task.num_classes)
        return MulticlassAccuracy(task.num_classes, average="micro")


@attrs.frozen(kw_only=True)
class BalancedAccuracy:
    """Mean recall of the classes that occur; multilabel: of each label's two sides, then over labels."""

    def build(self, task: fw.Task) -> Metric:
        """The metric."""
        from fw_training.scores import MulticlassBalancedAccuracy, MultilabelBalancedAccuracy

        if task.kind == "multilabel":
            return MultilabelBalancedAccuracy(task.num_classes)
        return MulticlassBalancedAccuracy(task.num_classes, average=None)


@attrs.frozen(kw_only=True)
class MacroF1:
    """Mean F1 score of the classes; multiclass: of those that occur in targets or predictions."""

    def build(self, task: fw.Task) -> Metric:
        """The metric."""
        from torchmetrics.classification import MulticlassF1Score

        from fw_training.scores import MultilabelMacroF1

        if task.kind == "multilabel":
            return MultilabelMacroF1(task.num_classes)
        return MulticlassF1Score(task.num_classes, average="macro")


@attrs.frozen(kw_only=True)
class Auroc:
    """Area under the ROC curve of each class against the rest, mean over classes with images on both sides."""

    def build(self, task: fw.Task) -> Metric:
        """The metric; it keeps every probability until it is computed."""
        from fw_training.scores import ClassAuroc

        return ClassAuroc()


@attrs.frozen(kw_only=True)
class Ece:
    """Expected calibration error (1706.04599), lower is better; multilabel: over all image and label pairs."""

    bins: fw.PositiveInt = fw.key(15, "bins of equal width between 0 and 1")

    def build(self, task: fw.Task) -> Metric:
        """The metric."""
        from torchmetrics.classification import MulticlassCalibrationError

        from fw_training.scores import MultilabelCalibrationError

        if task.kind == "multilabel":
            return MultilabelCalibrationError(n_bins=self.bins, norm="l1")
        return MulticlassCalibrationError(task.num_classes, n_bins=self.bins, norm="l1")


METRICS = {"accuracy": Accuracy, "balanced_accuracy": BalancedAccuracy, "macro_f1": MacroF1, "auroc": Auroc, "ece": Ece}
