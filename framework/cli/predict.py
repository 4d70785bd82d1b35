"""`fw predict`: what a run's model says of images."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from framework.cli.common import aligned, index_of_run, plugin_options, say

Row = Mapping[str, Any]


@click.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", help="a CSV file with a probability per class; - is standard output")
@plugin_options
def command(run_dir: Path, images: tuple[Path, ...], output: str | None, files: tuple[str, ...], trusts: bool) -> None:
    """Predict the class of images, or of every image in a folder.

    \b
    Example:
      fw predict runs/photos holiday/*.jpg -o predictions.csv
    """
    index = index_of_run(run_dir, files, trusts)
    from framework.trained import predict

    rows = predict(run_dir, index, images)
    _write(rows, output)
    _report_unread(rows)


def _write(rows: Sequence[Row], output: str | None) -> None:
    if output is None:
        for line in aligned(_words(row) for row in rows):
            click.echo(line)
        return
    text = _as_csv(rows)
    if output == "-":
        click.echo(text, nl=False)
        return
    from framework.files import write_text

    write_text(Path(output), text)
    say(f"wrote {output}: {len(rows)} image{'s' if len(rows) != 1 else ''}")


def _words(row: Row) -> tuple[str, ...]:
    if "error" in row:
        return str(row["image"]), "unreadable", str(row["error"])
    likeliest = max(float(value) for name, value in row.items() if name.startswith("p_"))
    return str(row["image"]), str(row["predicted"]), f"{likeliest:.3f}"


def _as_csv(rows: Sequence[Row]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _report_unread(rows: Sequence[Row]) -> None:
    unread = [row for row in rows if "error" in row]
    if unread and len(unread) == len(rows):
        from framework.errors import FwError

        raise FwError(f"none of the images could be read; {unread[0]['image']}: {unread[0]['error']}")
    if unread:
        say(f"warning: {len(unread)} of {len(rows)} images could not be read")
