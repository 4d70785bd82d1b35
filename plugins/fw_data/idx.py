"""idx: the file format of MNIST and its kin, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import attrs
import numpy as np
from numpy.typing import NDArray

import framework as fw
from fw_data.folder import require_folder
from fw_data.keys import ValShare
from fw_data.sources import ArraySource

_UNSIGNED_BYTE = 0x08
_PREFIX = {"train": "train", "test": "t10k"}
_SPELLINGS = ("{0}-{1}-idx{2}-ubyte", "{0}-{1}.idx{2}-ubyte")


@attrs.frozen(kw_only=True)
class Idx:
    """MNIST's file format, plain or gzipped: MNIST, Fashion-MNIST, Kuzushiji-MNIST and others."""

    root: Path = fw.key(doc="the folder with train-images-idx3-ubyte[.gz] and so on; t10k-* may be absent")
    classes: tuple[str, ...] = fw.key((), "class names in the order of the labels; absent: their numbers")
    val: ValShare = fw.key(0.1, "share of the training images for validation")

    def build(self, seed: int) -> fw.Data:
        """The images of the files; val is cut from train by seed, stratified."""
        require_folder(self.root, "data.root")
        labels = {"train": read_idx(_file(self.root, "train", "labels", 1), 1)}
        if _find(self.root, "test", "images", 3) or _find(self.root, "test", "labels", 1):
            labels["test"] = read_idx(_file(self.root, "test", "labels", 1), 1)
        task = fw.Task("multiclass", self._class_names(max(int(found.max(initial=0)) for found in labels.values())))
        splits = {name: self._whole(name, found) for name, found in labels.items()}
        splits |= fw.cut_split(splits["train"], task, seed, val=self.val)
        return fw.make_data(task, splits, [f"val is {self.val:.3g} of the training files, by seed {seed}, stratified"])

    def _class_names(self, highest: int) -> tuple[str, ...]:
        if not self.classes:
            return tuple(str(number) for number in range(highest + 1))
        if highest >= len(self.classes):
            raise fw.FwError(f"the files in {self.root} have labels up to {highest}, but data.classes names "
                             f"{len(self.classes)} classes", f"name {highest + 1} classes")  # fmt: skip
        return self.classes

    def _whole(self, split: str, labels: NDArray[np.uint8]) -> fw.Split:
        import torch

        file = _file(self.root, split, "images", 3)
        source = ArraySource(read_idx, file, 3)
        if len(source.array) != len(labels):
            raise fw.FwError(f"{file} holds {len(source.array)} images, but there are {len(labels)} labels",
                             "fetch the files again, from one place")  # fmt: skip
        names = tuple(f"{split}-{number:05d}" for number in range(len(labels)))
        return fw.Split(source, tuple(range(len(labels))), names, torch.from_numpy(labels.astype(np.int64)))


def _find(root: Path, split: str, what: str, dims: int) -> Path | None:
    names = [spelling.format(_PREFIX[split], what, dims) for spelling in _SPELLINGS]
    candidates = [root / (name + ending) for name in names for ending in ("", ".gz")]
    return next((path for path in candidates if path.is_file()), None)


def _file(root: Path, split: str, what: str, dims: int) -> Path:
    found = _find(root, split, what, dims)
    if found is None:
        name = _SPELLINGS[0].format(_PREFIX[split], what, dims)
        present = ", ".join(sorted(path.name for path in root.iterdir())[:6]) or "nothing"
        raise fw.FwError(f"{root} has no {name}, plain or .gz", f"it holds: {present}")
    return found


def read_idx(file: Path, dims: int) -> NDArray[np.uint8]:
    """The array of an idx file of unsigned bytes.

    Args:
        file: plain, or gzipped where its name ends in .gz.
        dims: how many dimensions it must have.

    Raises:
        fw.FwError: the file is damaged, truncated, or holds something else.
    """
    hint = "fetch the file again"
    try:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise fw.FwError(f"{file} is damaged: {error}", hint) from error
    head = 4 + 4 * dims
    if len(data) < head or data[:4] != bytes((0, 0, _UNSIGNED_BYTE, dims)):
        raise fw.FwError(f"{file} is damaged: it does not begin as an idx file of bytes in {dims} dimensions", hint)
    shape = struct.unpack(f">{dims}I", data[4:head])
    if len(data) - head != math.prod(shape):
        raise fw.FwError(
            f"{file} is damaged: {math.prod(shape)} bytes should follow its head, {len(data) - head} do", hint
        )
    return np.frombuffer(data, dtype=np.uint8, offset=head).reshape(shape)
