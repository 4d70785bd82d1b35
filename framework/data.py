"""Data: subsets, duplicates and class balance of a data set, and the loading of its images batch by batch."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import attrs
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from framework.contracts import Data, Pipeline, Split, UnreadableImage
from framework.errors import FwError
from framework.splits import SPLITS, draw_stratified, label_sets, make_data, positions_by_class
from framework.streams import stream_seed
from framework.tables import Subset
from framework.task import Task

if TYPE_CHECKING:
    from framework.contracts import ImageLike

T = TypeVar("T")
Skipped = tuple[int, str]
"""An image that could not be read: its position in the split, and the reason."""


# ------------------------------------------------------------------------------------------------ subsets


def take_subset(data: Data, subset: Subset, seed: int) -> Data:
    """The same data set with fewer images, drawn by seed for each split alone.

    Per class: that many images of every class (multilabel: images are added, rarest class first, until each class has
    that many). In all: that many images with the class shares of the split (VTAB-1k, 1910.04867, trains on 800 + 200).

    Raises:
        FwError: a class or split has too few images, or both ways are asked of one split.
    """
    splits, notes = {}, []
    for name in SPLITS:
        split: Split | None = getattr(data, name)
        key, amount = _wish(subset, name)
        if split is None and key:
            raise FwError(
                f"data.subset.{key} is set, but the data set has no {name} split", f"remove data.subset.{key}"
            )
        if split is None:
            continue
        if key:
            draw = _in_all if key == name else _per_class
            rng = Random(stream_seed(seed, "subset", name))
            split = split.take(draw(split, data.task, amount, f"data.subset.{key}", rng))
            notes.append(f"subset: {key} = {amount}, by seed {seed}")
        splits[name] = split
    return make_data(data.task, splits, (*data.notes, *notes)) if notes else data


def thinned(data: Data, images: int) -> Data:
    """A data set with at most this many images in each split, at even distances, for a measurement."""

    def few(split: Split) -> Split:
        count = min(images, len(split))
        return split.take([number * len(split) // count for number in range(count)])

    return attrs.evolve(data, train=few(data.train), val=few(data.val), test=data.test and few(data.test))


@attrs.frozen(eq=False)
class Joined:
    """Two splits as one source of images: those of the first, then those of the second."""

    first: Split
    second: Split

    @property
    def concurrent(self) -> bool:
        """Whether both may be read side by side."""
        return all(getattr(split.source, "concurrent", False) for split in (self.first, self.second))

    def load(self, index: int) -> ImageLike:
        """The image at a position of the two."""
        split, position = self._at(index)
        return split.load(position)

    def digest(self, index: int) -> str:
        """The content hash of the image at a position of the two."""
        split, position = self._at(index)
        return split.digest(position)

    def _at(self, index: int) -> tuple[Split, int]:
        return (self.first, index) if index < len(self.first) else (self.second, index - len(self.first))


def with_val(data: Data) -> Data:
    """A data set whose training split holds the validation images, too; that of validation stays as it is.

    Raises:
        FwError: there is no test split, so that nothing would be left to score.
    """
    if data.test is None:
        raise FwError("data.join_val trains on the validation images, and there is no test split to score",
                      "give the data set a test split, or leave data.join_val out")  # fmt: skip
    train, val = data.train, data.val
    both = Split(
        Joined(train, val), tuple(range(len(train) + len(val))), (*train.names, *val.names),
        torch.cat([train.targets, val.targets]),
    )  # fmt: skip
    splits = {"train": both, "val": val, "test": data.test}
    return make_data(data.task, splits, (*data.notes, f"{len(val)} validation images are trained on, too"))


def _wish(subset: Subset, name: str) -> tuple[str, int]:
    """The key that is set for a split, and its value; no key where the split stays whole."""
    keys = ("per_class" if name == "train" else f"{name}_per_class", name)
    stated = [(key, amount) for key in keys if (amount := getattr(subset, key)) is not None]
    if len(stated) > 1:
        raise FwError(f"data.subset has both {keys[0]} and {keys[1]}", "state one of the two for each split")
    return stated[0] if stated else ("", 0)


def _per_class(split: Split, task: Task, each: int, key: str, rng: Random) -> list[int]:
    labels = label_sets(split, task)
    counts = class_counts(split, task.num_classes)
    _require_each(counts, task, each, key)
    order = list(range(len(split)))
    rng.shuffle(order)
    held = [0] * task.num_classes
    chosen: set[int] = set()
    for column in sorted(range(task.num_classes), key=lambda column: (counts[column], column)):
        showing = [position for position in order if column in labels[position] and position not in chosen]
        for position in showing[: max(0, each - held[column])]:
            chosen.add(position)
            for label in labels[position]:
                held[label] += 1
    return sorted(chosen)


def _require_each(counts: Sequence[int], task: Task, each: int, key: str) -> None:
    small = [column for column, count in enumerate(counts) if count < each]
    if not small:
        return
    column = min(small, key=lambda column: counts[column])
    more = f" ({len(small)} classes have fewer)" if len(small) > 1 else ""
    raise FwError(f"class {task.classes[column]!r} has {counts[column]} images, but {key} asks for {each}{more}",
                  f"set {key} to at most {counts[column]}, or leave it out")  # fmt: skip


def _in_all(split: Split, task: Task, total: int, key: str, rng: Random) -> list[int]:
    if total > len(split):
        raise FwError(f"{key} asks for {total} images, but there are {len(split)}",
                      f"set {key} to at most {len(split)}, or leave it out")  # fmt: skip
    return draw_stratified(split, task, total, rng)


# --------------------------------------------------------------------------------- duplicates and classes


def duplicates(data: Data) -> list[tuple[str, str, str, str]]:
    """Exact content duplicates across splits, as (split, name, later split, name there).

    Each image of a later split is paired with the first of the same content in each earlier split.
    """
    first: dict[str, dict[str, str]] = {}
    found = []
    for split_name in SPLITS:
        split: Split | None = getattr(data, split_name)
        for position in range(len(split) if split else 0):
            assert split is not None
            name = split.names[position]
            seen = first.setdefault(split.digest(position), {})
            found += [(other, theirs, split_name, name) for other, theirs in seen.items() if other != split_name]
            seen.setdefault(split_name, name)
    return found


def refuse_duplicates(data: Data) -> None:
    """Refuses a data set whose splits share images.

    Raises:
        FwError: with the first few pairs, how many there are, and how to allow them.
    """
    pairs = duplicates(data)
    if not pairs:
        return
    shown = ", ".join(f"{name_a!r} of {a} is {name_b!r} of {b}" for a, name_a, b, name_b in pairs[:3])
    more = f" and {len(pairs) - 3} more" if len(pairs) > 3 else ""
    raise FwError(
        f"{len(pairs)} image{' is' if len(pairs) == 1 else 's are'} in two splits: {shown}{more}",
        'take them out of one split, or set data.duplicates = "allow" to use the data as it is',
    )


def class_counts(split: Split, num_classes: int) -> list[int]:
    """How many images of a split show each class; multilabel images count once for each of theirs."""
    if split.targets.ndim == 2:
        return [int(count) for count in split.targets.sum(dim=0).tolist()]
    return [int(count) for count in torch.bincount(split.targets, minlength=num_classes).tolist()]


def balanced_order(targets: Tensor, task: Task, generator: torch.Generator) -> list[int]:
    """One epoch's positions, as many as there are images, with every class drawn equally often.

    Multiclass: each class that occurs gets the same number of draws (the remainder falls to classes at random);
    within a class images are drawn in turn, without repetition until all have been drawn. Multilabel: the same, a draw
    being made for a label, from the images that show it; images without any label form one class more.

    Args:
        targets: int64 (N,), or 0 and 1 (N, classes).
        task: what they mean.
        generator: the only source of randomness.
    """
    pools = _pools(targets, task)
    count = len(targets)
    if not pools:
        return []
    lucky = torch.randperm(len(pools), generator=generator)[: count % len(pools)].tolist()
    order: list[int] = []
    for number, pool in enumerate(pools):
        order += _turns(pool, count // len(pools) + (number in lucky), generator)
    return [order[slot] for slot in torch.randperm(count, generator=generator).tolist()]


def _pools(targets: Tensor, task: Task) -> list[list[int]]:
    if task.kind == "multiclass":
        by_class = positions_by_class(targets.tolist())
        return [by_class[target] for target in sorted(by_class)]
    columns = [*targets.T.bool(), ~targets.bool().any(dim=1)]
    return [pool for column in columns if (pool := column.nonzero().flatten().tolist())]


def _turns(pool: list[int], draws: int, generator: torch.Generator) -> list[int]:
    drawn: list[int] = []
    while len(drawn) < draws:
        drawn += [pool[slot] for slot in torch.randperm(len(pool), generator=generator).tolist()]
    return drawn[:draws]


# ------------------------------------------------------------------------------------------------ loading


@attrs.frozen(eq=False)
class Batch:
    """Images that a network can take, and which they are.

    Attributes:
        images: float32 (N, C, H, W); (0, 0, 0, 0) where every image of the batch was skipped.
        positions: int64 (N,), positions in the split.
        skipped: the images that could not be read, with the reason.
    """

    images: Tensor
    positions: Tensor
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.positions)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, from which a copy to a GPU does not wait."""
        return Batch(self.images.pin_memory(), self.positions.pin_memory(), self.skipped)


@attrs.frozen(eq=False)
class Images(Dataset[Any]):
    """The images of a split as a pipeline gives them, by (epoch, position).

    Attributes:
        split: which images.
        pipeline: what is done to each.
        seed: the recipe's seed; random steps are seeded by (seed, epoch, index in the source).
        on_error: whether an unreadable image is an error or is skipped.
    """

    split: Split
    pipeline: Pipeline
    seed: int
    on_error: Literal["raise", "skip"] = "raise"

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, int] | Skipped:
        """The image as (tensor (C, H, W), position), or (position, reason) where it is skipped.

        Raises:
            FwError: the image cannot be read and `on_error` is "raise".
        """
        epoch, position = place
        try:
            image = self.split.load(position)
        except UnreadableImage as error:
            if self.on_error == "skip":
                return position, str(error)
            hint = 'mend the file, or set data.on_error = "skip" to leave it out and list it'
            raise FwError(f"image {self.split.names[position]!r} cannot be read: {error}", hint) from error
        if self.pipeline.deterministic:
            return self.pipeline(image), position
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would reseed the accelerators too, from which dropout draws
            torch.default_generator.manual_seed(stream_seed(self.seed, "augment", epoch, self.split.indices[position]))
            return self.pipeline(image), position


def collate(items: Sequence[tuple[Tensor, int] | Skipped]) -> Batch:
    """A batch of what `Images` gave.

    Raises:
        FwError: the images differ in shape.
    """
    read: list[tuple[Tensor, int]] = []
    skipped: list[Skipped] = []
    for item in items:
        if isinstance(item[0], Tensor):
            read.append(item)
        else:
            skipped.append(item)
    shapes = sorted({tuple(image.shape) for image, _ in read})
    if len(shapes) > 1:
        raise FwError(f"the transform gives images of different shapes in one batch: {shapes[0]} and {shapes[1]}",
                      "use a transform that crops to the network's input size, such as center_crop")  # fmt: skip
    images = torch.stack([image for image, _ in read]) if read else torch.empty(0, 0, 0, 0)
    positions = torch.tensor([position for _, position in read], dtype=torch.int64)
    return Batch(images, positions, tuple(skipped))


def loader(
    images: Images,
    order: Sequence[int],
    epoch: int,
    batch_size: int,
    workers: int = 0,
    start_batch: int = 0,
    drop_last: bool = False,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """The batches of one epoch; what they hold does not depend on the number of workers.

    Args:
        images: what to load.
        order: positions in the split, in the order of the epoch.
        epoch: seeds the random steps, together with the seed and the image.
        batch_size: positions per batch; a batch with skipped images is shorter.
        workers: processes that load; 0 loads here.
        start_batch: how many batches to leave out at the beginning, for a resumed epoch.
        drop_last: leave out a last batch that is short.
        pin_memory: put batches into page-locked memory.

    Raises:
        FwError: an unreadable image, where these are errors; what a transform refuses.
    """
    batches = [[(epoch, position) for position in batch] for batch in in_batches(order, batch_size, drop_last)]
    source: DataLoader[Any] = DataLoader(
        _Batches(images),
        batch_size=None,
        sampler=batches[start_batch:],
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_leave_signals_to_parent,
        generator=torch.Generator(),
        pin_memory=pin_memory,
    )
    # A random step draws from the process's one stream, which the loop uses meanwhile: no thread may touch it.
    ahead = workers == 0 and images.pipeline.deterministic
    for item in read_ahead(source) if ahead else source:
        if isinstance(item, FwError):
            raise item
        yield item


def read_ahead(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """The same items, the next ones made by a thread meanwhile: decoding and resizing let go of the interpreter.

    Args:
        items: made one after another, by one thread.
        depth: how many may be ready before they are asked for.
    """
    end, iterator = object(), iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as thread:
        waiting = deque(thread.submit(next, iterator, end) for _ in range(depth))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(thread.submit(next, iterator, end))
                yield item  # type: ignore[misc]
        finally:
            thread.shutdown(cancel_futures=True)


def in_batches(order: Sequence[T], batch_size: int, drop_last: bool = False) -> list[Sequence[T]]:
    """Positions, or whatever comes in an order, batch by batch; the last is shorter, or left out where `drop_last`."""
    batches = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
    return batches[:-1] if drop_last and batches and len(batches[-1]) < batch_size else batches


@attrs.frozen(eq=False)
class _Batches(Dataset[Any]):
    """Whole batches as items. A user's error is given, not raised: torch would wrap it into a worker's traceback."""

    images: Images

    def __getitem__(self, places: list[tuple[int, int]]) -> Batch | FwError:
        try:
            return collate([self.images[place] for place in places])
        except FwError as error:
            return error


def _as_it_is(item: Any) -> Any:
    return item


def _leave_signals_to_parent(worker: int) -> None:
    """Ctrl-C and SIGTERM often reach every process of a run; the parent stops its workers, after its checkpoint."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None and hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told, args=(parent.pid,), daemon=True).start()


def _end_when_told(parent: int | None) -> None:
    # Ignoring SIGTERM would be simpler, but a parent that exits early terminates its workers and waits for them.
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
