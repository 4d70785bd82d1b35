"""TOML text: plain tables as a person would write them: one line a key, arrays and inner tables in place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def toml_text(tables: Mapping[str, Any]) -> str:
    """A document: keys first, then `[tables]` and `[[arrays of tables]]` in their order."""
    return "\n".join(_lines(tables)) + "\n"


def _lines(tables: Mapping[str, Any]) -> Iterator[str]:
    for name, value in tables.items():
        if not _is_table(value) and not _is_phases(value):
            yield _assignment(name, value)
    for name, value in tables.items():
        if _is_table(value):
            yield from _table(toml_key(name), value)
        elif _is_phases(value):
            for item in value:
                yield from ("", f"[[{toml_key(name)}]]", *(_assignment(*pair) for pair in item.items()))


def _table(name: str, table: Mapping[str, Any]) -> Iterator[str]:
    """A table, or, where it holds tables alone, each of those."""
    if table and all(map(_is_table, table.values())):
        for inner, value in table.items():
            yield from _table(f"{name}.{toml_key(inner)}", value)
    else:
        yield from ("", f"[{name}]", *(_assignment(*pair) for pair in table.items()))


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_phases(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_table, value))


def _assignment(name: str, value: Any) -> str:
    return f"{toml_key(name)} = {toml_value(value)}"


def toml_key(name: str) -> str:
    """A key, quoted where it must be."""
    return name if _BARE.fullmatch(name) else toml_value(name)


def toml_value(value: Any) -> str:
    """A plain value on one line."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(_assignment(*pair) for pair in value.items())} }}" if value else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml_value, value))}]"
    import tomli_w

    return tomli_w.dumps({"x": value}).removeprefix("x = ").rstrip("\n")
