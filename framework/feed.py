"""Feed: where a run's batches come from, and what they go through. The seam behind which the partition slots in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import attrs
import torch
from torch import Tensor

from framework.assemble import Assembly
from framework.contracts import Plan, Split
from framework.data import Images, balanced_order, loader
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
        self.on_error = run.recipe.parts["data"].core.on_error

    def batches_per_epoch(self) -> int:
        """How many batches an epoch of training has."""
        images, size = len(self.run.data.train), self.keys.batch_size
        return images // size if self.keys.drop_last else math.ceil(images / size)

    def train_batches(self, epoch: int, start: int) -> Iterator[Fed]:
        """The batches of a training epoch from the `start`th on."""
        split = self.run.data.train
        images = Images(split, self.run.train_pipeline, self.run.recipe.seed, self.on_error)
        return self._fed(images, split, self._order(split, epoch), epoch, start, self.keys.drop_last)

    def batches(self, split: Split) -> Iterator[Fed]:
        """Every image of a split once, in order."""
        images = Images(split, self.run.eval_pipeline, self.run.recipe.seed, self.on_error)
        return self._fed(images, split, list(range(len(split))), 0, 0, False)

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

    def _fed(
        self, images: Images, split: Split, order: list[int], epoch: int, start: int, drop_last: bool
    ) -> Iterator[Fed]:
        device, pinned = self.run.device, self.run.device.type == "cuda"
        layout = (
            torch.channels_last if self.run.recipe.engine.memory_format == "channels_last" else torch.contiguous_format
        )
        for batch in loader(images, order, epoch, self.keys.batch_size, self.keys.workers, start, drop_last, pinned):
            inputs = batch.images.to(device, non_blocking=pinned)
            if inputs.dim() == 4:
                inputs = inputs.contiguous(memory_format=layout)
            targets = split.targets[batch.positions].to(device, non_blocking=pinned)
            yield Fed(inputs, targets, batch.positions, tuple(batch.skipped))
