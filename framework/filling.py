"""Filling: the entries that a run uses, rows on their way into them, and whether there is room for these."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from framework.assemble import Assembly
from framework.entries import prune, store_folder
from framework.features import SEGMENT_BYTES, SEGMENT_SECONDS, DiskEntry, MemoryEntry, joined
from framework.identity import code_of_plugin, libraries
from framework.measure import MIB, free_mb
from framework.tables import EngineTable

Entry = MemoryEntry | DiskEntry
Rows = Iterator[tuple[list[int], tuple[Tensor, ...], Sequence[tuple[int, str]]]]
"""Batch by batch: positions, their rows, and (position, reason) of images that could not be read."""
GB = 10**9


def facts_of_images(run: Assembly, which: str) -> dict[str, Any]:
    """What the images of one of a recipe's transforms depend on, beside their own content."""
    table = run.recipe.parts[f"transform.{which}"]
    return {
        "transform": {"use": table.use, **table.values},
        "transform_code": code_of_plugin(run.component(f"transform.{which}").config),
        "input": attrs.asdict(run.model.spec),
        "libraries": libraries(),
    }


class NotKept(Exception):
    """Rows are not worth keeping, or there is no room for them; the message says why, in one clause."""


@attrs.frozen(eq=False)
class Filler:
    """Opens and fills the entries of one run.

    Attributes:
        engine: says where entries lie and how large the store may be.
        say: told what takes long.
        between_batches: called as an entry is filled; may raise to stop.
        entries: those in use, by key.
    """

    engine: EngineTable
    say: Callable[[str], None]
    between_batches: Callable[[], None]
    entries: dict[str, Entry] = attrs.field(factory=dict)

    def entry(self, key: str, facts: Mapping[str, Any]) -> Entry:
        """The entry of a key.

        Args:
            key: of the content that its rows depend on.
            facts: what they are, for whoever lists the store.
        """
        if key not in self.entries:
            on_disk = self.engine.cache != "memory"
            self.entries[key] = DiskEntry(store_folder() / key, dict(facts)) if on_disk else MemoryEntry()
        return self.entries[key]

    def close(self, keys: Iterable[str]) -> None:
        """Lets go of entries, which take memory as far as they were read."""
        for key in keys:
            self.entries.pop(key, None)

    def fill(self, key: str, names: Sequence[str], bytes_each: int, rows: Callable[[list[int]], Rows]) -> Entry:
        """The entry of a key, in use by now, with every image in it.

        Args:
            key: of the entry.
            names: what the entry calls the images, by position.
            bytes_each: size of a row.
            rows: gives the rows of images at some positions.

        Raises:
            NotKept: there is no room for it.
            FwError: an unreadable image where these are errors; a full disk.
        """
        entry = self.entries[key]
        missing = missing_from(entry, names)
        if not missing:
            return entry
        entry = self.entries[key] = self._with_room(entry, len(missing) * bytes_each)
        with entry.filling(lambda: self.say("another run fills the same entry of the feature store: waiting for it")):
            self._take(entry, names, rows(missing_from(entry, names)))
        in_use = {entry.folder for entry in self.entries.values() if isinstance(entry, DiskEntry)}
        prune(store_folder(), self.engine.cache_gb * GB, in_use)
        return entry

    def _with_room(self, entry: Entry, needed: int) -> Entry:
        """The entry, or one in memory where `auto` finds no room on the disk."""
        try:
            require_room(needed, self.engine.cache, self.engine.cache_gb * GB)
        except NotKept:
            if self.engine.cache != "auto":
                raise
            require_room(needed, "memory", 0)
            return MemoryEntry()
        return entry

    def _take(self, entry: Entry, names: Sequence[str], rows: Rows) -> None:
        waiting = Waiting(entry)
        try:
            for positions, tensors, skipped in rows:
                waiting.take([names[p] for p in positions], tensors, {names[p]: why for p, why in skipped})
                self.between_batches()
        finally:
            waiting.write()


class Waiting:
    """Rows on their way to a segment."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self._clear()

    def _clear(self) -> None:
        self.names: list[str] = []
        self.tensors: list[tuple[Tensor, ...]] = []
        self.unreadable: dict[str, str] = {}
        self.bytes = 0
        self.since = time.monotonic()

    def take(self, names: list[str], tensors: tuple[Tensor, ...], unreadable: dict[str, str]) -> None:
        """Takes the rows of a batch, and writes a segment where that is due."""
        self.unreadable.update(unreadable)
        if names:
            self.names += names
            self.tensors.append(tensors)
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if self.bytes >= SEGMENT_BYTES or time.monotonic() - self.since > SEGMENT_SECONDS:
            self.write()

    def write(self) -> None:
        """Writes what is there as a segment."""
        if self.names or self.unreadable:
            rows = tuple(joined(tensors) for tensors in zip(*self.tensors, strict=True))
            self.entry.append(self.names, rows, self.unreadable)
        self._clear()


def missing_from(entry: Entry, names: Sequence[str]) -> list[int]:
    """The positions of images that an entry lacks, each image once."""
    first = {name: position for position, name in reversed(list(enumerate(names))) if name not in entry}
    return sorted(first.values())


def require_room(needed: int, cache: str, limit: float) -> None:
    """
    Raises:
        NotKept: the rows would not fit into memory, or into what the store may have of the disk.
    """
    if cache == "memory":
        free = free_mb(torch.device("cpu")) * MIB
        if needed > free / 2:
            raise NotKept(f"it would take {needed / GB:.1f} GB, more than half of the {free / GB:.1f} GB that are free")
        return
    free = free_disk(store_folder())
    if needed > limit:
        raise NotKept(f"it would take {needed / GB:.1f} GB, and engine.cache_gb is {limit / GB:g}")
    if needed > 0.9 * free:
        raise NotKept(f"it would take {needed / GB:.1f} GB, and the disk of the store has {free / GB:.1f} GB free")


def free_disk(folder: Path) -> int:
    """Bytes that are free where a folder lies, or will lie."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
