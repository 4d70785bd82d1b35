"""Watchers: tells plugins what happens in a run; one that fails is reported and never fails the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

from framework.catalog import Catalog
from framework.index import Index


class Watchers:
    """The run hooks of every plugin that implements one.

    Args:
        index: says which plugins do, so that no other is imported.
        warn: told when one fails.
        folder: the run directory, which is among the facts of every hook.
    """

    def __init__(self, index: Index, warn: Callable[[str], None], folder: Path) -> None:
        self._index = index
        self._run_dir = str(folder)
        self._catalog: Catalog = index.catalog()
        self._warn = warn

    def tell(self, hook: str, **facts: Any) -> None:
        """Calls a run hook in every plugin that implements it, with read-only facts."""
        known = MappingProxyType({"run_dir": self._run_dir, **facts})
        for plugin in self._index.watching(hook):
            try:
                self._catalog.tell(plugin, hook, known)
            except (Exception, SystemExit) as error:  # whatever a plugin does wrong, the run goes on
                self._warn(f"plugin {plugin} failed in {hook}: {type(error).__name__}: {error}")
