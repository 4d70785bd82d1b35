"""Sources: images in files and images in memory. Both are cheap to copy into worker processes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import framework as fw


class FileSource:
    """Image files. A copy leaves the digests behind: workers do not need them."""

    concurrent = True

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        """
        Args:
            root: the folder that names are relative to.
            names: one path per image.
        """
        self.root = root
        self.names = tuple(names)
        self._digests: list[str] | None = None

    def file(self, index: int) -> Path:
        """Where an image lies."""
        return self.root / self.names[index]

    def load(self, index: int) -> Image.Image:
        """The picture in mode L or RGB. Raises `UnreadableImage`."""
        return fw.read_picture(self.file(index))

    def digest(self, index: int) -> str:
        """SHA-256 of the file's bytes."""
        if self._digests is None:
            self._digests = fw.file_digests([self.root / name for name in self.names])
        return self._digests[index]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_digests": None}


class ArraySource:
    """Images of an array (N, H, W) or (N, H, W, 3), uint8. A copy makes the array again instead of carrying it."""

    concurrent = True

    def __init__(self, make: Callable[..., NDArray[np.uint8]], *arguments: Any) -> None:
        """
        Args:
            make: a function of a module, that gives the array.
            arguments: what it is called with.
        """
        self._make = make
        self._arguments = arguments
        self._array: NDArray[np.uint8] | None = None

    @property
    def array(self) -> NDArray[np.uint8]:
        """All images."""
        if self._array is None:
            self._array = self._make(*self._arguments)
        return self._array

    def load(self, index: int) -> Image.Image:
        """The picture in mode L or RGB."""
        return Image.fromarray(self.array[index])

    def digest(self, index: int) -> str:
        """SHA-256 of shape and pixels."""
        pixels = np.ascontiguousarray(self.array[index])
        return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None}
