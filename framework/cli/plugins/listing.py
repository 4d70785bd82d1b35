"""`fw plugins list`: what is installed, where it lies, and whether it works."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from framework.cli.common import aligned, json_option, print_json, say

if TYPE_CHECKING:
    from framework.index import PluginRecord

OK, BROKEN, STOPS = "ok", "broken", "stops all"


@click.command("list", short_help="what is installed, and whether it works")
@json_option
def command(as_json: bool) -> None:
    """Show every installed plugin, and what is wrong with those that do not work.

    One that is broken is left out; one that stops all has a misspelt hook, or a component whose name another has, too.

    \b
    Example:
      fw plugins
    """
    from framework.index import installed_index

    index = installed_index(say)
    clashes = [clash.message for clash in index.clashes()]
    rows = [_row(record, clashes) for record in index.plugins]
    if as_json:
        print_json({"plugins": rows, "clashes": clashes})
        return
    for line in (*_lines(rows), *(f"clash: {clash}" for clash in clashes)):
        click.echo(line)
    if any(row["status"] != OK for row in rows):
        click.echo("fw plugins doctor says what to do")


def _row(record: PluginRecord, clashes: Sequence[str]) -> dict[str, Any]:
    from framework.index import plugin_file

    source = record.source
    return {
        "plugin": source.name,
        "distribution": source.distribution,
        "version": source.version,
        "components": len(record.cards),
        "place": str(plugin_file(source) or source.module),
        "status": _status(record, clashes),
        "reason": record.fault,
    }


def _status(record: PluginRecord, clashes: Sequence[str]) -> str:
    """Whether a plugin works, is left out, or stops every command until it is mended."""
    if record.fatal is not None or any(record.source.label in clash for clash in clashes):
        return STOPS
    return BROKEN if record.fault else OK


def _lines(rows: list[dict[str, Any]]) -> list[str]:
    titles = ("plugin", "distribution", "version", "components", "status", "place")
    table = [tuple(f"{row[title]:>10}" if title == "components" else row[title] for title in titles) for row in rows]
    header, *lines = aligned([titles, *table])
    found = [header]
    for line, row in zip(lines, rows, strict=True):
        found.append(line)
        if row["reason"]:
            found.append(f"  {row['reason']}")
    return found
