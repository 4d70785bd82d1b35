"""Policies by stage: everything, nothing, the last, the first, or named ones."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

import framework as fw
from fw_freezing.once import Once, parameters_of


@attrs.frozen(kw_only=True)
class Full(Once):
    """Everything trains: plain fine-tuning."""

    def chosen(self, layout: fw.Layout) -> Iterable[str]:
        """Every parameter."""
        return layout.parameters


@attrs.frozen(kw_only=True)
class Frozen(Once):
    """Only the head trains; the backbone is a fixed feature extractor (linear probing)."""

    def chosen(self, layout: fw.Layout) -> Iterable[str]:
        """Nothing."""
        return ()


@attrs.frozen(kw_only=True)
class LastStages(Once):
    """The last n stages, the neck and the head train."""

    n: fw.PositiveInt = fw.key(1, "how many stages, counted from the output")

    def chosen(self, layout: fw.Layout) -> Iterable[str]:
        """The parameters of the last n stages and the neck."""
        return parameters_of([*_some(layout, self.n)[-self.n :], *layout.tail])


@attrs.frozen(kw_only=True)
class FirstStages(Once):
    """The first n stages and the head train: for images whose low-level statistics differ (2210.11466)."""

    n: fw.PositiveInt = fw.key(1, "how many stages, counted from the input")

    def chosen(self, layout: fw.Layout) -> Iterable[str]:
        """The parameters of the first n stages."""
        return parameters_of(_some(layout, self.n)[: self.n])


@attrs.frozen(kw_only=True)
class Stages(Once):
    """The named stages and the head train; `fw show RECIPE --layout` lists the names."""

    names: tuple[str, ...] = fw.key(doc="names of stages")

    def chosen(self, layout: fw.Layout) -> Iterable[str]:
        """The parameters of the named stages."""
        return parameters_of(layout.select(self.names))


def _some(layout: fw.Layout, n: int) -> tuple[fw.Stage, ...]:
    """The stages of the backbone, of which at least n are needed."""
    if n > len(layout.body):
        names = ", ".join(stage.name for stage in layout.body)
        raise fw.FwError(f"freezing.n = {n}, but the backbone has {len(layout.body)} stages: {names}",
                         f"choose at most {len(layout.body)}, or the policy 'full'")  # fmt: skip
    return layout.body
