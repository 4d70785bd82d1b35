"""Stored: the feed of a divided network. Boundaries come from the feature store, or from each batch's images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from framework.assemble import Assembly
from framework.captures import Captures
from framework.contracts import Moments, Plan, Split
from framework.data import in_batches
from framework.decoded import Decoded
from framework.errors import AuditFailed, FwError
from framework.feed import Fed, WholeNetwork, epoch_order, view_of
from framework.filling import Entry, Filler, NotKept
from framework.formats import in_format
from framework.keeping import Keeper, carry_from, lanes_of, stored_batches
from framework.mixing import Inputs
from framework.partition import NoPartition, Wish, divide, same_plan
from framework.passed import computed_by
from framework.selfcheck import CheckFailed, check_partition

CHUNK_BYTES = {"cpu": 16 * 2**20}
"""The largest tensor that one operation may give for a chunk; elsewhere memory is there for a whole batch.

ResNet-18 at 224 on two cores: chunks of 4 and of 8 are equally fast, those of 4 take 100 MB less."""
SMALLEST = 4
"""Images of a chunk that are not divided further to give every lane one: alone, an image takes a quarter longer."""


class Divided:
    """The feed of a run whose network is divided under each plan; what cannot be divided trains whole.

    Args:
        run: the assembly.
        filler: opens and fills entries of the feature store.
        decoded: where decoded images are kept, for what is not kept as a boundary.
        say: told what went wrong.
    """

    def __init__(self, run: Assembly, filler: Filler, decoded: Decoded, say: Callable[[str], None]) -> None:
        self.run = run
        self.filler = filler
        self.say = say
        self.whole = WholeNetwork(run, "no plan yet", decoded)
        self.decoded = decoded
        self.several = run.policy.moments() != Moments()
        self.captures = Captures(run.network, self.several, run.builder.shared, partial(computed_by, run))
        self.keeper: Keeper | None = None
        self.plan: Plan | None = None
        self.train_entry: Entry | None = None
        self.not_kept = ""

    def batches_per_epoch(self) -> int:
        """How many batches an epoch of training has."""
        return self.whole.batches_per_epoch()

    def follow(self, passes: float) -> None:
        """Divides the network under the plan in force, and has the boundary of the training images computed.

        Raises:
            FwError: the recipe requires a partition and there is none; what filling the store raises.
            AuditFailed: the recipe requires a partition and its self-check failed.
        """
        opened = self.keeper.keys() if self.keeper else set()
        self.divide()
        self.train_entry = self._prepared(self.keeper, passes)
        if opened:
            self.filler.close(opened - (self.keeper.keys() if self.keeper else set()))

    def _prepared(self, keeper: Keeper | None, passes: float) -> Entry | None:
        """The entry from which batches are made; where there is none, images are decoded once, if that repays."""
        if keeper is None:
            self.whole.follow(passes)
            return None
        self._keep_decoded(keeper, passes)
        entry = self._kept_for_training(keeper, passes)
        if entry is None:
            self.whole.keep_decoded(passes, {"train": self.run.data.train})
        return entry

    def divide(self) -> None:
        """Divides the network under the plan in force; nothing is computed for any image.

        Raises:
            FwError: the recipe requires a partition and there is none.
            AuditFailed: the recipe requires a partition and its self-check failed.
        """
        if self.plan is None or not same_plan(self.plan, self.run.frozen.plan):
            self.plan = self.run.frozen.plan
            self.keeper = self._divided()
        elif self.keeper is not None:
            self.keeper.weights_changed()

    def why_not_kept(self, passes: float) -> str | None:
        """Why the boundary of the training images would not be kept; None where it would be."""
        try:
            views = self._train_views(self.keeper, passes) if self.keeper else ()
        except NotKept as reason:
            return str(reason)
        return None if views else self.whole.reason

    def _divided(self) -> Keeper | None:
        try:
            return self._checked()
        except NoPartition as reason:
            self._refuse(str(reason), FwError)
            return None
        except CheckFailed as reason:
            self._refuse(f"the self-check failed: {reason}", AuditFailed)
            self.say(f"the network trains whole: {self.whole.reason}")
            return None

    def _checked(self) -> Keeper:
        before, frozen = self.keeper.partition if self.keeper else None, self.run.frozen
        partition = divide(frozen, self._two_images(), self._wish(), self.run.model.flops, before, self.captures)
        carry = carry_from(self.keeper, self.run, partition)
        keeper = Keeper(self.run, partition, chunk_of(self.run), self.filler, self.decoded, carry)
        try:
            check_partition(self.run, partition, keeper.fixed, keeper.chunk)
        except CheckFailed:
            if not self.captures.spliced:
                raise
            self.captures.capture_each()
            return self._checked()
        return keeper

    def _refuse(self, reason: str, error: type[FwError]) -> None:
        if self.run.recipe.engine.partition == "require":
            raise error(f'engine.partition = "require", but {reason}', 'set engine.partition = "auto" to train whole')
        self.whole.reason = reason

    def _wish(self) -> Wish:
        return Wish(self.run.recipe.engine.budget, self.run.recipe.engine.boundary)

    def _two_images(self) -> Tensor:
        spec = self.run.model.spec
        return in_format(torch.zeros(2, spec.channels, *spec.size, device=self.run.device), self.run.memory_format)

    def _keep_decoded(self, keeper: Keeper, passes: float) -> None:
        """Has images decoded once where those of a later plan are likely to be sent through its fixed part again."""
        if self.several and keeper.carry is None and not keeper.has_all(self.run.data.train, "train"):
            self.whole.follow(passes)

    def _kept_for_training(self, keeper: Keeper, passes: float) -> Entry | None:
        try:
            for view in self._train_views(keeper, passes):
                entry = keeper.fill(self.run.data.train, "train", view)
        except NotKept as reason:
            self.not_kept = str(reason)
            return None
        self.not_kept = ""
        return entry

    def _train_views(self, keeper: Keeper, passes: float) -> Sequence[int]:
        """The draws to keep of each training image.

        Raises:
            NotKept: none of them would be used again.
        """
        keys, core = self.run.recipe.train, self.run.recipe.parts["transform.train"].core
        if self.run.recipe.engine.cache == "off":
            raise NotKept('engine.cache = "off"')
        if keys.mixup or keys.cutmix:
            raise NotKept("mixup and cutmix make new images of every batch")
        views = range(core.views or 1)
        if all(keeper.has_all(self.run.data.train, "train", view) for view in views):
            return views
        if not core.views and not self.run.pipeline("train").deterministic:
            raise NotKept("transform.train draws anew at every pass (views = 0)")
        if passes < len(views):
            raise NotKept("the passes that are left do not repay it")
        return views

    def train_batches(self, epoch: int, start: int) -> Iterator[Fed]:
        """The batches of a training epoch from the `start`th on."""
        keeper, entry = self.keeper, self.train_entry
        if keeper is None or entry is None:
            return self.whole.train_batches(epoch, start)
        names = keeper.names(self.run.data.train, "train", view_of(self.run, epoch))
        keys = self.run.recipe.train
        order = in_batches(epoch_order(self.run, epoch), keys.batch_size, keys.drop_last)[start:]
        return stored_batches(self.run, self.run.data.train, entry, names, order)

    def batches(self, split: Split) -> Iterator[Fed]:
        """Every image of a split once, in order."""
        keeper = self.keeper
        if keeper is None or self.run.recipe.engine.cache == "off":
            return self.whole.batches(split)
        try:
            entry = keeper.fill(split, "eval")
        except NotKept:
            return self.whole.batches(split)
        order = in_batches(range(len(split)), self.run.recipe.train.batch_size)
        return stored_batches(self.run, split, entry, keeper.names(split, "eval"), order)

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits (N, classes) of a boundary, or of images (N, C, H, W)."""
        if self.keeper is None:
            return self.whole.forward(inputs)
        partition, training = self.keeper.partition, self.run.network.training
        if isinstance(inputs, Tensor):
            inputs = self.keeper.boundary(inputs)
        return (partition.trained if training else partition.scored)(*inputs)

    def facts(self) -> dict[str, Any]:
        """The boundary, and how it was come by."""
        if self.keeper is None:
            return self.whole.facts()
        partition, tally = self.keeper.partition, self.keeper.tally
        return {
            "boundary": partition.boundary,
            "bytes_per_image": partition.bytes_per_image,
            "fixed_flops_share": round(partition.flops_share, 4),
            "reason": None,
            "chunk": self.keeper.chunk,
            "images_computed": tally.computed,
            "images_found": len(tally.found),
            "images_carried": tally.carried,
            "not_kept": self.not_kept or None,
        }


def chunk_of(run: Assembly) -> int:
    """Images at a time through the fixed part: equal shares of a batch, one for each lane, that memory has room for."""
    size, asked = run.recipe.train.batch_size, run.recipe.engine.chunk
    limit = CHUNK_BYTES.get(run.device.type)
    if asked or limit is None or not run.model.widest:
        return asked or size
    most = max(1, limit // run.model.widest)
    fewest = max(-(-size // most), min(lanes_of(run), -(-size // SMALLEST)))
    parts = min(range(fewest, 2 * fewest), key=lambda parts: parts * -(-size // parts))  # the least to be filled up
    return -(-size // parts)
