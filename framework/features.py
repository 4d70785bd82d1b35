"""Features: the rows of the feature store. Boundary activations by image, in checksummed files that runs share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.entries import FACTS, SEGMENT, acquired, lock_of, touch
from framework.errors import FwError
from framework.files import load_tensors, map_tensors, remove_scratch, save_tensors, write_json

if TYPE_CHECKING:
    from torch import Tensor

    Tensors = tuple[Tensor, ...]

SEGMENT_BYTES = 64 * 2**20
SEGMENT_SECONDS = 30.0
"""A segment is written when it has so many bytes, or is so old: what a kill loses at most."""


def memory_order(tensor: Tensor) -> list[int]:
    """The dimensions of rows from the one with the widest stride to the narrowest; that of the rows comes first."""
    return [0, *sorted(range(1, tensor.dim()), key=lambda dimension: -tensor.stride()[dimension])]


def joined(pieces: Sequence[Tensor]) -> Tensor:
    """Rows one after another, laid out in memory as the first piece is; torch.cat keeps only some layouts.

    The bits of a sum depend on the layout of what is summed.
    """
    import torch

    order = memory_order(pieces[0])
    return restored(torch.cat([piece.permute(order) for piece in pieces]), order)


def restored(rows: Tensor, order: Sequence[int]) -> Tensor:
    """The tensor whose dimensions were permuted into `order`."""
    return rows.permute([order.index(dimension) for dimension in range(len(order))])


class Segments:
    """The rows of one entry: tensors with a row for each image, in the order in which they were added.

    Attributes:
        tensors: of each segment, contiguous.
        orders: of each segment, the order that the dimensions of each tensor have in memory.
        place: image -> (segment, row).
        unreadable: image -> why it could not be read.
    """

    def __init__(self) -> None:
        self.tensors: list[Tensors] = []
        self.orders: list[list[list[int]]] = []
        self.place: dict[str, tuple[int, int]] = {}
        self.unreadable: dict[str, str] = {}

    def __contains__(self, image: str) -> bool:
        return image in self.place or image in self.unreadable

    def add(self, images: Sequence[str], tensors: Tensors, orders: list[list[int]], unreadable: dict[str, str]) -> None:
        """Takes rows, one for each of `images`, already in the order of memory, and reasons for others."""
        if images:
            self.place.update((image, (len(self.tensors), row)) for row, image in enumerate(images))
            self.tensors.append(tensors)
            self.orders.append(orders)
        self.unreadable.update(unreadable)

    def rows(self, images: Sequence[str]) -> Tensors:
        """The rows of images, in their order, in memory of their own, laid out as they were added.

        Args:
            images: at least one, all of them there.
        """
        return self.rows_at(self.places(images))

    def places(self, images: Sequence[str]) -> Tensor:
        """Where the rows of images are, (N, 2): segment and row; -1 for one that has none."""
        import torch

        return torch.tensor([self.place.get(image, (-1, -1)) for image in images], dtype=torch.int64).view(-1, 2)

    def rows_at(self, places: Tensor) -> Tensors:
        """The rows at some places, at least one, as `rows` gives them."""
        segments, rows = places.unbind(dim=1)
        lowest, highest = (int(bound) for bound in segments.aminmax())
        first = int(segments[0])
        if lowest == highest:
            given = tuple(tensor.index_select(0, rows) for tensor in self.tensors[first])
        else:
            given = self._gathered(segments, rows)
        return tuple(restored(rows, order) for rows, order in zip(given, self.orders[first], strict=True))

    def row_bytes(self) -> list[int]:
        """Bytes of one row of each tensor; none as long as there is no row."""
        first = self.tensors[0] if self.tensors else ()
        return [tensor.numel() // len(tensor) * tensor.element_size() for tensor in first]

    def _gathered(self, segments: Tensor, rows: Tensor) -> Tensors:
        """Rows of several segments."""
        given = tuple(tensor.new_empty(len(rows), *tensor.shape[1:]) for tensor in self.tensors[int(segments[0])])
        for segment in set(segments.tolist()):
            at = (segments == segment).nonzero().flatten()
            for out, tensor in zip(given, self.tensors[segment], strict=True):
                out[at] = tensor.index_select(0, rows[at])
        return given


def _in_memory_order(tensors: Tensors) -> tuple[Tensors, list[list[int]]]:
    orders = [memory_order(tensor) for tensor in tensors]
    return tuple(t.permute(order).contiguous() for t, order in zip(tensors, orders, strict=True)), orders


class MemoryEntry(Segments):
    """An entry that ends with the process."""

    @contextmanager
    def filling(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Nobody else can fill it."""
        yield

    def append(self, images: Sequence[str], tensors: Tensors, unreadable: dict[str, str]) -> None:
        """Takes rows."""
        self.add(images, *_in_memory_order(tensors), unreadable)


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
            self.add(facts["images"], _by_number(tensors), facts["orders"], facts["unreadable"])
        if self.read:
            touch(self.folder)

    @contextmanager
    def filling(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Keeps others from filling the entry, after whoever fills it now; what they left is read.

        Args:
            waiting: called where another process fills it.
        """
        lock = lock_of(self.folder)
        if lock.is_locked or not acquired(lock):
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
        kept, orders = _in_memory_order(tensors)
        facts = {"images": list(images), "orders": orders, "unreadable": unreadable}
        try:
            if not (self.folder / FACTS).is_file():
                write_json(self.folder / FACTS, self.facts)
            save_tensors(path, {str(number): tensor for number, tensor in enumerate(kept)}, facts)
        except FwError as error:
            hint = 'what it holds is usable; make room on the disk, or set engine.cache = "memory"'
            raise FwError(f"the feature store: {error}", hint) from error
        self.read.add(path)
        self.add(images, _by_number(map_tensors(path)), orders, unreadable)


def _by_number(tensors: dict[str, Tensor]) -> Tensors:
    return tuple(tensors[str(number)] for number in range(len(tensors)))
