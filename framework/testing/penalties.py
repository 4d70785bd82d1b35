"""Penalties: a regularizer beside a network that trains under a plan, and the term that it gives there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from framework.additions import Regularizer
from framework.freezing import FrozenNetwork, copied_tensors, put_back
from framework.testing.additions import Contract
from framework.testing.case import Case
from framework.testing.chance import seeded
from framework.testing.networks import BACKBONES, SIDE, Sample, sample
from framework.testing.training import numbers

REGULARIZER = Contract("fw.Regularizer", ("start", "term"), ("needs_images",))
MOVED = 0.05
"""How far parameters move from where they started: a term may be zero there."""


# --------------------------------------------------------------------------------------------------------- asking


@attrs.frozen(eq=False)
class Scene:
    """A regularizer, and a network in train mode under a plan.

    Attributes:
        regularizer: not started.
        sample: the network and its layout.
        frozen: the network under its plan.
        initial: its tensors as they were at first.
    """

    regularizer: Regularizer
    sample: Sample
    frozen: FrozenNetwork
    initial: Mapping[str, Tensor]

    @property
    def words(self) -> str:
        """Where this is, for messages."""
        return f"on the kit's network {self.sample.name!r}"

    @property
    def trainable(self) -> dict[str, nn.Parameter]:
        """What trains under the plan in force."""
        return self.frozen.trainable()

    @property
    def images(self) -> Tensor:
        """A batch of noise."""
        return numbers((4, 3, SIDE, SIDE), seed=0)

    def follow(self, *stages: str) -> None:
        """Lets some stages train, or all where none are named."""
        layout = self.sample.layout
        chosen = layout.select(stages) if stages else layout.stages
        self.frozen.apply(layout.plan(name for stage in chosen for name in stage.parameters))
        self.frozen.train()

    def start(self) -> None:
        """Starts the regularizer, as the engine does before the first step."""
        self.regularizer.start(self.sample.network, self.sample.layout, self.initial)

    def move(self) -> None:
        """Takes every trainable parameter some way; the same at each call."""
        with torch.no_grad():
            for seed, tensor in enumerate(self.trainable.values()):
                tensor.add_(MOVED * numbers(tensor.shape, seed))

    def term(self, images: bool | None = None, computes: bool = True, others: int | None = None) -> Tensor:
        """The term of a batch.

        Args:
            images: whether the regularizer gets them; absent: as it says itself.
            computes: whether they go through the network before.
            others: seed of the generators that are not torch's; absent: the same.
        """
        gets_them = self.regularizer.needs_images if images is None else images
        if computes:
            with torch.enable_grad(), seeded(0):
                self.sample.network(self.images)
        with torch.enable_grad(), seeded(0, others):
            return self.regularizer.term(self.trainable, self.images if gets_them else None)

    def value(self, images: bool | None = None, computes: bool = True, others: int | None = None) -> float:
        """The same as a number; buffers are put back."""
        before = {name: buffer.clone() for name, buffer in self.sample.network.named_buffers()}
        value = float(self.term(images, computes, others))
        put_back(self.sample.network, before)
        return value


def scene(case: Case, name: str) -> Scene:
    """One of the kit's networks, of which everything trains."""
    regularizer: Regularizer = REGULARIZER.made(case)
    here = sample(name)
    frozen = FrozenNetwork(here.network, here.layout)
    made = Scene(regularizer, here, frozen, copied_tensors(here.network))
    made.follow()
    return made


def started(case: Case, name: str) -> Scene:
    """The same with the regularizer started; what `start` raises comes through."""
    made = scene(case, name)
    made.start()
    return made


def taken(case: Case) -> list[str]:
    """The networks on which the regularizer starts; skips where there is none."""
    found = [name for name in BACKBONES if _works(case, name, asked=False)]
    if not found:
        pytest.skip("see starts_or_says_why_not")
    return found


def working(case: Case) -> list[str]:
    """The same, where it gives a scalar as it says that it does; skips where there is none."""
    found = [name for name in taken(case) if _works(case, name, asked=True)]
    if not found:
        pytest.skip("see gives_a_finite_scalar and needs_images_says_so")
    return found


def _works(case: Case, name: str, asked: bool) -> bool:
    try:
        here = started(case, name)
        return not asked or fault_of(here.term()) is None
    except Exception:  # a regularizer may raise anything, of which one check alone tells
        return False


def fault_of(term: Any) -> str | None:
    """What a term is that is no finite scalar; None for one that is."""
    if not isinstance(term, Tensor):
        return f"a {type(term).__name__}"
    if term.shape or term.dtype != torch.float32:
        return f"{term.dtype} of shape {tuple(term.shape)}"
    return None if torch.isfinite(term) else f"{float(term)}"
