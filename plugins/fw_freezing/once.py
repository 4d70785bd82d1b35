"""The base of policies that decide once, before the first step."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

import framework as fw

NORM = "batch norms that are not trained: fixed, batch, or recalibrate"
"""What the key `norm` of every policy says."""


@attrs.frozen(kw_only=True)
class Once:
    """A policy's keys and, since it never changes its mind, its only decision: `chosen`."""

    norm: fw.NormMode = fw.key("fixed", NORM)

    def build(self) -> fw.FreezingPolicy:
        """The policy."""
        return Decided(self)

    def chosen(self, layout: fw.Layout) -> Iterable[str]:
        """The parameters that train, beside the head's."""
        raise NotImplementedError


class Decided(fw.FreezingPolicy):
    """A plan of what `keys` choose, and the head."""

    def __init__(self, keys: Once) -> None:
        self.keys = keys

    def start(self, layout: fw.Layout) -> fw.Plan:
        """The plan of the whole run."""
        return layout.plan([*self.keys.chosen(layout), *layout.head.parameters], self.keys.norm)


def parameters_of(stages: Iterable[fw.Stage]) -> list[str]:
    """The parameters of several stages, in their order."""
    return [name for stage in stages for name in stage.parameters]
