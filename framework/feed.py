"""Feed: where a run's batches come from, and what they go through. The seam behind which the partition slots in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor

from framework.assemble import Assembly
from framework.contracts import Pipeline, Split
from framework.data import Images, balanced_order, loader
from framework.decoded import Decoded
from framework.filling import NotKept
from framework.formats import in_format
from framework.lean import Lean
from framework.mixing import Inputs
from framework.recipe import Recipe
from framework.streams import stream_seed


@attrs.frozen(eq=False)
class Fed:
    """One batch on the device.

    Attributes:
        inputs: what `forward` takes: images (N, C, H, W), or the tensors of a boundary, a row for each image.
        targets: of these images.
        positions: their positions in the split.
        skipped: (position, reason) of images that could not be read.
    """

    inputs: Inputs
    targets: Tensor
    positions: Tensor
    skipped: tuple[tuple[int, str], ...]


class Reads(Protocol):
    """What scoring needs: the batches of a split in order, and logits."""

    def batches(self, split: Split) -> Iterator[Fed]:
        """Every image of a split once, in order, transformed as for evaluation."""
        ...

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits (N, classes) of a batch's inputs."""
        ...


class Feed(Reads, Protocol):
    """What the loop needs beside that: the batches of an epoch, and to follow the plan."""

    def batches_per_epoch(self) -> int:
        """How many batches an epoch of training has."""
        ...

    def train_batches(self, epoch: int, start: int) -> Iterator[Fed]:
        """The batches of a training epoch from the `start`th on; a function of (seed, epoch) alone."""
        ...

    def divide(self) -> None:
        """Divides the network under the plan in force, where this feed does; nothing is computed for any image."""
        ...

    def follow(self, passes: float) -> None:
        """A plan is in force, or weights were replaced; batches drawn from here on fit that.

        Args:
            passes: how often each training image is still to be used.
        """
        ...

    def facts(self) -> dict[str, Any]:
        """What the summary says of it: `boundary`, `bytes_per_image`, `fixed_flops_share`, `reason` where none."""
        ...


class WholeNetwork:
    """The plain feed: every batch is read, transformed and sent through the whole network.

    Args:
        run: the assembly; taken apart here, so that the loop need not know where batches come from.
        reason: why the network is not divided.
        decoded: where decoded images are kept; absent: nowhere.
    """

    def __init__(self, run: Assembly, reason: str, decoded: Decoded | None = None) -> None:
        self.run = run
        self.reason = reason
        self.decoded = decoded

    def batches_per_epoch(self) -> int:
        """How many batches an epoch of training has."""
        images, keys = len(self.run.data.train), self.run.recipe.train
        return images // keys.batch_size if keys.drop_last else math.ceil(images / keys.batch_size)

    def train_batches(self, epoch: int, start: int) -> Iterator[Fed]:
        """The batches of a training epoch from the `start`th on."""
        run = self.run
        split, pipeline = self._read_from(run.data.train, "train")
        images = Images(split, pipeline, run.recipe.seed, run.recipe.parts["data"].core.on_error)
        order = epoch_order(run, epoch)
        return read_batches(images, order, run.recipe, run.device, run.memory_format, view_of(run, epoch), start,
                            run.recipe.train.drop_last)  # fmt: skip

    def batches(self, split: Split) -> Iterator[Fed]:
        """Every image of a split once, in order."""
        run = self.run
        return read_in_order(*self._read_from(split, "eval"), run.recipe, run.device, run.memory_format)

    def _read_from(self, split: Split, which: str) -> tuple[Split, Pipeline]:
        return self.decoded.of(split, which) if self.decoded else (split, self.run.pipeline(which))

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W)."""
        with Lean():
            logits: Tensor = self.run.network(inputs)
        return logits

    def divide(self) -> None:
        """Divides nothing."""

    def follow(self, passes: float) -> None:
        """Has decoded images kept, where they are read often enough; nothing here depends on the plan."""
        self.keep_decoded(passes, {"train": self.run.data.train, "eval": self.run.data.val})

    def keep_decoded(self, passes: float, splits: Mapping[str, Split]) -> None:
        """Has the images of some splits, each by its transform, decoded once."""
        for which, split in splits.items():
            with suppress(NotKept):  # they are decoded at every pass
                if self.decoded:
                    self.decoded.keep(split, which, passes)

    def facts(self) -> dict[str, Any]:
        """That there is no boundary, and why."""
        return {"boundary": None, "bytes_per_image": 0, "fixed_flops_share": 0.0, "reason": self.reason}


def epoch_order(run: Assembly, epoch: int) -> list[int]:
    """The positions of the training split in the order of an epoch: a function of (seed, epoch)."""
    generator = torch.Generator().manual_seed(stream_seed(run.recipe.seed, "order", epoch))
    if run.recipe.train.sampler == "balanced":
        return balanced_order(run.data.train.targets, run.data.task, generator)
    return torch.randperm(len(run.data.train), generator=generator).tolist()


def view_of(run: Assembly, epoch: int) -> int:
    """Which draw of a random transform an epoch sees: its own, or one of the `views` that are drawn once."""
    views = int(run.recipe.parts["transform.train"].core.views)
    return epoch % views if views else epoch


def read_batches(
    images: Images, order: Sequence[int], recipe: Recipe, device: torch.device, memory_format: str, epoch: int = 0,
    start: int = 0, drop_last: bool = False, size: int = 0,
) -> Iterator[Fed]:  # fmt: skip
    """The images at the positions of `order`, batch by batch, on the device and in a memory format.

    Args:
        images: what is read and how it is transformed.
        order: positions in their split.
        recipe: says the number of workers, and the size of a batch.
        device: where they go.
        memory_format: `contiguous` or `channels_last`.
        epoch, start, drop_last: as `framework.data.loader` takes them.
        size: of a batch, where it is not the recipe's.
    """
    keys, pinned = recipe.train, device.type == "cuda"
    for batch in loader(images, order, epoch, size or keys.batch_size, keys.workers, start, drop_last, pinned):
        inputs = in_format(batch.images.to(device, non_blocking=pinned), memory_format)
        targets = images.split.targets[batch.positions].to(device, non_blocking=pinned)
        yield Fed(inputs, targets, batch.positions, tuple(batch.skipped))


def read_in_order(
    split: Split, pipeline: Pipeline, recipe: Recipe, device: torch.device, memory_format: str
) -> Iterator[Fed]:
    """Every image of a split once, in order."""
    images = Images(split, pipeline, recipe.seed, recipe.parts["data"].core.on_error)
    return read_batches(images, list(range(len(split))), recipe, device, memory_format)
