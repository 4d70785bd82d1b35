"""Checks of adapters: by what they make of several networks, and of whole runs in which all else is frozen."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from framework.additions import Adapter
from framework.capture import NotCaptured, capture
from framework.errors import FwError
from framework.files import tensor_digests
from framework.freezing import all_tensors, put_back
from framework.network import load_state
from framework.testing.adapting import ADAPTER, EQUAL, Adapted, adapted, fault_of_copy, insert, working
from framework.testing.additions import divided_otherwise, resumed_otherwise, some
from framework.testing.case import Case, Check, check
from framework.testing.chance import seeded
from framework.testing.networks import BACKBONES, NETWORKS, SIDE, backbone_table, sample
from framework.testing.probes import apart, require_same_weights, require_torchs_generator, said
from framework.testing.surroundings import settings_put_back
from framework.testing.training import numbers, told, undisturbed
from framework.testing.whole_runs import run
from framework.tracing import copied
from framework.trained import evaluate

MERGED = 1e-4
"""Largest difference of logits before and after `merge`, over the largest value: products of weights round, too."""
EXPORTED = 2
"""Networks that are exported, which takes longer than all else."""
LOADED = 1e-4
"""Largest relative difference of the losses of a model in a run, and read from its directory."""
FAR = {"use": "torch/Adam", "lr": 0.05}
"""An optimizer that takes every number of the additions some way within an epoch, so that what they do shows."""


# -------------------------------------------------------------------------------------------------- what it adds


@check
def builds_an_adapter(case: Case) -> None:
    """`build()` gives an object with every method of `fw.Adapter`, and says whether it is `mergeable`."""
    fault = ADAPTER.fault_of(case.config().build())
    assert fault is None, fault


@check
def inserts_or_says_why_not(case: Case) -> None:
    """`insert` adds parameters in the backbone or the head, or raises a `fw.FwError` that says what it looks for."""
    refused: list[str] = []
    for name in BACKBONES:
        try:
            one = insert(case, name)
        except FwError as error:
            refused.append(f"{name}: {error}")
            continue
        except Exception as error:  # an adapter may raise anything
            raise AssertionError(
                f"insert() fails on the kit's network {name!r} with {said(error)}; where a network lacks what it "
                "adds to, raise fw.FwError and say what that is"
            ) from error
        assert one.added, f"{one.words} insert() adds no parameter: raise fw.FwError and say what it looks for"
        outside = [name for name in one.added if not name.startswith(("backbone.", "head."))]
        assert not outside, (
            f"{one.words} insert() adds {some(outside)} outside of the backbone and the head, which no stage holds: "
            "set modules on layers, or on network.backbone"
        )
    assert len(refused) < len(BACKBONES), (
        "insert() refuses every network of the kit; plugin_checks(..., keys=...) can set keys that fit one:\n"
        + "\n".join(refused)
    )


@check
def keeps_the_networks_own_tensors(case: Case) -> None:
    """The network's own parameters and buffers keep their names, their bits and their identity, its modules theirs."""
    for name in BACKBONES:
        made: Adapter = ADAPTER.made(case)
        here = sample(name)
        before, modules = all_tensors(here.network), dict(here.network.named_modules())
        digests = tensor_digests(before)
        try:
            with seeded(0):
                made.insert(here.network, here.layout)
        except Exception:  # an adapter may raise anything, of which another check tells
            continue
        now = all_tensors(here.network)
        gone = [name for name in before if now.get(name) is not before[name]]
        assert not gone, (
            f"on the kit's network {name!r} insert() renames or replaces {some(gone)}, on which recipes, audits and "
            "checkpoints hang: leave the layer where it is, set a module on it, and add by a forward hook"
        )
        written = [name for name, digest in tensor_digests(before).items() if digest != digests[name]]
        assert not written, f"on the kit's network {name!r} insert() writes to {some(written)}: only add"
        lost = [name for name in modules if name not in dict(here.network.named_modules())]
        assert not lost, f"on the kit's network {name!r} insert() takes {some(lost)} away, by which stages are known"


@check
@undisturbed()
def starts_as_the_network_was(case: Case) -> None:
    """After `insert` the network computes what it did before, in evaluation and in train mode."""
    for one in adapted(case):
        for training in (False, True):
            wrong = one.probe.complaint(4, training)
            assert wrong is None, f"{one.words}, after insert(), {wrong}: it gives what it gave before"
            expected, found = (_logits(network, one, training) for network in (one.before.network, one.network))
            mode = "train" if training else "evaluation"
            assert apart(expected, found) <= EQUAL, (
                f"{one.words} the logits in {mode} mode are others after insert(), by {apart(expected, found):.2g} of "
                "the largest: begin with an update of zero, a scale of one, or a last layer of zeros"
            )


def _logits(network: nn.Module, one: Adapted, training: bool) -> Tensor:
    """What noise gives where nothing of the kit's own is dropped, so that draws of the adapter's move no other."""
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network.train(training)
    for name, module in one.before.network.named_modules():
        if isinstance(module, nn.Dropout):
            network.get_submodule(name).eval()
    with torch.no_grad(), seeded(0):
        logits: Tensor = network(numbers((4, 3, SIDE, SIDE), seed=0))
    put_back(network, before)
    return logits


@check
@undisturbed()
def adds_what_can_train(case: Case) -> None:
    """Every added parameter is float32, trains, and has a path to the logits, also where all else is frozen."""
    for one in working(case):
        wrong = [
            name for name, tensor in one.added.items() if tensor.dtype != torch.float32 or not tensor.requires_grad
        ]
        assert not wrong, f"{one.words} it adds {some(wrong)} that cannot train: add float32 nn.Parameters"
        for name, parameter in one.network.named_parameters():
            parameter.requires_grad_(name in one.added)
        logits = one.network.train()(one.probe.rows(4))
        if logits.requires_grad:
            logits.square().mean().backward()
        missed = [name for name, tensor in one.added.items() if tensor.grad is None]
        assert not missed, f"{one.words} no gradient arrives at {some(missed)}: use every parameter that is added"
        assert any(tensor.grad.any() for tensor in one.added.values() if tensor.grad is not None), (
            f"{one.words} the gradient is zero at all that is added, so that it would never move: of two factors, "
            "begin with one at zero alone"
        )


@check
@undisturbed()
def draws_from_torchs_generator_alone(case: Case) -> None:
    """First values, and what is drawn in train mode, come from torch's global generator, which the engine seeds."""
    for one, other in zip(working(case, others=1), working(case, others=2), strict=True):
        require_same_weights(one.network, other.network)
        one.stir()
        require_torchs_generator(one.probe)


# -------------------------------------------------------------------------------------- what the engine does with it


@check
@undisturbed()
def is_its_own_as_a_copy(case: Case) -> None:
    """A copy of the network computes the same, with tensors of its own, of which the original feels nothing."""
    for one in working(case):
        one.stir()
        fault = fault_of_copy(one)
        assert fault is None, f"{one.words} {fault}"


@check
@undisturbed()
def merges_into_the_networks_own_tensors(case: Case) -> None:
    """After `merge` a copy has the tensors and modules of before `insert`, and computes what it did with additions."""
    for one in working(case):
        one.stir()
        if not one.adapter.mergeable or fault_of_copy(one) is not None:
            pytest.skip("it says that it is not mergeable, or see is_its_own_as_a_copy")
        with_additions, digests = one.probe.given(one.probe.rows(4)), tensor_digests(all_tensors(one.network))
        merged = copied(one.network).eval()
        with told(f"{one.words} merge() fails on a copy; set `mergeable = False` where nothing can be folded"):
            one.adapter.merge(merged)
        others = _differing(_names(one.before.network), _names(merged))
        assert not others, f"{one.words} merge() leaves other names or shapes than before insert(): {some(others)}"
        assert tensor_digests(all_tensors(one.network)) == digests, (
            f"{one.words} merge() writes to the network of which it was given a copy: read all from its argument"
        )
        load_state(one.before.network, merged.state_dict())
        plain = attrs.evolve(one.probe, module=one.before.network)
        far = max(apart(with_additions, probe.given(probe.rows(4)))
                  for probe in (attrs.evolve(plain, module=merged), plain))  # fmt: skip
        assert far <= MERGED, (
            f"{one.words} the logits are others after merge(), by {far:.2g} of the largest: fold all that the "
            "additions do into weights and biases, or set `mergeable = False`"
        )


def _names(network: nn.Module) -> dict[str, Any]:
    """Tensors with their shapes and types, and modules, by name."""
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in all_tensors(network).items()}
    return {**shapes, **{f"module {name}": None for name, _ in network.named_modules()}}


def _differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [name for name in {**one, **other} if name not in one or name not in other or one[name] != other[name]]


@check
@undisturbed()
def can_be_captured(case: Case) -> None:
    """torch.export takes the network, so that it is divided, and computes with the additions what the network does."""
    for one in working(case)[:EXPORTED]:
        one.stir()
        if fault_of_copy(one) is not None or not one.probe.is_repeatable:
            pytest.skip("see is_its_own_as_a_copy and draws_from_torchs_generator_alone")
        for training in (False, True):
            try:
                captured = capture(one.network.train(training), one.probe.rows(2)).module
            except NotCaptured as reason:
                raise AssertionError(
                    f"{one.words} torch.export refuses the network after insert(), so that it trains whole and "
                    f"slowly: {reason}; ask no tensor for its numbers, and fix no number of images"
                ) from reason
            expected, found = (one.drawn_by(module) for module in (one.network, captured))
            assert apart(expected, found) <= EQUAL, (
                f"{one.words}, in {'train' if training else 'evaluation'} mode, what torch.export makes of the network "
                "computes something else than the network: leave no branch on torch.compiler, and bake no value in"
            )


# ------------------------------------------------------------------------------------------------- in whole runs


@check
def resumes_to_the_bit(case: Case) -> None:
    """A run that ends in every step and is resumed each time leaves what one leaves that does not, bit for bit."""
    found = resumed_otherwise(case, _tables(case))
    assert not found, (
        f"a run that is stopped and resumed ends otherwise than one that is not: {some(found)}; keep all that counts "
        "in parameters and buffers, and draw from torch's global generator alone"
    )


@check
def trains_divided_as_whole(case: Case) -> None:
    """A run that computes the fixed part once for each image leaves what one leaves that computes all of it always."""
    found = divided_otherwise(case, _tables(case))
    assert not found, (
        f"a divided network trains otherwise than a whole one: {some(found)}; let the additions depend on their input "
        "and on parameters and buffers alone"
    )


@check
def loads_again(case: Case) -> None:
    """The model of a finished run, read from its directory, scores what it did in the run."""
    folder = case.folder / "run"
    left = run(case.index(), {**_tables(case), "optimizer": FAR}, folder)
    with settings_put_back(), seeded(1), told("the model of a run cannot be read from its directory"):
        again = evaluate(folder, case.index().including([NETWORKS]), [])["metrics"]
    for split, metrics in again.items():
        expected = left.summary["metrics"]["best"][split]["loss"]
        assert math.isclose(metrics["loss"], expected, rel_tol=LOADED), (
            f"the model of a run has a {split} loss of {expected:.6g} there and {metrics['loss']:.6g} when it is read "
            "from its directory: keep all that counts in parameters and buffers, which its file holds"
        )


def _tables(case: Case) -> dict[str, Any]:
    """The adapter under a policy that trains the head and what is added, on the first network that it takes."""
    first = working(case)[0]
    return {"adapter": case.table(), "freezing": {"use": "frozen"}, "backbone": backbone_table(first.before.name)}


CHECKS: tuple[Check, ...] = (
    builds_an_adapter,
    inserts_or_says_why_not,
    keeps_the_networks_own_tensors,
    starts_as_the_network_was,
    adds_what_can_train,
    draws_from_torchs_generator_alone,
    is_its_own_as_a_copy,
    merges_into_the_networks_own_tensors,
    can_be_captured,
    resumes_to_the_bit,
    trains_divided_as_whole,
    loads_again,
)
