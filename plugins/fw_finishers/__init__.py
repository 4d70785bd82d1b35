"""Finishers: averages of the weights that a run goes through, and a way back to where it began."""

from __future__ import annotations

import framework as fw
from fw_finishers.ema import Ema
from fw_finishers.swa import Swa
from fw_finishers.wise_ft import WiseFt


@fw.hookimpl
def fw_finishers() -> list[fw.Component]:
    """The first-party finishers."""
    return [fw.Component("ema", Ema), fw.Component("swa", Swa), fw.Component("wise_ft", WiseFt)]
