"""Which of a test's cases are tested every time, which by the sweep alone, and which where all are asked for."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from typing import Any, TypeVar

import pytest

Case = TypeVar("Case")
WHOLE = bool(os.environ.get("FW_WHOLE_SWEEPS"))
"""Whether the largest sweeps, which take a share of their cases to be done in an hour, take all of them."""


def share(cases: Sequence[Case], every: int) -> Sequence[Case]:
    """The first case and each so-manieth after it; all of them where FW_WHOLE_SWEEPS is set."""
    return cases if WHOLE else cases[::every]


def often(cases: Iterable[Any], *, quick: Collection[Any]) -> list[Any]:
    """Every case, those that are not `quick` marked as a sweep; a case of several arguments is a tuple."""
    return [case if case in quick else _long(case) for case in cases]


def _long(case: Any) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.sweep)
