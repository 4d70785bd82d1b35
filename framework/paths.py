"""Paths: a check before training that the gradient reaches every parameter that is meant to train."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from framework.errors import FwError
from framework.freezing import put_back
from framework.passed import PASSED, what_is_checked
from framework.running import Run
from framework.task import Task


def require_paths(run: Run) -> None:
    """Sends two images of noise through the network and back; buffers, gradients and random streams are put back.

    It is done once in a process for what is the same.

    Raises:
        FwError: a trainable parameter has no path to the loss; a batch too small for batch norm.
    """
    table, task = run.parts.recipe.parts["loss"], run.parts.data.task
    what = what_is_checked(run.parts, table.plain(), task.kind, task.num_classes, _shortest_batch(run))
    if what in PASSED:
        return
    network, plan = run.parts.network, run.parts.frozen.plan
    spec, device = run.parts.model.spec, run.parts.device
    own = dict(network.named_buffers())
    before = {name: buffer.clone() for name, buffer in own.items()}
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(0)
        run.parts.frozen.train()
        images = torch.randn(2, spec.channels, *spec.size, device=device)
        try:
            _backward(run, images)
            if plan.batch_stats and _shortest_batch(run) == 1:
                _refuse_single_image(run, images[:1])
        finally:
            put_back(network, before)
    missing = [name for name, p in network.named_parameters() if name in plan.trainable and p.grad is None]
    network.zero_grad(set_to_none=True)
    if missing:
        some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise FwError(f"{len(missing)} trainable parameters have no path to the loss: {some}",
                      "this network does not use them: leave them out with the policy 'pattern'")  # fmt: skip
    if all(own.get(name) is buffer for name, buffer in network.named_buffers()):
        PASSED.add(what)  # else the first image makes buffers anew (ConViT), and has to come before the audit


def _backward(run: Run, images: Tensor) -> None:
    task = run.parts.data.task
    try:
        with run.autocast():
            logits = run.parts.network(images)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise FwError(
            f"the network fails on images of shape {tuple(images.shape)} in train mode: {reason}",
            "check that head.use takes what the backbone gives, and backbone.image_size",
        ) from error
    if logits.shape != (len(images), task.num_classes):
        raise FwError(f"the network gives logits of shape {tuple(logits.shape)[1:]} per image, "
                      f"but the task has {task.num_classes} classes", "check head.use")  # fmt: skip
    loss: Any = run.parts.criterion(logits.float(), _targets(task, len(images)).to(run.parts.device))
    loss.backward()


def _targets(task: Task, count: int) -> Tensor:
    if task.kind == "multilabel":
        return torch.ones(count, task.num_classes)
    return torch.arange(count) % task.num_classes


def _shortest_batch(run: Run) -> int:
    keys = run.parts.recipe.train
    rest = len(run.parts.data.train) % keys.batch_size
    return rest if rest and not keys.drop_last else keys.batch_size


def _refuse_single_image(run: Run, image: Tensor) -> None:
    try:
        with torch.no_grad():
            run.parts.network(image)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise FwError("the last batch of an epoch has a single image, from which batch norm can take no statistics",
                      "set train.drop_last = true, or another train.batch_size") from None  # fmt: skip
