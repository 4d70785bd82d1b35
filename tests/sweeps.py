"""Which of a test's cases are tested every time, and which by the sweep alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def often(cases: Iterable[Any], *, quick: Collection[Any]) -> list[Any]:
    """Every case, those that are not `quick` marked as a sweep; a case of several arguments is a tuple."""
    return [case if case in quick else _long(case) for case in cases]


def _long(case: Any) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.sweep)
