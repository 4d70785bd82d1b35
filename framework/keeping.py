"""Keeping: fills the entries of a feature store with the boundary of a split's images, and says when that pays."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from framework.assemble import Assembly
from framework.contracts import Split
from framework.data import Images
from framework.features import SEGMENT_BYTES, SEGMENT_SECONDS, DiskEntry, MemoryEntry, prune
from framework.feed import read_batches
from framework.identity import code_of_modules, code_of_plugin, content_key, libraries, machine
from framework.index import cache_folder
from framework.measure import autocast
from framework.partition import Partition, in_chunks, tensors_of

Entry = MemoryEntry | DiskEntry
GB = 10**9


class NotKept(Exception):
    """The boundary of a split is computed at every pass; the message says why, in one clause."""


def store_folder() -> Path:
    """Where entries lie that outlive a run."""
    return cache_folder() / "features"


@attrs.define(eq=False)
class Tally:
    """What was done for the boundary.

    Attributes:
        computed: images sent through the fixed part to fill an entry.
        found: names of images that an entry had when they were first looked for.
    """

    computed: int = 0
    found: set[str] = attrs.field(factory=set)
    asked: set[str] = attrs.field(factory=set)

    def look(self, names: Sequence[str], entry: Entry) -> None:
        """Notes which images an entry has, when they are first looked for."""
        new = set(names) - self.asked
        self.found |= {name for name in new if name in entry}
        self.asked |= new


@attrs.frozen(eq=False)
class Keeper:
    """Gives the entry in which the rows of a split are, and fills it.

    Attributes:
        run: the assembly.
        partition: whose boundary is kept.
        chunk: images at a time through the fixed part.
        say: told what takes long.
        between_batches: called as an entry is filled; may raise to stop.
        tally: counts.
        entries: those in use, by key.
        known: keys and names that need not be worked out again.
    """

    run: Assembly
    partition: Partition
    chunk: int
    say: Callable[[str], None]
    between_batches: Callable[[], None]
    tally: Tally = attrs.field(factory=Tally)
    entries: dict[str, Entry] = attrs.field(factory=dict)
    known: dict[Any, Any] = attrs.field(factory=dict)

    def weights_changed(self) -> None:
        """Keys are worked out anew."""
        for which in ("train", "eval"):
            self.known.pop(which, None)

    def names(self, split: Split, which: str, view: int = 0) -> list[str]:
        """What an entry calls the images of a split: by their content, and by their draw where they are drawn."""
        place = id(split), which, view
        if place not in self.known:
            digests = [split.digest(position) for position in range(len(split))]
            drawn = [f"{digest}/{index}/{view}" for digest, index in zip(digests, split.indices, strict=True)]
            self.known[place] = drawn if self._views(which) else digests
        names: list[str] = self.known[place]
        return names

    def _views(self, which: str) -> int:
        return int(self.run.recipe.parts[f"transform.{which}"].core.views)

    def entry(self, which: str) -> Entry:
        """The entry of images under one of the recipe's transforms."""
        key = self._key(which)
        if key not in self.entries:
            kept = self.run.recipe.engine.cache != "memory"
            self.entries[key] = DiskEntry(store_folder() / key, self._facts(which)) if kept else MemoryEntry()
        return self.entries[key]

    def _key(self, which: str) -> str:
        if which not in self.known:
            read = tensors_of(self.run.network, self.partition.reads)
            self.known[which] = content_key(self._facts(which), read)
        return str(self.known[which])

    def _facts(self, which: str) -> dict[str, Any]:
        recipe, spec = self.run.recipe, self.run.model.spec
        table = recipe.parts[f"transform.{which}"]
        return {
            "backbone": recipe.parts["backbone"].use,
            "boundary": self.partition.boundary,
            "structure": self.partition.structure,
            "code": code_of_modules(self.run.network),
            "transform": {"use": table.use, **table.values},
            "transform_code": code_of_plugin(self.run.component(f"transform.{which}").config),
            "seed": recipe.seed if self._views(which) else None,
            "input": attrs.asdict(spec),
            "precision": recipe.train.precision,
            "memory_format": self.run.memory_format,
            "chunk": self.chunk,
            "machine": machine(self.run.device),
            "libraries": libraries(),
        }

    def fill(self, split: Split, which: str, view: int = 0) -> Entry:
        """The entry with every image of a split in it.

        Args:
            split: whose images.
            which: `train` or `eval`, the transform.
            view: which of the draws of a random transform.

        Raises:
            NotKept: there is no room for it.
            FwError: an unreadable image where these are errors; a full disk.
        """
        entry, names = self.entry(which), self.names(split, which, view)
        self.tally.look(names, entry)
        missing = _missing(names, entry)
        if not missing:
            return entry
        entry = self._with_room(entry, which, len(missing) * self.partition.bytes_per_image)
        with entry.filling(lambda: self.say("another run fills the same entry of the feature store: waiting for it")):
            self._compute(entry, split, which, view, [(p, names[p]) for p in _missing(names, entry)])
        in_use = {entry.folder for entry in self.entries.values() if isinstance(entry, DiskEntry)}
        prune(store_folder(), self.run.recipe.engine.cache_gb * GB, in_use)
        return entry

    def has_all(self, split: Split, which: str, view: int = 0) -> bool:
        """Whether the entry has every image of a split."""
        return not _missing(self.names(split, which, view), self.entry(which))

    def _with_room(self, entry: Entry, which: str, needed: int) -> Entry:
        """The entry, or one in memory where `auto` finds no room on the disk."""
        engine = self.run.recipe.engine
        try:
            require_room(needed, engine.cache, engine.cache_gb * GB)
        except NotKept:
            if engine.cache != "auto":
                raise
            require_room(needed, "memory", 0)
            entry = MemoryEntry()
            self.entries[self._key(which)] = entry
        return entry

    def _compute(self, entry: Entry, split: Split, which: str, view: int, missing: Sequence[tuple[int, str]]) -> None:
        waiting = Waiting(entry)
        names = dict(missing)
        try:
            for positions, tensors, skipped in self._boundary(split, which, view, [p for p, _ in missing]):
                waiting.take([names[p] for p in positions], tensors, {names[p]: why for p, why in skipped})
                self.tally.computed += len(positions)
                self.between_batches()
        finally:
            waiting.write()

    def _boundary(
        self, split: Split, which: str, view: int, positions: list[int]
    ) -> Iterator[tuple[list[int], tuple[Tensor, ...], Sequence[tuple[int, str]]]]:
        recipe, device = self.run.recipe, self.run.device
        images = Images(split, self.run.pipeline(which), recipe.seed, recipe.parts["data"].core.on_error)
        for batch in read_batches(images, positions, recipe, device, self.run.memory_format, view):
            tensors: tuple[Tensor, ...] = ()
            if len(batch.positions):
                assert isinstance(batch.inputs, Tensor)
                with autocast(recipe.train.precision, device):
                    tensors = tuple(t.cpu() for t in in_chunks(self.partition.fixed, batch.inputs, self.chunk))
            yield batch.positions.tolist(), tensors, batch.skipped


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
            joined = tuple(torch.cat(tensors) for tensors in zip(*self.tensors, strict=True))
            self.entry.append(self.names, joined, self.unreadable)
        self._clear()


def _missing(names: Sequence[str], entry: Entry) -> list[int]:
    """The positions of images that an entry lacks, each image once."""
    first = {name: position for position, name in reversed(list(enumerate(names))) if name not in entry}
    return sorted(first.values())


def require_room(needed: int, cache: str, limit: float) -> None:
    """
    Raises:
        NotKept: the rows would not fit into memory, or into what the store may have of the disk.
    """
    if cache == "memory":
        free = available_memory()
        if needed > free / 2:
            raise NotKept(f"it would take {needed / GB:.1f} GB, more than half of the {free / GB:.1f} GB that are free")
        return
    free = _free_disk(store_folder())
    if needed > limit:
        raise NotKept(f"it would take {needed / GB:.1f} GB, and engine.cache_gb is {limit / GB:g}")
    if needed > 0.9 * free:
        raise NotKept(f"it would take {needed / GB:.1f} GB, and the disk of the store has {free / GB:.1f} GB free")


def available_memory() -> int:
    """Bytes of memory that are free on this machine."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, AttributeError):  # not on every system
        return 4 * GB


def _free_disk(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
