"""Writes the photographs that all contestants train on, and the weights that all of them start from.

    python benchmarks/peers/data.py FOLDER [--per-class TRAIN VAL]

640 images of 300x300 pixels unless told otherwise, FOLDER/{train,val}/CLASS/NNN.png, and FOLDER/resnet18.pth. A class
is a photograph that comes inside scikit-image or scikit-learn; its images are random crops, so a network has to know it
by its parts. Nothing is downloaded, and nothing is done where all is there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image
from torchvision.models import resnet18

SIDE, SMALLEST_CROP = 300, 150
IMAGES = (48, 16)
"""Of a class, for training and for validation."""
PHOTOGRAPHS = {
    "astronaut": data.astronaut,
    "cat": data.chelsea,
    "coffee": data.coffee,
    "flower": lambda: load_sample_image("flower.jpg"),
    "galaxies": data.hubble_deep_field,
    "motorcycle": lambda: data.stereo_motorcycle()[0],
    "retina": data.retina,
    "rocket": data.rocket,
    "temple": lambda: load_sample_image("china.jpg"),
    "tissue": data.immunohistochemistry,
}


def crops(photograph: Image.Image, draw: np.random.Generator) -> Iterator[Image.Image]:
    """Random squares of a photograph at one size, no two alike."""
    seen = set()
    while True:
        side = int(draw.integers(SMALLEST_CROP, min(photograph.size) + 1))
        left, top = (int(draw.integers(0, length - side + 1)) for length in photograph.size)
        if (side, left, top) not in seen:
            seen.add((side, left, top))
            yield photograph.crop((left, top, left + side, top + side)).resize((SIDE, SIDE))


def write_images(folder: Path, counts: tuple[int, int]) -> None:
    for number, (name, load) in enumerate(PHOTOGRAPHS.items()):
        images = crops(Image.fromarray(load()), np.random.default_rng(number))
        for split, count in zip(("train", "val"), counts, strict=True):
            place = folder / split / name
            place.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                next(images).save(place / f"{index:03d}.png")


def write_weights(file: Path) -> None:
    torch.manual_seed(0)
    scratch = file.with_suffix(".part")
    torch.save(resnet18(weights=None).state_dict(), scratch)
    scratch.replace(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--per-class", nargs=2, type=int, default=IMAGES, metavar=("TRAIN", "VAL"))
    given = parser.parse_args()
    folder = given.folder
    weights = folder / "resnet18.pth"
    if not weights.exists():  # written last: where it is, everything is
        write_images(folder, given.per_class)
        write_weights(weights)


if __name__ == "__main__":
    main()
