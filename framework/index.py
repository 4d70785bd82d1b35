"""Index: names, keys, types and defaults of every component, cached per plugin, so that reading needs no plugin."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import attrs

from framework.catalog import (
    BrokenPlugin,
    Catalog,
    DuplicateName,
    LoadedPlugin,
    MisspeltHook,
    PluginSource,
    guarded,
    installed_plugins,
    load_plugin,
)
from framework.component import Component, Family, first_doc_line, recipe_fields, source_place
from framework.errors import FwError
from framework.hooks import KIND_OF_REGISTRY, KINDS, Kind
from framework.shapes import decode_class, encode_fields
from framework.tables import core_keys

FORMAT = 4
_SHAPED_BY = ("catalog", "component", "hooks", "index", "shapes", "signatures", "tables")
"""The modules of the framework on which a record depends."""


@attrs.frozen(slots=False)
class Card:
    """What the index knows of one component.

    Attributes:
        name, registry: where it is found.
        plugin: the plugin that brings it.
        doc: the first line of its docstring.
        place: file:line of its config class.
        requires: what must be installed to use it, or nothing.
        fields: its keys, as `framework.shapes` encodes them.
        choices: for a key that takes names, the names known beforehand.
    """

    name: str
    registry: str
    plugin: str
    doc: str
    place: str
    requires: str
    fields: Any
    choices: Mapping[str, tuple[str, ...]]

    @cached_property
    def shape(self) -> type[Any]:
        """A class that binds the component's keys."""
        return decode_class("Keys", self.fields)


@attrs.frozen
class PluginRecord:
    """What the index knows of one plugin.

    Attributes:
        source: where it came from.
        cards: its components.
        run_hooks: the run hooks that it implements.
        fault: why it cannot be used, or nothing.
        fatal: whether the fault must be mended before anything runs (a misspelt hook).
    """

    source: PluginSource
    cards: tuple[Card, ...] = ()
    run_hooks: frozenset[str] = frozenset()
    fault: str = ""
    fatal: FwError | None = None


@attrs.frozen(slots=False)
class Index:
    """Every plugin's record; lookups by registry and name."""

    plugins: tuple[PluginRecord, ...]

    @cached_property
    def _by_name(self) -> dict[tuple[str, str], Card]:
        return {(card.registry, card.name): card for record in self.plugins for card in record.cards}

    def names(self, registry: str) -> list[str]:
        """Every name in a registry, in the order of the plugins."""
        return [name for reg, name in self._by_name if reg == registry]

    def cards(self, registry: str) -> list[Card]:
        """Every card of a registry."""
        return [card for (reg, _), card in self._by_name.items() if reg == registry]

    def find(self, registry: str, name: str) -> Card | None:
        """The card of one name, or None."""
        return self._by_name.get((registry, name))

    def including(self, sources: Iterable[PluginSource]) -> Index:
        """This index with further plugins, read from them directly; one that is in it already is left out.

        Raises:
            FwError: an installed plugin has the name of another one.
        """
        known = {record.source.name: record.source for record in self.plugins}
        new = []
        for source in sources:
            other = known.setdefault(source.name, source)
            if other is source:
                new.append(source)
            elif other.module != source.module:
                raise FwError(f"two plugins are called {source.name!r}: {other.label} and {source.label}",
                              "give the file another name")  # fmt: skip
        return attrs.evolve(self, plugins=(*self.plugins, *map(_record, new)))

    def including_files(self, files: Iterable[str | Path]) -> Index:
        """This index with plugins that are files of somebody's own, whose code is run.

        Raises:
            FwError: a file is no plugin, is broken, or has the name of another one.
        """
        found = self.including(PluginSource.of_file(file) for file in files)
        for record in found.broken:
            if record.source.file is not None:
                raise FwError(f"plugin {record.source.label} is broken: {record.fault}")
        return found

    @property
    def files(self) -> tuple[Path, ...]:
        """The plugins that are files of somebody's own."""
        return tuple(record.source.file for record in self.plugins if record.source.file is not None)

    @property
    def broken(self) -> tuple[PluginRecord, ...]:
        """The plugins that cannot be used."""
        return tuple(record for record in self.plugins if record.fault)

    def require_sound(self) -> None:
        """Raises what must be mended before anything runs: a misspelt hook, two plugins with one name."""
        for record in self.plugins:
            if record.fatal is not None:
                raise record.fatal
        for clash in (*self._of_one_name(), *self.clashes()):
            raise clash

    def _of_one_name(self) -> Iterator[FwError]:
        """An error for each two plugins that are called the same, of which one would stand for the other."""
        seen: dict[str, PluginSource] = {}
        for source in (record.source for record in self.plugins):
            first = seen.setdefault(source.name, source)
            if first is not source:
                yield FwError(f"two plugins are called {source.name!r}: {first.label} and {source.label}",
                              "uninstall one of them, or rename its entry point")  # fmt: skip

    def clashes(self) -> list[DuplicateName]:
        """An error for each name that two plugins offer, with both places."""
        seen: dict[tuple[str, str], Card] = {}
        found = []
        for card in (card for record in self.plugins for card in record.cards):
            first = seen.setdefault((card.registry, card.name), card)
            if first is not card:
                found.append(self._clash(first, card))
        return found

    def _clash(self, first: Card, second: Card) -> DuplicateName:
        what = f"the {KIND_OF_REGISTRY[first.registry].noun} {first.name!r}"
        if first.plugin == second.plugin:
            who = f"plugin {self._label(first)} offers {what} twice: at {first.place} and at {second.place}"
            return DuplicateName(who, "rename one of them")
        places = [f"{self._label(card)} at {card.place}" for card in (first, second)]
        return DuplicateName(f"two plugins offer {what}: {' and '.join(places)}",
                             "uninstall one of them, or rename its component")  # fmt: skip

    def _label(self, card: Card) -> str:
        return next(record.source.label for record in self.plugins if record.source.name == card.plugin)

    def catalog(self) -> Catalog:
        """The catalog of the same plugins, to build components with."""
        return self._catalog

    @cached_property
    def _catalog(self) -> Catalog:
        owners = {(KIND_OF_REGISTRY[reg].hook, name): card.plugin for (reg, name), card in self._by_name.items()}
        return Catalog((record.source for record in self.plugins if not record.fault), owners)

    def watching(self, hook: str) -> list[str]:
        """The plugins that implement a run hook."""
        return [record.source.name for record in self.plugins if hook in record.run_hooks]


def build_index(plugins: Iterable[PluginSource]) -> Index:
    """The index of these plugins, read from them directly."""
    return Index(tuple(_record(source) for source in plugins))


def installed_index(announce: Callable[[str], None] = lambda line: None) -> Index:
    """The index of the installed plugins, from the cache where it is up to date.

    Args:
        announce: told, once, when plugins must be read, which takes seconds the first time.
    """
    sources = installed_plugins()
    files = [_cache_file(source) for source in sources]
    cached = [_read(file, source) for file, source in zip(files, sources, strict=True)]
    if None in cached:
        announce("indexing plugins (once per installed version) ...")
    return Index(tuple(
        found if found is not None and not found.fault else _renewed(source, file, found)
        for source, file, found in zip(sources, files, cached, strict=True)
    ))  # fmt: skip


def _renewed(source: PluginSource, file: Path, known: PluginRecord | None) -> PluginRecord:
    """The record as read from the plugin; a broken one is tried each time, for what it lacked may be there now."""
    record = _record(source)
    if known is None or record.fault != known.fault:
        _write(file, record)
    return record


def _record(source: PluginSource) -> PluginRecord:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what a plugin prints must not mix with a command's output
            plugin = load_plugin(source)
            cards = tuple(card for kind in KINDS for card in _cards(plugin, kind))
        return PluginRecord(source, cards, plugin.run_hooks())
    except BrokenPlugin as error:
        return PluginRecord(source, fault=str(error))
    except MisspeltHook as error:
        return PluginRecord(source, fault=error.message, fatal=error)


def _cards(plugin: LoadedPlugin, kind: Kind) -> Iterable[Card]:
    encoded: dict[tuple[type[Any], frozenset[str]], tuple[Any, str, str]] = {}
    for item in plugin.offers(kind.hook):
        components = guarded(partial(_members, item))
        for component in components:
            shared = (component.config, frozenset(component.fixed))
            if shared not in encoded:
                encoded[shared] = _described(component, kind)
            fields, doc, place = encoded[shared]
            yield Card(component.name, kind.registry, plugin.source.name, doc, place, component.requires, fields,
                       {key: tuple(names) for key, names in component.choices.items()})  # fmt: skip


def _members(item: Component | Family) -> list[Component]:
    return list(item.members()) if isinstance(item, Family) else [item]


def _described(component: Component, kind: Kind) -> tuple[Any, str, str]:
    """The encoded keys, first doc line and place of a component's config class."""
    place = source_place(component.config)
    if not attrs.has(component.config):
        raise BrokenPlugin(f"{component.name!r} at {place}: its config is no attrs class")
    fields = guarded(partial(recipe_fields, component))
    core = {field.name for field in attrs.fields(core_keys(kind.table))} | {"use"}
    taken = sorted(core.intersection(field.name for field in fields))
    if taken:
        raise BrokenPlugin(f"{component.name!r} at {place}: the key {taken[0]!r} is the core's in [{kind.table}]")
    try:
        return encode_fields(fields), first_doc_line(component.config), place
    except Exception as error:
        raise BrokenPlugin(f"{component.name!r} at {place}: {error}") from error


def cache_folder() -> Path:
    """Where the index (and other things that can be made again) is kept; `FW_CACHE_DIR` moves it."""
    chosen = os.environ.get("FW_CACHE_DIR")
    if chosen:
        return Path(chosen)
    from platformdirs import user_cache_path

    return user_cache_path("fw-transfer")


def _cache_file(source: PluginSource) -> Path:
    parts = [str(FORMAT), sys.version, source.name, source.module, source.distribution, source.version]
    parts += _requirements(source)
    parts += _stamps(_source_files(source)) + _stamps(Path(__file__).parent / f"{name}.py" for name in _SHAPED_BY)
    environment = hashlib.sha256(sys.prefix.encode()).hexdigest()[:8]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return cache_folder() / "index" / environment / f"{source.name}-{digest}.json"


def _requirements(source: PluginSource) -> list[str]:
    """Names and versions of what a distribution requires: a family changes with the library it wraps."""
    names = [re.split(r"[^A-Za-z0-9._-]", line)[0] for line in source.requires]
    return [f"{name} {_installed_versions().get(_normal(name), 'missing')}" for name in names]


@lru_cache(maxsize=1)
def _installed_versions() -> dict[str, str]:
    """The version of every installed distribution, read from the names of folders alone, which takes no time."""
    found: dict[str, str] = {}
    for folder in sys.path:
        with contextlib.suppress(OSError):
            for name in os.listdir(folder or "."):
                stem, ending = os.path.splitext(name)
                if ending in (".dist-info", ".egg-info"):
                    distribution, _, version = stem.partition("-")
                    found.setdefault(_normal(distribution), version)
    return found


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def plugin_file(source: PluginSource) -> Path | None:
    """The file of the package that holds a plugin, found without importing it."""
    from importlib.util import find_spec

    if source.file is not None:
        return source.file

    try:
        spec = find_spec(source.package)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def _stamps(files: Iterable[Path]) -> list[str]:
    """Size and time of each file, so that an edited plugin is read again."""
    return [f"{file} {stat.st_size} {stat.st_mtime_ns}" for file in files if (stat := _stat(file))]


def _stat(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except OSError:
        return None


def _source_files(source: PluginSource) -> list[Path]:
    origin = plugin_file(source)
    if origin is None:
        return []
    return sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]


def _write(file: Path, record: PluginRecord) -> None:
    """Writes a record whole or not at all; a cache that cannot be written is done without."""
    shapes: dict[str, int] = {}
    cards = []
    for card in record.cards:
        shape = shapes.setdefault(json.dumps(card.fields), len(shapes))
        cards.append([card.name, card.registry, card.doc, card.place, card.requires, shape, card.choices])
    data = {
        "fault": record.fault,
        "shapes": [json.loads(text) for text in shapes],
        "cards": cards,
        "run_hooks": sorted(record.run_hooks),
    }
    scratch = file.with_name(f"{file.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(json.dumps(data))
        os.replace(scratch, file)
        for stale in file.parent.glob(f"{glob.escape(record.source.name)}-{'?' * 16}.json"):
            if stale != file:
                stale.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        scratch.unlink(missing_ok=True)


def _read(file: Path, source: PluginSource) -> PluginRecord | None:
    try:
        data = json.loads(file.read_text())
        cards = tuple(
            Card(name, registry, source.name, doc, place, requires, data["shapes"][shape],
                 {key: tuple(names) for key, names in choices.items()})
            for name, registry, doc, place, requires, shape, choices in data["cards"]
        )  # fmt: skip
        return PluginRecord(source, cards, frozenset(data["run_hooks"]), data["fault"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
