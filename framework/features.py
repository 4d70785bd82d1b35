"""Features: the feature store. Boundary activations by image, in checksummed files that several runs may share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.errors import FwError
from framework.files import load_tensors, map_tensors, remove_scratch, save_tensors, write_json

if TYPE_CHECKING:
    from torch import Tensor

    Tensors = tuple[Tensor, ...]

FACTS, SEGMENT = "entry.json", "*.safetensors"
SEGMENT_BYTES = 64 * 2**20
SEGMENT_SECONDS = 30.0
"""A segment is written when it has so many bytes, or is so old: what a kill loses at most."""


class Segments:
    """The rows of one entry: tensors with a row for each image, in the order in which they were added.

    Attributes:
        place: image -> (segment, row).
        unreadable: image -> why it could not be read.
    """

    def __init__(self) -> None:
        self.tensors: list[Tensors] = []
        self.place: dict[str, tuple[int, int]] = {}
        self.unreadable: dict[str, str] = {}

    def __contains__(self, image: str) -> bool:
        return image in self.place or image in self.unreadable

    def add(self, images: Sequence[str], tensors: Tensors, unreadable: dict[str, str]) -> None:
        """Takes rows, one for each of `images`, and reasons for others."""
        if images:
            self.place.update((image, (len(self.tensors), row)) for row, image in enumerate(images))
            self.tensors.append(tensors)
        self.unreadable.update(unreadable)

    def rows(self, images: Sequence[str]) -> Tensors:
        """The rows of images, in their order, in memory of their own.

        Args:
            images: at least one, all of them there.
        """
        import torch

        places = [self.place[image] for image in images]
        used = {segment for segment, _ in places}
        if len(used) == 1:
            index = torch.tensor([row for _, row in places])
            return tuple(tensor.index_select(0, index) for tensor in self.tensors[places[0][0]])
        given = tuple(tensor.new_empty(len(places), *tensor.shape[1:]) for tensor in self.tensors[places[0][0]])
        for segment in used:
            at = [slot for slot, (of, _) in enumerate(places) if of == segment]
            index = torch.tensor([places[slot][1] for slot in at])
            for out, tensor in zip(given, self.tensors[segment], strict=True):
                out[torch.tensor(at)] = tensor.index_select(0, index)
        return given


class MemoryEntry(Segments):
    """An entry that ends with the process."""

    @contextmanager
    def filling(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Nobody else can fill it."""
        yield

    def append(self, images: Sequence[str], tensors: Tensors, unreadable: dict[str, str]) -> None:
        """Takes rows."""
        self.add(images, tensors, unreadable)


class DiskEntry(Segments):
    """An entry in a folder of its own: one file for each segment, mapped into memory, and `entry.json`.

    Args:
        folder: `STORE/KEY`; made when the first segment is written.
        facts: what the rows are, for whoever lists the store.
    """

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        super().__init__()
        self.folder = folder
        self.facts = facts
        self.read: set[Path] = set()
        self.damaged: dict[Path, str] = {}
        self.load()

    def load(self) -> None:
        """Reads the segments that it has not read yet; a damaged one counts as absent and is noted."""
        for file in sorted(self.folder.glob(SEGMENT)):
            if file in self.read or file in self.damaged:
                continue
            try:
                tensors, facts = load_tensors(file, mapped=True)
            except FwError as error:
                if file.exists():  # else it was pruned in between
                    self.damaged[file] = str(error)
                continue
            self.read.add(file)
            self.add(facts["images"], _in_order(tensors), facts["unreadable"])
        if self.read:
            touch(self.folder)

    @contextmanager
    def filling(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Keeps others from filling the entry, after whoever fills it now; what they left is read.

        Args:
            waiting: called where another process fills it.
        """
        lock = lock_of(self.folder)
        if lock.is_locked or not _acquired(lock):
            waiting()
            lock.acquire()
        try:
            if self.folder.exists():
                remove_scratch(self.folder)
            self.load()
            for file in self.damaged:
                file.unlink(missing_ok=True)
            self.damaged.clear()
            yield
        finally:
            lock.release()

    def append(self, images: Sequence[str], tensors: Tensors, unreadable: dict[str, str]) -> None:
        """Writes a segment and takes its rows.

        Raises:
            FwError: the disk is full; the segments before are usable.
        """
        number = 1 + max((int(file.stem) for file in self.folder.glob(SEGMENT)), default=-1)
        path = self.folder / f"{number:06d}.safetensors"
        facts = {"images": list(images), "unreadable": unreadable}
        try:
            if not (self.folder / FACTS).is_file():
                write_json(self.folder / FACTS, self.facts)
            save_tensors(path, {str(n): tensor.contiguous() for n, tensor in enumerate(tensors)}, facts)
        except FwError as error:
            hint = 'what it holds is usable; make room on the disk, or set engine.cache = "memory"'
            raise FwError(f"the feature store: {error}", hint) from error
        self.read.add(path)
        self.add(images, _in_order(map_tensors(path)), unreadable)


def _in_order(tensors: dict[str, Tensor]) -> Tensors:
    return tuple(tensors[str(number)] for number in range(len(tensors)))


def prune(store: Path, limit: float, in_use: Collection[Path] = ()) -> list[Path]:
    """Removes the entries that were used least recently until the store is no larger than `limit` bytes.

    Entries that are in use here, or that another process fills, stay. Who has rows of a removed one mapped keeps them.

    Returns:
        the folders that were removed.
    """
    sizes = {folder: _size(folder) for folder in store.glob("*") if (folder / FACTS).is_file()}
    total = sum(sizes.values())
    removed: list[Path] = []
    for folder in sorted(sizes, key=_last_use):
        if total <= limit:
            break
        lock = lock_of(folder)
        if folder not in in_use and _acquired(lock):
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()
            removed.append(folder)
            total -= sizes[folder]
    return removed


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob(SEGMENT))


def _last_use(folder: Path) -> float:
    try:
        return (folder / FACTS).stat().st_mtime
    except FileNotFoundError:  # another process removed it meanwhile
        return 0.0


def touch(folder: Path) -> None:
    """Notes that an entry was used now; the least recently used ones are pruned first."""
    try:
        os.utime(folder / FACTS)
    except OSError:  # a store that may only be read
        return


def lock_of(folder: Path) -> Any:
    """The lock of an entry, beside its folder."""
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.with_suffix(".lock"))


def _acquired(lock: Any) -> bool:
    from filelock import Timeout

    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True
