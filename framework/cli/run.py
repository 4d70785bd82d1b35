"""`fw run`: trains a recipe."""

from __future__ import annotations

from pathlib import Path

import click

from framework.cli.common import json_option, open_index, print_json, refuse_distributed, set_option


@click.command()
@click.argument("recipe")
@set_option
@click.option("--out", type=click.Path(path_type=Path), help="the run directory; absent: runs/NAME")
@click.option("--overwrite", is_flag=True, help="replace the run that is in the run directory")
@click.option("--explain", is_flag=True, help="say how the network is divided and what that takes; train nothing")
@json_option
def command(
    recipe: str, overrides: tuple[str, ...], out: Path | None, overwrite: bool, explain: bool, as_json: bool
) -> None:
    """Train a recipe: a path, or the name of a shipped one.

    \b
    Example:
      fw run lite0_frozen --set data.root=photos --out runs/photos
      fw run lite0_frozen --set data.root=photos --explain
    """
    refuse_distributed(f"run {recipe}")
    from framework.recipe import load_recipe

    index = open_index()
    checked = load_recipe(recipe, index, overrides)
    if explain:
        from framework.cli.explained import show_explanation

        show_explanation(checked, index, as_json)
        return
    from framework.cli.output import chosen_display
    from framework.runs import start_run

    with chosen_display(as_json) as display:
        summary = start_run(checked, index, out, overwrite, display)
    if as_json:
        print_json(summary)
