"""Combination: a freezing policy and what is added to it, from a study's file, a recipe or a command's words."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from framework.errors import FwError, name_hints
from framework.hooks import KIND_OF_TABLE
from framework.index import Index
from framework.recipe import AT_MOST_ONE
from framework.toml_text import toml_value

_NAME = r"\s*([^\s,()+]+)(?:\(([^()]*)\))?\s*"
_WORDS = re.compile(rf"{_NAME}(?:[,+]{_NAME})*")
_EACH = re.compile(rf"([,+]?){_NAME}")
_EXAMPLE = 'for instance: --policies frozen,"last_stages(n=2)",full or "frozen+lora(rank=4)"'


@attrs.frozen
class Combination:
    """A freezing policy and what is added to it.

    Attributes:
        tables: of a recipe, by name: `freezing`, then those of the additions that it has, in the order of a recipe.
    """

    tables: Mapping[str, Any]

    @classmethod
    def of_entry(cls, entry: Mapping[str, Any]) -> Combination:
        """Of an entry of `study.policies`, where the name of an addition alone stands for a table that names it."""
        policy = {name: value for name, value in entry.items() if name not in AT_MOST_ONE}
        given = {name: entry[name] for name in AT_MOST_ONE if name in entry}
        added = {name: {"use": value} if isinstance(value, str) else value for name, value in given.items()}
        return cls({"freezing": policy, **added})

    @classmethod
    def of_recipe(cls, tables: Mapping[str, Any]) -> Combination:
        """Of a recipe as it is."""
        return cls({name: tables[name] for name in ("freezing", *AT_MOST_ONE) if name in tables})

    @property
    def words(self) -> str:
        """`frozen + lora(rank=4)`."""
        return " + ".join(map(in_words, self.tables.values()))

    @property
    def names(self) -> tuple[str, ...]:
        """What it may be called, the closest first: its words, without keys, and the same of its policy alone."""
        bare = " + ".join(map(_use, self.tables.values()))
        policy = self.tables.get("freezing", {})
        return tuple(dict.fromkeys((self.words, bare, in_words(policy), _use(policy))))


def in_words(table: Any) -> str:
    """`last_stages(n=2)`; a table that names nothing is a question mark."""
    items = table.items() if isinstance(table, Mapping) else ()
    keys = ", ".join(f"{name}={toml_value(value)}" for name, value in items if name != "use")
    return f"{_use(table)}({keys})" if keys else _use(table)


def _use(table: Any) -> str:
    return str(table.get("use", "?")) if isinstance(table, Mapping) else "?"


def spaced(name: str) -> str:
    """A combination's name as `Combination.names` writes it, however far apart its parts stand."""
    return re.sub(r"\s*\+\s*", " + ", name.strip())


def policies_from(text: str, index: Index) -> list[dict[str, Any]]:
    """The entries of `study.policies` that `frozen,last_stages(n=1, norm="batch"),frozen+lora(rank=4)+ema` means.

    Args:
        text: the words of a command.
        index: tells what is an adapter, what a regularizer and what a finisher.

    Raises:
        FwError: it cannot be read; what is added is none of these, or is the second of its kind.
    """
    if not _WORDS.fullmatch(text):
        raise FwError(f"{text!r} names no policies", _EXAMPLE)
    entries: list[dict[str, Any]] = []
    for sign, use, keys in _EACH.findall(text):
        table = _table(use, keys)
        if sign == "+":
            _add(entries[-1], table, index)
        else:
            _require_policy(use, index)
            entries.append(table)
    return entries


def _table(use: str, keys: str) -> dict[str, Any]:
    try:
        return {"use": use, **tomllib.loads(f"keys = {{{keys}}}")["keys"]}
    except tomllib.TOMLDecodeError:
        raise FwError(f"the keys of {use!r} are not TOML: {keys}", _EXAMPLE) from None


def _add(entry: dict[str, Any], table: dict[str, Any], index: Index) -> None:
    kind = _kind_of(table["use"], index)
    if kind in entry:
        raise FwError(f"{entry['use']!r} has two {KIND_OF_TABLE[kind].registry}: "
                      f"{entry[kind]['use']!r} and {table['use']!r}", "a run has one of each kind at most")  # fmt: skip
    entry[kind] = table


def _kind_of(use: str, index: Index) -> str:
    """Which table of a recipe an addition stands in."""
    kinds = _kinds_with(use, index)
    if len(kinds) > 1:
        raise FwError(f"{use!r} is {_one_of(kinds)}",
                      f'say which in the file of a study: policies = [{{ ..., {kinds[0]} = "{use}" }}]')  # fmt: skip
    if not kinds:
        raise FwError(f"no adapter, regularizer or finisher is called {use!r}", _hints(use, index))
    return kinds[0]


def _hints(use: str, index: Index) -> Sequence[str]:
    """What may have been meant by an addition that there is not."""
    if index.find("freezing_policies", use) is not None:
        return (f"{use!r} is a freezing policy: a comma stands before it",)
    known = dict.fromkeys(name for table in AT_MOST_ONE for name in index.names(KIND_OF_TABLE[table].registry))
    return name_hints(use, list(known), "there are")


def _require_policy(use: str, index: Index) -> None:
    """What is no policy is told of later, unless it is an addition.

    Raises:
        FwError: it is an addition alone.
    """
    kinds = _kinds_with(use, index)
    if kinds and index.find("freezing_policies", use) is None:
        raise FwError(f"{use!r} is {_one_of(kinds)} and stands behind a policy",
                      f"for instance: --policies frozen+{use}")  # fmt: skip


def _kinds_with(use: str, index: Index) -> list[str]:
    return [table for table in AT_MOST_ONE if index.find(KIND_OF_TABLE[table].registry, use) is not None]


def _one_of(kinds: list[str]) -> str:
    """`an adapter and a finisher`."""
    return " and ".join(KIND_OF_TABLE[kind].one for kind in kinds)
