"""Answers: predictions to score with a metric, and what scikit-learn makes of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from framework.task import Task

AVERAGES = ("macro", "micro", "weighted")
Figures = Mapping[str, float]
"""What each way of scikit-learn's to compute a figure of some name gives."""


@attrs.frozen(eq=False)
class Answers:
    """Predictions and targets of some images.

    Attributes:
        task: of which task.
        probabilities: float32 (N, classes), as metrics are updated with.
        targets: int64 (N,), or (N, classes) of 0 and 1.
    """

    task: Task
    probabilities: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, positions: Any) -> Answers:
        """Some of the images, by a slice or by positions."""
        return Answers(self.task, self.probabilities[positions], self.targets[positions])

    @property
    def hot(self) -> Tensor:
        """Targets as 0 and 1, float32 (N, classes), for both kinds of task."""
        if self.task.kind == "multilabel":
            return self.targets.float()
        return torch.nn.functional.one_hot(self.targets, self.task.num_classes).float()

    @property
    def perfect(self) -> Answers:
        """The same images with all probability on what is true."""
        return Answers(self.task, self.hot, self.targets)

    @property
    def wrong(self) -> Answers:
        """The same images with all probability on what is not true."""
        hot = self.hot
        opposite = 1 - hot if self.task.kind == "multilabel" else hot.roll(1, dims=1)
        return Answers(self.task, opposite, self.targets)

    @property
    def copied(self) -> Answers:
        """The same in memory of its own."""
        return Answers(self.task, self.probabilities.clone(), self.targets.clone())

    @property
    def said(self) -> NDArray[Any]:
        """What the probabilities decide on: the likeliest class, or each label from 1/2 on."""
        found: NDArray[Any]
        if self.task.kind == "multilabel":
            found = (self.probabilities >= 0.5).long().numpy()
        else:
            found = self.probabilities.argmax(dim=1).numpy()
        return found


def task_of(kind: Literal["multiclass", "multilabel"], classes: int) -> Task:
    """A task with so many classes."""
    return Task(kind, tuple(f"class_{number}" for number in range(classes)))


def drawn(task: Task, seed: int = 0, images: int = 48) -> Answers:
    """Random answers, every class with images that show it and images that do not where there are enough."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, task.num_classes, generator=generator)
    if task.kind == "multiclass":
        targets = torch.randint(0, task.num_classes, (images,), generator=generator)
        targets[: task.num_classes] = torch.arange(task.num_classes)[:images]
        return Answers(task, logits.softmax(dim=1), targets)
    targets = (torch.rand(images, task.num_classes, generator=generator) < 0.4).long()
    targets[:2] = torch.tensor([[0], [1]])[:images]
    return Answers(task, logits.sigmoid(), targets)


def scikit_learns(name: str, answers: Answers) -> Figures:
    """The figures that scikit-learn knows by a metric's name; none where it knows no such metric.

    Args:
        name: of the component: `accuracy`, `macro_f1`, `acme/roc_auc`, ...
        answers: what is scored.
    """
    words = name.lower().rpartition("/")[2].replace("-", "_").split("_")
    figure = _FIGURES.get("_".join(word for word in words if word not in AVERAGES))
    if figure is None:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return figure(answers, tuple(word for word in AVERAGES if word in words) or AVERAGES)


def _accuracy(answers: Answers, _: tuple[str, ...]) -> Figures:
    from sklearn import metrics

    true, said = answers.targets.numpy(), answers.said
    return {
        "accuracy_score": metrics.accuracy_score(true, said),
        "1 - hamming_loss": 1 - metrics.hamming_loss(true, said),
    }


def _balanced_accuracy(answers: Answers, _: tuple[str, ...]) -> Figures:
    from sklearn.metrics import balanced_accuracy_score

    true, said = answers.targets.numpy(), answers.said
    columns = zip(true.T, said.T, strict=True) if answers.task.kind == "multilabel" else [(true, said)]
    return {"balanced_accuracy_score": float(np.mean([balanced_accuracy_score(*column) for column in columns]))}


def _by_decisions(function: str) -> Callable[[Answers, tuple[str, ...]], Figures]:
    """A figure of scikit-learn that is computed from decisions and averaged over classes."""

    def figures(answers: Answers, averages: tuple[str, ...]) -> Figures:
        from sklearn import metrics

        score, true = getattr(metrics, function), answers.targets.numpy()
        return {f"{function}, {average}": score(true, answers.said, average=average) for average in averages}

    return figures


def _by_ranks(function: str) -> Callable[[Answers, tuple[str, ...]], Figures]:
    """A figure of scikit-learn that is computed from the order of the probabilities of each class against the rest."""

    def figures(answers: Answers, averages: tuple[str, ...]) -> Figures:
        from sklearn import metrics

        score, true, said = getattr(metrics, function), answers.hot.numpy(), answers.probabilities.numpy()
        return {f"{function}, {average}": score(true, said, average=average) for average in averages}

    return figures


_FIGURES: Mapping[str, Callable[[Answers, tuple[str, ...]], Figures]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "f1": _by_decisions("f1_score"),
    "precision": _by_decisions("precision_score"),
    "recall": _by_decisions("recall_score"),
    "jaccard": _by_decisions("jaccard_score"),
    "auroc": _by_ranks("roc_auc_score"),
    "roc_auc": _by_ranks("roc_auc_score"),
    "average_precision": _by_ranks("average_precision_score"),
}
