"""`fw plugins doctor`: what is wrong with a plugin, why, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from framework.cli.common import json_option, print_json, say

if TYPE_CHECKING:
    from framework.doctor import Checkup, Finding
    from framework.index import PluginRecord


@click.command("doctor", short_help="what is wrong with it, and what to do")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@json_option
def command(names: tuple[str, ...], as_json: bool) -> None:
    """Say what is wrong with the plugins, or with some, and what to do; exit code 3 where something is.

    Each is imported in a process of its own, so that one that takes long, or ends the process, is found out.

    \b
    Example:
      fw plugins doctor
      fw plugins doctor my_policy --json
    """
    from framework.doctor import examine, require_well

    checkup = examine(names, say)
    if as_json:
        print_json(_as_json(checkup))
    else:
        for line in _lines(checkup):
            click.echo(line)
    require_well(checkup)


def _as_json(checkup: Checkup) -> dict[str, Any]:
    import attrs

    return {
        "torch_s": round(checkup.trials.torch_s, 3),
        "plugins": [
            {"plugin": name, "distribution": record.source.distribution, "version": record.source.version,
             "import_s": _seconds(checkup, record)}
            for name in checkup.names for record in checkup.records(name)
        ],
        "findings": [attrs.asdict(finding) for finding in checkup.findings],
    }  # fmt: skip


def _seconds(checkup: Checkup, record: PluginRecord) -> float | None:
    """How long the plugin took to import; None where it cannot be."""
    trial = checkup.trials.of.get(record.source.label)
    return None if trial is None or trial.fault else round(trial.seconds, 3)


def _lines(checkup: Checkup) -> Iterator[str]:
    for name in checkup.names:
        findings = checkup.of(name)
        for record in checkup.records(name):
            yield _head(record, _seconds(checkup, record), any(finding.grave for finding in findings))
        for finding in findings:
            yield from _paragraph(finding)
    yield f"import torch: {checkup.trials.torch_s:.2f} s"


def _head(record: PluginRecord, seconds: float | None, is_ill: bool) -> str:
    words = ["" if is_ill else "well", "" if seconds is None else f"imported in {seconds:.2f} s"]
    said = ", ".join(word for word in words if word)
    return f"{record.source.label}{': ' if said else ''}{said}"


def _paragraph(finding: Finding) -> Iterator[str]:
    yield f"  {'fault' if finding.grave else 'note'}: {finding.what}"
    yield f"    {finding.why}"
    yield from (f"    help: {text}" for text in finding.mend)
