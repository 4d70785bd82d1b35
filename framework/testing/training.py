"""Training: what the checks of losses, optimizers and schedulers share."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from framework.codec import pack, unpack
from framework.errors import FwError

T = TypeVar("T")


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leaves torch's random state as it was, shows no warning, and compiles nothing; also a decorator."""
    # Eager, since compiling the step of an optimizer takes a minute.
    with torch.random.fork_rng(devices=[]), torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        yield


@contextmanager
def told(what: str) -> Iterator[None]:
    """Says of an error that a component raises what was asked of it, and how to mend it.

    Raises:
        AssertionError: whatever else was raised.
    """
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{what} ({type(error).__name__}: {error})") from error


def unless_refused(make: Callable[[], T], what: str) -> T | None:
    """What is made; None where the component refuses with an FwError.

    Args:
        make: has the component built.
        what: says what was asked of it, where anything else is raised.

    Raises:
        AssertionError: it fails otherwise.
    """
    with told(what):
        try:
            return make()
        except FwError:
            return None


def numbers(shape: Sequence[int], seed: int) -> Tensor:
    """Normally distributed float32 numbers that depend on nothing but their seed."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def through_a_checkpoint(state: Any) -> Any:
    """A state as a checkpoint gives it back: taken apart into JSON and tensors, and put together.

    Raises:
        FwError: something is in it that a checkpoint cannot hold.
    """
    facts, tensors = pack(state, "state")
    return unpack(json.loads(json.dumps(facts)), tensors)
