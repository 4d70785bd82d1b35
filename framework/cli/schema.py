"""`fw schema`: recipes and studies as JSON Schema, for editors."""

from __future__ import annotations

import json
from pathlib import Path

import click

from framework.cli.common import open_index, plugin_option


@click.command()
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="write it here; absent: standard output")
@plugin_option
def command(out: Path | None, files: tuple[str, ...]) -> None:
    """Print the JSON Schema of recipes and studies, by which an editor completes and checks them.

    It knows what is installed now. In VS Code with Even Better TOML, and wherever taplo serves, the first line of a
    recipe names it:  #:schema ./fw.schema.json

    \b
    Example:
      fw schema --out fw.schema.json
    """
    from framework.schema import schema_of

    text = json.dumps(schema_of(open_index(files)))  # on one line: with indentation it is more than twice as long
    if out is None:
        click.echo(text)
        return
    from framework.files import write_text

    write_text(out, f"{text}\n")
    click.echo(f"wrote {out}; the first line of a recipe beside it: #:schema ./{out.name}")
