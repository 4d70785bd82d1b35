"""Checks of finishers: by what they make of tensors that move, and by whole runs with and without them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from framework.additions import Finisher
from framework.freezing import same_bits
from framework.testing.additions import resumed_otherwise, some
from framework.testing.case import Case, Check, check
from framework.testing.finishing import (
    FINISHER,
    ONE_PLAN,
    PLANS_THAT_CHANGE,
    TAKEN,
    Ended,
    Tensors,
    Watch,
    Way,
    copies,
    finisher_of,
    move,
    ways,
)
from framework.testing.probes import said
from framework.testing.training import through_a_checkpoint, undisturbed
from framework.testing.whole_runs import run

LOSSES = ("train.loss", "val.loss")


# ------------------------------------------------------------------------------------------------ what it gives


@check
def builds_a_finisher(case: Case) -> None:
    """`build()` gives an object with every method of `fw.Finisher`, and with `needs_initial` and `recalibrates`."""
    fault = FINISHER.fault_of(case.config().build())
    assert fault is None, fault


@check
@undisturbed()
def finishes_a_run(case: Case) -> None:
    """Told of the steps and epochs of a run, it gives a mapping of names to tensors at its end."""
    for name in TAKEN:
        way = Way(name, ONE_PLAN)
        try:
            weights = way.go(finisher_of(case)).weights
        except Exception as error:  # a finisher may raise anything
            raise AssertionError(
                f"{way.words} it fails with {said(error)}; `initial` is empty unless `needs_initial = True`"
            ) from error
        assert isinstance(weights, Mapping), (
            f"{way.words} finish() gives a {type(weights).__name__}: give a dict of names and tensors"
        )


@check
@undisturbed()
def follows_plans_that_change(case: Case) -> None:
    """Tensors may begin to move under a later plan, and others stop, after which `follow` is told what moves."""
    for name in TAKEN:
        if not _finishes(case, Way(name, ONE_PLAN)):
            pytest.skip("see finishes_a_run")
        way = Way(name, PLANS_THAT_CHANGE)
        try:
            way.go(finisher_of(case))
        except Exception as error:  # a finisher may raise anything
            raise AssertionError(
                f"{way.words} it fails with {said(error)}: take up in follow() what is new, and go through what it is "
                "given, not through what moved at first"
            ) from error


def _finishes(case: Case, way: Way) -> bool:
    try:
        way.go(finisher_of(case))
    except Exception:  # of which another check tells
        return False
    return True


@check
@undisturbed()
def names_only_what_moved(case: Case) -> None:
    """The finished weights are tensors of the network that some plan of the run let move; others stay as selected."""
    for way in ways(case):
        ended = way.go(finisher_of(case))
        unknown = [name for name in ended.weights if name not in ended.selected]
        assert not unknown, f"{way.words} finish() names {some(unknown)}, which the network does not have"
        still = [name for name in ended.weights if name not in ended.moved]
        assert not still, (
            f"{way.words} finish() gives {some(still)}, which no plan let move: leave out what stays as it was"
        )


@check
@undisturbed()
def keeps_shapes_and_types(case: Case) -> None:
    """A finished tensor is finite, and has the shape and type of the selected one, counters included."""
    for way in ways(case):
        ended = way.go(finisher_of(case))
        for name, tensor in _known(ended).items():
            wanted = ended.selected[name]
            fits = isinstance(tensor, Tensor) and (tensor.shape, tensor.dtype) == (wanted.shape, wanted.dtype)
            assert fits, (
                f"{way.words} finish() gives {_kind(tensor)} for {name}, which is {_kind(wanted)}: average what is "
                "floating point alone, and leave counters as they are"
            )
            assert torch.isfinite(tensor).all(), f"{way.words} finish() gives {name} with values that are not finite"


def _known(ended: Ended) -> dict[str, Any]:
    """The finished weights that the network has; others are for another check to judge."""
    return {name: tensor for name, tensor in ended.weights.items() if name in ended.selected}


def _kind(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


@check
@undisturbed()
def is_a_function_of_what_it_saw(case: Case) -> None:
    """Two finishers that see the same give the same, to the bit."""
    for way in ways(case):
        one, other = (_known(way.go(finisher_of(case), seed=seed)) for seed in (1, 2))
        others = _others(one, other)
        assert not others, f"{way.words} two finishers that see the same give other values of {some(others)}"


def _others(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The names under which two results are not the same, to the bit."""
    return [name for name in {**one, **other}
            if name not in one or name not in other or not same_bits(one[name], other[name])]  # fmt: skip


# -------------------------------------------------------------------------------------------- what it leaves alone


@check
@undisturbed()
def writes_to_nothing(case: Case) -> None:
    """No tensor that it is shown or given is written to: the network's, the selected ones, the initial ones."""
    for way in ways(case):
        watch = Watch(finisher_of(case))
        way.go(watch)
        assert not watch.found, f"{way.words} {watch.found}: work on copies, tensor.clone()"


@check
@undisturbed()
def shares_no_memory(case: Case) -> None:
    """The finished weights stay as they are when the network's tensors move on."""
    for way in ways(case):
        ended = way.go(finisher_of(case))
        weights = {name: tensor for name, tensor in _known(ended).items() if isinstance(tensor, Tensor)}
        before = copies(weights)
        move(ended.live, step=100)
        shared = _others(before, weights)
        assert not shared, (
            f"{way.words} what finish() gives of {some(shared)} is the network's own tensor, which moves on: keep "
            "copies, tensor.clone()"
        )


# --------------------------------------------------------------------------------------------------- its state


@check
@undisturbed()
def state_fits_a_checkpoint(case: Case) -> None:
    """After each step `state` gives a dict of numbers, strings, lists, dicts and tensors, which a checkpoint holds."""
    for way in ways(case):

        def look(step: int, finisher: Finisher, moving: Tensors, way: Way = way) -> Finisher:
            state = finisher.state()
            assert isinstance(state, dict), f"{way.words} state() gives a {type(state).__name__}: give a dict"
            try:
                through_a_checkpoint(state)
            except Exception as error:  # anything may be in it
                raise AssertionError(
                    f"{way.words} a checkpoint cannot hold state() after step {step}: {said(error)}"
                ) from error
            return finisher

        way.go(finisher_of(case), look)


@check
@undisturbed()
def goes_on_from_its_state(case: Case) -> None:
    """A new finisher that takes the state of another gives in the end what that one does, from any step, to the bit."""
    for way in ways(case):
        states: dict[int, Any] = {}

        def note(step: int, finisher: Finisher, moving: Tensors, states: dict[int, Any] = states) -> Finisher:
            try:
                states[step] = through_a_checkpoint(finisher.state())
            except Exception:  # of which another check tells
                pytest.skip("see state_fits_a_checkpoint")
            return finisher

        expected = _known(way.go(finisher_of(case), note))
        for stop, state in states.items():
            others = _others(expected, _known(way.go(finisher_of(case), _resuming(case, stop, state))))
            assert not others, (
                f"{way.words} one that takes the state of after step {stop} gives other values of {some(others)}: put "
                "into state() all that it keeps, take it in restore(), and have follow(), which comes after that, "
                "leave alone what is there"
            )


def _resuming(case: Case, stop: int, state: Any) -> Any:
    """What has a new finisher go on after a step, as the engine does."""

    def swap(step: int, finisher: Finisher, moving: Tensors) -> Finisher:
        if step != stop:
            return finisher
        resumed = finisher_of(case)
        resumed.restore(state)
        resumed.follow(moving)
        return resumed

    return swap


# ------------------------------------------------------------------------------------------------- in whole runs


@check
def does_not_act_on_training(case: Case) -> None:
    """A run with it trains, and selects, what one without it does, to the bit."""
    plain = run(case.index(), {}, case.folder / "plain")
    finished = run(case.index(), {"finisher": case.table()}, case.folder / "finished")
    pairs = zip(plain.epochs, finished.epochs, strict=False)
    others = [f"{name} of epoch {one['epoch']}" for one, other in pairs for name in LOSSES if one[name] != other[name]]
    if len(plain.epochs) != len(finished.epochs):
        others.append("the number of epochs")
    raw, best = finished.summary["metrics"]["raw"], plain.summary["metrics"]["best"]
    others += [f"the {split} metrics of the selected weights" for split in ("val", "test") if raw[split] != best[split]]
    assert not others, (
        f"a run with the finisher differs from one without it: {some(others)}; a finisher looks on, and makes copies"
    )


@check
def resumes_to_the_bit(case: Case) -> None:
    """A run that ends in every step and is resumed each time leaves what one leaves that does not, bit for bit."""
    found = resumed_otherwise(case, {"finisher": case.table(), "freezing": {"use": "gradual_unfreeze"}})
    assert not found, (
        f"a run that is stopped and resumed ends otherwise than one that is not: {some(found)}; put all that it keeps "
        "into state(), and take all of it back in restore()"
    )


CHECKS: tuple[Check, ...] = (
    builds_a_finisher,
    finishes_a_run,
    follows_plans_that_change,
    names_only_what_moved,
    keeps_shapes_and_types,
    is_a_function_of_what_it_saw,
    writes_to_nothing,
    shares_no_memory,
    state_fits_a_checkpoint,
    goes_on_from_its_state,
    does_not_act_on_training,
    resumes_to_the_bit,
)
