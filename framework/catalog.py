"""Catalog: discovers plugins and collects their components into registries, each with the plugin it came from."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import attrs
import pluggy

from framework.component import Component, Family, source_place
from framework.errors import FwError, did_you_mean
from framework.hooks import (
    ENTRY_POINTS,
    KINDS,
    PROJECT,
    RUN_HOOKS,
    ComponentHooks,
    RunHooks,
)

HOOK_NAMES = (*(kind.hook for kind in KINDS), *RUN_HOOKS)


@attrs.frozen
class PluginSource:
    """A plugin before it is imported.

    Attributes:
        name: the entry point's name.
        distribution, version: the installed package that brings it.
        module: the module (or `module:object`) that the entry point names.
        load: imports it and gives the object that carries the hooks.
    """

    name: str
    distribution: str
    version: str
    module: str
    load: Callable[[], object]

    @classmethod
    def of(cls, plugin: object, name: str, distribution: str = "local") -> PluginSource:
        """The source of a plugin that is already imported, for tests and scripts."""
        return cls(name, distribution, "0", getattr(plugin, "__name__", name), lambda: plugin)

    @property
    def label(self) -> str:
        """How messages call it: `fw_timm (fw-transfer 0.1.0)`."""
        return f"{self.name} ({self.distribution} {self.version})"


class BrokenPlugin(Exception):
    """A plugin that cannot be imported or whose hooks fail; remembered, shown, never fatal to unrelated work."""


class MisspeltHook(FwError):
    """A plugin implements a hook that does not exist."""


class DuplicateName(FwError):
    """Two plugins offer one name in one registry."""


def installed_plugins() -> list[PluginSource]:
    """The plugins of every installed distribution, found through entry points, not imported."""
    from importlib.metadata import entry_points

    found = []
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        dist = point.dist
        name, version = (dist.name, dist.version) if dist is not None else ("unknown", "0")
        found.append(PluginSource(point.name, name, version, point.value, point.load))
    return found


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
        for yielded in _guarded(self.source, lambda: getattr(self.manager.hook, hook)()):
            for item in _guarded(self.source, lambda yielded=yielded: list(yielded or ())):
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
    plugin = _guarded(source, source.load)
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(ComponentHooks)
    manager.add_hookspecs(RunHooks)
    _refuse_misspelt(source, plugin, manager)
    _guarded(source, lambda: manager.register(plugin, name=source.name))
    return LoadedPlugin(source, manager)


def _refuse_misspelt(source: PluginSource, plugin: object, manager: pluggy.PluginManager) -> None:
    for name in dir(plugin):
        member = getattr(plugin, name, None)
        if not callable(member) or isinstance(member, type):
            continue
        marked = manager.parse_hookimpl_opts(plugin, name) is not None
        if marked and name not in HOOK_NAMES:
            hint = did_you_mean(name, HOOK_NAMES) or f"hooks: {', '.join(HOOK_NAMES)}"
            raise MisspeltHook(f"plugin {source.label} implements {name!r} at {source_place(member)}, which is no hook",
                               hint)  # fmt: skip
        if name in HOOK_NAMES and not marked:
            raise MisspeltHook(f"plugin {source.label} defines {name!r} at {source_place(member)} without @hookimpl",
                               "put @framework.hookimpl above it")  # fmt: skip


def _guarded(source: PluginSource, action: Callable[[], Any]) -> Any:
    try:
        return action()
    except FwError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        last = frames[-1] if frames else None
        place = f" at {last.filename}:{last.lineno}" if last else ""
        raise BrokenPlugin(f"{type(error).__name__}: {error}{place}") from error


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
            found = _member(item, name)
            if found is not None:
                return found
        raise FwError(f"plugin {self._sources[owner].label} no longer offers {name!r}")

    def watchers(self, hook: str, plugins: Iterable[str]) -> list[Callable[..., Any]]:
        """The implementations of a run hook in these plugins, one by one so that each can fail alone."""
        return [impl.function for name in plugins for impl in getattr(self._load(name).manager.hook, hook).get_hookimpls()]

    def _load(self, name: str) -> LoadedPlugin:
        if name not in self._loaded:
            try:
                self._loaded[name] = load_plugin(self._sources[name])
            except BrokenPlugin as error:
                raise FwError(f"plugin {self._sources[name].label} is broken: {error}") from error
        return self._loaded[name]


def _member(item: Component | Family, name: str) -> Component | None:
    if isinstance(item, Component):
        return item if item.name == name else None
    prefix, _, rest = name.partition("/")
    return item.member(rest) if prefix == item.prefix and rest else None


