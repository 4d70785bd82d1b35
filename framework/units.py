"""Units: stages derived from a network's module tree and the order in which its parameters are used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs
from torch import nn

from framework.contracts import Grouping
from framework.kinds import is_norm

ENOUGH = 4
"""So many parts a network must fall into before its tree is opened no further."""


@attrs.frozen
class Unit:
    """A part of a network that is not divided further.

    Attributes:
        module: its name.
        parameters: full names.
        begins: the moment of its first use.
        opened: the module whose opening made it a unit of its own.
        small: a lone norm layer, or parameters that a container owns itself: never a stage of its own.
        layer: a single module, not a norm, that owns all its parameters.
        dense: made of linear layers and norms alone.
    """

    module: str
    parameters: tuple[str, ...]
    begins: int
    opened: str
    small: bool
    layer: bool
    dense: bool


def derive_grouping(network: nn.Module, root: str, parameters: Sequence[str], moments: Mapping[str, int]) -> Grouping:
    """Stages and neck of the part of a network that is called `root`.

    The tree is opened at the module with the most parametrised modules in it until there are four parts; lone norm
    layers and parameters of containers join the part before them. What follows the opened trunk and is made of linear
    layers and norms alone, and a norm layer at the end, is the neck.

    Args:
        root: the module to divide.
        parameters: the parameters to divide, by full name.
        moments: parameter -> the moment of its first use.
    """
    tree = _Tree(network, parameters, moments)
    units = tree.open(root)
    trunk = root
    while sum(not unit.small for unit in units) < ENOUGH:
        closed = [unit for unit in units if not (unit.small or unit.layer)]
        if not closed:
            break
        largest = max(closed, key=lambda unit: tree.size(unit.module))
        trunk = largest.module
        units = [part for unit in units for part in (tree.open(trunk) if unit is largest else [unit])]
    units.sort(key=lambda unit: unit.begins)
    body, neck = _split_neck(units, trunk, opened=trunk != root)
    return Grouping(tuple(_merged(body)), tuple(name for unit in neck for name in unit.parameters))


class _Tree:
    """The module tree, with the parameters that count."""

    def __init__(self, network: nn.Module, parameters: Iterable[str], moments: Mapping[str, int]) -> None:
        self.network = network
        self.moments = moments
        self.parameters = list(parameters)

    def under(self, module: str) -> list[str]:
        """The parameters of a module and all inside it."""
        return [name for name in self.parameters if not module or name.startswith(f"{module}.")]

    def owners(self, module: str) -> set[str]:
        """The modules inside it, itself included, that own parameters."""
        return {name.rpartition(".")[0] for name in self.under(module)}

    def size(self, module: str) -> int:
        """How many modules with parameters of their own it holds."""
        return len(self.owners(module))

    def open(self, module: str) -> list[Unit]:
        """The children of a module that hold parameters, and the parameters that it owns itself."""
        prefix = f"{module}." if module else ""
        parts: dict[str, list[str]] = {}
        for name in self.under(module):
            child, _, rest = name.removeprefix(prefix).partition(".")
            parts.setdefault(prefix + child if rest else module, []).append(name)
        return [self._unit(part, names, module) for part, names in parts.items()]

    def _unit(self, part: str, names: Sequence[str], opened: str) -> Unit:
        owners = {name.rpartition(".")[0] for name in names}
        modules = [self.network.get_submodule(owner) for owner in owners]
        norms = [is_norm(module) for module in modules]
        return Unit(
            module=part,
            parameters=tuple(names),
            begins=min(self.moments[name] for name in names),
            opened=opened,
            small=part == opened or all(norms),
            layer=owners == {part} and not any(norms),
            dense=all(norm or isinstance(module, nn.Linear) for norm, module in zip(norms, modules, strict=True)),
        )


def _split_neck(units: Sequence[Unit], trunk: str, opened: bool) -> tuple[Sequence[Unit], Sequence[Unit]]:
    """The units up to the end of the trunk, and those after it.

    A norm right after a single layer is that layer's own, not the network's last norm.
    """
    end = 1 + max((index for index, unit in enumerate(units) if _of_trunk(unit, trunk, opened)), default=len(units) - 1)
    if end < len(units) and units[end - 1].layer and units[end].small and units[end].opened == units[end - 1].opened:
        end += 1
    return units[:end], units[end:]


def _of_trunk(unit: Unit, trunk: str, opened: bool) -> bool:
    if unit.small:
        return False
    return not unit.dense or (opened and unit.opened == trunk)


def _merged(units: Sequence[Unit]) -> list[tuple[str, ...]]:
    """The parameters of each stage: small units join the one before them, or the first stage."""
    stages: list[list[str]] = []
    waiting: list[str] = []
    for unit in units:
        if not unit.small:
            stages.append([*waiting, *unit.parameters])
            waiting = []
        elif stages:
            stages[-1].extend(unit.parameters)
        else:
            waiting.extend(unit.parameters)
    if waiting:
        stages.append(waiting)
    return [tuple(stage) for stage in stages]
