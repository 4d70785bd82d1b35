"""Case: one component of a plugin under one check, and what checks ask of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import attrs
import pytest

from framework.builder import make_config
from framework.catalog import LoadedPlugin, PluginSource
from framework.component import Component, recipe_fields
from framework.hooks import Kind
from framework.index import Card, Index, installed_index
from framework.shapes import to_plain
from framework.testing.samples import sample_of

Keys = Mapping[str, Any] | Callable[[Path], Mapping[str, Any]]
"""Keys of a component, or what makes them from an empty folder."""


@attrs.frozen(eq=False)
class Case:
    """One component, and a folder to work in.

    Attributes:
        plugin: that brings it.
        kind: of which registry it is; None: the plugin itself, with its run hooks.
        component: as the plugin's hook yields it; None for the plugin itself.
        given: keys that the author sets, for those that have no default or a poor one.
        folder: empty.
    """

    plugin: LoadedPlugin
    kind: Kind | None
    component: Component | None
    given: Keys
    folder: Path

    @property
    def the(self) -> Component:
        """The component; asked by checks that are run on components alone."""
        assert self.component is not None
        return self.component

    @property
    def name(self) -> str:
        """The component's name, or the plugin's."""
        return self.component.name if self.component else self.plugin.source.name

    def keys(self, **keys: Any) -> dict[str, Any]:
        """Plain values for every key that has no default, those that the author gives, and `keys` above them.

        Raises:
            AssertionError: a key without a default takes what cannot be guessed.
        """
        given = self.given(self.folder) if callable(self.given) else self.given
        known: dict[str, Any] = {**to_plain(dict(given)), **keys}
        needed = [field for field in recipe_fields(self.the) if field.default is attrs.NOTHING]
        return {**{field.name: sample_of(field, self.name) for field in needed if field.name not in known}, **known}

    def config(self, **keys: Any) -> Any:
        """The config object that a recipe with these keys makes; skips where something must be installed to use it."""
        assert self.kind is not None
        if self.the.requires:
            pytest.skip(f"{self.name} cannot be used here: {self.the.requires}")
        return make_config(self.the, self.keys(**keys), self.kind.table)

    def table(self, **keys: Any) -> dict[str, Any]:
        """The component as a recipe's table."""
        return {"use": self.name, **self.keys(**keys)}

    def index(self) -> Index:
        """What is installed, and the plugin with it; no other plugin watches its runs."""
        return index_with(self.plugin.source)

    def card(self) -> Card:
        """What the index knows of the component."""
        assert self.kind is not None
        card = self.index().find(self.kind.registry, self.name)
        assert card is not None, f"the index knows no {self.kind.noun} called {self.name!r}"
        return card


@lru_cache(maxsize=2)
def index_with(source: PluginSource) -> Index:
    """What is installed, and one plugin with it, whether it is installed or not; it alone watches runs."""
    index = installed_index().including([source])
    records = (record if record.source.module == source.module else attrs.evolve(record, run_hooks=frozenset())
               for record in index.plugins)  # fmt: skip
    return attrs.evolve(index, plugins=tuple(records))


@attrs.frozen(eq=False)
class Check:
    """Something that every component of a kind must hold.

    Attributes:
        name: of its id.
        doc: what must hold, in a sentence.
        run: raises AssertionError where it does not hold, and skips where it does not apply.
    """

    name: str
    doc: str
    run: Callable[[Case], None]


def check(function: Callable[[Case], None]) -> Check:
    """A check from a function whose docstring is the sentence that must hold."""
    doc = inspect.getdoc(function) or ""
    return Check(function.__name__, doc.partition("\n")[0], function)
