"""Adapting: the kit's networks with what an adapter adds to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

import attrs
import pytest
import torch
from torch import Tensor, nn

from framework.additions import Adapter
from framework.freezing import all_tensors, put_back
from framework.testing.additions import Contract
from framework.testing.case import Case
from framework.testing.chance import seeded
from framework.testing.networks import BACKBONES, CLASSES, SIDE, Sample, sample
from framework.testing.probes import Probe, apart, require_copies
from framework.testing.training import numbers
from framework.tracing import copied

ADAPTER = Contract("fw.Adapter", ("insert", "merge"), ("mergeable",))
EQUAL = 1e-5
"""Largest difference of logits before and after `insert`, over the largest value: some float32 rounding."""
STIRRED = 0.1
"""How far added parameters are moved, so that what they do shows."""


@attrs.frozen(eq=False)
class Adapted:
    """A network of the kit after an adapter has been there, and as it was before.

    Attributes:
        adapter: that added to it.
        before: another one with the same tensors, and nothing added.
        after: the network; its layout is of before.
    """

    adapter: Adapter
    before: Sample
    after: Sample

    @property
    def words(self) -> str:
        """Where this is, for messages."""
        return f"on the kit's network {self.before.name!r}"

    @property
    def network(self) -> nn.Module:
        """The network with what was added."""
        return self.after.network

    @cached_property
    def own(self) -> Mapping[str, Tensor]:
        """The tensors of the network without additions, by name."""
        return all_tensors(self.before.network)

    @property
    def added(self) -> dict[str, nn.Parameter]:
        """The parameters that were added, by name."""
        return {name: tensor for name, tensor in self.network.named_parameters() if name not in self.own}

    @property
    def probe(self) -> Probe:
        """The network as what takes images and gives logits."""
        return Probe(self.network, (3, SIDE, SIDE), CLASSES)

    def drawn_by(self, module: nn.Module) -> Tensor:
        """What the network, or a graph of it, gives for three images in the mode that it is in.

        Buffers of the network are put back.
        """
        before = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        with torch.no_grad(), seeded(0):
            logits: Tensor = module(self.probe.rows(3))
        put_back(self.network, before)
        return logits

    def stir(self) -> None:
        """Moves the statistics of norms and every added parameter, so that nothing is at its first value."""
        for seed in (1, 2):
            self.probe.given(self.probe.rows(6, seed), training=True)
        stir(self.added.values())


def stir(tensors: Iterable[Tensor], first_seed: int = 0) -> None:
    """Adds noise to tensors, in place; the same at each call."""
    with torch.no_grad():
        for seed, tensor in enumerate(tensors, first_seed):
            tensor.add_(STIRRED * numbers(tensor.shape, seed))


def insert(case: Case, name: str, seed: int = 0, others: int | None = None) -> Adapted:
    """One of the kit's networks with what the adapter adds; what `insert` raises comes through.

    Args:
        case: of an adapter.
        name: of the network.
        seed: of torch's generator.
        others: of numpy's and random's; absent: the same.
    """
    made: Adapter = ADAPTER.made(case)
    after = sample(name)
    with seeded(seed, others):
        made.insert(after.network, after.layout)
    return Adapted(made, sample(name), after)


def adapted(case: Case, seed: int = 0, others: int | None = None) -> list[Adapted]:
    """Every network to which the adapter adds something; skips where there is none."""
    found = list(_adapted(case, seed, others))
    if not found:
        pytest.skip("see inserts_or_says_why_not")
    return found


def _adapted(case: Case, seed: int, others: int | None) -> Iterator[Adapted]:
    for name in BACKBONES:
        try:
            one = insert(case, name, seed, others)
        except Exception:  # an adapter may raise anything, of which one check alone tells
            continue
        if one.added:
            yield one


def working(case: Case, seed: int = 0, others: int | None = None) -> list[Adapted]:
    """The same, where they give logits."""
    found = adapted(case, seed, others)
    if any(one.probe.complaint(4, training) for one in found for training in (False, True)):
        pytest.skip("see starts_as_the_network_was")
    return found


def fault_of_copy(one: Adapted) -> str | None:
    """What is wrong with a copy of a network, in words; None where nothing is."""
    try:
        require_copies(one.network)
    except AssertionError as error:
        return str(error)
    given, copy = one.probe.given(one.probe.rows(2)), attrs.evolve(one.probe, module=copied(one.network))
    if apart(given, copy.given(copy.rows(2))) > EQUAL:
        return "a copy of the network gives other logits: keep what counts in parameters and buffers"
    stir([parameter for name, parameter in copy.module.named_parameters() if name in one.added], first_seed=100)
    if apart(given, copy.given(copy.rows(2))) <= EQUAL or apart(given, one.probe.given(one.probe.rows(2))) > EQUAL:
        return ("a copy of the network computes with what was added to the original: have a hook read its own "
                "argument, the module, and hold no module or tensor in a closure")  # fmt: skip
    return None
