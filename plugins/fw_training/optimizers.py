"""Optimizers: the family `torch/<optimizer>`, and what any library's family of optimizers is made with."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch.optim import Optimizer

import framework as fw

CODE_ONLY = frozenset({"differentiable", "capturable"})
"""Arguments that change what code around `step()` may do (backpropagate through it, capture it in a CUDA graph)."""

TRIAL_SHAPES = ((3,), (4, 3), (4, 3, 2, 2))
"""A bias, a linear layer, a convolution: what every network's parameters look like."""


class LibraryOptimizer:
    """Builds a library's optimizer from a config class that was made from its signature."""

    library_class: ClassVar[Callable[..., Optimizer]]

    def build(self, groups: list[dict[str, Any]]) -> Optimizer:
        """The optimizer of these groups; each may hold an `lr` and a `weight_decay` of its own, or no parameter.

        Raises:
            FwError: the library refuses a value, in its words.
        """
        library = type(self).library_class
        try:
            return library(groups, **fw.recipe_arguments(self))
        except (AssertionError, ImportError, TypeError, ValueError) as error:
            raise fw.FwError(f"[optimizer] {type(self).__name__}: {error}", "mend the keys of [optimizer]") from error


def optimizer_config(name: str, constructor: Callable[..., Optimizer], doc: str = "") -> type[Any]:
    """A config class of an optimizer, from the signature of its constructor.

    The key `lr` keeps the library's default where that is a number; else (none, or worked out as training goes) a
    recipe must state it, since groups and schedulers scale it.
    """
    parameters = inspect.signature(constructor).parameters
    overrides = {"lr": (fw.PositiveFloat, _number(parameters["lr"].default))}
    if "weight_decay" in parameters:
        overrides["weight_decay"] = (fw.NonNegative, _number(parameters["weight_decay"].default))
    skip = {"params", *CODE_ONLY}
    config = fw.config_from_signature(name, constructor, skip=skip, overrides=overrides, base=LibraryOptimizer, doc=doc)
    config.library_class = constructor
    return config


def _number(default: Any) -> Any:
    return float(default) if isinstance(default, (int, float)) else inspect.Parameter.empty


def steps_alone(constructor: Callable[..., Optimizer]) -> bool:
    """Whether an optimizer can drive the training loop, found out by a trial on three small parameters.

    It must take groups with their own learning rates and step without a closure on dense gradients of a vector, a
    matrix and a kernel. L-BFGS, second-order methods, SparseAdam and torch's Muon do not.
    """
    parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in TRIAL_SHAPES]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    groups = [{"params": parameters[:1], "lr": 0.01}, {"params": parameters[1:], "lr": 0.1}]
    # Eager, since compiling for a trial takes a minute; forked, since some optimizers draw random numbers.
    with torch.compiler.set_stance("force_eager"), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            optimizer = constructor(groups, lr=0.01)
            for _ in range(2):
                optimizer.step()
        except Exception:  # whatever it needs, the loop does not give it
            return False
    return all(bool(torch.isfinite(parameter).all()) for parameter in parameters)


def optimizer_family() -> fw.Family:
    """The family `torch/<optimizer>`: every class of `torch.optim` that passes the trial of `steps_alone`."""
    return fw.Family("torch", _names, _member)


def _names() -> Sequence[str]:
    return [name for name, library in sorted(_classes().items()) if steps_alone(library)]


def _member(name: str) -> fw.Component:
    library = _classes().get(name)
    if library is None:
        raise fw.FwError(f"torch.optim has no optimizer {name!r}", fw.name_hints(name, _names(), "optimizers"))
    return fw.Component(f"torch/{name}", optimizer_config(name, library))


def _classes() -> dict[str, type[Optimizer]]:
    members = {name: getattr(torch.optim, name) for name in dir(torch.optim)}
    return {
        name: thing
        for name, thing in members.items()
        if inspect.isclass(thing) and issubclass(thing, Optimizer) and thing is not Optimizer
    }
