"""Signatures: config classes made from a library's own constructors, so that families need no table of keys."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_args, get_origin

import attrs

from framework.component import Bounds, key

_PLAIN = (bool, int, float, str)


def config_from_signature(
    name: str,
    target: Callable[..., Any],
    *,
    skip: Collection[str] = (),
    overrides: Mapping[str, tuple[Any, Any]] | None = None,
    base: type[Any] = object,
    doc: str = "",
) -> type[Any]:
    """A frozen attrs class whose fields are the keyword arguments of `target` that a recipe can state.

    An unannotated argument takes its default's type. Arguments that only code can give (callables, tensors, nested
    objects) are no keys; one of them without a default makes the class impossible.

    Args:
        name: the class's name.
        target: the constructor.
        skip: arguments that the plugin gives itself (`params`, `optimizer`).
        overrides: argument -> (type, default), where the signature says too little.
        base: a plain class with the `build` method; may read the fields by `recipe_arguments(self)`.
        doc: the class's docstring; else the first line of the target's.

    Raises:
        TypeError: an argument without a default cannot be stated in a recipe.
    """
    fields: dict[str, Any] = {}
    hints: dict[str, Any] = {}
    known = dict(overrides or {})
    for parameter in inspect.signature(target).parameters.values():
        if parameter.name in skip or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        kind, default = known.get(parameter.name) or _stated(parameter, _hints(target))
        if kind is None and default is inspect.Parameter.empty:
            raise TypeError(f"{name}: argument {parameter.name!r} cannot be stated in a recipe")
        if kind is None:
            continue
        fields[parameter.name] = key() if default is inspect.Parameter.empty else key(default)
        hints[parameter.name] = kind
    text = doc or (inspect.getdoc(target) or "").strip().partition("\n")[0]
    namespace = {"__doc__": text, "__annotations__": hints, "__module__": base.__module__, **fields}
    made = types.new_class(name, () if base is object else (base,), {}, lambda body: body.update(namespace))
    return attrs.frozen(kw_only=True, slots=False)(made)


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function)
    except Exception:  # a library's annotation that cannot be evaluated counts as none
        return {}


def _stated(parameter: inspect.Parameter, hints: Mapping[str, Any]) -> tuple[Any, Any]:
    """The type and default under which a recipe can state this argument; type None where it cannot."""
    default = parameter.default
    kind = _plain_type(hints.get(parameter.name))
    if default is inspect.Parameter.empty or default is None:
        return (kind, default)
    try:
        value = tuple(default) if isinstance(default, list) else default
        fallback = _type_of(value)
    except TypeError:
        return (None, default)
    if kind is None:
        kind = fallback
    elif fallback is float and kind is int:
        kind = float
    return (kind, value)


def _type_of(value: Any) -> Any:
    if type(value) is int:
        return int | float  # an unannotated 0 is as often a float's default as an integer's
    if type(value) in _PLAIN:
        return type(value)
    if isinstance(value, tuple) and all(type(item) in _PLAIN for item in value):
        kinds = [float if type(item) is int else type(item) for item in value]
        return tuple[tuple(kinds)] if kinds else None  # type: ignore[misc]
    raise TypeError(f"{value!r} is not a plain value")


def _plain_type(hint: Any) -> Any:
    """The part of an annotation that TOML can state: unions lose their tensor and callable members."""
    if hint in _PLAIN or hint is types.NoneType:
        return hint
    origin = get_origin(hint)
    if origin is typing.Annotated:
        return hint if any(isinstance(extra, Bounds) for extra in get_args(hint)[1:]) else _plain_type(get_args(hint)[0])
    if origin is typing.Literal:
        return hint
    if origin in (typing.Union, types.UnionType):
        return _plain_union([_plain_type(arm) for arm in get_args(hint)])
    if origin in (tuple, list):
        arms = [_plain_type(arm) if arm is not Ellipsis else arm for arm in get_args(hint)]
        if not arms or None in arms:
            return None
        return tuple[tuple(arms)] if origin is tuple else tuple[arms[0], ...]  # type: ignore[misc]
    return None


def _plain_union(arms: list[Any]) -> Any:
    kept = [arm for arm in arms if arm is not None]
    if not [arm for arm in kept if arm is not types.NoneType]:
        return None
    return typing.Union[tuple(dict.fromkeys(kept))]


def recipe_arguments(config: Any) -> dict[str, Any]:
    """The fields of a config object as keyword arguments, without those left at None."""
    values = {field.name: getattr(config, field.name) for field in attrs.fields(type(config))}
    return {name: value for name, value in values.items() if value is not None}
