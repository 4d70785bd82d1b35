"""Rates by depth: what of a network shares a learning rate, and how rates fall from the head to the input."""

from __future__ import annotations

from collections.abc import Sequence

import framework as fw
from fw_freezing.once import parameters_of

Levels = Sequence[tuple[str, ...]]
"""The parameters that share a rate, input to output; the last are the head's."""


def levels(layout: fw.Layout) -> Levels:
    """Each stage with parameters, the neck with the last of them, and the head."""
    *lower, last = [stage.parameters for stage in layout.body if stage.parameters] or [()]
    return [*lower, (*last, *parameters_of(layout.tail)), layout.head.parameters]


def falling(rated: Levels, ratio: float, top: float = 1.0) -> dict[str, float]:
    """Parameter -> learning-rate scale, which falls from each level to the one below it.

    Args:
        rated: the levels.
        ratio: a level's scale over that of the level above it.
        top: the head's scale.
    """
    return {name: top * ratio**depth for depth, level in enumerate(reversed(rated)) for name in level}
