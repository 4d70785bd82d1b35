"""fw_timm: timm's models as backbones, and its optimizers and schedulers."""

from __future__ import annotations

from collections.abc import Iterable

import framework as fw


@fw.hookimpl
def fw_backbones() -> Iterable[fw.Component | fw.Family]:
    """`timm/<model>`."""
    from fw_timm.backbones import backbone_family

    return (backbone_family(),)


@fw.hookimpl
def fw_optimizers() -> Iterable[fw.Component | fw.Family]:
    """`timm/<optimizer>`."""
    from fw_timm.optimizers import optimizer_family

    return (optimizer_family(),)


@fw.hookimpl
def fw_schedulers() -> Iterable[fw.Component | fw.Family]:
    """`timm/<scheduler>`."""
    from fw_timm.schedulers import scheduler_family

    return (scheduler_family(),)
