"""Recalibrate: re-estimates batch-norm statistics from the training images, labels unseen."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from framework.feed import WholeNetwork
from framework.running import Run


def recalibrate(run: Run, names: Collection[str]) -> None:
    """One pass over the training images, transformed as for evaluation, with a cumulative average of batch statistics.

    Args:
        run: whose network.
        names: of the norms that are estimated anew; where there are none, nothing happens.
    """
    frozen = run.parts.frozen
    if not names:
        return
    norms: list[Any] = [module for name, module in run.parts.network.named_modules() if name in names]
    momenta = [norm.momentum for norm in norms]
    frozen.eval()
    frozen.release()
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        whole = WholeNetwork(run.parts, "statistics move")
        for batch in whole.batches(run.parts.data.train):
            if len(batch.positions):
                whole.forward(batch.inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    frozen.apply(frozen.plan)
