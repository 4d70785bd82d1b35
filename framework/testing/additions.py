"""Additions: what the checks of adapters, regularizers and finishers share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import pytest

from framework.testing.case import Case
from framework.testing.whole_runs import differences, run, run_in_pieces

TOLERANCE = 1e-4
"""Of a loss, and of a tensor, between a divided network and a whole one: rounding, where a machine computes batches of
images and of boundaries otherwise."""


@attrs.frozen
class Contract:
    """What a kind of addition is made of.

    Attributes:
        base: the class that has it all, as an author writes it.
        methods: that an object must have.
        flags: attributes that are True or False.
    """

    base: str
    methods: tuple[str, ...]
    flags: tuple[str, ...]

    def fault_of(self, made: object) -> str | None:
        """What an object lacks, and how to mend it; None where it has all."""
        missing = [name for name in self.methods if not callable(getattr(made, name, None))]
        if missing:
            return (f"build() gave a {type(made).__name__} without {', '.join(missing)}: have its class inherit from "
                    f"{self.base}")  # fmt: skip
        wrong = next((name for name in self.flags if not isinstance(getattr(made, name, None), bool)), None)
        if wrong is None:
            return None
        return f"its {wrong} is {getattr(made, wrong, None)!r}; write `{wrong} = True`, or False, in its class"

    def made(self, case: Case) -> Any:
        """A new object; skips where `build` gives none, which is for a check of its own to say."""
        try:
            made = case.config().build()
        except Exception as error:  # a plugin may raise anything
            pytest.skip(f"build() fails: {error}")
        if self.fault_of(made) is not None:
            pytest.skip(f"build() gives no {self.base}")
        return made


def resumed_otherwise(case: Case, tables: Mapping[str, Any]) -> list[str]:
    """In what a run that ends in every step and is resumed differs, to the bit, from one that does not."""
    undivided = {**tables, "engine": {"partition": "off"}}
    whole = run(case.index(), undivided, case.folder / "whole")
    return differences(whole, run_in_pieces(case.index(), undivided, case.folder / "pieces"))


def divided_otherwise(case: Case, tables: Mapping[str, Any]) -> list[str]:
    """In what a run that computes the fixed part once for each image differs from one that computes all of it."""
    off, auto = (run(case.index(), {**tables, "engine": {"partition": partition}}, case.folder / partition)
                 for partition in ("off", "auto"))  # fmt: skip
    return differences(off, auto, TOLERANCE)


def some(names: Sequence[str]) -> str:
    """The first few of some names, and how many more there are."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
