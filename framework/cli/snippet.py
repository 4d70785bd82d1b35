"""Snippet: a component as a recipe's table, ready to paste."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import attrs

from framework.component import Bounds, config_fields
from framework.hooks import KIND_OF_TABLE
from framework.index import Card
from framework.shapes import default_of, to_plain
from framework.tables import WeightsSource, core_keys
from framework.toml_text import toml_value

_EXAMPLES: dict[Any, Any] = {
    bool: True, int: 1, float: 1.0, str: "...", Path: "path", Any: "...", WeightsSource: "random",
}  # fmt: skip


def snippet(card: Card, table: str) -> Iterator[str]:
    """The table that uses a component: what is required with an example, its other keys at their defaults."""
    yield KIND_OF_TABLE[table].header
    yield f'use = "{card.name}"'
    required = [field for field in config_fields(core_keys(table)) if field.default is attrs.NOTHING]
    for field in (*required, *attrs.fields(card.shape)):
        yield _line(field, card.choices.get(field.name, ()))


def _line(field: attrs.Attribute[Any], choices: Sequence[str]) -> str:
    default = default_of(field)
    if default is attrs.NOTHING or default is None:
        comment = "# " if default is None else ""
        return f"{comment}{field.name} = {toml_value(_example(field.type, choices))}"
    return f"{field.name} = {toml_value(to_plain(default))}"


def _example(kind: Any, choices: Sequence[str] = ()) -> Any:
    """A value that a key of this type accepts."""
    origin, args = get_origin(kind), get_args(kind)
    if kind in _EXAMPLES:
        return choices[0] if choices else _EXAMPLES[kind]
    if origin is Annotated:
        return _within(_example(args[0], choices), args[1:])
    if origin is Literal:
        return args[0]
    if origin is tuple:
        kinds = args[:1] if args[-1] is Ellipsis else args
        return [_example(item, choices) for item in kinds]
    if origin in (dict, Mapping):
        return {}
    if attrs.has(kind):
        return {f.name: _example(f.type) for f in attrs.fields(kind) if f.default is attrs.NOTHING}
    arms = [arm for arm in args if arm is not type(None)]
    return _example(arms[0], choices) if origin is not None and arms else "..."


def _within(value: Any, extras: Sequence[Any]) -> Any:
    """The value, or one in the bounds."""
    for bounds in (extra for extra in extras if isinstance(extra, Bounds) and extra.complaint(value)):
        low = next((limit for limit in (bounds.ge, bounds.gt) if limit is not None), None)
        high = next((limit for limit in (bounds.le, bounds.lt) if limit is not None), None)
        middle = (low + high) / 2 if low is not None and high is not None else None
        inside = next(limit for limit in (middle, bounds.le, bounds.ge, low and low + 1, high and high - 1)
                      if limit is not None and not bounds.complaint(limit))  # fmt: skip
        return type(value)(inside)
    return value
