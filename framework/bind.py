"""Bind: a TOML table to an attrs object, strictly, with every problem at once."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import attrs
import cattrs
from cattrs.errors import AttributeValidationNote, ForbiddenExtraKeysError, IterableValidationNote

from framework.component import Bounds
from framework.errors import Origin, Problem, did_you_mean
from framework.shapes import describe
from framework.tables import WeightsSource

T = TypeVar("T")
KeyPath = tuple[str | int, ...]
Origins = Callable[[KeyPath, bool], Origin | None]
"""Where a value stands: (path of keys, whether the key rather than the value is meant) -> place."""

_LOCATED = ("file:", "run:")
_MAPPINGS = (dict, Mapping)


class WrongValue(Exception):
    """A value that a key does not accept.

    Args:
        message: what it got and what it takes.
        hint: a near value, or nothing.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def bind(
    config: type[T], table: Mapping[str, Any], path: KeyPath, origins: Origins, extra_keys: Sequence[str] = ()
) -> tuple[T | None, list[Problem]]:
    """The object of class `config` that `table` describes, or the problems that stand against it.

    Integers are accepted for floats and arrays for tuples; nothing else is converted. Absent keys take their
    defaults. Relative paths are resolved against the folder of the recipe that states them.

    Args:
        config: an attrs class.
        table: what the recipe states.
        path: where the table stands in the recipe, for error messages.
        origins: where each value was written.
        extra_keys: further keys that the same table accepts, for the list in an error.
    """
    attrs.resolve_types(config, include_extras=True)  # type: ignore[type-var]
    located = _resolve_paths(config, table, path, origins)
    try:
        return _converter().structure(located, config), []
    except cattrs.BaseValidationError as error:
        return None, list(_problems(error, config, path, origins, extra_keys))


@lru_cache(maxsize=1)
def _converter() -> cattrs.Converter:
    """A converter without cattrs' coercions, in which "3", 3.9 and True would become integers."""
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    for kind in (bool, int, float, str, Path):
        converter.register_structure_hook(kind, _plain)
    converter.register_structure_hook_func(lambda kind: kind is WeightsSource, lambda value, _: _plain(value, str))
    converter.register_structure_hook_func(lambda kind: kind is types.NoneType, _none)
    converter.register_structure_hook_func(_is_literal, _literal)
    converter.register_structure_hook_func(_is_bounded, lambda value, kind: _bounded(converter, value, kind))
    converter.register_structure_hook_func(_is_union, lambda value, kind: _union(converter, value, kind))
    converter.register_structure_hook_func(_is_tuple, lambda value, kind: _tuple(converter, value, kind))
    converter.register_structure_hook_func(_is_mapping, lambda value, kind: _mapping(converter, value, kind))
    converter.register_structure_hook_factory(attrs.has, lambda kind: _table_hook(converter, kind))
    return converter


def _table_hook(converter: cattrs.Converter, kind: type[Any]) -> Callable[[Any, Any], Any]:
    structure = cattrs.gen.make_dict_structure_fn(
        kind, converter, _cattrs_forbid_extra_keys=True, _cattrs_detailed_validation=True
    )

    def table(value: Any, expected: Any) -> Any:
        if not isinstance(value, Mapping):
            raise _wrong(value, expected)
        return structure(value, expected)

    return table


def _plain(value: Any, kind: Any) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if kind is Path and type(value) is str:
        return Path(value)
    if type(value) is kind:
        return value
    raise _wrong(value, kind)


def _none(value: Any, kind: Any) -> None:
    if value is not None:
        raise _wrong(value, kind)


def _is_literal(kind: Any) -> bool:
    return get_origin(kind) is Literal


def _literal(value: Any, kind: Any) -> Any:
    if any(type(value) is type(choice) and value == choice for choice in get_args(kind)):
        return value
    hint = did_you_mean(value, [c for c in get_args(kind) if isinstance(c, str)]) if isinstance(value, str) else ""
    raise WrongValue(f"{_show(value)} is not {describe(kind)}", hint)


def _is_bounded(kind: Any) -> bool:
    return get_origin(kind) is Annotated and any(isinstance(extra, Bounds) for extra in get_args(kind)[1:])


def _bounded(converter: cattrs.Converter, value: Any, kind: Any) -> Any:
    inner, *extras = get_args(kind)
    try:
        result = converter.structure(value, inner)
    except WrongValue:
        raise _wrong(value, kind) from None
    for bounds in extras:
        complaint = bounds.complaint(result) if isinstance(bounds, Bounds) else None
        if complaint:
            raise WrongValue(f"{_show(value)} {complaint}")
    return result


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (typing.Union, types.UnionType)


def _union(converter: cattrs.Converter, value: Any, kind: Any) -> Any:
    """The first member that accepts the value, those of its very type first; where one member alone is meant, its own
    complaint is the useful one.
    """
    complaints: list[Exception] = []
    for arm in sorted(get_args(kind), key=lambda arm: not _is_meant(value, arm, exactly=True)):
        try:
            return converter.structure(value, arm)
        except (WrongValue, cattrs.BaseValidationError) as error:
            if _is_meant(value, arm):
                complaints.append(error)
    if len(complaints) == 1:
        raise complaints[0]
    raise _wrong(value, kind)


def _is_meant(value: Any, arm: Any, exactly: bool = False) -> bool:
    base = get_args(arm)[0] if get_origin(arm) is Annotated else arm
    if isinstance(value, Mapping):
        return attrs.has(base) or get_origin(base) in _MAPPINGS
    if isinstance(value, list):
        return get_origin(base) is tuple
    if get_origin(base) is Literal:
        return any(type(value) is type(choice) for choice in get_args(base))
    return base is type(value) or (base is float and type(value) is int and not exactly)


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _tuple(converter: cattrs.Converter, value: Any, kind: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        raise _wrong(value, kind)
    kinds = get_args(kind)
    if kinds[-1] is not Ellipsis and len(kinds) != len(value):
        raise _wrong(value, kind)
    kinds = _item_kinds(kind, len(value))
    return tuple(_each(converter, enumerate(value), kinds, kind))


def _each(
    converter: cattrs.Converter, entries: Iterable[tuple[Any, Any]], kinds: Iterable[Any], whole: Any
) -> list[Any]:
    """Every entry bound to its kind, or all their complaints, each with the index or key of its entry."""
    items, errors = [], []
    for (place, item), kind in zip(entries, kinds, strict=True):
        try:
            items.append(converter.structure(item, kind))
        except (WrongValue, cattrs.BaseValidationError) as error:
            error.__notes__ = [*getattr(error, "__notes__", []), IterableValidationNote("", place, kind)]
            errors.append(error)
    if errors:
        raise cattrs.IterableValidationError("", errors, whole)
    return items


def _is_mapping(kind: Any) -> bool:
    return get_origin(kind) in _MAPPINGS


def _mapping(converter: cattrs.Converter, value: Any, kind: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(value, kind)
    item_kind = get_args(kind)[1]
    return dict(zip(value, _each(converter, value.items(), (item_kind,) * len(value), kind), strict=True))


def _wrong(value: Any, kind: Any) -> WrongValue:
    return WrongValue(f"{_show(value)} is not {describe(kind)}")


def _show(value: Any) -> str:
    words = {bool: "the boolean", int: "the integer", float: "the number", str: "the string", list: "the array"}
    if isinstance(value, Mapping):
        return "a table"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return f"{words.get(type(value), 'the value')} {text if len(text) < 60 else text[:57] + '...'}"


def _problems(
    error: BaseException, config: Any, path: KeyPath, origins: Origins, extra_keys: Sequence[str]
) -> typing.Iterator[Problem]:
    """Every leaf of cattrs' tree of errors, with the path that its notes spell."""
    if isinstance(error, ForbiddenExtraKeysError):
        known = [*(field.name for field in attrs.fields(error.cl)), *extra_keys]
        for name in sorted(error.extra_fields):
            hints = tuple(h for h in (did_you_mean(name, known), f"accepted keys: {', '.join(known)}") if h)
            yield Problem(f"unknown key {name!r} in {_table_name(path)}", origins((*path, name), True), hints)
        return
    if isinstance(error, cattrs.BaseValidationError):
        for child in error.exceptions:
            step = _step(child)
            yield from _problems(child, error.cl, (*path, *step), origins, () if step else extra_keys)
        return
    if isinstance(error, KeyError):
        yield _absent(str(path[-1]), config, path[:-1], origins)
        return
    hint = getattr(error, "hint", "")
    yield Problem(f"{_dotted(path)}: {error}", origins(path, False), (hint,) if hint else ())


def _absent(name: str, config: Any, path: KeyPath, origins: Origins) -> Problem:
    field = attrs.fields_dict(config)[name]
    doc = field.metadata.get("doc", "")
    accepts = f"{name} is {describe(field.type)}" + (f": {doc}" if doc else "")
    return Problem(f"{_table_name(path)} has no {name!r}", origins(path, True), (accepts,))


def _step(error: BaseException) -> KeyPath:
    for note in getattr(error, "__notes__", []):
        if isinstance(note, AttributeValidationNote):
            return (note.name,)
        if isinstance(note, IterableValidationNote):
            return (note.index,)
    return ()


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)


def _table_name(path: KeyPath) -> str:
    return f"[{_dotted(path)}]" if path else "the recipe"


def _resolve_paths(config: Any, table: Mapping[str, Any], path: KeyPath, origins: Origins) -> dict[str, Any]:
    """The table with relative paths made absolute, each against the folder of the file that states it."""
    kinds = {field.name: field.type for field in attrs.fields(config)}
    return {
        name: _located(kinds[name], value, (*path, name), origins) if name in kinds else value
        for name, value in table.items()
    }


def _located(kind: Any, value: Any, path: KeyPath, origins: Origins) -> Any:
    """One value with the relative paths in it made absolute; a union's first member that fits decides."""
    arms = get_args(kind) if _is_union(kind) else (kind,)
    if isinstance(value, Mapping):
        return _located_table(arms, value, path, origins)
    if isinstance(value, list):
        items = _item_kinds(next((arm for arm in arms if get_origin(arm) is tuple), None), len(value))
        pairs = enumerate(zip(items, value, strict=True))
        return [_located(item, entry, (*path, position), origins) for position, (item, entry) in pairs]
    if not isinstance(value, str):
        return value
    scheme = next((s for s in _LOCATED if value.startswith(s)), "") if WeightsSource in arms else ""
    return scheme + _absolute(value[len(scheme) :], path, origins) if scheme or Path in arms else value


def _located_table(arms: Sequence[Any], value: Mapping[str, Any], path: KeyPath, origins: Origins) -> Mapping[str, Any]:
    table = next((arm for arm in arms if attrs.has(arm)), None)
    if table is not None:
        return _resolve_paths(table, value, path, origins)
    item = next((get_args(arm)[1] for arm in arms if get_origin(arm) in _MAPPINGS), None)
    return {name: _located(item, entry, (*path, name), origins) for name, entry in value.items()}


def _item_kinds(kind: Any, length: int) -> tuple[Any, ...]:
    kinds = get_args(kind)
    if kinds and kinds[-1] is Ellipsis:
        return (kinds[0],) * length
    return kinds if len(kinds) == length else (None,) * length


def _absolute(value: str, path: KeyPath, origins: Origins) -> str:
    origin = origins(path, False)
    try:
        return str((Path(origin.folder if origin else ".") / Path(value).expanduser()).absolute())
    except RuntimeError:  # a ~name that no user has
        return value
