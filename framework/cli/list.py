"""`fw list`: what there is to choose from, read from the index."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from framework.cli.common import aligned, json_option, open_index, plugin_option, print_json

if TYPE_CHECKING:
    from framework.index import Index

RECIPES = "recipes"


@click.command()
@click.argument("registry", required=False)
@click.option("--filter", "pattern", metavar="GLOB", help="only the names that match, e.g. 'timm/vit_*'")
@plugin_option
@json_option
def command(registry: str | None, pattern: str | None, files: tuple[str, ...], as_json: bool) -> None:
    """List the registries, or the components of one, or the shipped recipes.

    \b
    Example:
      fw list backbones --filter 'timm/*efficientnet*'
      fw list recipes
    """
    rows = _rows(registry, files)
    if pattern is not None:
        rows = [row for row in rows if fnmatchcase(row["name"], pattern)]
        _require_some(rows, registry, pattern)
    if as_json:
        print_json(rows)
        return
    click.echo("\n".join(aligned(_cells(row) for row in rows)))


def _rows(registry: str | None, files: Sequence[str]) -> list[dict[str, Any]]:
    if registry in (RECIPES, "recipe"):
        return _recipes()
    index = open_index(files)
    if registry is None:
        return _registries(index)
    cards = index.cards(_registry_name(registry))
    return [
        {"name": card.name, "doc": card.doc, "plugin": card.plugin}
        | ({"requires": card.requires} if card.requires else {})
        for card in cards
    ]


def _cells(row: dict[str, Any]) -> Sequence[str]:
    if "components" in row:
        return row["name"], f"{row['components']:>5}", row["doc"]
    return row["name"], row["doc"] + (f" [{row['requires']} to use it]" if row.get("requires") else "")


def _registries(index: Index) -> list[dict[str, Any]]:
    from framework.hooks import KINDS

    rows = [
        {"name": kind.registry, "components": len(index.names(kind.registry)), "doc": f"[{kind.table}] in a recipe"}
        for kind in KINDS
    ]
    return [*rows, {"name": RECIPES, "components": len(_recipes()), "doc": "shipped; fw cp NAME mine.toml"}]


def _registry_name(word: str) -> str:
    """The registry that a word means: its own name, or that of its recipe table."""
    from framework.errors import FwError, name_hints
    from framework.hooks import KIND_OF_TABLE, KINDS

    names = [*(kind.registry for kind in KINDS), RECIPES]
    if word in names:
        return word
    if word in KIND_OF_TABLE:
        return KIND_OF_TABLE[word].registry
    raise FwError(f"there is no registry {word!r}", name_hints(word, names, "registries", len(names)))


def _recipes() -> list[dict[str, Any]]:
    from framework.sources import recipes_folder, shipped_recipes

    return [{"name": name, "doc": _comment(recipes_folder() / f"{name}.toml")} for name in shipped_recipes()]


def _comment(recipe: Path) -> str:
    """The comment on a recipe's first line, which says what it is for."""
    first = recipe.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _require_some(rows: Sequence[Any], registry: str | None, pattern: str) -> None:
    if rows:
        return
    from framework.errors import FwError

    where = f"in {registry}" if registry else "among the registries"
    raise FwError(f"no name {where} matches {pattern!r}", "a * stands for anything: --filter '*resnet*'")
