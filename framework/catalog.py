"""Catalog: discovers plugins and collects their components into registries, each with the plugin it came from."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import pluggy

from framework.component import Component, Family, source_place
from framework.errors import FwError, did_you_mean
from framework.hooks import (
    CONTRACT,
    ENTRY_POINTS,
    KINDS,
    OLDEST_CONTRACT,
    PROJECT,
    RUN_HOOKS,
    ComponentHooks,
    PluginHooks,
    RunHooks,
)

if TYPE_CHECKING:
    from importlib.metadata import Distribution

T = TypeVar("T")
LOCAL = "local file"
"""Stands for the distribution of a plugin that is a file."""
HOOK_NAMES = (*(kind.hook for kind in KINDS), *RUN_HOOKS, "fw_contract")


@attrs.frozen
class PluginSource:
    """A plugin before it is imported.

    Attributes:
        name: the entry point's name.
        distribution, version: the installed package that brings it; of a file of somebody's own its SHA-256.
        module: the module (or `module:object`) that the entry point names.
        load: imports it and gives the object that carries the hooks.
        requires: the requirements of its distribution.
        file: where it is no installed package, but a file.
    """

    name: str
    distribution: str
    version: str
    module: str
    load: Callable[[], object]
    requires: tuple[str, ...] = ()
    file: Path | None = None

    @classmethod
    def of_file(cls, file: str | Path) -> PluginSource:
        """The source of a plugin that is a Python file.

        Raises:
            FwError: it is none, or cannot be read.
        """
        path = Path(file).expanduser().resolve()
        if path.suffix != ".py":
            raise FwError(f"the plugin {str(file)!r} is no Python file", "a plugin in a file is called NAME.py")
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise FwError(f"cannot read the plugin {str(file)!r}: {error.strerror}") from None
        return cls(path.stem, LOCAL, digest, str(path), partial(_import_file, path, digest), file=path)

    @classmethod
    def of(cls, plugin: object, name: str, distribution: str = "local") -> PluginSource:
        """The source of a plugin that is already imported, for tests and scripts."""
        return cls(name, distribution, "0", getattr(plugin, "__name__", name), lambda: plugin)

    @property
    def package(self) -> str:
        """The package or module at the top of the plugin's."""
        return self.module.partition(":")[0].partition(".")[0]

    @property
    def label(self) -> str:
        """How messages call it: `fw_timm (fw-transfer 0.1.0)`."""
        return f"{self.name} ({self.file or f'{self.distribution} {self.version}'})"


class BrokenPlugin(Exception):
    """A plugin that cannot be imported or whose hooks fail; remembered, shown, never fatal to unrelated work."""


class MisspeltHook(FwError):
    """A plugin implements a hook that does not exist."""


class DuplicateName(FwError):
    """Two plugins offer one name in one registry."""


def installed_plugins() -> list[PluginSource]:
    """The plugins of every installed distribution, found through entry points, not imported."""
    from importlib.metadata import entry_points

    facts: dict[int, tuple[str, str, tuple[str, ...]]] = {}
    found = []
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        known = facts.get(id(point.dist)) or facts.setdefault(id(point.dist), _distribution_facts(point.dist))
        name, version, requires = known
        found.append(PluginSource(point.name, name, version, point.value, point.load, requires))
    return found


def _distribution_facts(distribution: Distribution | None) -> tuple[str, str, tuple[str, ...]]:
    """Name, version, and what it requires; the metadata are parsed once, for that is what takes time."""
    if distribution is None:
        return "unknown", "0", ()
    metadata = distribution.metadata
    return metadata["Name"], metadata["Version"], tuple(metadata.get_all("Requires-Dist") or ())


@attrs.frozen
class LoadedPlugin:
    """A plugin whose hooks can be called.

    Attributes:
        source: where it came from.
        manager: a pluggy manager that holds this plugin alone.
    """

    source: PluginSource
    manager: pluggy.PluginManager

    def offers(self, hook: str) -> Iterator[Component | Family]:
        """What the plugin yields for one component hook.

        Raises:
            BrokenPlugin: the hook fails or yields something else.
        """
        for yielded in guarded(getattr(self.manager.hook, hook)):
            items: list[Any] = guarded(partial(list, yielded or ()))
            for item in items:
                if not isinstance(item, (Component, Family)):
                    raise BrokenPlugin(f"{hook} gave {item!r}, which is neither a Component nor a Family")
                yield item

    def run_hooks(self) -> frozenset[str]:
        """The run hooks that the plugin implements."""
        return frozenset(hook for hook in RUN_HOOKS if getattr(self.manager.hook, hook).get_hookimpls())


def load_plugin(source: PluginSource) -> LoadedPlugin:
    """Imports a plugin and checks its hooks.

    Raises:
        BrokenPlugin: it cannot be imported, with the reason and its place.
        MisspeltHook: it implements a hook that does not exist.
    """
    plugin = guarded(source.load)
    _require_our_contract(plugin)
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(PluginHooks)
    manager.add_hookspecs(ComponentHooks)
    manager.add_hookspecs(RunHooks)
    _refuse_misspelt(source, plugin, manager)
    guarded(lambda: manager.register(plugin, name=source.name))
    return LoadedPlugin(source, manager)


def _require_our_contract(plugin: object) -> None:
    """First of all, since a plugin for another version may have hooks that this one does not know.

    Raises:
        BrokenPlugin: it was written for a version that is not supported.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(PluginHooks)
    guarded(lambda: manager.register(plugin))
    written_for = guarded(manager.hook.fw_contract)
    if written_for is None or written_for in range(OLDEST_CONTRACT, CONTRACT + 1):
        return
    ours = f"this fw-transfer has {CONTRACT}"
    ours += f" and takes {OLDEST_CONTRACT} on" if OLDEST_CONTRACT < CONTRACT else ""
    older = isinstance(written_for, int) and written_for < OLDEST_CONTRACT
    mend = "upgrade the plugin" if older else "upgrade fw-transfer"
    raise BrokenPlugin(f"it was written for version {written_for!r} of the plugin contract, {ours}: {mend}")


def _import_file(path: Path, digest: str) -> ModuleType:
    """The module that a file holds; under a name of its own, so that it stands for no installed one."""
    name = f"{path.stem}_{digest[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _refuse_misspelt(source: PluginSource, plugin: object, manager: pluggy.PluginManager) -> None:
    for name in dir(plugin):
        member = inspect.getattr_static(plugin, name, None)
        if not callable(getattr(member, "__func__", member)) or isinstance(member, type):
            continue
        marked = guarded(partial(manager.parse_hookimpl_opts, plugin, name)) is not None
        if marked and name not in HOOK_NAMES:
            hint = did_you_mean(name, HOOK_NAMES) or f"hooks: {', '.join(HOOK_NAMES)}"
            raise MisspeltHook(f"plugin {source.label} implements {name!r} at {source_place(member)}, which is no hook",
                               hint)  # fmt: skip
        if name in HOOK_NAMES and not marked:
            raise MisspeltHook(f"plugin {source.label} defines {name!r} at {source_place(member)} without @hookimpl",
                               "put @framework.hookimpl above it")  # fmt: skip


def guarded(action: Callable[[], T]) -> T:
    """What a plugin's code gives.

    Raises:
        BrokenPlugin: whatever it raises, with the place; leaving the process counts too.
    """
    try:
        return action()
    except BrokenPlugin:
        raise
    except (Exception, SystemExit) as error:
        said = error.message if isinstance(error, FwError) else str(error)
        kind = "" if isinstance(error, FwError) else f"{type(error).__name__}: "
        raise BrokenPlugin(f"{kind}{said.strip()}{_place_of(error)}") from error


def _place_of(error: BaseException) -> str:
    """Where a plugin failed: the last line that is not the import machinery's."""
    if isinstance(error, SyntaxError):
        return ""  # its text says so
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    last = frames[-1] if frames else None
    return f" at {last.filename}:{last.lineno}" if last and last.filename != __file__ else ""


class Catalog:
    """Components by registry and name; loads only the plugins that are asked for. Read-only."""

    def __init__(self, plugins: Iterable[PluginSource], owners: Mapping[tuple[str, str], str]) -> None:
        """
        Args:
            plugins: every plugin that may be loaded.
            owners: (hook, component name) -> plugin name, as the index knows them.
        """
        self._sources = {source.name: source for source in plugins}
        self._owners = owners
        self._loaded: dict[str, LoadedPlugin] = {}

    def component(self, hook: str, name: str) -> Component:
        """The component of one name.

        Raises:
            FwError: no plugin offers it, or its plugin is broken.
        """
        owner = self._owners.get((hook, name))
        if owner is None:
            raise FwError(f"no plugin offers {name!r} through {hook}")
        for item in self._load(owner).offers(hook):
            found = self._member(owner, item, name)
            if found is not None:
                return found
        raise FwError(f"plugin {self._sources[owner].label} no longer offers {name!r}")

    def tell(self, plugin: str, hook: str, facts: Mapping[str, Any]) -> None:
        """Calls one plugin's implementation of a run hook; what it raises comes through."""
        getattr(self._load(plugin).manager.hook, hook)(facts=facts)

    def _member(self, owner: str, item: Component | Family, name: str) -> Component | None:
        if isinstance(item, Component):
            return item if item.name == name else None
        prefix, _, rest = name.partition("/")
        if prefix != item.prefix or not rest:
            return None
        try:
            return guarded(lambda: item.member(rest))
        except BrokenPlugin as error:
            raise FwError(f"plugin {self._sources[owner].label} cannot make {name!r}: {error}") from error

    def _load(self, name: str) -> LoadedPlugin:
        if name not in self._loaded:
            try:
                self._loaded[name] = load_plugin(self._sources[name])
            except BrokenPlugin as error:
                raise FwError(f"plugin {self._sources[name].label} is broken: {error}") from error
        return self._loaded[name]
