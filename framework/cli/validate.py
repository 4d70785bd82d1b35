"""`fw validate`: checks a recipe, all problems at once, without running it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from framework.cli.common import open_index, set_option

if TYPE_CHECKING:
    from framework.recipe import Recipe


SHOWN = ("backbone", "freezing", "head", "data", "loss", "optimizer")


@click.command()
@click.argument("recipe")
@set_option
def command(recipe: str, overrides: tuple[str, ...]) -> None:
    """Check a recipe without running it; every problem is shown with its place.

    \b
    Example:
      fw validate mine.toml --set optimizer.lr=0.01
    """
    from framework.recipe import load_recipe

    click.echo(f"ok: {summary_line(load_recipe(recipe, open_index(), overrides))}")


def summary_line(recipe: Recipe) -> str:
    """A recipe in one line: `lite0_frozen: backbone timm/tf_efficientnet_lite0, freezing frozen, ...`."""
    named = [f"{table} {recipe.parts[table].use}" for table in SHOWN]
    epochs = recipe.train.epochs
    return f"{recipe.name}: {', '.join(named)}, {epochs} epoch{'s' if epochs != 1 else ''}, seed {recipe.seed}"
