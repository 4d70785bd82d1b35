"""`fw merge`: writes the whole model of a run that kept a delta, or an adapter beside its network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from framework.cli.common import index_of_run, json_option, plugin_options, print_json


@click.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="the file to write [the run's own model]")
@plugin_options
@json_option
def command(run_dir: Path, out: Path | None, files: tuple[str, ...], trusts: bool, as_json: bool) -> None:
    """Write the whole model of a run: what moved with its base, an adapter folded in, and checked.

    \b
    Example:
      fw merge runs/mine
    """
    index = index_of_run(run_dir, files, trusts)
    from framework.trained import merge

    done = merge(run_dir, index, out)
    if as_json:
        print_json(done)
        return
    click.echo(_in_words(done))


def _in_words(done: dict[str, Any]) -> str:
    if done["written"] is None:
        return "nothing to merge: the model is whole"
    said = [f"{done['tensors']} tensors"]
    said += ["its base from the recipe's weights"] if done["delta"] else []
    said += [f"adapter merged, logits within {done['difference']:.1g} of the largest"] if done["merged"] else []
    return f"wrote {done['written']}: {', '.join(said)}"
