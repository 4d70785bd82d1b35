"""Common: the options that several commands share, and how they open the index and print."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pathlib import Path

    from framework.index import Index
    from framework.sources import Document

SIZES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}

set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="change one key, e.g. optimizer.lr=0.01; repeatable"
)
json_option = click.option("--json", "as_json", is_flag=True, help="standard output holds JSON and nothing else")

plugin_option = click.option(
    "--plugin", "files", multiple=True, metavar="FILE", help="use a plugin in a file of yours; repeatable"
)
_trust_option = click.option(
    "--allow-local-plugins", "trusts", is_flag=True, help="run the plugin files that the recipe names"
)


def plugin_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options by which a command uses plugins that are not installed: `files` and `trusts`."""
    return plugin_option(_trust_option(command))


def say(text: str = "") -> None:
    """A line on standard error, which is for people, whatever standard output is for."""
    print(text, file=sys.stderr, flush=True)


def open_index(files: Iterable[str] = (), trusted: Iterable[Document] = ()) -> Index:
    """The index of the installed plugins; a line warns of each one that is broken.

    Args:
        files: plugins that are no installed packages.
        trusted: recipes whose plugin files may be run.

    Raises:
        FwError: two plugins with one name; a misspelt hook; a file that is no plugin, or is broken.
    """
    from framework.index import installed_index

    index = installed_index(say).including_files(files)
    for document in trusted:
        from framework.recipe import plugin_files

        index = index.including_files(plugin_files(document))
    index.require_sound()
    for record in index.broken:
        say(f"warning: plugin {record.source.label} is broken and left out: {' '.join(record.fault.split())}")
    return index


def index_for(recipe: str, overrides: Sequence[str], files: Iterable[str], trusts: bool) -> Index:
    """The index that a command reads a recipe with.

    Args:
        recipe, overrides: as `load_recipe` takes them.
        files, trusts: of `plugin_options`.

    Raises:
        FwError: what `open_index` raises; there is no such recipe.
    """
    if not trusts:
        return open_index(files)
    from framework.sources import find_recipe, read_document

    return open_index(files, [read_document(find_recipe(recipe), overrides)])


def index_of_run(run_dir: Path, files: Iterable[str], trusts: bool) -> Index:
    """The index that a command reads a run's recipe with.

    Args:
        run_dir: where there may be none, which is complained of elsewhere.
        files, trusts: of `plugin_options`.

    Raises:
        FwError: what `open_index` raises.
    """
    from framework.rundir import RECIPE

    recipe = run_dir / RECIPE
    return index_for(str(recipe), (), files, trusts and recipe.is_file())


def refuse_distributed(action: str) -> None:
    """
    Raises:
        FwError: the process is one of several that a launcher started.
    """
    ranks = os.environ.get("WORLD_SIZE", "1")
    if ranks.isdecimal() and int(ranks) > 1:
        from framework.errors import FwError

        rank = os.environ.get("RANK", "?")
        raise FwError(
            f"this is process {rank} of {ranks} of a distributed launch (WORLD_SIZE={ranks}), "
            "but a run uses one process and one device",
            f"start it without a launcher: fw {action}",
        )


def print_json(value: Any) -> None:
    """A JSON document on standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def aligned(rows: Iterable[Sequence[str]], gap: str = "  ") -> list[str]:
    """Rows of cells as lines with aligned columns; the last column runs on."""
    cells = [[str(cell) for cell in row] for row in rows]
    columns = max((len(row) for row in cells), default=0)
    widths = [max((len(row[i]) for row in cells if i < len(row) - 1), default=0) for i in range(columns)]
    return [
        gap.join([*(cell.ljust(widths[i]) for i, cell in enumerate(row[:-1])), *row[-1:]]).rstrip() for row in cells
    ]


def size_text(size: float) -> str:
    """Bytes in three digits: `125 KB`, `1.2 GB`."""
    unit = next((unit for unit, bytes_ in SIZES.items() if size < 999.5 * bytes_), "TB")
    number = size / SIZES[unit]
    return f"{number:.1f} {unit}" if number < 9.95 and unit != "B" else f"{number:.0f} {unit}"
