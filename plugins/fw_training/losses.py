"""Losses: the explicit list of those that make sense on logits, under their library's names, and focal loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

import framework as fw
from fw_training.weights import Weights, class_weights, positive_weights

Smoothing = fw.Fraction
WEIGHTS_DOC = '"balanced" (images / (classes * count), as scikit-learn has it), or one per class'
POSITIVE_DOC = '"balanced" (negatives / positives of each class), or one per class'


class Loss(nn.Module):
    """A loss as the training loop calls it: logits (N, classes) and targets to a scalar.

    Args:
        compute: gives the scalar from logits, targets and `weights`, which stand on the logits' device.
        weights: one number per class, or None.
        supports_soft_targets: whether multiclass targets may be float (N, classes), as mixup and cutmix make them.
    """

    def __init__(
        self,
        compute: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        weights: Tensor | None = None,
        supports_soft_targets: bool = True,
    ) -> None:
        super().__init__()
        self.compute = compute
        self.register_buffer("weights", weights)
        self.supports_soft_targets = supports_soft_targets

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch."""
        weights = self.get_buffer("weights") if self.weights is not None else None
        return self.compute(logits, targets, None if weights is None else weights.to(logits.device))


def require_kind(name: str, task: fw.Task, kind: str, instead: str) -> None:
    """Refuses a task that a loss is not made for, naming what would do."""
    if task.kind != kind:
        raise fw.FwError(f"[loss] {name} is for {kind} tasks and this one is {task.kind}", f"use {instead}")


def hard_targets(logits: Tensor, targets: Tensor) -> Tensor:
    """Targets as (N, classes): one-hot where they are class numbers."""
    return targets if targets.is_floating_point() else functional.one_hot(targets, logits.shape[1]).to(logits.dtype)


@attrs.frozen(kw_only=True)
class CrossEntropy:
    """Cross entropy of the softmax; multiclass."""

    label_smoothing: Smoothing = fw.key(0.0, "share of each target spread over all classes (1512.00567)")
    class_weights: Weights = fw.key("none", WEIGHTS_DOC)

    def build(self, task: fw.Task, class_counts: Sequence[int], images: int) -> Loss:
        """The loss; soft targets allowed."""
        require_kind("torch/CrossEntropyLoss", task, "multiclass", "torch/BCEWithLogitsLoss")

        def compute(logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
            return functional.cross_entropy(logits, targets, weights, label_smoothing=self.label_smoothing)

        return Loss(compute, class_weights(self.class_weights, task, class_counts))


@attrs.frozen(kw_only=True)
class BCEWithLogits:
    """Binary cross entropy of each class's sigmoid, averaged over images and classes; multilabel."""

    pos_weight: Weights = fw.key("none", POSITIVE_DOC)
    label_smoothing: Smoothing = fw.key(0.0, "share by which each target moves towards 1/2")

    def build(self, task: fw.Task, class_counts: Sequence[int], images: int) -> Loss:
        """The loss; `images` is how many there are, for balanced weights."""
        require_kind("torch/BCEWithLogitsLoss", task, "multilabel", "torch/CrossEntropyLoss or timm/BinaryCrossEntropy")

        def compute(logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
            smooth = targets * (1.0 - self.label_smoothing) + 0.5 * self.label_smoothing
            return functional.binary_cross_entropy_with_logits(logits, smooth.to(logits.dtype), pos_weight=weights)

        return Loss(compute, positive_weights(self.pos_weight, task, class_counts, images))


@attrs.frozen(kw_only=True)
class MultiMargin:
    """Multi-class hinge loss; multiclass, without mixup and cutmix."""

    p: Literal[1, 2] = fw.key(1, "power of the margin's violation")
    margin: fw.PositiveFloat = fw.key(1.0, "by how much the right class's logit is to lead")
    class_weights: Weights = fw.key("none", WEIGHTS_DOC)

    def build(self, task: fw.Task, class_counts: Sequence[int], images: int) -> Loss:
        """The loss; targets are class numbers."""
        require_kind("torch/MultiMarginLoss", task, "multiclass", "torch/MultiLabelSoftMarginLoss")

        def compute(logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
            return functional.multi_margin_loss(logits.float(), targets, self.p, self.margin, weights)

        return Loss(compute, class_weights(self.class_weights, task, class_counts), supports_soft_targets=False)


@attrs.frozen(kw_only=True)
class MultiLabelSoftMargin:
    """Binary cross entropy of each class's sigmoid, classes weighted; multilabel."""

    class_weights: Weights = fw.key("none", WEIGHTS_DOC)

    def build(self, task: fw.Task, class_counts: Sequence[int], images: int) -> Loss:
        """The loss."""
        require_kind("torch/MultiLabelSoftMarginLoss", task, "multilabel", "torch/MultiMarginLoss")

        def compute(logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
            return functional.multilabel_soft_margin_loss(logits, targets, weights)

        return Loss(compute, class_weights(self.class_weights, task, class_counts))


@attrs.frozen(kw_only=True)
class Focal:
    """Focal loss (1708.02002): what is already classified well counts less; multiclass and multilabel."""

    gamma: fw.NonNegative = fw.key(2.0, "how much less; 0 is plain cross entropy")
    class_weights: Weights = fw.key("none", WEIGHTS_DOC)
    alpha: fw.Fraction | None = fw.key(None, "weight of positives, 1 - alpha that of negatives; multilabel only")

    def build(self, task: fw.Task, class_counts: Sequence[int], images: int) -> Loss:
        """Softmax or sigmoid, as the task is; soft targets allowed."""
        if task.kind == "multiclass" and self.alpha is not None:
            raise fw.FwError("[loss] alpha of focal is for multilabel tasks", "use class_weights in a multiclass one")
        compute = self._softmax if task.kind == "multiclass" else self._sigmoid
        return Loss(compute, class_weights(self.class_weights, task, class_counts))

    def _softmax(self, logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """Weighted as torch's cross entropy: over the weights of hard targets, over the images of soft ones."""
        logs = functional.log_softmax(logits.float(), dim=1)
        share = hard_targets(logs, targets)
        terms = share if weights is None else share * weights
        loss = -(terms * _power(1.0 - logs.exp(), self.gamma) * logs).sum()
        return loss / (len(logits) if targets.is_floating_point() else terms.sum())

    def _sigmoid(self, logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        logits, targets = logits.float(), targets.float()
        chance = torch.sigmoid(logits)
        alpha, rest = (1.0, 1.0) if self.alpha is None else (self.alpha, 1.0 - self.alpha)
        positive = alpha * targets * _power(1.0 - chance, self.gamma) * functional.logsigmoid(logits)
        negative = rest * (1.0 - targets) * _power(chance, self.gamma) * functional.logsigmoid(-logits)
        terms = -(positive + negative)
        return (terms if weights is None else terms * weights).mean()


def _power(chance: Tensor, gamma: float) -> Tensor:
    # At 0 the slope of a power below 1 is infinite; clamped, it passes no gradient there.
    return chance.clamp(min=torch.finfo(chance.dtype).tiny) ** gamma


@attrs.frozen(kw_only=True)
class TimmBinaryCrossEntropy:
    """Binary cross entropy on class numbers made one-hot (2110.00476); multiclass."""

    smoothing: Smoothing = fw.key(0.1, "label smoothing of hard targets")
    target_threshold: fw.Fraction | None = fw.key(None, "soft targets above it count as 1, others as 0")
    sum_classes: bool = fw.key(False, "sum over classes instead of averaging")

    def build(self, task: fw.Task, class_counts: Sequence[int], images: int) -> Loss:
        """The loss; soft targets allowed."""
        require_kind("timm/BinaryCrossEntropy", task, "multiclass", "torch/BCEWithLogitsLoss")
        return _of_timm("BinaryCrossEntropy", attrs.asdict(self))


@attrs.frozen(kw_only=True)
class TimmSoftTargetCrossEntropy:
    """Cross entropy against class probabilities; multiclass, meant for mixup and cutmix."""

    def build(self, task: fw.Task, class_counts: Sequence[int], images: int) -> Loss:
        """The loss; class numbers are made one-hot."""
        require_kind("timm/SoftTargetCrossEntropy", task, "multiclass", "torch/BCEWithLogitsLoss")
        soft = _of_timm("SoftTargetCrossEntropy", {})
        return Loss(lambda logits, targets, _: soft(logits, hard_targets(logits, targets)))


@attrs.frozen(kw_only=True)
class TimmAsymmetricSingleLabel:
    """Asymmetric loss (2009.14119) of the softmax; multiclass, without mixup and cutmix."""

    gamma_pos: fw.NonNegative = fw.key(1.0, "focusing of the right class")
    gamma_neg: fw.NonNegative = fw.key(4.0, "focusing of the others")
    eps: Smoothing = fw.key(0.1, "label smoothing")

    def build(self, task: fw.Task, class_counts: Sequence[int], images: int) -> Loss:
        """The loss; targets are class numbers."""
        require_kind("timm/AsymmetricLossSingleLabel", task, "multiclass", "timm/AsymmetricLossMultiLabel")
        return _of_timm("AsymmetricLossSingleLabel", attrs.asdict(self), supports_soft_targets=False)


@attrs.frozen(kw_only=True)
class TimmAsymmetricMultiLabel:
    """Asymmetric loss (2009.14119): easy negatives count less, very easy ones nothing; multilabel."""

    gamma_neg: fw.NonNegative = fw.key(4.0, "focusing of negatives")
    gamma_pos: fw.NonNegative = fw.key(1.0, "focusing of positives")
    clip: fw.Fraction = fw.key(0.05, "probability below which a negative counts nothing")

    def build(self, task: fw.Task, class_counts: Sequence[int], images: int) -> Loss:
        """The loss, summed over classes and averaged over images as timm's default is."""
        require_kind("timm/AsymmetricLossMultiLabel", task, "multilabel", "timm/AsymmetricLossSingleLabel")
        return _of_timm("AsymmetricLossMultiLabel", attrs.asdict(self))


def _of_timm(name: str, keys: Mapping[str, Any], supports_soft_targets: bool = True) -> Loss:
    import timm.loss

    module = getattr(timm.loss, name)(**keys)
    return Loss(lambda logits, targets, _: module(logits, targets), supports_soft_targets=supports_soft_targets)


LOSSES = {
    "torch/CrossEntropyLoss": CrossEntropy,
    "torch/BCEWithLogitsLoss": BCEWithLogits,
    "torch/MultiMarginLoss": MultiMargin,
    "torch/MultiLabelSoftMarginLoss": MultiLabelSoftMargin,
    "focal": Focal,
    "timm/BinaryCrossEntropy": TimmBinaryCrossEntropy,
    "timm/SoftTargetCrossEntropy": TimmSoftTargetCrossEntropy,
    "timm/AsymmetricLossSingleLabel": TimmAsymmetricSingleLabel,
    "timm/AsymmetricLossMultiLabel": TimmAsymmetricMultiLabel,
}
