"""Samples: values that keys without a default can take, so that a check needs none from the author."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import attrs

from framework.component import Bounds


def sample_of(field: attrs.Attribute[Any], component: str) -> Any:
    """A value that a key accepts.

    Raises:
        AssertionError: it takes a string, a path or a table, which only the author knows.
    """
    value = _sample(field.type)
    assert value is not None, (
        f"{component!r} has a key {field.name!r} without a default: "
        f"plugin_checks(..., keys={{{component!r}: {{{field.name!r}: ...}}}}) says what to check it with"
    )
    return value


def _sample(kind: Any) -> Any:
    """A value of a type; None where there is no telling."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        bounds = next((extra for extra in args[1:] if isinstance(extra, Bounds)), Bounds())
        value = _sample(args[0])
        return _number(args[0], bounds) if type(value) in (int, float) else value
    if origin is Literal:
        return args[0]
    if origin in (Union, types.UnionType):
        return next((value for value in map(_sample, args) if value is not None), None)
    if origin is tuple:
        items = [_sample(arm) for arm in args if arm is not Ellipsis]
        return None if None in items else items
    return {bool: False, int: 1, float: 0.1}.get(kind)


def _number(kind: Any, bounds: Bounds) -> Any:
    """The first of some usual numbers that lies in a range."""
    usual = (1, 2, 10, 0, -1) if kind is int else (0.1, 0.5, 1.0, 2.0, 10.0, 0.0, 0.01, 0.001, -0.1)
    return next((number for number in usual if bounds.complaint(number) is None), None)
