"""Recipe: one TOML file, checked against the index and with every default filled in. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from framework.bind import KeyPath, bind
from framework.component import Count, key
from framework.errors import FwError, Problem, RecipeError, did_you_mean, name_hints
from framework.hooks import KIND_OF_TABLE, KINDS
from framework.index import Card, Index
from framework.shapes import to_plain
from framework.sources import Document, find_recipe, read_document
from framework.tables import CORE_KEYS, EngineTable, TrainTable, core_keys
from framework.toml_text import toml_text

ONE_OF_EACH = ("data", "backbone", "head", "freezing", "loss", "optimizer")
AT_MOST_ONE = ("adapter", "regularizer", "finisher")
IN_ORDER = ("data", "backbone", "adapter", "head", "freezing", "loss", "regularizer", "optimizer", "finisher")
"""The single tables, without the transforms, as a recipe is read."""
DEFAULT_METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece")
WEIGHTS_SCHEMES = ("file:", "run:")
PLAIN_WEIGHTS = ("random", "package")


@attrs.frozen(kw_only=True)
class TopKeys:
    """The keys that stand above every table."""

    name: str = key("", "the run's name; absent: the file's")
    seed: Count = key(0, "every random draw of the run is a function of it")
    doc: str = key("", "what the recipe is for")
    plugins: tuple[Path, ...] = key((), "plugins in files of one's own, whose code is run: --allow-local-plugins")


@attrs.frozen
class Table:
    """A table that names a component.

    Attributes:
        use: the component's name.
        core: the core's keys, bound.
        values: the component's keys with every default filled in, as plain values.
    """

    use: str
    core: Any
    values: Mapping[str, Any]

    def plain(self) -> dict[str, Any]:
        """The table as TOML can hold it."""
        return {"use": self.use, **to_plain(self.core), **self.values}


@attrs.frozen
class Recipe:
    """Everything that a run depends on.

    Attributes:
        name, seed, doc, plugins: the keys above the tables; every plugin file that it was checked with.
        train, engine: the core's tables.
        parts: table name -> component table, for those of which there is one; `transform.train` and
            `transform.eval` among them.
        schedulers: the phases of the learning rate, at least one.
        metrics: the metrics, in the order of the recipe.
    """

    name: str
    seed: int
    doc: str
    train: TrainTable
    engine: EngineTable
    parts: Mapping[str, Table]
    schedulers: tuple[Table, ...]
    metrics: tuple[Table, ...]
    plugins: tuple[Path, ...] = ()

    def resolved(self) -> dict[str, Any]:
        """Every key with its value, absent ones left out, in the order of a recipe."""
        transforms = {name.partition(".")[2]: t.plain() for name, t in self.parts.items() if "." in name}
        return {
            "name": self.name,
            "seed": self.seed,
            **({"doc": self.doc} if self.doc else {}),
            **({"plugins": to_plain(self.plugins)} if self.plugins else {}),
            "data": self.parts["data"].plain(),
            "transform": transforms,
            **{name: self.parts[name].plain() for name in IN_ORDER[1:] if name in self.parts},
            "scheduler": [table.plain() for table in self.schedulers],
            "metric": [table.plain() for table in self.metrics],
            "train": to_plain(self.train),
            "engine": to_plain(self.engine),
        }

    def to_toml(self) -> str:
        """The resolved recipe as TOML; loading it gives an equal recipe."""
        return toml_text(self.resolved())

    def digest(self) -> str:
        """SHA-256 of the resolved recipe."""
        return hashlib.sha256(json.dumps(self.resolved(), sort_keys=True, default=str).encode()).hexdigest()


def load_recipe(
    recipe: str | Path, index: Index, overrides: Sequence[str] | Mapping[str, Any] = (), folder: Path | None = None
) -> Recipe:
    """The recipe of a file or shipped name, checked.

    Args:
        recipe: a path, or the name of a shipped recipe.
        index: what components there are.
        overrides: `a.b=value` arguments, or dotted keys -> values.
        folder: what a relative path is relative to; the working directory if absent.

    Raises:
        RecipeError: everything that is wrong with it, at once.
        FwError: there is no such recipe, or it is a study; two plugins with one name; a misspelt hook.
    """
    index.require_sound()
    document = read_document(find_recipe(recipe, folder), overrides)
    if is_study(document):
        raise FwError(f"{str(recipe)!r} is a study, which compares recipes",
                      (f"fw bench {recipe} runs it", f"fw validate {recipe} checks it"))  # fmt: skip
    return check(document, index)


def plugin_files(document: Document) -> tuple[Path, ...]:
    """The plugin files that a document names; none where it names them wrongly, which `check` complains of.

    Raises:
        RecipeError: one is not there.
    """
    bound, _ = bind(TopKeys, {"plugins": document.tables.get("plugins", [])}, (), document.origin)
    files: tuple[Path, ...] = bound.plugins if bound else ()
    missing = [
        Problem(f"there is no plugin {file}", document.origin(("plugins", position), False))
        for position, file in enumerate(files) if not file.is_file()
    ]  # fmt: skip
    if missing:
        raise RecipeError(missing)
    return files


def is_study(document: Document) -> bool:
    """Whether a document says what recipes are compared, rather than what is trained."""
    return "study" in document.tables


def check(document: Document, index: Index) -> Recipe:
    """A document bound to the components of the index.

    Raises:
        RecipeError: everything that is wrong with it, at once.
    """
    checker = _Checker(document, index)
    recipe = checker.recipe()
    if recipe is None or checker.problems:
        raise RecipeError(sorted(checker.problems, key=_reading_order))
    return recipe


def _reading_order(problem: Problem) -> tuple[str, int, int]:
    origin = problem.origin
    return (origin.source, origin.line, origin.column) if origin else ("", 0, 0)


class _Checker:
    """Binds every table of one document and gathers the problems."""

    def __init__(self, document: Document, index: Index) -> None:
        self.document = document
        self.index = index
        self.problems: list[Problem] = []

    def recipe(self) -> Recipe | None:
        tables = self.document.tables
        top = self._bind(TopKeys, {k: v for k, v in tables.items() if k in attrs.fields_dict(TopKeys)}, ())
        self._unknown_tables()
        self._require_trusted(top.plugins if top else ())
        train = self._bind(TrainTable, self._table("train") or {}, ("train",))
        engine = self._bind(EngineTable, self._table("engine") or {}, ("engine",))
        parts = dict(self._parts())
        schedulers = tuple(self._phases("scheduler", [{"use": "constant"}]))
        metrics = tuple(self._phases("metric", [{"use": name} for name in DEFAULT_METRICS]))
        if self.problems or top is None or train is None or engine is None:
            return None
        name = top.name or self.document.name
        files = self.index.files
        recipe = Recipe(name, top.seed, top.doc, train, engine, parts, schedulers, metrics, files)
        self.problems += _across(recipe, self.document)
        return recipe

    def _bind(self, config: Any, table: Mapping[str, Any], path: KeyPath, extra_keys: Sequence[str] = ()) -> Any:
        bound, problems = bind(config, table, path, self.document.origin, extra_keys)
        self.problems += problems
        return bound

    def _table(self, name: str) -> Mapping[str, Any] | None:
        value = self.document.tables.get(name, {})
        if isinstance(value, Mapping):
            return value
        said = "is one table, not several" if _is_table(value) else "is a table"
        self._complain(f"{name} {said}: write [{name}]", (name,))
        return None

    def _require_trusted(self, files: Sequence[Path]) -> None:
        """A recipe alone runs no code: the files that it names must have been allowed, or others of their names."""
        known = {file.name for file in self.index.files}
        for position, file in enumerate(files):
            if file.name not in known:
                self._complain(f"the recipe names a plugin, whose code would be run: {file}", ("plugins", position),
                               (f"read it, then allow it: --allow-local-plugins, or --plugin {file}",))  # fmt: skip

    def _unknown_tables(self) -> None:
        tables = [*IN_ORDER, "transform", "scheduler", "metric", "train", "engine"]
        keys = [*attrs.fields_dict(TopKeys), "extends"]
        accepted = f"keys: {', '.join(keys)}; tables: {', '.join(tables)}"
        for name in self.document.tables:
            if name not in (*keys, *tables):
                what = "table" if _is_table(self.document.tables[name]) else "key"
                hints = (_home_of(name) or self._tables_of(name) or did_you_mean(name, [*keys, *tables]), accepted)
                self._complain(f"unknown {what} {name!r}", (name,), tuple(h for h in hints if h), of_key=True)

    def _parts(self) -> Iterator[tuple[str, Table]]:
        for name in IN_ORDER:
            if name not in self.document.tables:
                if name in AT_MOST_ONE:
                    continue
                registry = KIND_OF_TABLE[name].registry
                hint = f'add [{name}] with use = "..."; `fw list {registry}` shows what there is'
                self._complain(f"the table [{name}] is missing", (), (hint,))
                continue
            given = self._table(name)
            table = self._component(name, given, (name,)) if given is not None else None
            if table is not None:
                yield name, table
        transforms = self._table("transform") or {}
        for name in transforms:
            if name not in ("train", "eval"):
                self._complain(f"unknown table 'transform.{name}'", ("transform", name),
                               ("there are transform.train and transform.eval",), of_key=True)  # fmt: skip
        for name in ("train", "eval"):
            given = transforms.get(name, {"use": "center_crop"})
            if not isinstance(given, Mapping):
                self._complain(f"transform.{name} is a table: write [transform.{name}]", ("transform", name))
                continue
            table = self._component("transform", given, ("transform", name))
            if table is not None:
                yield f"transform.{name}", table

    def _phases(self, name: str, default: list[dict[str, Any]]) -> Iterator[Table]:
        given = self.document.tables.get(name, default)
        single = not isinstance(given, list)
        for position, item in enumerate([given] if single else given):
            path: KeyPath = (name,) if single else (name, position)
            if not isinstance(item, Mapping):
                self._complain(f"{name} is a table: write [{name}] or [[{name}]]", (name,))
                return
            table = self._component(name, item, path)
            if table is not None:
                yield table

    def _component(self, table: str, given: Mapping[str, Any], path: KeyPath) -> Table | None:
        use = given.get("use")
        dotted = ".".join(map(str, path))
        kind = KIND_OF_TABLE[table]
        if not isinstance(use, str):
            hint = f'name {kind.one}: use = "..."; `fw list {kind.registry}` shows what there is'
            said = "has no 'use'" if use is None else "has a 'use' that is no string"
            self._complain(f"[{dotted}] {said}", path, (hint,), of_key=True)
            return None
        card = self.index.find(kind.registry, use)
        if card is None:
            self._complain(f"no {kind.noun} is called {use!r}", (*path, "use"), self._unknown_hints(use, kind.registry))
            self._core(table, given, path)
            return None
        if card.requires:
            self._complain(f"{use!r} cannot be used here", (*path, "use"), (f"{card.requires} to use it",))
        return self._bound(table, card, {k: v for k, v in given.items() if k != "use"}, path)

    def _bound(self, table: str, card: Card, given: Mapping[str, Any], path: KeyPath) -> Table | None:
        core_names = list(attrs.fields_dict(core_keys(table)))
        core = self._core(table, given, path)
        own = self._bind(card.shape, {k: v for k, v in given.items() if k not in core_names}, path, core_names)
        if core is None or own is None:
            return None
        if table == "backbone":
            self._check_weights(card, core.weights, path)
        return Table(card.name, core, to_plain(own))

    def _core(self, table: str, given: Mapping[str, Any], path: KeyPath) -> Any:
        keys = core_keys(table)
        return self._bind(keys, {k: v for k, v in given.items() if k in attrs.fields_dict(keys)}, path)

    def _check_weights(self, card: Card, weights: Sequence[str], path: KeyPath) -> None:
        known = [*card.choices.get("weights", ()), *PLAIN_WEIGHTS]
        if not weights:
            self._complain("backbone.weights names no source", (*path, "weights"), (f"sources: {', '.join(known)}",))
        for position, source in enumerate(weights):
            if source in known or source.startswith(WEIGHTS_SCHEMES):
                continue
            hints = name_hints(source, [*known, "file:PATH", "run:DIR"], f"weights of {card.name}")
            self._complain(f"{card.name} has no weights called {source!r}", (*path, "weights", position), hints)

    def _unknown_hints(self, use: str, registry: str) -> tuple[str, ...]:
        hints = [self._tables_of(use), *name_hints(use, self.index.names(registry), registry.replace("_", " "))]
        hints += [f"plugin {record.source.label} is broken and may have offered it: {record.fault}"
                  for record in self.index.broken]  # fmt: skip
        return tuple(hint for hint in hints if hint)

    def _tables_of(self, use: str) -> str:
        """In which tables a component of this name may stand; nothing where there is none."""
        kinds = [kind for kind in KINDS if self.index.find(kind.registry, use)]
        told = [f"one of the {kind.registry.replace('_', ' ')}, which stand in {kind.header}" for kind in kinds]
        return f"{use!r} is {', and '.join(told)}" if told else ""

    def _complain(self, message: str, path: KeyPath, hints: tuple[str, ...] = (), of_key: bool = False) -> None:
        self.problems.append(Problem(message, self.document.origin(path, of_key), hints))


def _is_table(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return bool(items) and all(isinstance(item, Mapping) for item in items)


def _home_of(name: str) -> str:
    """Where a key belongs that stands above the tables but is one of the core's own."""
    homes = {"train": TrainTable, "engine": EngineTable, **CORE_KEYS}
    found = [f"[{table}]" for table, keys in homes.items() if name in attrs.fields_dict(keys)]
    return f"{name!r} belongs in {' or '.join(found)}" if found else ""


def _across(recipe: Recipe, document: Document) -> Iterator[Problem]:
    """What only shows when several tables are seen together."""
    names = ["loss", *(table.use for table in recipe.metrics)]
    known = [f"val.{name}" for name in names]
    for position, name in enumerate(names[1:]):
        if name in names[: position + 1]:
            yield Problem(f"the metric {name!r} is named twice", document.origin(("metric", position, "use"), False))
    if not recipe.schedulers:
        yield Problem("scheduler is empty", document.origin(("scheduler",), False),
                      ("leave it out for a constant learning rate",))  # fmt: skip
    if recipe.train.monitor not in known:
        yield Problem(f"train.monitor: there is no metric {recipe.train.monitor!r}",
                      document.origin(("train", "monitor"), False),
                      name_hints(recipe.train.monitor, known, "metrics"))  # fmt: skip
    for position, table in enumerate(recipe.schedulers[:-1]):
        if table.core.epochs is None:
            yield Problem("a scheduler phase that another follows has no 'epochs'",
                          document.origin(("scheduler", position), True),
                          ("say how many epochs it lasts",))  # fmt: skip


def load_trusted(files: Iterable[Path], index: Index) -> tuple[list[Recipe], Index]:
    """Resolved recipes that this program wrote itself, and the index with the plugin files that they name.

    Raises:
        FwError: a recipe, or a plugin that it names, is gone or no longer fits the installed plugins.
    """
    documents = [read_document(file) for file in files]
    trusted = index.including_files(dict.fromkeys(file for document in documents for file in plugin_files(document)))
    return [check(document, trusted) for document in documents], trusted


def load_resolved(path: Path, index: Index) -> Recipe:
    """A run's resolved recipe, as the run directory keeps it.

    Raises:
        FwError: the file is missing or no longer fits the installed plugins.
    """
    if not path.is_file():
        raise FwError(f"{path.parent} is no run directory: it has no {path.name}")
    return check(read_document(path), index)
