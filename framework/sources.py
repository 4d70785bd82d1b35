"""Sources: a recipe's text from its file, what it extends, and the command line; and where each value was written."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from framework.errors import FwError, Origin, Problem, RecipeError, name_hints
from framework.positions import Entry, Place, locate
from framework.tables import core_keys

KeyPath = tuple[str | int, ...]
_BARE_WORD = re.compile(r"[A-Za-z_./~*][\w./:+~*-]*")
_COMPONENT_TABLES = ("data", "backbone", "head", "freezing", "loss", "optimizer", "scheduler", "metric")


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
    near = [*(str(file) for file in path.parent.glob("*.toml")), *shipped_recipes()]
    raise FwError(f"there is no recipe {str(name)!r}, neither a file nor a shipped one",
                  "; ".join(name_hints(str(name), near, "recipes")))  # fmt: skip


def read_document(path: Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Document:
    """A recipe with what it extends and what the command line sets.

    Args:
        path: the recipe's file.
        overrides: `a.b=value` arguments, each value parsed as TOML; or dotted keys -> values.

    Raises:
        RecipeError: a file is not TOML, extends what is not there or itself, or an override cannot be read.
    """
    document = _extended(path, ())
    pairs = overrides.items() if isinstance(overrides, Mapping) else map(_split_argument, overrides)
    for name, value in pairs:
        document = _override(document, name, value)
    return document


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
        raise RecipeError([Problem(error.message, origin, (error.hint,))]) from None
    if target.resolve() in (file.resolve() for file in (*chain, path)):
        raise RecipeError([Problem(f"{parent!r} extends this recipe in turn", origin)])
    return _merged(_extended(target, (*chain, path)), document)


def _read_file(path: Path) -> Document:
    try:
        text = path.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except UnicodeDecodeError:
        raise RecipeError([Problem(f"{path} is not UTF-8 text", Origin(str(path)))]) from None
    except OSError as error:
        raise FwError(f"cannot read the recipe {path}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError([_syntax_problem(path, text, str(error))]) from None
    lines = text.split("\n")
    folder = str(path.parent.absolute())
    written = {
        key: Written(*(_file_origin(place, path, lines, folder) for place in (entry.key, entry.value)))
        for key, entry in locate(text).items()
    }
    return Document(tables, written, str(path), path.stem)


def _file_origin(place: Place, path: Path, lines: Sequence[str], folder: str) -> Origin:
    return Origin(str(path), place.line, place.column, place.width, lines[place.line - 1].rstrip("\r"), folder)


def _syntax_problem(path: Path, text: str, message: str) -> Problem:
    match = re.search(r"\(at line (\d+), column (\d+)\)", message)
    lines = text.split("\n")
    line, column = (int(match[1]), int(match[2])) if match else (len(lines), len(lines[-1]) + 1)
    said = message.partition(" (at ")[0]
    return Problem(f"not valid TOML: {said}", Origin(str(path), line, column, 1, lines[line - 1]))


def _merged(base: Document, top: Document) -> Document:
    """`top` over `base`: tables merge key by key, everything else is replaced."""
    tables, written = _merge_tables((), base.tables, top.tables, dict(base.written), top.written)
    return Document(tables, written, top.source, top.name)


def _merge_tables(
    path: KeyPath, base: Mapping[str, Any], top: Mapping[str, Any], written: dict[KeyPath, Written],
    top_written: Mapping[KeyPath, Written],
) -> tuple[dict[str, Any], dict[KeyPath, Written]]:  # fmt: skip
    result = _kept(path, base, top)
    for name, value in top.items():
        here = (*path, name)
        below = result.get(name)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            result[name], written = _merge_tables(here, below, value, written, top_written)
        else:
            result[name] = value
            written = {key: place for key, place in written.items() if key[: len(here)] != here}
        written.update({key: place for key, place in top_written.items() if key[: len(here)] == here})
    return result, written


def _kept(path: KeyPath, base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """What stays of a table below: where another component is named, only the core's keys, for the rest was the old one's."""
    is_component = bool(path) and (path[-1] in _COMPONENT_TABLES or path[0] == "transform")
    if not is_component or "use" not in top or top["use"] == base.get("use"):
        return dict(base)
    core = {field.name for field in attrs.fields(core_keys(str(path[0])))}
    return {name: value for name, value in base.items() if name in core}


def _split_argument(argument: str) -> tuple[str, Any]:
    name, equals, text = argument.partition("=")
    if not equals or not name.strip():
        raise RecipeError([Problem("an override reads KEY=VALUE", _argument_origin(argument, 0, len(argument)))])
    return name.strip(), _Text(argument, text)


@attrs.frozen
class _Text:
    """The value of a command-line override, not yet parsed."""

    argument: str
    text: str


def _argument_origin(argument: str, start: int, width: int, label: str = "--set") -> Origin:
    lead = f"{label} "
    return Origin(label, 0, len(lead) + start + 1, max(1, width), lead + argument, str(Path().absolute()))


def _parse_value(given: _Text) -> Any:
    try:
        return tomllib.loads(f"value = {given.text}")["value"]
    except tomllib.TOMLDecodeError as error:
        if _BARE_WORD.fullmatch(given.text):
            return given.text
        start = len(given.argument) - len(given.text)
        said = str(error).partition(" (at ")[0]
        hints = ('a value is written as in TOML: 3, 0.1, true, "text", [1, 2]',)
        raise RecipeError([Problem(f"this value is not valid TOML: {said}",
                                   _argument_origin(given.argument, start, len(given.text)), hints)]) from None  # fmt: skip


def _override(document: Document, name: str, given: Any) -> Document:
    """The document with one value replaced; a table in the way is made, an array is entered by number."""
    path = tuple(int(part) if part.isdigit() else part for part in name.split("."))
    if isinstance(given, _Text):
        value = _parse_value(given)
        key = _argument_origin(given.argument, 0, len(name))
        place = Written(key, _argument_origin(given.argument, len(given.argument) - len(given.text), len(given.text)))
    else:
        from framework.shapes import to_plain

        value = to_plain(given)
        text = f"{name} = {value!r}"
        place = Written(*(_argument_origin(text, s, w, "override") for s, w in ((0, len(name)), (len(name) + 3, len(repr(value))))))  # fmt: skip
    if any(isinstance(part, int) for part in path):
        return _override_item(document, path, value, place)
    tables: Any = value
    for part in reversed(path):
        tables = {part: tables}
    written = {path[:end]: place for end in range(1, len(path) + 1)}
    merged = _merged(document, Document(tables, {path: place}, document.source, document.name))
    return attrs.evolve(merged, written={**written, **merged.written})


def _override_item(document: Document, path: KeyPath, value: Any, place: Written) -> Document:
    import copy

    tables = copy.deepcopy(document.tables)
    target: Any = tables
    try:
        for part in path[:-1]:
            target = target[part]
        target[path[-1]] = value
    except (KeyError, IndexError, TypeError):
        dotted = ".".join(map(str, path))
        raise RecipeError([Problem(f"there is no {dotted} to set", place.key)]) from None
    return Document(tables, {**document.written, path: place}, document.source, document.name)


__all__ = ["Document", "Entry", "find_recipe", "read_document", "recipes_folder", "shipped_recipes"]
