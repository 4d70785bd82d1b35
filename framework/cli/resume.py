"""`fw resume`: goes on with a run that was stopped."""

from __future__ import annotations

from pathlib import Path

import click

from framework.cli.common import index_of_run, json_option, plugin_options, print_json, refuse_distributed


@click.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
@plugin_options
@json_option
def command(run_dir: Path, files: tuple[str, ...], trusts: bool, as_json: bool) -> None:
    """Go on with a run that was stopped, bit for bit as if it had not been.

    \b
    Example:
      fw resume runs/photos
    """
    refuse_distributed(f"resume {run_dir}")
    index = index_of_run(run_dir, files, trusts)
    from framework.cli.output import chosen_display
    from framework.runs import resume_run

    with chosen_display(as_json) as display:
        summary = resume_run(run_dir, index, display)
    if as_json:
        print_json(summary)
