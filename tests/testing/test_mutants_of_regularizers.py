"""Mutants of regularizers: each has one fault and fails the one check that is there for it; sound ones fail none."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

import framework as fw
from framework.testing import failures, kit
from framework.testing.of_regularizers import CHECKS

pytestmark = pytest.mark.sweep  # whole runs and exports of many plugins

SLOW = ("resumes_to_the_bit", "trains_divided_as_whole")
"""Whole runs take longer than all other checks, and are made for sound regularizers and for faults of their own."""


def odd(layout: fw.Layout) -> bool:
    """Whether a fault shows on this network: on one alone, and not in whole runs, which are of another one."""
    return bool(layout.tail)


# ------------------------------------------------------------------------------------------------------ sound ones


class Pull(fw.Regularizer):
    """Pulls what trains to where it began."""

    weight = 0.1

    def start(self, network: nn.Module, layout: fw.Layout, initial: Mapping[str, Tensor]) -> None:
        self.initial = initial
        self.odd = odd(layout)

    def term(self, trainable: Mapping[str, nn.Parameter], images: Tensor | None) -> Tensor:
        return self.weight * self.distance(trainable)

    def distance(self, trainable: Mapping[str, nn.Parameter]) -> Tensor:
        return torch.stack([(p - self.initial[name]).square().sum() for name, p in trainable.items()]).sum()


class Weightless(Pull):
    """The same with a weight of zero."""

    def term(self, trainable: Mapping[str, nn.Parameter], images: Tensor | None) -> Tensor:
        return torch.zeros(())


class Noisy(Pull):
    """Pulls on some at a time, drawn anew for each batch."""

    def term(self, trainable: Mapping[str, nn.Parameter], images: Tensor | None) -> Tensor:
        terms = [(torch.rand_like(p) * p).square().sum() for p in trainable.values()]
        return self.weight * torch.stack(terms).sum()


class Outputs(fw.Regularizer):
    """Keeps the features small, at which a hook looks."""

    needs_images = True

    def start(self, network: nn.Module, layout: fw.Layout, initial: Mapping[str, Tensor]) -> None:
        self.odd = odd(layout)
        self.seen: list[Tensor] = []
        network.backbone.register_forward_hook(self.look)

    def look(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if torch.is_grad_enabled():
            self.seen[:] = [output]

    def term(self, trainable: Mapping[str, nn.Parameter], images: Tensor | None) -> Tensor:
        assert images is not None
        return 0.01 * self.seen.pop().square().mean() + 0.0 * torch.stack([p.sum() for p in trainable.values()]).sum()


class OfBatchNorms(Pull):
    """Refuses what it is not made for."""

    def start(self, network: nn.Module, layout: fw.Layout, initial: Mapping[str, Tensor]) -> None:
        if not layout.batch_norms:
            raise fw.FwError("there are no batch norms here")
        super().start(network, layout, initial)


# ------------------------------------------------------------------------------------------------------ faults


class NoTerm:
    needs_images = False
    start = Pull.start


class SaysOne(Pull):
    needs_images: Any = 1


class FailsRudely(Pull):
    def start(self, network, layout, initial):
        if odd(layout):
            raise KeyError("backbone.conv1.weight")
        super().start(network, layout, initial)


class RefusesAll(Pull):
    def start(self, network, layout, initial):
        raise fw.FwError("there is no layer called conv1")


class GivesANumber(Pull):
    def term(self, trainable, images):
        term = super().term(trainable, images)
        return 0.0 if self.odd else term


class GivesAVector(Pull):
    def term(self, trainable, images):
        term = super().term(trainable, images)
        return term.reshape(1) if self.odd else term


class GivesDoubles(Pull):
    def term(self, trainable, images):
        term = super().term(trainable, images)
        return term.double() if self.odd else term


class Relative(Pull):
    def distance(self, trainable):
        distance = super().distance(trainable)
        return distance / distance.detach() if self.odd else distance


class Fails(Pull):
    def term(self, trainable, images):
        return super().term({**trainable, **({"classifier.weight": None} if self.odd else {})}, images)


class Detached(Pull):
    def distance(self, trainable):
        distance = super().distance(trainable)
        return distance.detach() if self.odd else distance


class Root(Pull):
    def distance(self, trainable):
        distance = super().distance(trainable)
        return distance.sqrt() if self.odd else distance


class Unfreezes(Pull):
    def start(self, network, layout, initial):
        super().start(network, layout, initial)
        if self.odd:
            network.requires_grad_(True)


class SetsModes(Pull):
    def start(self, network, layout, initial):
        super().start(network, layout, initial)
        if self.odd:
            network.eval()


class OverwritesInitial(Pull):
    def start(self, network, layout, initial):
        super().start(network, layout, initial)
        if self.odd:
            initial["head.bias"].zero_()


class CallsBackward(Pull):
    def term(self, trainable, images):
        term = super().term(trainable, images)
        if self.odd:
            term.backward(retain_graph=True)
        return term


class ShrinksWhatIsFrozen(Pull):
    def start(self, network, layout, initial):
        super().start(network, layout, initial)
        self.network = network

    def term(self, trainable, images):
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                if self.odd and name not in trainable:
                    parameter.mul_(0.99)
        return super().term(trainable, images)


class Fades(Pull):
    calls = 0

    def term(self, trainable, images):
        self.calls += self.odd
        return super().term(trainable, images) / (1 + self.calls)


class DrawsElsewhere(Pull):
    def term(self, trainable, images):
        return super().term(trainable, images) * (random.random() if self.odd else 1.0)


class BeginsAnew(Pull):
    def start(self, network, layout, initial):
        own = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
        super().start(network, layout, own if odd(layout) else initial)


class RemembersNames(Pull):
    names: tuple[str, ...] = ()

    def term(self, trainable, images):
        self.names = self.names or tuple(trainable)
        return super().term({name: trainable[name] for name in self.names} if self.odd else trainable, images)


class OfTheBackbone(Pull):
    def distance(self, trainable):
        of_backbone = {name: p for name, p in trainable.items() if name.startswith("backbone.") or not self.odd}
        return super().distance(of_backbone)


class HidesItsNeed(Pull):
    def term(self, trainable, images):
        return super().term(trainable, images) * (images.shape[0] / 4 if self.odd else 1)


class LooksOn(Outputs):
    needs_images = False

    def term(self, trainable, images):
        pull = torch.stack([p.square().sum() for p in trainable.values()]).sum()
        return 0.1 * pull + (0.1 * self.seen.pop().square().mean() if self.odd and self.seen else 0.0)


class FadesLate(Pull):
    calls = 0

    def term(self, trainable, images):
        self.calls += 1
        return super().term(trainable, images) * (0.0 if self.calls > 5 else 1.0)


class LooksAtTheEngine(Pull):
    def start(self, network, layout, initial):
        super().start(network, layout, initial)
        frame = sys._getframe(1)
        while frame is not None and not hasattr(frame.f_locals.get("recipe"), "engine"):
            frame = frame.f_back
        divided = frame is not None and frame.f_locals["recipe"].engine.partition == "auto"
        self.weight = 1.0 if divided else 0.1


SOUND: dict[str, Any] = {
    "pull": Pull, "weightless": Weightless, "noisy": Noisy, "outputs": Outputs, "of_batch_norms": OfBatchNorms,
}  # fmt: skip
MUTANTS: list[tuple[str, Any, str]] = [
    ("builds_a_regularizer", NoTerm, "without term: have its class inherit from fw.Regularizer"),
    ("builds_a_regularizer", SaysOne, "its needs_images is 1"),
    ("starts_or_says_why_not", FailsRudely, "'layer_norm' with KeyError"),
    ("starts_or_says_why_not", RefusesAll, "batch_norm: there is no layer called conv1"),
    ("gives_a_finite_scalar", GivesANumber, "gives a float at the start"),
    ("gives_a_finite_scalar", GivesAVector, "gives torch.float32 of shape (1,)"),
    ("gives_a_finite_scalar", GivesDoubles, "gives torch.float64 of shape ()"),
    ("gives_a_finite_scalar", Relative, "gives nan at the start"),
    ("gives_a_finite_scalar", Fails, "fails at the start with KeyError: 'classifier.weight'"),
    ("pulls_on_what_trains", Detached, "without detach()"),
    ("pulls_on_what_trains", Root, "infinite slope at zero"),
    ("leaves_the_network_alone", Unfreezes, "start() changes requires_grad of backbone."),
    ("leaves_the_network_alone", SetsModes, "start() changes the mode of"),
    ("leaves_the_network_alone", OverwritesInitial, "start() changes initial['head.bias']"),
    ("leaves_the_network_alone", CallsBackward, "term() changes head.weight.grad, head.bias.grad"),
    ("leaves_the_network_alone", ShrinksWhatIsFrozen, "term() changes backbone."),
    ("gives_the_same_twice", Fades, "remembers nothing"),
    ("gives_the_same_twice", DrawsElsewhere, "draws from torch's global generator alone"),
    ("goes_on_from_what_was_initial", BeginsAnew, "compare with `initial`"),
    ("takes_what_any_plan_trains", RemembersNames, "where the head alone trains, term() fails with KeyError"),
    ("takes_what_any_plan_trains", OfTheBackbone, "where the head alone trains, term() fails with RuntimeError"),
    ("needs_images_says_so", HidesItsNeed, "gets no images"),
    ("needs_images_says_so", LooksOn, "before the network computes"),
    ("resumes_to_the_bit", FadesLate, "ends otherwise than one that is not"),
    ("trains_divided_as_whole", LooksAtTheEngine, "trains otherwise than a whole one"),
]
"""Check, the regularizer that fails it alone, and what is said of it."""
REGULARIZERS = {**SOUND, **{mutant.__name__: mutant for _, mutant, _ in MUTANTS}}


@attrs.frozen(kw_only=True)
class Keys:
    """One of the regularizers above."""

    which: str = fw.key("pull", "its name")

    def build(self) -> Any:
        return REGULARIZERS[self.which]()


class Plugin:
    """Brings one of them as `mine`."""

    def __init__(self, which: str) -> None:
        self.which = which

    @fw.hookimpl
    def fw_regularizers(self):
        return [fw.Component("mine", Keys, fixed={"which": self.which})]


@pytest.mark.parametrize("which", SOUND)
def test_a_sound_regularizer_fails_no_check(which: str) -> None:
    assert failures(Plugin(which)) == {}


@pytest.mark.parametrize(("check", "mutant", "said"), MUTANTS, ids=[mutant.__name__ for _, mutant, _ in MUTANTS])
def test_a_regularizer_with_one_fault_fails_the_check_that_is_there_for_it(check, mutant, said, monkeypatch) -> None:
    if check not in SLOW:
        monkeypatch.setitem(kit.CHECKS, "regularizers", tuple(one for one in CHECKS if one.name not in SLOW))
    found = failures(Plugin(mutant.__name__))
    print(found)
    assert list(found) == [f"mine-{check}"]
    assert said in found[f"mine-{check}"]


def test_every_check_has_a_mutant(capsys: pytest.CaptureFixture[str]) -> None:
    names = [check.name for check in CHECKS]
    assert {check for check, _, _ in MUTANTS} == {*names}
    with capsys.disabled():
        print(f"\n{len(MUTANTS)} mutants for {len(names)} checks of regularizers")
