"""`fw plugins new`: a plugin to begin with, as a project that installs and passes its own tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from framework.cli.common import aligned, say

if TYPE_CHECKING:
    from framework.scaffold import Project


class NewCommand(click.Command):
    """A command whose help ends with the kinds of plugins."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each kind with where a recipe names it."""
        from framework.scaffold import KIND_OF_WORD

        places = {word: f"[{kind.table}] in a recipe" if kind else "a run" for word, kind in KIND_OF_WORD.items()}
        with formatter.section("Kinds"):
            formatter.write_dl(list(places.items()))


@click.command("new", cls=NewCommand, short_help="a plugin to begin with, which works as it is")
@click.argument("name")
@click.option("--kind", "word", required=True, metavar="KIND", help="what it brings; the kinds stand below")
@click.option("--into", type=click.Path(path_type=Path), default=Path(), metavar="FOLDER",
              help="where to write NAME/; absent: here")  # fmt: skip
def command(name: str, word: str, into: Path) -> None:
    """Write a small plugin that works: module, test, recipe and entry point, in a new folder NAME.

    \b
    Example:
      fw plugins new my_policy --kind freezing_policy
    """
    from framework.index import installed_index
    from framework.scaffold import new_project, require_free, write_project

    project, folder = new_project(name, word), into / name
    require_free(project, folder, installed_index(say))
    files = project.files()
    write_project(folder, files)
    click.echo("\n".join(_lines(project, folder, list(files))))


def _lines(project: Project, folder: Path, files: list[str]) -> Iterator[str]:
    """What was written, and what to type next."""
    from shlex import quote

    yield f"wrote {folder}: {', '.join(files)}"
    yield "next:"
    enter = (f"cd {quote(str(folder))}", f"{project.name}.py is the plugin: change it until it is your idea")
    yield from (f"  {line}" for line in aligned((typed, f"# {what}") for typed, what in (enter, *project.commands)))
