"""fw_data: data sets from files, embedded and random ones, and the transforms of one image."""

from __future__ import annotations

from collections.abc import Iterable

import framework as fw
from fw_data.csv_file import Csv
from fw_data.digits import Digits
from fw_data.folder import ImageFolder
from fw_data.idx import Idx
from fw_data.random_images import RandomImages
from fw_data.transforms import Augment, CenterCrop


@fw.hookimpl
def fw_datasets() -> Iterable[fw.Component]:
    """The data sets that need no library of data sets."""
    yield fw.Component("digits", Digits)
    yield fw.Component("image_folder", ImageFolder)
    yield fw.Component("csv", Csv)
    yield fw.Component("idx", Idx)
    yield fw.Component("random", RandomImages)


@fw.hookimpl
def fw_transforms() -> Iterable[fw.Component]:
    """The evaluation transform, and the random one for training."""
    yield fw.Component("center_crop", CenterCrop)
    yield fw.Component("augment", Augment)
