"""Parts: what a cell's step computes and keeps, counted rather than timed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from framework.bench.memory import memory_of_step
from framework.feed import WholeNetwork
from framework.running import Run
from framework.stored import Divided
from framework.train import add_gradient, losses, take_step


def parts_of(run: Run) -> dict[str, Any]:
    """What a step of a run computes and keeps.

    Args:
        run: before its first step, its boundary kept; with `returning_memory`, or a peak holds what is kept for later.

    Returns:
        `memory_mb`: as `memory_of_step`; `flops` of one image: `fixed` (once), `forward` and `backward` (each step).
    """
    run.parts.frozen.train()
    for _ in range(2):  # the first makes the optimizer's state
        one_step(run)
    return {"memory_mb": memory_of_step(run, lambda: one_step(run)), "flops": flops_of(run)}


def one_step(run: Run) -> None:
    """One optimizer step on the first batches of an epoch; the standing goes back."""
    at, keys = run.standing, run.parts.recipe.train
    for batch in run.feed.train_batches(0, 0):
        add_gradient(run, batch)
        at.batch += 1
        if at.batch == min(keys.accumulate, run.batches_per_epoch):
            break
    take_step(run)
    run.settle()
    at.batch = at.step = 0


def flops_of(run: Run) -> dict[str, float]:
    """Floating-point operations for one image, as torch counts them: two for a multiplication and an addition."""
    batch = next(iter(run.feed.train_batches(0, 0)))
    count = len(batch.positions)
    with counting() as counter:
        loss, term = losses(run, batch.inputs, batch.targets)
    forward = counter.get_total_flops()
    whole = loss if term is None else loss + term
    with counting() as counter:
        whole.backward()  # type: ignore[no-untyped-call]
    run.parts.optimizer.zero_grad(set_to_none=True)
    return {
        "fixed": _fixed_flops(run) / count,
        "forward": forward / count,
        "backward": counter.get_total_flops() / count,
    }


def counting() -> FlopCounterMode:
    """torch's counter, put right for the way back through a grouped convolution, whose groups it overlooks."""
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _conv_backward})


def _conv_backward(
    gradient: Any, images: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int, wanted: Sequence[bool], out_shape: Any,
) -> int:  # fmt: skip
    """The gradients of input and weight each take as many operations as the way forward."""
    return conv_flop_count(images, weight, gradient, transposed) * (wanted[0] + wanted[1])


def _fixed_flops(run: Run) -> float:
    """Of a batch of images through the fixed part, where the network is divided."""
    if not isinstance(run.feed, Divided) or run.feed.keeper is None:
        return 0
    images = next(iter(WholeNetwork(run.parts, "to be counted").train_batches(0, 0))).inputs
    assert isinstance(images, Tensor)
    with counting() as counter, torch.no_grad():
        run.feed.keeper.partition.fixed(images)
    return float(counter.get_total_flops())
