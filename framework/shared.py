"""Shared: what the runs of a study have in common, made once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar, cast

Made = TypeVar("Made")


class Shared:
    """Things by what they are made from. Whoever takes one leaves it as it is, or takes a copy."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def once(self, what: str, made_from: Any, make: Callable[[], Made]) -> Made:
        """What `make` gives, or gave before.

        Args:
            what: the kind of thing.
            made_from: all that it depends on; JSON values.
            make: called where it is not there yet.
        """
        key = f"{what} {json.dumps(made_from, sort_keys=True)}"
        if key not in self._made:
            self._made[key] = make()
        return cast(Made, self._made[key])
