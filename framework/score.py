"""Score: a split's predictions, loss and metrics."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from framework.contracts import Split
from framework.feed import Reads
from framework.task import Task


@attrs.frozen(eq=False)
class Scores:
    """What a network makes of a split.

    Attributes:
        metrics: `loss` and each metric.
        positions: (N,) of the images that could be read, in order.
        probabilities: (N, classes).
        skipped: (position, reason) of the others.
    """

    metrics: dict[str, float]
    positions: Tensor
    probabilities: Tensor
    skipped: tuple[tuple[int, str], ...]


def score(
    feed: Reads, split: Split, task: Task, criterion: Callable[[Tensor, Tensor], Tensor], metrics: Mapping[str, Any],
    autocast: Callable[[], Any], between_batches: Callable[[], None] = lambda: None,
) -> Scores:  # fmt: skip
    """Scores a split; the network must be in eval mode.

    Args:
        feed: gives the batches and the logits.
        split: what is scored, every image once.
        task: how logits become probabilities.
        criterion: the loss; its mean over images is reported, padding and batching aside.
        metrics: name -> torchmetrics metric.
        autocast: makes the context of the run's precision.
        between_batches: called after each batch; may raise to stop.
    """
    logits, targets, positions, losses = [], [], [], []
    skipped: list[tuple[int, str]] = []
    with torch.no_grad():  # not inference_mode: what a module caches now must serve in training too
        for batch in feed.batches(split):
            skipped += batch.skipped
            if len(batch.positions):
                with autocast():
                    out = feed.forward(batch.inputs)
                out = out.float()
                losses.append(criterion(out, batch.targets).double() * len(batch.positions))
                logits.append(out.cpu())
                targets.append(batch.targets.cpu())
                positions.append(batch.positions)
            between_batches()
    if not logits:
        return Scores({}, torch.empty(0, dtype=torch.long), torch.empty(0, task.num_classes), tuple(skipped))
    probabilities = to_probabilities(torch.cat(logits), task)
    read = torch.cat(positions)
    values = {
        "loss": float(torch.stack(losses).sum()) / len(read),
        **measure(metrics, probabilities, torch.cat(targets)),
    }
    return Scores(values, read, probabilities, tuple(skipped))


def to_probabilities(logits: Tensor, task: Task) -> Tensor:
    """Softmax over classes, or a sigmoid for each class of a multilabel task."""
    return logits.sigmoid() if task.kind == "multilabel" else logits.softmax(dim=1)


def measure(metrics: Mapping[str, Any], probabilities: Tensor, targets: Tensor) -> dict[str, float]:
    """Each metric of probabilities (N, classes) and targets."""
    values = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class that a small split lacks is no news at every epoch
        for name, metric in metrics.items():
            metric.reset()
            metric.update(probabilities, targets if targets.dim() == 1 else targets.long())
            values[name] = float(metric.compute())
            metric.reset()
    return values


def higher_is_better(monitor: str, metrics: Mapping[str, Any]) -> bool:
    """Whether a larger value of the monitored metric is the better one."""
    name = monitor.removeprefix("val.")
    return False if name == "loss" else bool(metrics[name].higher_is_better)
