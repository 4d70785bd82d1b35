"""Mistakes: what a network got wrong on a split: which classes for which others, and which images worst."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from framework.contracts import Split
from framework.results import class_words, predicted_words
from framework.score import Scores
from framework.task import Task


@attrs.frozen(eq=False)
class Answers:
    """What a network answered about the images of a split that could be read.

    Attributes:
        task: what was asked.
        split: the images; `positions` (N,) are those that were answered.
        targets: multiclass: int64 (N,); multilabel: (N, classes) of 0 and 1.
        probabilities: (N, classes).
    """

    task: Task
    split: Split
    positions: Tensor
    targets: Tensor
    probabilities: Tensor

    @classmethod
    def of(cls, split: Split, scores: Scores, task: Task) -> Answers:
        """The answers that were scored."""
        return cls(task, split, scores.positions, split.targets[scores.positions], scores.probabilities)

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def present(self) -> Tensor:
        """Whether an image shows a class: bool (N, classes)."""
        if self.targets.dim() == 2:
            return self.targets.bool()
        return torch.nn.functional.one_hot(self.targets, self.task.num_classes).bool()

    @property
    def given(self) -> Tensor:
        """Whether an image is said to show a class: bool (N, classes)."""
        if self.task.kind == "multilabel":
            return self.probabilities >= 0.5
        return torch.nn.functional.one_hot(self.probabilities.argmax(dim=1), self.task.num_classes).bool()


@attrs.frozen
class ConfusionRow:
    """The images of one class.

    Attributes:
        name: the class.
        counts: how many were taken for each class.
        right: the share that was taken for what it is; nan where there is no image.
    """

    name: str
    counts: tuple[int, ...]
    right: float

    @property
    def images(self) -> int:
        """How many images show the class."""
        return sum(self.counts)

    @property
    def shares(self) -> list[float]:
        """`counts` as shares of the images."""
        return [count / max(1, self.images) for count in self.counts]


def confusion(answers: Answers) -> list[ConfusionRow]:
    """The confusion matrix of a multiclass task, a row for each class."""
    pairs, classes = _pairs(answers), answers.task.classes
    rows = [[pairs[target, found] for found in range(len(classes))] for target in range(len(classes))]
    return [ConfusionRow(name, tuple(row), _share(row[at], sum(row)))
            for at, (name, row) in enumerate(zip(classes, rows, strict=True))]  # fmt: skip


@attrs.frozen
class Pair:
    """Images of one class that were taken for another: how many, and their share of those of their class."""

    target: str
    predicted: str
    images: int
    share: float


def confused_pairs(answers: Answers, most: int = 30) -> list[Pair]:
    """The pairs of a multiclass task that were confused most often, at most so many."""
    pairs, names = _pairs(answers), answers.task.classes
    of_class = Counter(target for target, _ in pairs.elements())
    wrong = [(target, found, count) for (target, found), count in sorted(pairs.items()) if target != found]
    wrong.sort(key=lambda pair: -pair[2])
    return [Pair(names[target], names[found], count, count / of_class[target]) for target, found, count in wrong[:most]]


def _pairs(answers: Answers) -> Counter[tuple[int, int]]:
    """How often a target got a prediction; a matrix of very many classes would not fit into memory."""
    return Counter(zip(answers.targets.tolist(), answers.probabilities.argmax(dim=1).tolist(), strict=True))


@attrs.frozen
class LabelRow:
    """One class of a multilabel task.

    Attributes:
        name: the class.
        shown, given, both: images that show it, that are said to, and that are among both.
    """

    name: str
    shown: int
    given: int
    both: int

    @property
    def precision(self) -> float:
        """The share of those given the class that show it; nan where there is none."""
        return _share(self.both, self.given)

    @property
    def recall(self) -> float:
        """The share of those that show the class that were given it; nan where there is none."""
        return _share(self.both, self.shown)

    @property
    def f1(self) -> float:
        """The harmonic mean of the two; nan where the class neither occurs nor is given."""
        return _share(2 * self.both, self.shown + self.given)


def label_rows(answers: Answers) -> list[LabelRow]:
    """Each class of a multilabel task."""
    shown, given = answers.present, answers.given
    counts = [each.sum(dim=0).tolist() for each in (shown, given, shown & given)]
    return [LabelRow(*row) for row in zip(answers.task.classes, *counts, strict=True)]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


@attrs.frozen
class Mistake:
    """An image of which something wrong was said.

    Attributes:
        position: in the split.
        image: its name.
        target, predicted: as predictions have them.
        about: the class of which the network was most wrongly sure.
        probability: of that class.
    """

    position: int
    image: str
    target: str
    predicted: str
    about: str
    probability: float


def worst(answers: Answers, most: int = 24) -> list[Mistake]:
    """The wrongly predicted images, those of which the network was most sure first.

    Multiclass: by the probability of the predicted class. Multilabel: by the largest probability of being wrong in a
    class: its own where the image does not show it, what it lacks to one where the image does.
    """
    wrong = answers.present != answers.given
    if answers.task.kind == "multiclass":
        wrong &= answers.given
    sureness = torch.where(answers.present, 1 - answers.probabilities, answers.probabilities).where(wrong, -1.0)
    highest, columns = sureness.max(dim=1) if len(answers) else (torch.empty(0), torch.empty(0, dtype=torch.long))
    order = [row for row in highest.argsort(descending=True, stable=True).tolist() if highest[row] >= 0]
    return [_mistake(answers, row, int(columns[row])) for row in order[:most]]


def _mistake(answers: Answers, row: int, column: int) -> Mistake:
    position, task = int(answers.positions[row]), answers.task
    probabilities: Sequence[float] = answers.probabilities[row].tolist()
    return Mistake(
        position=position,
        image=answers.split.names[position],
        target=class_words(answers.targets[row].tolist(), task),
        predicted=predicted_words(list(probabilities), task),
        about=task.classes[column],
        probability=probabilities[column],
    )
