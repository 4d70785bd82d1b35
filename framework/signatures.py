"""Signatures: config classes made from a library's own constructors, so that families need no table of keys."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_args, get_origin

import attrs

from framework.component import Bounds, key

_PLAIN = (bool, int, float, str)
_SEQUENCES = (
    list,
    collections.abc.Iterable,
    collections.abc.Sequence,
    collections.abc.Collection,
)


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
    objects) are no keys; one of them without a default makes the class impossible. A default that TOML cannot write
    (a dtype, a tuple with None in it) shows as absent.

    Args:
        name: the class's name.
        target: the constructor; a partial of it where the plugin has defaults of its own.
        skip: arguments that the plugin gives itself (`params`, `optimizer`).
        overrides: argument -> (type, default), where the signature says too little.
        base: a plain class with the `build` method; may read the fields by `recipe_arguments(self)`.
        doc: the class's docstring; else the first line of the target's.

    Raises:
        TypeError: an argument without a default cannot be stated in a recipe.
    """
    fields: dict[str, Any] = {}
    hints: dict[str, Any] = {}
    annotated, known = _hints(target), dict(overrides or {})
    for parameter in inspect.signature(target).parameters.values():
        if parameter.name in skip or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        kind, default = known.get(parameter.name) or _stated(parameter, annotated.get(parameter.name))
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


def recipe_arguments(config: Any) -> dict[str, Any]:
    """The fields of a config object as keyword arguments, without those left at None."""
    values = {field.name: getattr(config, field.name) for field in attrs.fields(type(config))}
    return {name: value for name, value in values.items() if value is not None}


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    """The annotations, each evaluated alone: one that cannot be evaluated counts as none and spoils no other."""
    while isinstance(target, functools.partial):
        target = target.func
    function = inspect.unwrap(target.__init__ if inspect.isclass(target) else target)
    names = {**vars(typing), **vars(collections.abc), **getattr(function, "__globals__", {})}
    written = getattr(function, "__annotations__", {})
    return {name: _evaluated(hint, names) for name, hint in written.items()}


def _evaluated(hint: Any, names: dict[str, Any]) -> Any:
    try:
        # Names of typing and collections.abc are often imported for the type checker alone.
        return typing.get_type_hints(types.SimpleNamespace(__annotations__={"it": hint}), names, include_extras=True)[
            "it"
        ]
    except Exception:
        return None


def _stated(parameter: inspect.Parameter, hint: Any) -> tuple[Any, Any]:
    """The type and default under which a recipe can state this argument; type None where it cannot."""
    default, kind = parameter.default, _plain_type(hint)
    if default is inspect.Parameter.empty or default is None:
        return (kind, default)
    try:
        value = tuple(default) if isinstance(default, list) else default
        fallback = _type_of(value)
    except TypeError:
        # A default that TOML cannot write shows as absent, and the library then takes its own.
        return (None, default) if kind is None else (kind | None, None)
    if kind is int and fallback is float:
        kind = float
    if kind is float and type(value) is int:
        value = float(value)
    return (fallback if kind is None else kind, value)


def _type_of(value: Any) -> Any:
    if type(value) is int:
        return int | float  # an unannotated 0 is as often a float's default as an integer's
    if type(value) in _PLAIN:
        return type(value)
    if isinstance(value, tuple) and value and all(type(item) in _PLAIN for item in value):
        kinds = [float if type(item) is int else type(item) for item in value]
        return tuple[tuple(kinds)]  # type: ignore[misc]
    raise TypeError(f"{value!r} is not a plain value")


def _plain_type(hint: Any) -> Any:
    """The part of an annotation that TOML can state: unions lose their tensor and callable members."""
    if any(hint is kind for kind in (*_PLAIN, types.NoneType)):
        return hint
    origin, args = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        bounded = any(isinstance(extra, Bounds) for extra in args[1:])
        return hint if bounded else _plain_type(args[0])
    if origin is typing.Literal:
        return hint
    if origin in (typing.Union, types.UnionType):
        return _plain_union([_plain_type(arm) for arm in args])
    if origin in (tuple, *_SEQUENCES):
        return _plain_array(origin, [_plain_type(arm) if arm is not Ellipsis else arm for arm in args])
    return None


def _plain_array(origin: Any, arms: list[Any]) -> Any:
    if origin in _SEQUENCES:
        arms = [*arms[:1], Ellipsis]
    if None in arms or len(arms) < 1 + (Ellipsis in arms):
        return None
    # TOML has no null: an array's item that may be None must be written.
    arms = [arm if arm is Ellipsis else _without_none(arm) for arm in arms]
    return None if None in arms else tuple[tuple(arms)]  # type: ignore[misc]


def _without_none(kind: Any) -> Any:
    if get_origin(kind) not in (typing.Union, types.UnionType):
        return None if kind is types.NoneType else kind
    kept = tuple(arm for arm in get_args(kind) if arm is not types.NoneType)
    return typing.Union[kept]  # noqa: UP007


def _plain_union(arms: list[Any]) -> Any:
    kept = [arm for arm in arms if arm is not None]
    if not [arm for arm in kept if arm is not types.NoneType]:
        return None
    return typing.Union[tuple(dict.fromkeys(kept))]  # noqa: UP007
