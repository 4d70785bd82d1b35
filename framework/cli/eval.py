"""`fw eval`: scores a run's model again."""

from __future__ import annotations

from pathlib import Path

import click

from framework.cli.common import index_of_run, json_option, plugin_options, print_json, set_option

OPEN_TABLES = ("data", "engine")


@click.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
@set_option
@plugin_options
@json_option
def command(run_dir: Path, overrides: tuple[str, ...], files: tuple[str, ...], trusts: bool, as_json: bool) -> None:
    """Score the model of a finished run again, on its own data or on other data with the same classes.

    \b
    Example:
      fw eval runs/photos --set data.root=new_photos
    """
    _only_data(overrides)
    index = index_of_run(run_dir, files, trusts)
    from framework.cli.display import metric_lines
    from framework.trained import evaluate

    summary = evaluate(run_dir, index, overrides)
    if as_json:
        print_json(summary)
        return
    for line in metric_lines(summary.get("metrics", {})):
        click.echo(line)


def _only_data(overrides: tuple[str, ...]) -> None:
    for override in overrides:
        if override.partition("=")[0].partition(".")[0].strip() not in OPEN_TABLES:
            from framework.errors import FwError

            raise FwError(f"--set {override}: the model is trained, only its data and engine can change",
                          "for instance: --set data.root=new_photos")  # fmt: skip
