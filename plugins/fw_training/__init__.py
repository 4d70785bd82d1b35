"""First-party losses, optimizers, schedulers and metrics."""

from __future__ import annotations

from collections.abc import Iterable

import framework as fw


@fw.hookimpl
def fw_losses() -> Iterable[fw.Component]:
    """The explicit list of losses."""
    from fw_training.losses import LOSSES

    return [fw.Component(name, config) for name, config in LOSSES.items()]


@fw.hookimpl
def fw_optimizers() -> Iterable[fw.Family]:
    """`torch/<optimizer>`."""
    from fw_training.optimizers import optimizer_family

    return [optimizer_family()]


@fw.hookimpl
def fw_schedulers() -> Iterable[fw.Component | fw.Family]:
    """`constant`, `warmup`, `torch/<scheduler>`."""
    from fw_training.ramps import Constant, Warmup
    from fw_training.schedulers import scheduler_family

    return [fw.Component("constant", Constant), fw.Component("warmup", Warmup), scheduler_family()]


@fw.hookimpl
def fw_metrics() -> Iterable[fw.Component]:
    """Five metrics, each for both tasks."""
    from fw_training.metrics import METRICS

    return [fw.Component(name, config) for name, config in METRICS.items()]
