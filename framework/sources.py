"""Sources: a recipe's text from its file, what it extends, and the command line; and where each value was written."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from framework.errors import FwError, Origin, Problem, RecipeError, did_you_mean
from framework.hooks import KIND_OF_TABLE
from framework.positions import Place, locate
from framework.tables import core_keys

KeyPath = tuple[str | int, ...]
_BARE_WORD = re.compile(r"[A-Za-z_./~*][\w./:+~*-]*")


@attrs.frozen
class Written:
    """Where one value was written: its key and the value itself."""

    key: Origin
    value: Origin


@attrs.frozen
class Document:
    """A recipe's raw tables, and where each key was written.

    Attributes:
        tables: plain TOML values.
        written: path of keys -> place; the nearest enclosing path that is known stands for the others.
        source: the file as the user named it, for messages.
        name: the file's stem.
    """

    tables: dict[str, Any]
    written: dict[KeyPath, Written]
    source: str
    name: str

    def origin(self, path: KeyPath, of_key: bool) -> Origin | None:
        """Where the key or value at `path` was written, or what encloses it."""
        for end in range(len(path), 0, -1):
            found = self.written.get(path[:end])
            if found is not None:
                return found.key if of_key else found.value
        return Origin(self.source)


def recipes_folder() -> Path:
    """The folder of the shipped recipes: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    shipped = package / "_recipes"
    return shipped if shipped.is_dir() else package.parent / "recipes"


def shipped_recipes() -> list[str]:
    """The names of the shipped recipes."""
    return sorted(file.stem for file in recipes_folder().glob("*.toml"))


def find_recipe(name: str | Path, folder: Path | None = None) -> Path:
    """The file of a recipe: a path (relative to `folder`), or the name of a shipped one.

    Raises:
        FwError: there is none, with near names.
    """
    path = (folder or Path()) / Path(name).expanduser()
    if path.is_file():
        return path
    shipped = recipes_folder() / f"{name}.toml"
    if Path(name).name == str(name) and shipped.is_file():
        return shipped
    beside = (os.path.join(os.path.dirname(name), file.name) for file in path.parent.glob("*.toml"))
    names = shipped_recipes()
    hints = (did_you_mean(str(name), [*beside, *names]), f"shipped recipes: {', '.join(names)}")
    raise FwError(f"there is no recipe {str(name)!r}, neither a file nor a shipped one", hints)


def read_document(path: Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Document:
    """A recipe with what it extends and what the command line sets.

    All overrides are laid over the file together: their order matters only where two set the same key.

    Args:
        path: the recipe's file.
        overrides: `a.b=value` arguments, each value parsed as TOML; or dotted keys -> values.

    Raises:
        RecipeError: a file is not TOML, extends what is not there or itself, or an override cannot be read.
    """
    return overridden(_extended(path, ()), overrides)


def overridden(document: Document, overrides: Sequence[str] | Mapping[str, Any]) -> Document:
    """A document with overrides laid over it, as `read_document` takes them.

    Raises:
        RecipeError: an override cannot be read.
    """
    if isinstance(overrides, Mapping):
        return _overridden(document, [_from_code(name, value) for name, value in overrides.items()])
    return _overridden(document, [_from_argument(argument) for argument in overrides])


def _extended(path: Path, chain: tuple[Path, ...]) -> Document:
    document = _read_file(path)
    parent = document.tables.pop("extends", None)
    if parent is None:
        return document
    origin = document.origin(("extends",), False)
    if not isinstance(parent, str):
        raise RecipeError([Problem("extends is the name or path of one recipe, a string", origin)])
    try:
        target = find_recipe(parent, path.parent)
    except FwError as error:
        raise RecipeError([Problem(error.message, origin, error.hints)]) from None
    line = (*chain, path)
    if target.resolve() in (file.resolve() for file in line):
        circle = " -> ".join(file.stem for file in (*line, target))
        raise RecipeError([Problem(f"extends goes round in a circle: {circle}", origin)])
    return _merged(_extended(target, line), document)


def _read_file(path: Path) -> Document:
    try:
        text = path.read_text(encoding="utf-8-sig")
        tables = tomllib.loads(text)
    except UnicodeDecodeError:
        raise RecipeError([Problem(f"{path} is not UTF-8 text", Origin(str(path)))]) from None
    except OSError as error:
        raise FwError(f"cannot read the recipe {path}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError([_syntax_problem(path, text, str(error))]) from None
    lines = text.split("\n")
    folder = str(_folder_of(path))
    written = {
        key: Written(*(_file_origin(place, path, lines, folder) for place in (entry.key, entry.value)))
        for key, entry in locate(text).items()
    }
    return Document(tables, written, str(path), path.stem)


def _folder_of(path: Path) -> Path:
    """What relative paths in a recipe are relative to: its folder; for a shipped one, the working directory."""
    folder = path.parent.resolve()
    return Path().resolve() if folder == recipes_folder().resolve() else folder


def _file_origin(place: Place, path: Path, lines: Sequence[str], folder: str) -> Origin:
    return Origin(str(path), place.line, place.column, place.width, lines[place.line - 1].rstrip("\r"), folder)


def _syntax_problem(path: Path, text: str, message: str) -> Problem:
    match = re.search(r"\(at line (\d+), column (\d+)\)", message)
    lines = text.split("\n")
    line, column = (int(match[1]), int(match[2])) if match else (len(lines), len(lines[-1]) + 1)
    said = message.partition(" (at ")[0]
    return Problem(f"not valid TOML: {said[:1].lower()}{said[1:]}", Origin(str(path), line, column, 1, lines[line - 1]))


def _merged(base: Document, top: Document) -> Document:
    """`top` over `base`: tables merge key by key, everything else is replaced."""
    written = dict(base.written)
    tables = _merge((), base.tables, top.tables, written, top.written)
    return Document(tables, written, top.source, top.name)


def _merge(
    path: KeyPath, below: Any, value: Any, written: dict[KeyPath, Written], top: Mapping[KeyPath, Written]
) -> Any:
    """`value` over `below`; `written` is kept in step. An empty table inside another (`subset = {}`) empties it."""
    empties = value == {} and len(path) > 1 and not _names_component(path)
    if isinstance(value, Mapping) and isinstance(below, Mapping) and not empties:
        result: Any = _kept(path, below, value)
        for name, item in value.items():
            result[name] = _merge((*path, name), result.get(name), item, written, top)
    elif isinstance(below, list) and isinstance(value, Mapping) and all(type(number) is int for number in value):
        result = list(below)
        for number, item in value.items():
            result[number] = _merge((*path, number), below[number], item, written, top)
    else:
        result = value
        for key in [key for key in written if key[: len(path)] == path]:
            del written[key]
    written.update({key: place for key, place in top.items() if key[: len(path)] == path})
    return result


def _kept(path: KeyPath, base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """What stays of a table: where another component is named, only the core's keys, for the rest was the old one's."""
    if not _names_component(path) or "use" not in top or top["use"] == base.get("use"):
        return dict(base)
    core = attrs.fields_dict(core_keys(str(path[0])))
    return {name: value for name, value in base.items() if name in core}


def _names_component(path: KeyPath) -> bool:
    """Whether the table at `path` has a `use`: `[head]`, `[transform.train]`, an item of `[[scheduler]]`."""
    if not path or path[0] not in KIND_OF_TABLE:
        return False
    return len(path) == (2 if path[0] == "transform" or isinstance(path[-1], int) else 1)


# ---------------------------------------------------------------------------------------------- overrides


@attrs.frozen
class _Override:
    """One value from the command line or from code, the keys that lead to it, and its place."""

    keys: tuple[str, ...]
    value: Any
    place: Written


def _overridden(document: Document, overrides: Sequence[_Override]) -> Document:
    tables: dict[Any, Any] = {}
    written: dict[KeyPath, Written] = {}
    for override in overrides:
        path = _as_found(override, document.tables)
        _enter(tables, path, override.value)
        enclosing = (path[:end] for end in range(1, len(path)))
        written.update({outer: override.place for outer in enclosing if outer not in document.written})
        written[path] = override.place
    return _merged(document, Document(tables, written, document.source, document.name)) if overrides else document


def _as_found(override: _Override, tables: Any) -> KeyPath:
    """The override's keys, where each that enters an array is a number."""
    path: KeyPath = ()
    for name in override.keys:
        if isinstance(tables, list):
            if not (name.isdecimal() and int(name) < len(tables)):
                raise RecipeError([_no_item(path, name, len(tables), override)])
            path, tables = (*path, int(name)), tables[int(name)]
        else:
            path, tables = (*path, name), tables.get(name) if isinstance(tables, Mapping) else None
    return path


def _no_item(path: KeyPath, name: str, length: int, override: _Override) -> Problem:
    array = ".".join(map(str, path))
    which = "it is empty" if not length else f"its items are {', '.join(f'{array}.{i}' for i in range(length))}"
    return Problem(f"{array} is an array and has no item {name!r}", override.place.key, (which,))


def _enter(tables: dict[Any, Any], path: KeyPath, value: Any) -> None:
    for part in path[:-1]:
        inner = tables.get(part)
        tables[part] = inner = dict(inner) if isinstance(inner, Mapping) else {}
        tables = inner
    tables[path[-1]] = value


def _from_code(name: str, given: Any) -> _Override:
    from framework.shapes import to_plain

    value = to_plain(given)
    text = f"{name} = {value!r}"
    key = _argument_origin(text, 0, len(name), "override")
    return _Override(_keys(name, key), value, Written(key, _argument_origin(text, len(name) + 3, 0, "override")))


def _from_argument(argument: str) -> _Override:
    name, equals, text = argument.partition("=")
    key = _argument_origin(argument, 0, len(name))
    if not equals or not name.strip():
        raise RecipeError([Problem("an override reads KEY=VALUE", _argument_origin(argument, 0), (_EXAMPLE,))])
    place = _argument_origin(argument, len(name) + 1)
    return _Override(_keys(name.strip(), key), _parse_value(text, place), Written(key, place))


def _argument_origin(argument: str, start: int, width: int = 0, label: str = "--set") -> Origin:
    """A part of an argument, as wide as it goes unless `width` says less."""
    lead = f"{label} "
    return Origin(label, 0, len(lead) + start + 1, max(1, width or len(argument) - start), lead + argument,
                  str(Path().absolute()))  # fmt: skip


def _keys(name: str, origin: Origin) -> tuple[str, ...]:
    """The parts of a dotted key, which may be quoted."""
    try:
        tables: Any = tomllib.loads(f"{name} = 0")
    except tomllib.TOMLDecodeError:
        raise RecipeError([Problem(f"{name!r} is no dotted key", origin, (_EXAMPLE,))]) from None
    keys: tuple[str, ...] = ()
    while isinstance(tables, dict):
        ((part, tables),) = tables.items()
        keys += (part,)
    if keys[0] == "extends":
        raise RecipeError([Problem("extends cannot be set: it stands in the recipe's file", origin)])
    return keys


def _parse_value(text: str, origin: Origin) -> Any:
    said = "it holds a line break"
    try:
        if "\n" not in text:
            return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        if _BARE_WORD.fullmatch(text):
            return text
        said = str(error).partition(" (at ")[0].lower()
    raise RecipeError([Problem(f"this value is not valid TOML: {said}", origin, (_VALUES,))])


_EXAMPLE = "for instance: --set optimizer.lr=0.01"
_VALUES = (
    """values are TOML: 3, 0.1, true, [1,2], word; words in an array are quoted, for the shell too: 'key=["a","b"]'"""
)

__all__ = ["Document", "find_recipe", "overridden", "read_document", "recipes_folder", "shipped_recipes"]
