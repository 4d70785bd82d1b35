"""`fw show`: a component's keys, or a recipe with every default filled in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from framework.cli.common import aligned, index_for, plugin_options, set_option

if TYPE_CHECKING:
    import attrs

    from framework.index import Card, Index


@click.command()
@click.argument("name", metavar="COMPONENT|RECIPE")
@click.option("--layout", is_flag=True, help="a recipe's network: stages, what trains, norm layers, computation")
@set_option
@plugin_options
def command(name: str, layout: bool, overrides: tuple[str, ...], files: tuple[str, ...], trusts: bool) -> None:
    """Show a component with its keys and a table to paste, or a recipe with every default filled in.

    \b
    Example:
      fw show last_stages
      fw show resnet18_frozen --layout
    """
    index = index_for(name, overrides, files, trusts)
    cards = [] if layout or overrides or Path(name).is_file() else _cards(index, name)
    if cards:
        click.echo("\n\n".join("\n".join(component_lines(card, index)) for card in cards))
    else:
        _show_recipe(name, layout, overrides, index)


def _cards(index: Index, name: str) -> list[Card]:
    from framework.hooks import KINDS

    found = (index.find(kind.registry, name) for kind in KINDS)
    return [card for card in found if card is not None]


def _show_recipe(name: str, layout: bool, overrides: Sequence[str], index: Index) -> None:
    from framework.recipe import load_recipe

    if not (layout or overrides):
        _require_known(name, index)
    recipe = load_recipe(name, index, overrides)
    if not layout:
        click.echo(recipe.to_toml().rstrip())
        return
    from framework.assemble import describe_layout

    click.echo("\n".join(layout_lines(describe_layout(recipe, index))))


def _require_known(name: str, index: Index) -> None:
    """
    Raises:
        FwError: neither a component nor a recipe is called so, with near names of both.
    """
    from framework.errors import FwError, did_you_mean
    from framework.hooks import KINDS
    from framework.sources import find_recipe, shipped_recipes

    try:
        find_recipe(name)
    except FwError:
        known = [*shipped_recipes(), *(other for kind in KINDS for other in index.names(kind.registry))]
        hints = (did_you_mean(name, known), "`fw list` shows the registries, `fw list recipes` the recipes")
        raise FwError(f"no component and no recipe is called {name!r}", hints) from None


def component_lines(card: Card, index: Index) -> Iterator[str]:
    """Everything about one component, for people."""
    from framework.cli.snippet import snippet
    from framework.component import config_fields
    from framework.hooks import KIND_OF_REGISTRY
    from framework.tables import core_keys

    kind = KIND_OF_REGISTRY[card.registry]
    label = next(record.source.label for record in index.plugins if record.source.name == card.plugin)
    yield f"{card.name}: {kind.noun}"
    yield from (f"  {text}" for text in (card.doc, f"from {label}", card.place) if text)
    if card.requires:
        yield f"  {card.requires} to use it"
    own, core = config_fields(card.shape), config_fields(core_keys(kind.table))
    for title, fields in (("keys", own), (f"keys of every [{kind.table}]", core)):
        if fields:
            yield from ("", title, *(f"  {line}" for line in aligned(map(_key_cells, fields))))
    for key, names in card.choices.items():
        yield from ("", f"{key} known", f"  {', '.join(names) or 'none'}")
    yield from ("", "in a recipe", *(f"  {line}" for line in snippet(card, kind.table)))


def _key_cells(field: attrs.Attribute[Any]) -> tuple[str, ...]:
    from framework.shapes import describe

    doc, accepts = field.metadata.get("doc", ""), describe(field.type)
    return field.name, _default(field), f"{doc} ({accepts})" if doc else accepts


def _default(field: attrs.Attribute[Any]) -> str:
    import attrs

    from framework.shapes import default_of, to_plain
    from framework.toml_text import toml_value

    value = default_of(field)
    if value is attrs.NOTHING:
        return "required"
    return "absent" if value is None else f"= {toml_value(to_plain(value))}"


def layout_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The stages of a network as an aligned table with a line of totals."""
    total, trainable = (sum(row[name] for row in rows) for name in ("parameters", "trainable"))
    table = [("stage", "", "parameters", "trainable", "computation", "norm layers")]
    table += [
        (row["stage"], row["role"] if row["role"] not in ("stage", row["stage"]) else "", f"{row['parameters']:>10,}",
         _share(row["trainable"], row["parameters"]), f"{row['flops_share']:>10.1%}", row["norm"] or "")
        for row in rows
    ]  # fmt: skip
    return aligned([*table, ("total", "", f"{total:>10,}", _share(trainable, total), f"{1:>10.1%}", "")])


def _share(part: int, whole: int) -> str:
    if not part:
        return "frozen"
    return "all" if part == whole else f"{part:,}"
