"""`fw compare`: what became slower or larger between two studies, beyond noise."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from framework.cli.common import json_option, print_json, say

if TYPE_CHECKING:
    from rich.table import Table

    from framework.bench.compare import Change, Comparison

_WIDTH_OF_A_PIPE = 160
_STYLES = {"worse": "bold red", "better": "green", "same": "", "unclear": "yellow", "undecided": "yellow"}


def _share(context: click.Context, parameter: click.Parameter, value: str) -> float:
    """`5%` as 0.05. A bare number is refused: it could be meant either way."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *%", value.strip())
    if match is None:
        raise click.BadParameter(f"{value!r} is no percentage such as 5%", context, parameter)
    return float(match[1]) / 100


@click.command()
@click.argument("before", type=click.Path(path_type=Path), metavar="BEFORE.json")
@click.argument("after", type=click.Path(path_type=Path), metavar="AFTER.json")
@click.option("--fail-above", default="5%", show_default=True, callback=_share, metavar="PERCENT",
              help="how much a cost may grow; the noise of the two files, where that is larger")  # fmt: skip
@json_option
def command(before: Path, after: Path, fail_above: float, as_json: bool) -> None:
    """Compare the figures of two studies; exit code 3 where a cell became slower or larger
    beyond noise, or failed.

    Both files are from `fw bench --json`. Verdicts need 6 rounds on either side: with fewer nothing is decided.

    \b
    Example:
      fw compare before.json after.json --fail-above 10%
    """
    from framework.bench.caveats import warnings_of
    from framework.bench.compare import compare, comparison_json, require_no_worse
    from framework.bench.figures import read_figures

    found = compare(read_figures(before), read_figures(after), fail_above)
    for text in warnings_of(found):
        say(f"warning: {text}")
    if as_json:
        print_json({**comparison_json(found), **_notes(found)})
    else:
        _show(found)
    require_no_worse(found)


def _notes(found: Comparison) -> dict[str, list[str]]:
    from framework.bench.caveats import remarks_of, warnings_of

    return {"warnings": list(warnings_of(found)), "remarks": list(remarks_of(found))}


def _show(found: Comparison) -> None:
    """Prints the table, what stands beside it, and the verdict; that something is worse is an error's to say."""
    import sys

    from rich.console import Console

    from framework.bench.compare import conclusion

    console = Console(width=None if sys.stdout.isatty() else _WIDTH_OF_A_PIPE, highlight=False)
    console.print(_table(found))
    console.print()
    for line in (*_lines(found), *([] if found.verdict == "worse" else [conclusion(found)])):
        console.print(line, markup=False, soft_wrap=True)


def _table(found: Comparison) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("cell", "cost", box=None, header_style="bold", pad_edge=False)
    for title in ("before", "after", "ratio", *(("beside the baseline",) if found.baseline else ()), "verdict"):
        table.add_column(title, justify="right")
    for change in found.changes:
        *cells, verdict = _cells(change, has_baseline=found.baseline is not None)
        table.add_row(Text(found.label(change.key)), *map(Text, cells), Text(verdict, _STYLES[change.verdict]))
    return table


def _cells(change: Change, has_baseline: bool) -> list[str]:
    from framework.cli.outcome import ratio_in_words

    costs = [_in_words(change.cost, value) for value in (change.before, change.after)]
    beside = [ratio_in_words(change.beside)] if has_baseline else []
    return [change.cost, *costs, ratio_in_words(change.ratio), *beside, change.words]


def _in_words(cost: str, value: float) -> str:
    from framework.cli.outcome import seconds_in_words

    if cost == "memory":
        return f"{value:.0f} MB"
    return seconds_in_words(value) if value >= 1e-3 else f"{1e6 * value:.1f} us"


def _lines(found: Comparison) -> Iterator[str]:
    from framework.bench.caveats import remarks_of

    costs = dict.fromkeys(change.cost for change in found.changes)
    yield f"worse: an interval above 1.00x, and a ratio above {', '.join(_limit(found, cost) for cost in costs)}"
    for key, why in found.left_out.items():
        yield f"{found.label(key)}: {why}"
    yield from remarks_of(found)


def _limit(found: Comparison, cost: str) -> str:
    noise = max(of.noise.get(cost, 0.0) for of in (found.before, found.after))
    why = " (noise)" if noise == found.margins[cost] else ""
    return f"{1 + found.margins[cost]:.3g}x in {cost}{why}"
