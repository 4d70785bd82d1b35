"""Random images that can be learned, of any size and number of channels, for tests and benchmarks."""

from __future__ import annotations

import hashlib
from typing import Literal

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import framework as fw
from fw_data.keys import TestShare, ValShare, stated

_GRID = 4


@attrs.frozen(kw_only=True)
class RandomImages:
    """Noise around a pattern of each class: learnable, for tests and benchmarks."""

    size: fw.PositiveInt | tuple[fw.PositiveInt, fw.PositiveInt] = fw.key(32, "side in pixels, or [height, width]")
    channels: fw.PositiveInt = fw.key(3, "channels of an image")
    classes: fw.PositiveInt = fw.key(4, "number of classes")
    images: fw.PositiveInt = fw.key(200, "number of images in all")
    kind: Literal["multiclass", "multilabel"] = fw.key("multiclass", "the task")
    val: ValShare = fw.key(0.2, "share of the images for validation")
    test: TestShare = fw.key(0.2, "share of the images for the test; 0: no test split")

    def build(self, seed: int) -> fw.Data:
        """The images of this seed, split by it."""
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        source = RandomSource(seed, (self.channels, height, width), self.classes, self.kind)
        task = fw.Task(self.kind, tuple(f"class_{column}" for column in range(self.classes)))
        indices = tuple(range(self.images))
        rows = np.stack([source.labels(index) for index in indices])
        targets = torch.from_numpy(rows).float() if self.kind == "multilabel" else torch.from_numpy(rows.argmax(1))
        whole = fw.Split(source, indices, tuple(f"random-{index:05d}" for index in indices), targets)
        splits = fw.cut_split(whole, task, seed, val=self.val, test=self.test)
        return fw.make_data(task, splits, [f"random images, split {stated(self.val, self.test)} by seed {seed}"])


@attrs.frozen
class RandomSource:
    """Images as functions of (seed, index).

    Attributes:
        seed: of the patterns and of every image.
        shape: (channels, height, width).
        classes: how many patterns there are.
        kind: whether an image shows one of them or any number.
    """

    seed: int
    shape: tuple[int, int, int]
    classes: int
    kind: Literal["multiclass", "multilabel"]

    def labels(self, index: int) -> NDArray[np.int64]:
        """Which classes an image shows, 0 or 1 for each (classes,). Multiclass: every class in turn."""
        if self.kind == "multiclass":
            shown: NDArray[np.bool_] = np.arange(self.classes) == index % self.classes
            return shown.astype(np.int64)
        return self._generator("labels", index).integers(0, 2, self.classes)

    def load(self, index: int) -> Tensor:
        """The image, uint8 (channels, height, width): the mean of its classes' patterns, and noise."""
        shown = np.flatnonzero(self.labels(index))
        mean = sum((self._pattern(int(column)) for column in shown), np.zeros(self.shape)) / max(1, len(shown))
        noise = self._generator("image", index).normal(0.0, 25.0, self.shape)
        return torch.from_numpy((128 + mean + noise).clip(0, 255).astype(np.uint8))

    def digest(self, index: int) -> str:
        """SHA-256 of shape and pixels."""
        return hashlib.sha256(f"{self.shape}".encode() + self.load(index).numpy().tobytes()).hexdigest()

    def _pattern(self, column: int) -> NDArray[np.float64]:
        """A coarse grid of grey offsets, drawn for the class, spread over the image."""
        channels, height, width = self.shape
        cells = self._generator("pattern", column).uniform(-80, 80, (channels, _GRID, _GRID))
        rows, columns = np.arange(height) * _GRID // height, np.arange(width) * _GRID // width
        pattern: NDArray[np.float64] = cells[:, rows[:, None], columns[None, :]]
        return pattern

    def _generator(self, purpose: str, number: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(fw.stream_seed(self.seed, purpose, number)))
