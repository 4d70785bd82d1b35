"""`fw cp`: a shipped recipe as a file of one's own."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("name")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="replace the file that is there")
def command(name: str, target: Path, force: bool) -> None:
    """Copy a shipped recipe to a file or folder, to change it there.

    \b
    Example:
      fw cp lite0_frozen mine.toml
    """
    from framework.errors import FwError, name_hints
    from framework.sources import recipes_folder, shipped_recipes

    shipped = shipped_recipes()
    if name not in shipped:
        raise FwError(f"no shipped recipe is called {name!r}", name_hints(name, shipped, "recipes"))
    file = target / f"{name}.toml" if target.is_dir() else target
    if file.exists() and not force:
        raise FwError(f"{file} is there already", "choose another name, or replace it with --force")
    if not file.parent.is_dir():
        raise FwError(f"there is no folder {file.parent}")
    file.write_bytes((recipes_folder() / f"{name}.toml").read_bytes())
    click.echo(f"wrote {file}; try it: fw validate {file}")
