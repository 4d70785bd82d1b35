"""timm's own grouping of a model's parameters: the coarse one as stages and neck, the fine one as layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
from timm.models import group_parameters
from torch import nn

import framework as fw

_JOINS_PREVIOUS = 99999
_STANDS_ALONE = 99998
_MATCHES_NOTHING = "\0"


def grouping_of(module: nn.Module) -> fw.Grouping | None:
    """timm's grouping of a model without its classifier; None where it has none, or a single group."""
    coarse = coarse_grouping(module)
    return None if coarse is None else attrs.evolve(coarse, layers=fine_layers(module))


def fine_layers(module: nn.Module) -> tuple[tuple[str, ...], ...]:
    """The layers of `group_matcher(coarse=False)`, by which timm's `layer_decay` counts; () where a model has none.

    The name of the classifier, which is gone, shows which layer is the head's; it is the last, or there are no layers.
    """
    matcher_of: Any = getattr(module, "group_matcher", None)
    named: Any = getattr(module, "pretrained_cfg", {}).get("classifier") or ()
    classifier = named if isinstance(named, str) else next(iter(named), None)
    if matcher_of is None or classifier is None:
        return ()
    names = [name for name, _ in module.named_parameters()]
    head = f"{classifier}.weight"
    layer_of = _group([*names, head], matcher_of(coarse=False), reverse=True)
    layers: list[list[str]] = [[] for _ in range(max(layer_of.values()) + 1)]
    for name in names:
        layers[layer_of[name]].append(name)
    return tuple(map(tuple, layers)) if layer_of[head] == len(layers) - 1 else ()


def coarse_grouping(module: nn.Module) -> fw.Grouping | None:
    """The groups of `group_matcher(coarse=True)`, input to output; None where a model has none, or a single one.

    What timm adds to the last group (`norm`, `conv_head`) and what its matcher leaves over is the neck: the classifier
    itself is gone. The same kind of group further up stays with the group before it.
    """
    matcher_of: Any = getattr(module, "group_matcher", None)
    if matcher_of is None:
        return None
    try:
        matcher = matcher_of(coarse=True)
    except (AssertionError, NotImplementedError):  # RDNet: "coarse grouping is not implemented"
        return None
    groups = _ordered_groups([name for name, _ in module.named_parameters()], matcher)
    last = max((index for index, (_, extra) in enumerate(groups) if not extra), default=-1)
    stages: list[list[str]] = []
    for names, extra in groups[: last + 1]:
        if extra and stages:
            stages[-1].extend(names)
        else:
            stages.append(names)
    neck = [name for names, _ in groups[last + 1 :] for name in names]
    return fw.Grouping(tuple(map(tuple, stages)), tuple(neck)) if len(stages) > 1 else None


@attrs.frozen
class _Names:
    """Names, as timm's grouping asks for them."""

    names: Sequence[str]

    def named_parameters(self) -> Iterator[tuple[str, None]]:
        return ((name, None) for name in self.names)


def _group(names: Sequence[str], matcher: Any, reverse: bool = False) -> Any:
    listing: Any = _Names(names)
    return group_parameters(listing, matcher, reverse=reverse)


def _ordered_groups(names: Sequence[str], matcher: Any) -> list[tuple[list[str], bool]]:
    """Each group's parameter names, and whether it is an extra one: joined to the group before it, or left over."""
    joined = _group([*names, _MATCHES_NOTHING], matcher, reverse=True)
    apart = _group(names, _without_joining(matcher))
    groups: list[tuple[list[str], bool]] = []
    before = None
    for members in apart.values():
        group = joined[members[0]]
        groups.append((list(members), group in (before, joined[_MATCHES_NOTHING])))
        before = group
    return groups


def _without_joining(matcher: Any) -> Any:
    """The same matcher, with groups of their own for what timm joins to the group before."""
    if not isinstance(matcher, Mapping):
        return _call_without_joining(matcher)
    return {name: _open(spec) for name, spec in matcher.items()}


def _open(spec: Any) -> Any:
    if not isinstance(spec, (tuple, list)):
        return spec
    return [(pattern, (_STANDS_ALONE,) if suffix == (_JOINS_PREVIOUS,) else suffix) for pattern, suffix in spec]


def _call_without_joining(matcher: Callable[[str], Any]) -> Callable[[str], Any]:
    def opened(name: str) -> Any:
        order = matcher(name)
        if isinstance(order, (tuple, list)) and order and order[-1] == _JOINS_PREVIOUS:
            return (*order[:-1], _STANDS_ALONE)
        return order

    return opened
