"""The kit's checks of fw_data, and of torchvision's data sets where a few small files make one."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import fw_data
import fw_torchvision
from framework.testing import plugin_checks

CLASSES = ("cat", "dög", "犬")
EACH = 6
"""Images of each class."""
SIDE = 28


def noise(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def photograph(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed, 12, 10, 3) if seed % 2 else noise(seed, 9, 11)).save(file)


def class_folders(folder: Path) -> Mapping[str, Any]:
    for number in range(EACH * len(CLASSES)):
        photograph(folder / "photos" / CLASSES[number % len(CLASSES)] / f"{number:02d}.png", number)
    return {"root": folder / "photos"}


def table(folder: Path) -> Mapping[str, Any]:
    rows = [(f"im/{number:02d}.png", str(number % 2)) for number in range(2 * EACH)]
    return {"file": written(folder, rows, "path,label")}


def table_of_tags(folder: Path) -> Mapping[str, Any]:
    rows = [(f"im/{number:02d}.png", ("red|big", "red", "")[number % 3]) for number in range(3 * EACH)]
    return {"file": written(folder, rows, "path,tags"), "labels": "tags"}


def written(folder: Path, rows: list[tuple[str, str]], header: str) -> Path:
    for number, (path, _) in enumerate(rows):
        photograph(folder / path, number)
    file = folder / "labels.csv"
    file.write_text("\n".join([header, *map(",".join, rows)]), encoding="utf-8")
    return file


def idx_files(folder: Path) -> Mapping[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (prefix, count) in enumerate((("train", 40), ("t10k", 8))):
        labels = (np.arange(count) % 4).astype(np.uint8)
        for name, array in (("images-idx3", noise(seed, count, SIDE, SIDE)), ("labels-idx1", labels)):
            head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (folder / f"{prefix}-{name}-ubyte").write_bytes(head + array.tobytes())
    return {"root": folder, "val": 0.2}


def mnist_files(folder: Path) -> Mapping[str, Any]:
    idx_files(folder / "MNIST" / "raw")
    return {"root": folder}


def textures(folder: Path) -> Mapping[str, Any]:
    """DTD's layout: images by class, lists of files for each split."""
    lists = folder / "dtd" / "dtd" / "labels"
    lists.mkdir(parents=True, exist_ok=True)
    for number, split in enumerate(("train", "val", "test")):
        lines = [f"{name}/{name}_{number}{at}.png" for name in ("banded", "woven") for at in range(3)]
        (lists / f"{split}1.txt").write_text("\n".join(lines) + "\n")
        for at, line in enumerate(lines):
            photograph(lists.parent / "images" / line, 10 * number + at)
    return {"root": folder}


FAKE = {"size": 60, "image_size": [3, 8, 9], "num_classes": 3}

test_fw_data = plugin_checks(fw_data, keys={"image_folder": class_folders, "csv": table, "idx": idx_files})
test_several_labels = plugin_checks(
    fw_data, names=("csv", "random"), keys={"csv": table_of_tags, "random": {"kind": "multilabel", "channels": 5}}
)
test_grey_images_of_any_shape = plugin_checks(
    fw_data, names=("random",), keys={"random": {"size": [9, 14], "channels": 1, "images": 40, "test": 0.0}}
)
test_a_transform_with_everything = plugin_checks(
    fw_data,
    names=("augment", "center_crop"),
    keys={
        "augment": {
            "crop": "pad", "vflip": 0.5, "color_jitter": {"brightness": 0.4, "hue": 0.1}, "rand_augment": {},
            "erasing": 0.5,
        },
        "center_crop": {"resize": 40},
    },
)  # fmt: skip
test_torchvision = plugin_checks(
    fw_torchvision,
    names=("torchvision/DTD", "torchvision/FakeData", "torchvision/ImageFolder", "torchvision/MNIST"),
    keys={
        "torchvision/DTD": textures, "torchvision/FakeData": FAKE, "torchvision/ImageFolder": class_folders,
        "torchvision/MNIST": mnist_files,
    },
)  # fmt: skip
