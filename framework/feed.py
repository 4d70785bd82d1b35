"""Feed: where a run's batches come from, and what they go through. The seam behind which the partition slots in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import attrs
import torch
from torch import Tensor

from framework.assemble import Assembly
from framework.contracts import Pipeline, Plan, Split
from framework.data import Images, balanced_order, loader
from framework.recipe import Recipe
from framework.streams import stream_seed


@attrs.frozen(eq=False)
class Fed:
    """One batch on the device.

    Attributes:
        inputs: what `forward` takes; images here, boundary activations in a partitioned run.
        targets: of these images.
        positions: their positions in the split.
        skipped: (position, reason) of images that could not be read.
    """

    inputs: Tensor
    targets: Tensor
    positions: Tensor
    skipped: tuple[tuple[int, str], ...]


class Reads(Protocol):
    """What scoring needs: the batches of a split in order, and logits."""

    def batches(self, split: Split) -> Iterator[Fed]:
        """Every image of a split once, in order, transformed as for evaluation."""
        ...

    def forward(self, inputs: Tensor) -> Tensor:
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

    def follow(self, plan: Plan) -> None:
        """A new plan is in force; batches drawn from here on fit it."""
        ...


class WholeNetwork:
    """The plain feed: every batch is read, transformed and sent through the whole network.

    Args:
        run: the assembly; taken apart here, so that the loop need not know where batches come from.
    """

    def __init__(self, run: Assembly) -> None:
        self.run = run
        self.keys = run.recipe.train

    def batches_per_epoch(self) -> int:
        """How many batches an epoch of training has."""
        images, size = len(self.run.data.train), self.keys.batch_size
        return images // size if self.keys.drop_last else math.ceil(images / size)

    def train_batches(self, epoch: int, start: int) -> Iterator[Fed]:
        """The batches of a training epoch from the `start`th on."""
        split = self.run.data.train
        on_error = self.run.recipe.parts["data"].core.on_error
        images = Images(split, self.run.train_pipeline, self.run.recipe.seed, on_error)
        order = self._order(split, epoch)
        return read_batches(images, order, self.run.recipe, self.run.device, epoch, start, self.keys.drop_last)

    def batches(self, split: Split) -> Iterator[Fed]:
        """Every image of a split once, in order."""
        return read_in_order(split, self.run.eval_pipeline, self.run.recipe, self.run.device)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W)."""
        logits: Tensor = self.run.network(inputs)
        return logits

    def follow(self, plan: Plan) -> None:
        """Nothing here depends on the plan."""

    def _order(self, split: Split, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(stream_seed(self.run.recipe.seed, "order", epoch))
        if self.keys.sampler == "balanced":
            return balanced_order(split.targets, self.run.data.task, generator)
        return torch.randperm(len(split), generator=generator).tolist()


def read_batches(
    images: Images, order: list[int], recipe: Recipe, device: torch.device, epoch: int = 0, start: int = 0,
    drop_last: bool = False,
) -> Iterator[Fed]:  # fmt: skip
    """The images at the positions of `order`, batch by batch, on the device and in the recipe's memory format.

    Args:
        images: what is read and how it is transformed.
        order: positions in their split.
        recipe: says the size of a batch, the number of workers and the memory format.
        device: where they go.
        epoch, start, drop_last: as `framework.data.loader` takes them.
    """
    keys, pinned = recipe.train, device.type == "cuda"
    layout = torch.channels_last if recipe.engine.memory_format == "channels_last" else torch.contiguous_format
    for batch in loader(images, order, epoch, keys.batch_size, keys.workers, start, drop_last, pinned):
        inputs = batch.images.to(device, non_blocking=pinned)
        if inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=layout)
        targets = images.split.targets[batch.positions].to(device, non_blocking=pinned)
        yield Fed(inputs, targets, batch.positions, tuple(batch.skipped))


def read_in_order(split: Split, pipeline: Pipeline, recipe: Recipe, device: torch.device) -> Iterator[Fed]:
    """Every image of a split once, in order."""
    images = Images(split, pipeline, recipe.seed, recipe.parts["data"].core.on_error)
    return read_batches(images, list(range(len(split))), recipe, device)
