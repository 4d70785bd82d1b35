"""Pictures: images to check with, and whether two things are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from framework.files import tensor_digest

if TYPE_CHECKING:
    from framework.contracts import ImageLike

SIZES = ((37, 53), (64, 40), (9, 7))
"""(height, width): wide, tall, and smaller than what a network takes."""


def pixels(channels: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Noise, uint8 (channels, height, width), from a generator of its own."""
    noise = np.random.default_rng(seed).integers(0, 256, (channels, *size), dtype=np.uint8)
    return torch.from_numpy(noise)


def picture(channels: int, size: tuple[int, int], seed: int = 0) -> Image.Image:
    """The same noise as a picture: of one channel in mode L, of three in mode RGB."""
    noise = pixels(channels, size, seed)
    return Image.fromarray(noise[0].numpy() if channels == 1 else noise.permute(1, 2, 0).contiguous().numpy())


def pixel_hash(image: ImageLike | Any) -> str:
    """A hash of what an image shows; of anything else, its text."""
    if isinstance(image, Image.Image):
        return hashlib.sha256(f"{image.mode}{image.size}".encode() + image.tobytes()).hexdigest()
    return tensor_digest(image) if isinstance(image, Tensor) else repr(image)


def same(first: Any, second: Any) -> bool:
    """Whether two values are equal to the last bit: images, arrays, and what holds some of these."""
    for kind, compare in _COMPARED.items():
        if isinstance(first, kind):
            return isinstance(second, kind) and compare(first, second)
    return bool(first == second)


def _same_arrays(first: Any, second: Any) -> bool:
    return first.dtype == second.dtype and np.array_equal(first, second)


def _same_rows(first: Any, second: Any) -> bool:
    return len(first) == len(second) and all(map(same, first, second))


def _same_tables(first: Any, second: Any) -> bool:
    return first.keys() == second.keys() and all(same(first[name], second[name]) for name in first)


def _same_pixels(first: Any, second: Any) -> bool:
    return pixel_hash(first) == pixel_hash(second)


_COMPARED: Mapping[Any, Any] = {
    Image.Image: _same_pixels, Tensor: _same_pixels, np.ndarray: _same_arrays, (tuple, list): _same_rows,
    Mapping: _same_tables,
}  # fmt: skip
