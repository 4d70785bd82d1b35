"""Watchers: tells plugins what happens in a run; one that fails is reported and never fails the run."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from framework.catalog import Catalog
from framework.index import Index


class Watchers:
    """The run hooks of every plugin that implements one.

    Args:
        index: says which plugins do, so that no other is imported.
        warn: told when one fails.
    """

    def __init__(self, index: Index, warn: Callable[[str], None]) -> None:
        self._index = index
        self._catalog: Catalog = index.catalog()
        self._warn = warn

    def tell(self, hook: str, **facts: Any) -> None:
        """Calls a run hook in every plugin that implements it, with read-only facts."""
        for plugin in self._index.watching(hook):
            try:
                self._catalog.tell(plugin, hook, MappingProxyType(facts))
            except Exception as error:  # whatever a plugin does wrong, the run goes on
                self._warn(f"plugin {plugin} failed in {hook}: {type(error).__name__}: {error}")
