"""Layers: which layers of a backbone can be adapted, how modules are set on them, whether these can be folded in."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeVar

import torch
from torch import nn

import framework as fw

ROOT = "backbone."
LAYERS = (nn.Linear, nn.Conv2d)
ROUNDING = 1e-4
"""How far two ways to the same output lie apart in fp32 at most, as a share of its largest number."""

Hook = Callable[[nn.Module, tuple[Any, ...], Any], Any]
Change = Callable[[nn.Module], None]
Child = TypeVar("Child", bound=nn.Module)


def called_layers(network: nn.Module, layout: fw.Layout) -> dict[str, nn.Module]:
    """Linear and Conv2d layers and norms of the backbone, by full name, in the order of their first calls.

    They are called, not merely read for their weight, as the projections of torch's own attention are. They own a
    weight, perhaps a bias, and no other parameter; no other module has the same one, and the library does not keep it
    from training.
    """
    owners = Counter(id(owned) for module in network.modules() for owned in module.parameters(recurse=False))
    modules = dict(network.named_modules())

    def is_adaptable(name: str) -> bool:
        owned = dict(modules[name].named_parameters())
        own = all(owners[id(one)] == 1 and f"{name}.{key}" not in layout.fixed for key, one in owned.items())
        return own and {"weight"} <= owned.keys() <= {"weight", "bias"}

    layers = [name for name in layout.outputs if name in layout.norms or isinstance(modules[name], LAYERS)]
    return {name: modules[name] for name in layers if name.startswith(ROOT) and is_adaptable(name)}


def attach(layer: nn.Module, name: str, child: nn.Module, hook: Hook) -> None:
    """Sets a module on a layer, and a hook that changes the layer's output by it."""
    layer.add_module(name, child.train(layer.training))
    layer.register_forward_hook(hook)


def detach(layer: nn.Module, name: str, hook: Hook) -> None:
    """Takes off what `attach` set; a copy of a network has no handles of its hooks, so that each is looked at."""
    delattr(layer, name)
    for number in [number for number, found in layer._forward_hooks.items() if found is hook]:
        del layer._forward_hooks[number]


def attached(network: nn.Module, name: str, kind: type[Child]) -> Iterator[tuple[nn.Module, Child]]:
    """Each layer on which `attach` set a module of this name and kind, and that module."""
    for layer in list(network.modules()):
        child = getattr(layer, name, None)
        if isinstance(child, kind):
            yield layer, child


def is_plain(layer: nn.Module, kinds: Collection[type[nn.Module]]) -> bool:
    """Whether a layer is exactly of one of these classes, and nobody else changes what it takes or gives."""
    return type(layer) in kinds and not layer._forward_hooks and not layer._forward_pre_hooks


def example_shape(layer: nn.Module, gives: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a small input of a layer; a norm takes what it gives."""
    if isinstance(layer, nn.Linear):
        return (2, 3, layer.in_features)
    if isinstance(layer, nn.Conv2d):
        sides = (
            dilation * (kernel - 1) + 1 + 2 * stride
            for dilation, kernel, stride in zip(layer.dilation, layer.kernel_size, layer.stride, strict=True)
        )
        return (2, layer.in_channels, *sides)
    return gives


def folds(layer: nn.Module, shape: tuple[int, ...], add: Change, fold: Change) -> bool:
    """Whether a layer gives the same once what is added to it is folded into its own tensors.

    It is tried on a copy in evaluation mode, with random numbers in what is added. A layer that standardises its weight
    or has an activation inside gives something else.

    Args:
        layer: stays as it is.
        shape: of an input.
        add: sets modules on a layer.
        fold: folds them into its tensors, and takes them off.
    """
    trial = copy.deepcopy(layer)
    own = {id(parameter) for parameter in trial.parameters()}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        try:
            add(trial)
            for parameter in trial.parameters():
                if id(parameter) not in own:
                    parameter.normal_()
            given = torch.randn(shape)
            apart = trial.eval()(given)
            fold(trial)
            together = trial(given)
            return bool((apart - together).abs().max() <= ROUNDING * apart.abs().max())
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            return False  # it refuses such an input, or what is added
