"""`fw validate`: checks a recipe or a study, all problems at once, without running it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from framework.cli.common import open_index, plugin_options, set_option

if TYPE_CHECKING:
    from framework.recipe import Recipe

SHOWN = ("backbone", "adapter", "freezing", "head", "data", "loss", "regularizer", "optimizer", "finisher")


@click.command()
@click.argument("recipe", metavar="RECIPE|STUDY")
@set_option
@plugin_options
def command(recipe: str, overrides: tuple[str, ...], files: tuple[str, ...], trusts: bool) -> None:
    """Check a recipe, or a study, without running it; every problem is shown with its place.

    \b
    Example:
      fw validate mine.toml --set optimizer.lr=0.01
    """
    from framework.recipe import is_study, load_recipe
    from framework.sources import find_recipe, read_document

    document = read_document(find_recipe(recipe))
    if is_study(document):
        click.echo("ok: " + "\n".join(_study_lines(recipe, overrides, files, trusts)))
    else:
        index = open_index(files, [document] if trusts else [])
        click.echo(f"ok: {summary_line(load_recipe(recipe, index, overrides))}")


def _study_lines(study: str, overrides: Sequence[str], files: Sequence[str], trusts: bool) -> list[str]:
    """What a study would compare."""
    from framework.bench.arms import arms_of, require_comparable
    from framework.bench.study import read_study
    from framework.cli.bench import announcement

    found = read_study([study], {})
    index = open_index(files, found.documents(overrides) if trusts else ())
    arms = arms_of(found, index, overrides)
    require_comparable(arms, found.keys)
    return announcement(found.keys, arms)


def summary_line(recipe: Recipe) -> str:
    """A recipe in one line: `lite0_frozen: backbone timm/tf_efficientnet_lite0, freezing frozen, ...`."""
    named = [f"{table} {recipe.parts[table].use}" for table in SHOWN if table in recipe.parts]
    epochs = recipe.train.epochs
    return f"{recipe.name}: {', '.join(named)}, {epochs} epoch{'s' if epochs != 1 else ''}, seed {recipe.seed}"
