"""A small plugin with adapters, regularizers and finishers, for studies that train nothing."""

from __future__ import annotations

import attrs

import framework as fw


@attrs.frozen(kw_only=True)
class Lora:
    """Low-rank updates."""

    rank: fw.PositiveInt = fw.key(8, "of each update")


@attrs.frozen(kw_only=True)
class Scales:
    """A scale for each feature."""


@attrs.frozen(kw_only=True)
class Pull:
    """A pull to the start."""

    weight: fw.NonNegative = fw.key(0.1, "how strong")


@attrs.frozen(kw_only=True)
class Mean:
    """The mean of the weights."""

    decay: fw.Fraction = fw.key(0.9, "what stays in a step")


class Additions:
    """The plugin; `mean` is a regularizer and a finisher."""

    @fw.hookimpl
    def fw_adapters(self):
        return [fw.Component("low_rank", Lora), fw.Component("scales", Scales)]

    @fw.hookimpl
    def fw_regularizers(self):
        return [fw.Component("pull", Pull), fw.Component("mean", Scales)]

    @fw.hookimpl
    def fw_finishers(self):
        return [fw.Component("average", Mean), fw.Component("mean", Mean)]
