"""fw_shapes: a data set of circles, squares and triangles, drawn from a seed when they are asked for."""

from __future__ import annotations

import hashlib
from random import Random
from typing import Annotated

import attrs
import torch
from PIL import Image, ImageDraw

import framework as fw

SIDES = {"circle": 90, "square": 4, "triangle": 3}
"""Class -> sides of a regular polygon; ninety look round."""


@attrs.frozen(kw_only=True)
class Shapes:
    """Circles, squares and triangles of any size, place, turn and colour."""

    images: fw.PositiveInt = fw.key(150, "number of images in all, every class alike")
    size: Annotated[int, fw.Bounds(ge=8)] = fw.key(64, "side in pixels")
    val: Annotated[float, fw.Bounds(gt=0, lt=1)] = fw.key(0.2, "share of the images for validation")
    test: Annotated[float, fw.Bounds(ge=0, lt=1)] = fw.key(0.2, "share of the images for the test; 0: no test split")

    def build(self, seed: int) -> fw.Data:
        """The images of this seed, split by it, every class alike."""
        task = fw.Task("multiclass", tuple(SIDES))
        whole = fw.Split(
            source=Drawings(seed, self.size),
            indices=tuple(range(self.images)),
            names=tuple(f"{task.classes[index % len(SIDES)]}-{index:04d}" for index in range(self.images)),
            targets=torch.arange(self.images) % len(SIDES),
        )
        splits = fw.cut_split(whole, task, seed, val=self.val, test=self.test)
        return fw.make_data(task, splits, [f"shapes drawn and split by seed {seed}, every class alike"])


@attrs.frozen
class Drawings:
    """Images as functions of (seed, index); the classes take turns.

    Attributes:
        seed: of every image.
        size: side in pixels.
    """

    seed: int
    size: int

    def load(self, index: int) -> Image.Image:
        """The image, RGB: a light shape on a dark ground."""
        rng = Random(fw.stream_seed(self.seed, "shape", index))
        ground, ink = (tuple(rng.randrange(low, low + 100) for _ in range(3)) for low in (0, 156))
        radius = self.size * rng.uniform(0.2, 0.4)
        x, y = (rng.uniform(radius, self.size - radius) for _ in range(2))
        picture = Image.new("RGB", (self.size, self.size), ground)
        sides = list(SIDES.values())[index % len(SIDES)]
        ImageDraw.Draw(picture).regular_polygon((x, y, radius), sides, rotation=rng.randrange(360), fill=ink)
        return picture

    def digest(self, index: int) -> str:
        """SHA-256 of size and pixels."""
        return hashlib.sha256(f"{self.size}".encode() + self.load(index).tobytes()).hexdigest()


@fw.hookimpl
def fw_datasets() -> list[fw.Component]:
    """`shapes`."""
    return [fw.Component("shapes", Shapes)]
