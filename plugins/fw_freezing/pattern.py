"""The policy by name: globs and regular expressions over parameter names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

import attrs

import framework as fw
from fw_freezing.once import Once


@attrs.frozen(kw_only=True)
class Pattern(Once):
    """Parameters whose names match train, and the head; of several patterns the first that matches decides."""

    patterns: tuple[str, ...] = fw.key(
        doc="globs, or regular expressions as 're:...'; '!' in front freezes what it matches"
    )

    def chosen(self, layout: fw.Layout) -> Iterable[str]:
        """The parameters whose first matching pattern does not begin with '!'."""
        for pattern in self.patterns:
            _require_match(pattern, layout.parameters)
        return [name for name in layout.parameters if _decision(name, self.patterns)]


def _decision(name: str, patterns: Iterable[str]) -> bool:
    first = next((pattern for pattern in patterns if _matches(pattern, name)), "!")
    return not first.startswith("!")


def _matches(pattern: str, name: str) -> bool:
    bare = pattern.removeprefix("!")
    if not bare.startswith("re:"):
        return fnmatchcase(name, bare)
    try:
        return re.fullmatch(bare[3:], name) is not None
    except re.error as error:
        raise fw.FwError(f"freezing.patterns: {pattern!r} is not a regular expression: {error}") from None


def _require_match(pattern: str, names: tuple[str, ...]) -> None:
    if any(_matches(pattern, name) for name in names):
        return
    bare = pattern.removeprefix("!")
    prefixed = f"backbone.{bare}"
    if any(_matches(prefixed, name) for name in names):
        hints: tuple[str, ...] = (f"did you mean {prefixed!r}?",)
    else:
        hints = fw.name_hints(bare, names, "parameters")
    raise fw.FwError(f"freezing.patterns: {pattern!r} matches no parameter", hints)
