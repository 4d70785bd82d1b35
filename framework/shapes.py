"""Shapes: the keys of a config class as JSON, and a class made from them that binds alike, without its plugin."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import attrs

from framework.component import Bounds, config_fields
from framework.tables import WeightsSource

Json = Any
"""A JSON value; the encodings below are strings (plain types) or one-entry objects."""

_PLAIN: dict[str, Any] = {
    "bool": bool, "int": int, "float": float, "str": str, "none": types.NoneType, "path": Path, "any": Any,
    "weights": WeightsSource,
}  # fmt: skip
_NAMES = {kind: name for name, kind in _PLAIN.items()}


def encode_fields(fields: list[attrs.Attribute[Any]]) -> Json:
    """The keys of a config class: `[[name, type, required, default, doc], ...]`.

    Raises:
        TypeError: a key has a type that a recipe cannot state.
    """
    return [_encode_field(field) for field in fields]


def encode_class(config: type[Any]) -> Json:
    """The keys of a config class, all of them."""
    return encode_fields(config_fields(config))


def _encode_field(field: attrs.Attribute[Any]) -> Json:
    try:
        kind = encode_type(field.type)
    except TypeError as error:
        raise TypeError(f"key {field.name!r}: {error}") from None
    default = default_of(field)
    required = default is attrs.NOTHING
    value = None if required else to_plain(default)
    if not _is_plain(value):
        raise TypeError(f"key {field.name!r}: a recipe cannot state its default {default!r}")
    return [field.name, kind, required, value, field.metadata.get("doc", "")]


def default_of(field: attrs.Attribute[Any]) -> Any:
    """The value that an absent key takes; `attrs.NOTHING` where it is required."""
    default: Any = field.default
    return default.factory() if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or type(value) in (bool, int, float, str)


def encode_type(kind: Any) -> Json:
    """A type as JSON.

    Raises:
        TypeError: a recipe cannot state values of this type.
    """
    if kind is None:
        return "none"
    try:
        if kind in _NAMES:
            return _NAMES[kind]
    except TypeError:
        pass
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        bounds = [extra for extra in args[1:] if isinstance(extra, Bounds)]
        inner = encode_type(args[0])
        return {"bounds": [inner, attrs.asdict(bounds[0])]} if bounds else inner
    if origin is Literal:
        return {"literal": list(args)}
    if origin in (typing.Union, types.UnionType):
        return {"any_of": [encode_type(arm) for arm in args]}
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return {"many": encode_type(args[0])}
    if origin is tuple and args:
        return {"fixed": [encode_type(arm) for arm in args]}
    if origin in (dict, Mapping) or getattr(origin, "__name__", "") == "Mapping":
        return {"dict": encode_type(args[1])}
    if attrs.has(kind):
        return {"table": encode_class(kind)}
    hint = "; write tuple[..., ...]" if origin is list or kind is list else ""
    raise TypeError(f"a recipe cannot state values of type {kind!r}{hint}")


def decode_type(code: Json) -> Any:
    """The type that `encode_type` encoded; a nested table becomes a class of its own."""
    if isinstance(code, str):
        return _PLAIN[code]
    ((what, inner),) = code.items()
    if what == "bounds":
        return Annotated[decode_type(inner[0]), Bounds(**inner[1])]
    if what == "literal":
        return Literal[tuple(inner)]
    if what == "any_of":
        return typing.Union[tuple(decode_type(arm) for arm in inner)]  # noqa: UP007 (as many arms as there are)
    if what == "many":
        return tuple[decode_type(inner), ...]  # type: ignore[misc]
    if what == "fixed":
        return tuple[tuple(decode_type(arm) for arm in inner)]  # type: ignore[misc]
    if what == "dict":
        return dict[str, decode_type(inner)]  # type: ignore[misc]
    return decode_class("Table", inner)


def decode_class(name: str, fields: Json) -> type[Any]:
    """A frozen attrs class with the keys that `encode_fields` encoded."""
    body = {field: _decode_field(*rest) for field, *rest in fields}
    return attrs.make_class(name, body, frozen=True, kw_only=True)


def _decode_field(code: Json, required: bool, default: Json, doc: str) -> Any:
    kind = decode_type(code)
    value = attrs.NOTHING if required else _revived(kind, default)
    given = {"factory": lambda: dict(value)} if isinstance(value, dict) else {"default": value}
    return attrs.field(type=kind, metadata={"doc": doc}, **given)


def _revived(kind: Any, value: Any) -> Any:
    """A default as `to_plain` left it, as an object of its type again."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (typing.Union, types.UnionType):
        fitting = (arm for arm in args if _could_be(arm, value))
        return _revived(next(fitting, types.NoneType), value)
    if isinstance(value, list):
        kinds = args if origin is tuple and args[-1] is not Ellipsis else (args[:1] or (Any,)) * len(value)
        return tuple(map(_revived, kinds, value))
    if isinstance(value, dict):
        if attrs.has(kind):
            types_of = {field.name: field.type for field in attrs.fields(kind)}
            return kind(**{name: _revived(types_of[name], item) for name, item in value.items()})
        return {name: _revived(args[1] if args else Any, item) for name, item in value.items()}
    return Path(value) if kind is Path and value is not None else value


def _could_be(kind: Any, value: Any) -> bool:
    base = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if isinstance(value, dict):
        return attrs.has(base) or get_origin(base) is dict
    if isinstance(value, list):
        return get_origin(base) is tuple
    return base is type(value) or (base is Path and type(value) is str)


def to_plain(value: Any) -> Any:
    """A bound value as TOML can hold it: tables without absent keys, arrays, paths as text."""
    if attrs.has(type(value)):
        pairs = {field.name: to_plain(getattr(value, field.name)) for field in attrs.fields(type(value))}
        return {name: item for name, item in pairs.items() if item is not None}
    if isinstance(value, Mapping):
        return {str(name): to_plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def describe(kind: Any, plural: bool = False) -> str:
    """What a type accepts, in words: `a number greater than 0`, `one of 'fixed', 'batch'`."""
    words = {bool: "true or false", int: "an integer", float: "a number", str: "a string", Path: "a path",
             types.NoneType: "absent", Any: "any value", WeightsSource: "a weights source"}  # fmt: skip
    many = {bool: "booleans", int: "integers", float: "numbers", str: "strings", Path: "paths",
            Any: "values", WeightsSource: "weights sources"}  # fmt: skip
    if kind in words:
        return (many if plural and kind in many else words)[kind]
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        limits = " and ".join(words for extra in args[1:] if isinstance(extra, Bounds) for words in _limits(extra))
        return f"{describe(args[0], plural)} {limits}".rstrip()
    if origin is Literal:
        return ("any of " if plural else "one of ") + ", ".join(repr(value) for value in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(arm, plural) for arm in args if arm is not types.NoneType)
    if origin is tuple and args[-1] is Ellipsis:
        return f"an array of {describe(args[0], plural=True)}"
    if origin is tuple and len(set(args)) == 1:
        return f"an array of {len(args)} {describe(args[0], plural=True)}"
    if origin is tuple:
        return f"an array of {len(args)}: " + ", ".join(describe(arm) for arm in args)
    if origin in (dict, Mapping):
        return f"a table of {describe(args[1], plural=True)}"
    keys = ", ".join(field.name for field in attrs.fields(kind))
    return f"{'tables' if plural else 'a table'} with the keys {keys}"


def _limits(bounds: Bounds) -> list[str]:
    if bounds.ge is not None and bounds.le is not None:
        return [f"from {bounds.ge:g} to {bounds.le:g}"]
    words = {"gt": "greater than", "ge": "at least", "lt": "less than", "le": "at most"}
    return [f"{words[name]} {limit:g}" for name, limit in attrs.asdict(bounds).items() if limit is not None]


def described_key(field: attrs.Attribute[Any]) -> str:
    """One key for a help text: its name and what it accepts."""
    return f"{field.name} ({describe(field.type)})"
