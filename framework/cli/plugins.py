"""`fw plugins`: what is installed, where it lies, and whether it works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from framework.cli.common import aligned, json_option, print_json, say

if TYPE_CHECKING:
    from framework.index import PluginRecord


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Show every installed plugin, and what is wrong with those that do not work.

    \b
    Example:
      fw plugins
    """
    from framework.index import installed_index

    index = installed_index(say)
    rows = [_row(record) for record in index.plugins]
    clashes = [clash.message for clash in index.clashes()]
    if as_json:
        print_json({"plugins": rows, "clashes": clashes})
        return
    for line in _lines(rows):
        click.echo(line)
    for clash in clashes:
        click.echo(f"clash: {clash}")


def _row(record: PluginRecord) -> dict[str, Any]:
    from framework.index import plugin_file

    source = record.source
    return {
        "plugin": source.name,
        "distribution": source.distribution,
        "version": source.version,
        "components": len(record.cards),
        "place": str(plugin_file(source) or source.module),
        "status": "broken" if record.fault else "ok",
        "reason": record.fault,
    }


def _lines(rows: list[dict[str, Any]]) -> list[str]:
    table = [("plugin", "distribution", "components", "status", "place")]
    table += [
        (row["plugin"], f"{row['distribution']} {row['version']}", f"{row['components']:>10}", row["status"],
         row["place"])
        for row in rows
    ]  # fmt: skip
    header, *lines = aligned(table)
    found = [header]
    for line, row in zip(lines, rows, strict=True):
        found.append(line)
        if row["reason"]:
            found.append(f"  {row['reason']}")
    return found
