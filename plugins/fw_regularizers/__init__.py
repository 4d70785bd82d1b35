"""Regularizers: terms of the loss that hold a network near the one it started as."""

from __future__ import annotations

import framework as fw
from fw_regularizers.delta import Delta
from fw_regularizers.l2_sp import L2SP


@fw.hookimpl
def fw_regularizers() -> list[fw.Component]:
    """The first-party regularizers."""
    return [fw.Component("l2_sp", L2SP), fw.Component("delta", Delta)]
