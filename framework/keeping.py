"""Keeping: the boundary of a split's images in the feature store, under the key of all that it depends on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor

from framework.assemble import Assembly
from framework.contracts import Split
from framework.data import Images, in_batches
from framework.decoded import Decoded
from framework.feed import Fed, read_batches
from framework.files import digest_of_digests
from framework.filling import Entry, Filler, Rows, facts_of_images, missing_from
from framework.freezing import allowed_to_move
from framework.identity import code_of_modules, content_key, machine
from framework.lanes import side_by_side
from framework.partition import Fixed, Partition, filled_up, in_chunks, part_from, tensors_of

Chunk = tuple[Tensor, ...]
"""Positions, and what the fixed part takes of them."""
BLOCK_BYTES = 4 * 2**20
CACHE_LINE = 64


@attrs.define(eq=False)
class Tally:
    """What was done for the boundary.

    Attributes:
        computed: images sent through the fixed part to fill an entry.
        carried: images whose rows were computed from the boundary of an earlier plan.
        found: names of images that an entry had when they were first looked for.
    """

    computed: int = 0
    carried: int = 0
    found: set[str] = attrs.field(factory=set)
    asked: set[str] = attrs.field(factory=set)

    def look(self, names: Sequence[str], entry: Entry) -> None:
        """Notes which images an entry has, when they are first looked for."""
        new = set(names) - self.asked
        self.found |= {name for name in new if name in entry}
        self.asked |= new


@attrs.frozen(eq=False)
class Keeper:
    """Gives the entry in which the rows of a split are, and has it filled.

    Attributes:
        run: the assembly.
        partition: whose boundary is kept.
        chunk: images at a time through the fixed part.
        filler: opens and fills entries.
        decoded: where decoded images are, for those that are sent through the fixed part.
        carry: how the boundary is computed from that of an earlier plan.
        tally: counts.
        known: keys and names that need not be worked out again.
    """

    run: Assembly
    partition: Partition
    chunk: int
    filler: Filler
    decoded: Decoded
    carry: Carry | None = None
    tally: Tally = attrs.field(factory=Tally)
    known: dict[Any, Any] = attrs.field(factory=dict)

    @property
    def fixed(self) -> Fixed:
        """The fixed part, ready for many calls; its copies of weights live as long as the plan, or as these stay."""
        if "fixed" not in self.known:
            self.known["fixed"] = prepared(self.run, self.partition.fixed)
        fixed: Fixed = self.known["fixed"]
        return fixed

    def boundary(self, images: Tensor) -> tuple[Tensor, ...]:
        """The boundary of images (N, C, H, W) of one batch, not kept."""
        return in_chunks(self.fixed, images, self.chunk, self.fixed.lanes)

    def keys(self) -> set[str]:
        """Of the entries that it works with, those among them that its boundary is computed from."""
        own = {self._key_and_facts(which)[0] for which in ("train", "eval")}
        return own | self.carry.earlier.keys() if self.carry else own

    def weights_changed(self) -> None:
        """Keys are worked out anew."""
        for which in ("train", "eval", "fixed", "weights"):
            self.known.pop(which, None)
        if self.carry is not None:
            self.carry.earlier.weights_changed()

    def names(self, split: Split, which: str, view: int = 0) -> list[str]:
        """What an entry calls the images of a split: by their content, and by their draw where they are drawn."""
        place = id(split), which, view if self._views(which) else None
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
        return self.filler.entry(*self._key_and_facts(which))

    def _key_and_facts(self, which: str) -> tuple[str, dict[str, Any]]:
        if which not in self.known:  # asked at every epoch; the facts hash source files
            facts = self._facts(which)
            self.known[which] = content_key(facts, self._digest_of_weights()), facts
        found: tuple[str, dict[str, Any]] = self.known[which]
        return found

    def _digest_of_weights(self) -> str:
        if "weights" not in self.known:
            tensors = tensors_of(self.run.network, self.partition.reads)
            self.known["weights"] = digest_of_digests(self.run.frozen.auditor.digests(tensors))
        return str(self.known["weights"])

    def _facts(self, which: str) -> dict[str, Any]:
        recipe = self.run.recipe
        return {
            **facts_of_images(self.run, which),
            "backbone": recipe.parts["backbone"].use,
            "boundary": self.partition.boundary,
            "structure": self.partition.structure,
            "code": code_of_modules(self.run.network),
            "seed": recipe.seed if self._views(which) else None,
            "precision": recipe.train.precision,
            "memory_format": self.run.memory_format,
            "chunk": self.chunk,
            "compile": recipe.engine.compile,
            "machine": machine(self.run.device),
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
        names = self.names(split, which, view)
        self.tally.look(names, self.entry(which))
        rows = partial(self._boundary, split, which, view)
        return self.filler.fill(self._key_and_facts(which)[0], names, self.partition.bytes_per_image, rows)

    def has_all(self, split: Split, which: str, view: int = 0) -> bool:
        """Whether the entry has every image of a split."""
        return not missing_from(self.entry(which), self.names(split, which, view))

    def _boundary(self, split: Split, which: str, view: int, positions: list[int]) -> Rows:
        """The rows of images, chunk by chunk: from an earlier plan's where it has them all, else from the images."""
        carry = self.carry if self.carry and self.carry.has(split, which, view, positions) else None
        fixed = prepared(self.run, carry.between) if carry else self.fixed
        batches = (carry.batches if carry else self._images)(split, which, view, positions)
        skipped: list[tuple[int, str]] = []
        work = partial(_rows, fixed, self.chunk)
        for chunk, rows in side_by_side(work, _chunks(batches, self.chunk, skipped), fixed.lanes):
            yield chunk.tolist(), tuple(tensor.cpu() for tensor in rows), tuple(skipped)
            skipped.clear()
            self.tally.computed += len(chunk) if carry is None else 0
            self.tally.carried += len(chunk) if carry is not None else 0
        yield [], (), tuple(skipped)

    def _images(self, split: Split, which: str, view: int, positions: list[int]) -> Iterator[Fed]:
        recipe = self.run.recipe
        images = Images(*self.decoded.of(split, which), recipe.seed, recipe.parts["data"].core.on_error)
        place = self.run.device, self.run.memory_format
        return read_batches(images, positions, recipe, *place, view, size=self.chunk)  # whole batches would pile up


@attrs.frozen(eq=False)
class Carry:
    """How a boundary is computed from that of an earlier plan.

    Attributes:
        earlier: keeps it.
        between: the boundary of `earlier` -> the later one.
    """

    earlier: Keeper
    between: Fixed

    def has(self, split: Split, which: str, view: int, positions: list[int]) -> bool:
        """Whether the earlier boundary of images is there."""
        entry, names = self.earlier.entry(which), self.earlier.names(split, which, view)
        return all(names[position] in entry for position in positions)

    def batches(self, split: Split, which: str, view: int, positions: list[int]) -> Iterator[Fed]:
        """The earlier boundary of images."""
        run, entry = self.earlier.run, self.earlier.entry(which)
        order = in_batches(positions, run.recipe.train.batch_size)
        return stored_batches(run, split, entry, self.earlier.names(split, which, view), order)


def carry_from(earlier: Keeper | None, run: Assembly, partition: Partition) -> Carry | None:
    """How the boundary of a partition is computed from what is kept already; None where it cannot be.

    Compiled code is fused as a whole, and its parts would give other bits.
    """
    if earlier is None or run.recipe.engine.compile != "off":
        return None
    between = part_from(earlier.partition, partition, allowed_to_move(run.model.layout, run.frozen.plan))
    if between is None:
        return None
    earlier.weights_changed()  # statistics may have been taken anew
    return Carry(attrs.evolve(earlier, carry=None), between)


def _rows(fixed: Fixed, size: int, chunk: Chunk) -> tuple[Tensor, tuple[Tensor, ...]]:
    positions, *inputs = chunk
    return positions, filled_up(fixed, size, *inputs)


def _chunks(batches: Iterable[Fed], size: int, skipped: list[tuple[int, str]]) -> Iterator[Chunk]:
    """Positions and inputs of batches, so many rows at a time; what could not be read is added to a list."""
    for batch in batches:
        skipped += batch.skipped
        inputs = (batch.inputs,) if isinstance(batch.inputs, Tensor) else batch.inputs
        if len(batch.positions):
            yield from zip(*(torch.split(rows, size) for rows in (batch.positions, *inputs)), strict=True)


def stored_batches(
    run: Assembly, split: Split, entry: Entry, names: Sequence[str], batches: Sequence[Sequence[int]]
) -> Iterator[Fed]:
    """Batches of rows of an entry, on the run's device.

    Args:
        run: the assembly.
        split: whose images.
        entry: has them all.
        names: what it calls them, by position.
        batches: positions of each batch.
    """
    device, pinned = run.device, run.device.type == "cuda"

    def on_device(rows: Tensor) -> Tensor:
        return (rows.pin_memory() if pinned else rows).to(device, non_blocking=pinned)

    places = entry.places(names)
    lost = {position for position, name in enumerate(names) if name in entry.unreadable}
    at_once = 1 if lost else _batches_at_once(entry, run.recipe.train.batch_size)
    for several in in_batches(batches, at_once):
        kept = [[p for p in batch if p not in lost] for batch in several] if lost else several
        positions = torch.tensor([p for batch in kept for p in batch], dtype=torch.int64)
        rows = entry.rows_at(places.index_select(0, positions)) if len(positions) else ()
        targets = split.targets.index_select(0, positions).to(device, non_blocking=pinned)
        sizes = [len(batch) for batch in kept]
        read = positions, targets, *map(on_device, rows)
        pieces = zip(*(torch.split(tensor, sizes) for tensor in read), strict=True)
        for batch, (where, wanted, *inputs) in zip(several, pieces, strict=True):
            skipped = tuple((p, entry.unreadable[names[p]]) for p in batch if p in lost) if lost else ()
            yield Fed(tuple(inputs), wanted, where, skipped)


def _batches_at_once(entry: Entry, batch_size: int) -> int:
    """How many full batches are read together: with small rows, reading takes longer to begin than to do.

    One where others would not begin at a cache line: the bits of a product hang on how its factors lie.
    """
    row_bytes = entry.row_bytes()
    if any(size * batch_size % CACHE_LINE for size in row_bytes):
        return 1
    return max(1, BLOCK_BYTES // max(1, sum(row_bytes) * batch_size))


def prepared(run: Assembly, fixed: Fixed) -> Fixed:
    """A fixed part as a run's recipe has it computed for many images."""
    return fixed.prepared(run.recipe.train.precision, run.recipe.engine.compile == "fixed", lanes_of(run))


def lanes_of(run: Assembly) -> int:
    """How many chunks a run computes side by side."""
    return torch.get_num_threads() if run.device.type == "cpu" else 1
