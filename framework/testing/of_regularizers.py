"""Checks of regularizers: by the term that they give on several networks under several plans, and by whole runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from framework.errors import FwError
from framework.files import tensor_digests
from framework.freezing import all_tensors
from framework.layout import HEAD
from framework.testing.additions import divided_otherwise, resumed_otherwise, some
from framework.testing.case import Case, Check, check
from framework.testing.networks import BACKBONES, backbone_table
from framework.testing.penalties import REGULARIZER, Scene, fault_of, scene, started, taken, working
from framework.testing.probes import said
from framework.testing.training import undisturbed

SCALAR = "give one finite float32 number, a tensor without dimensions"
PLANS: tuple[tuple[str, tuple[str, ...]], ...] = (("the head alone trains", (HEAD,)), ("everything trains", ()))
"""In words -> the stages that train; all where none are named."""


@check
def builds_a_regularizer(case: Case) -> None:
    """`build()` gives an object with every method of `fw.Regularizer`, which says whether it `needs_images`."""
    fault = REGULARIZER.fault_of(case.config().build())
    assert fault is None, fault


@check
@undisturbed()
def starts_or_says_why_not(case: Case) -> None:
    """`start` takes a network, or raises a `fw.FwError` that says what would fit."""
    refused: list[str] = []
    for name in BACKBONES:
        try:
            started(case, name)
        except FwError as error:
            refused.append(f"{name}: {error}")
        except Exception as error:  # a regularizer may raise anything
            raise AssertionError(
                f"start() fails on the kit's network {name!r} with {said(error)}; where it does not fit a network, "
                "raise fw.FwError and say what would"
            ) from error
    assert len(refused) < len(BACKBONES), (
        "start() refuses every network of the kit; plugin_checks(..., keys=...) can set keys that fit one:\n"
        + "\n".join(refused)
    )


@check
@undisturbed()
def gives_a_finite_scalar(case: Case) -> None:
    """The term is one finite number, a float32 tensor without dimensions: at the start, and some way from there."""
    for name in taken(case):
        here = started(case, name)
        for where in ("at the start", "some way from the start"):
            try:
                fault = fault_of(here.term(images=True))
            except Exception as error:  # a regularizer may raise anything
                raise AssertionError(f"{here.words} term() fails {where} with {said(error)}") from error
            assert fault is None, f"{here.words} term() gives {fault} {where}: {SCALAR}"
            here.move()


@check
@undisturbed()
def pulls_on_what_trains(case: Case) -> None:
    """A term that is not zero has a gradient at what trains, which is finite, at the start too."""
    for name in working(case):
        here = started(case, name)
        for where in ("at the start", "some way from the start"):
            term = here.term()
            gradients = _gradients(term, here.trainable)
            infinite = [name for name, slope in gradients.items() if not torch.isfinite(slope).all()]
            assert not infinite, (
                f"{here.words} the gradient {where} is not finite at {some(infinite)}: the root of a sum has an "
                "infinite slope at zero; take the square, or add an epsilon"
            )
            pulls = any(slope.any() for slope in gradients.values())
            assert pulls or where == "at the start" or not float(term.detach()), (
                f"{here.words} the term is {float(term.detach()):.3g} and has no gradient at what trains, so that it "
                "does nothing: compute it from the parameters that term() gets, without detach() or no_grad()"
            )
            here.move()


def _gradients(term: Tensor, trainable: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The gradient of a term at each parameter that it reaches."""
    if not term.requires_grad or not trainable:
        return {}
    found = torch.autograd.grad(term, list(trainable.values()), allow_unused=True)
    return {name: slope for name, slope in zip(trainable, found, strict=True) if slope is not None}


@check
@undisturbed()
def leaves_the_network_alone(case: Case) -> None:
    """`start` and `term` write to no tensor of the network, nor of `initial`, and leave modes and what trains alone."""
    for name in working(case):
        for _, stages in PLANS:
            here = scene(case, name)
            here.follow(*stages)
            before = _as_it_is(here)
            here.start()
            changed = _changed(before, _as_it_is(here))
            assert not changed, f"{here.words} start() changes {some(changed)}: it only looks on; work on copies"
            here.move()
            here.sample.network(here.images)
            before = _as_it_is(here)
            try:
                here.term(computes=False)
            except Exception:  # of which another check tells
                continue
            changed = _changed(before, _as_it_is(here))
            assert not changed, (
                f"{here.words} term() changes {some(changed)}, so that it acts otherwise than by the loss: work on "
                "copies, send no images through the network itself, and leave backward() to the engine"
            )


def _as_it_is(here: Scene) -> dict[str, Any]:
    """Tensors of the network and of `initial`, gradients, what trains, and modes, by what they are called."""
    network = here.sample.network
    parameters = dict(network.named_parameters())
    slopes = {f"{name}.grad": tensor.grad for name, tensor in parameters.items() if tensor.grad is not None}
    initial = {f"initial[{name!r}]": tensor for name, tensor in here.initial.items()}
    return {
        **tensor_digests({**all_tensors(network), **slopes, **initial}),
        **{f"requires_grad of {name}": tensor.requires_grad for name, tensor in parameters.items()},
        **{f"the mode of {name}": module.training for name, module in network.named_modules()},
    }


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [name for name in {**before, **now} if before.get(name) != now.get(name)]


@check
@undisturbed()
def gives_the_same_twice(case: Case) -> None:
    """At the same parameters, images and seed of torch's generator the term is the same, however often it is asked."""
    for name in working(case):
        here = started(case, name)
        here.move()
        first, again = (here.value(others=others) for others in (1, 2))
        assert first == again, (
            f"{here.words} the term is {first:.6g} at first and {again:.6g} again: it remembers nothing, since no "
            "checkpoint holds it, and draws from torch's global generator alone"
        )


@check
@undisturbed()
def goes_on_from_what_was_initial(case: Case) -> None:
    """One that starts in the middle of a run, with the tensors of its beginning, gives what an earlier one does."""
    for name in working(case):
        early, late = started(case, name), scene(case, name)
        early.move()
        late.move()
        late.start()
        expected, found = early.value(), late.value()
        assert expected == found, (
            f"{early.words} the term is {expected:.6g} where it started with the run, and {found:.6g} where it starts "
            "when the run goes on: compare with `initial`, and not with the network as start() finds it"
        )


@check
@undisturbed()
def takes_what_any_plan_trains(case: Case) -> None:
    """`term` takes what a plan trains, be it the head's parameters alone or everything, and after that the other."""
    for name in working(case):
        for order in (PLANS, PLANS[::-1]):
            here = scene(case, name)
            here.follow(*order[0][1])
            here.start()
            for words, stages in order:
                here.follow(*stages)
                here.move()
                try:
                    fault = fault_of(here.term())
                except Exception as error:  # a regularizer may raise anything
                    raise AssertionError(
                        f"{here.words}, where {words}, term() fails with {said(error)}: read what trains from its "
                        "argument at each call"
                    ) from error
                assert fault is None, f"{here.words}, where {words}, term() gives {fault}: {SCALAR}"


@check
@undisturbed()
def needs_images_says_so(case: Case) -> None:
    """One that reads the images, or looks on while the network computes, says `needs_images = True`."""
    for name in taken(case):
        here = started(case, name)
        here.move()
        if here.regularizer.needs_images or not _gives_one(started(case, name)):
            pytest.skip("it says so, or see gives_a_finite_scalar")
        try:
            alone, again = (here.value(images=False, computes=False) for _ in range(2))
        except Exception as error:  # a regularizer may raise anything
            raise AssertionError(
                f"{here.words} term() fails with {said(error)} where it gets no images and the network computes "
                "nothing: say `needs_images = True`"
            ) from error
        if alone != again:
            pytest.skip("see gives_the_same_twice")
        beside = here.value(images=False)
        assert alone == beside, (
            f"{here.words} the term is {alone:.6g} before the network computes and {beside:.6g} after it: say "
            "`needs_images = True`, or the network trains divided and computes elsewhere"
        )


def _gives_one(here: Scene) -> bool:
    try:
        here.value(images=True)
    except Exception:  # of which another check tells
        return False
    return True


# ------------------------------------------------------------------------------------------------- in whole runs


@check
def resumes_to_the_bit(case: Case) -> None:
    """A run that ends in every step and is resumed each time leaves what one leaves that does not, bit for bit."""
    found = resumed_otherwise(case, {**_tables(case), "freezing": {"use": "gradual_unfreeze"}})
    assert not found, (
        f"a run that is stopped and resumed ends otherwise than one that is not: {some(found)}; let the term depend "
        "on what trains, on `initial` and on the images alone"
    )


@check
def trains_divided_as_whole(case: Case) -> None:
    """A run that computes the fixed part once for each image leaves what one leaves that computes all of it always."""
    tables = _tables(case)
    if REGULARIZER.made(case).needs_images:
        pytest.skip("it needs images, so that the network always trains whole")
    found = divided_otherwise(case, tables)
    assert not found, (
        f"a divided network trains otherwise than a whole one: {some(found)}; let the term depend on what trains and "
        "on `initial` alone"
    )


def _tables(case: Case) -> dict[str, Any]:
    """The regularizer, and the first network that it takes."""
    return {"regularizer": case.table(), "backbone": backbone_table(working(case)[0])}


CHECKS: tuple[Check, ...] = (
    builds_a_regularizer,
    starts_or_says_why_not,
    gives_a_finite_scalar,
    pulls_on_what_trains,
    leaves_the_network_alone,
    gives_the_same_twice,
    goes_on_from_what_was_initial,
    takes_what_any_plan_trains,
    needs_images_says_so,
    resumes_to_the_bit,
    trains_divided_as_whole,
)
