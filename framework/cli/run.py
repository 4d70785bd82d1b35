"""`fw run`: trains a recipe."""

from __future__ import annotations

from pathlib import Path

import click

from framework.cli.common import index_for, json_option, plugin_options, print_json, refuse_distributed, set_option


@click.command()
@click.argument("recipe")
@set_option
@click.option("--out", type=click.Path(path_type=Path), help="the run directory; absent: runs/NAME")
@click.option("--overwrite", is_flag=True, help="replace the run that is in the run directory")
@click.option("--explain", is_flag=True, help="say how the network is divided and what that takes; train nothing")
@plugin_options
@json_option
def command(
    recipe: str, overrides: tuple[str, ...], out: Path | None, overwrite: bool, explain: bool, files: tuple[str, ...],
    trusts: bool, as_json: bool,
) -> None:  # fmt: skip
    """Train a recipe: a path, or the name of a shipped one.

    \b
    Example:
      fw run lite0_frozen --set data.root=photos --out runs/photos
      fw run lite0_frozen --set data.root=photos --explain
      fw run mine.toml --plugin ./my_policy.py
    """
    refuse_distributed(f"run {recipe}")
    from framework.recipe import load_recipe

    index = index_for(recipe, overrides, files, trusts)
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
