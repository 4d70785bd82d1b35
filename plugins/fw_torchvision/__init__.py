"""fw_torchvision: torchvision's classification models as backbones, and its data sets."""

from __future__ import annotations

from collections.abc import Iterable

import framework as fw


@fw.hookimpl
def fw_backbones() -> Iterable[fw.Component | fw.Family]:
    """`torchvision/<model>`."""
    from fw_torchvision.backbones import backbone_family

    return (backbone_family(),)


@fw.hookimpl
def fw_datasets() -> Iterable[fw.Component | fw.Family]:
    """`torchvision/<data set>`."""
    from fw_torchvision.datasets import dataset_family

    return (dataset_family(),)
