"""Keys that several data sets share."""

from __future__ import annotations

from typing import Annotated

import attrs

import framework as fw

ValShare = Annotated[float, fw.Bounds(gt=0, lt=1)]
TestShare = Annotated[float, fw.Bounds(ge=0, lt=1)]


@attrs.frozen(kw_only=True)
class Shares:
    """How one lot of images is divided; training gets the rest."""

    val: ValShare = fw.key(0.2, "share of the images for validation")
    test: TestShare = fw.key(0.2, "share of the images for the test; 0: no test split")


def stated(val: float, test: float = 0.0) -> str:
    """The division in words, for a data set's notes: `60/20/20`, in percent."""
    parts = [1 - val - test, val, *([test] if test else [])]
    return "/".join(f"{100 * part:.3g}" for part in parts)
