"""`fw bench`: compares freezing policies, and what is added to them, in accuracy, time and memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from framework.cli.common import open_index, plugin_options, refuse_distributed, say, set_option

if TYPE_CHECKING:
    from framework.bench.arms import Arm
    from framework.bench.outcome import Outcome
    from framework.bench.study import StudyKeys

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="STUDY|RECIPE...")
@click.option("--policies", help="e.g. frozen,'last_stages(n=2)',full or 'frozen+lora(rank=4)'")
@click.option("--seeds", help="0,1,2 or 0-4")
@click.option("--tune", multiple=True, metavar="KEY=SPACE", help="e.g. 'optimizer.lr={log=[1e-4,1]}'; repeatable")
@click.option("--rounds", type=int, help="of timing; from 6 on with intervals")
@click.option("--engines", help="plain (the usual loop), auto, or both")
@click.option("--timed", help="steps, or whole runs")
@click.option("--vary", multiple=True, metavar="KEY", help="recipes may differ in it; repeatable")
@set_option
@plugin_options
@click.option("--out", type=click.Path(path_type=Path), help="the study's folder; absent: runs/NAME")
@click.option("--json", "json_file", type=FILE, help="also write the figures here")
@click.option("--html", "html_file", type=FILE, help="also write the report here")
@click.option("--overwrite", is_flag=True, help="replace the study that is in the folder")
@click.option("--force", is_flag=True, help="compare recipes whatever they differ in")
@click.option("--dry-run", is_flag=True, help="say what would be compared, and run nothing")
def command(
    names: tuple[str, ...], policies: str | None, seeds: str | None, tune: tuple[str, ...], rounds: int | None,
    engines: str | None, timed: str | None, vary: tuple[str, ...], overrides: tuple[str, ...], out: Path | None,
    json_file: Path | None, html_file: Path | None, overwrite: bool, force: bool, dry_run: bool,
    files: tuple[str, ...], trusts: bool,
) -> None:  # fmt: skip
    """Compare freezing policies, and what is added to them, tuned and timed; goes on where it stopped.

    \b
    Example:
      fw bench resnet18_finetune resnet18_frozen
      fw bench lite0_frozen --policies frozen,full --seeds 0-4 --tune 'optimizer.lr=[0.1,0.01]'
    """
    refuse_distributed(f"bench {' '.join(names)}")
    from framework.bench.arms import arms_of, require_comparable
    from framework.bench.combination import policies_from
    from framework.bench.study import ranges_from, read_study, seeds_from

    given: dict[str, Any] = {
        "seeds": None if seeds is None else seeds_from(seeds), "tune": ranges_from(tune),
        "engines": None if engines is None else [name.strip() for name in engines.split(",")],
        "rounds": rounds, "timed": timed, "vary": list(vary),
    }  # fmt: skip
    study = read_study(names, {name: value for name, value in given.items() if value not in (None, [], {})})
    index = open_index(files, study.documents(overrides) if trusts else ())
    if policies is not None:
        study = study.under(policies_from(policies, index))
    arms = arms_of(study, index, overrides)
    if not force:
        require_comparable(arms, study.keys)
    say("\n".join(announcement(study.keys, arms)))
    if not dry_run:
        targets = {"json": json_file, "html": html_file}
        _require_writable([file for file in targets.values() if file is not None])
        _compare(study.keys, arms, out or Path("runs") / study.keys.name, overwrite, targets)


def announcement(keys: StudyKeys, arms: Sequence[Arm]) -> list[str]:
    """What is compared, and in what the recipes differ: a line each, with the ways that have the key."""
    from framework.bench.arms import differences
    from framework.cli.display import counted
    from framework.recipe import AT_MOST_ONE
    from framework.toml_text import toml_value

    trials = len(arms[0].trials) * len(keys.seeds_of_trials)
    tuned = f"{counted(trials, 'trial')} each, " if trials else ""
    lines = [f"{keys.name}: {counted(len(arms), 'way')} of training, {tuned}{counted(len(keys.seeds), 'seed')}, "
             f"{counted(keys.rounds, 'round')} of timing"]  # fmt: skip
    in_names = {f"{table}.use" for table in ("freezing", *AT_MOST_ONE)}
    for key, values in differences(arms, keys.seeds[0]).items():
        if key not in in_names:
            shown = (f"{name}: {toml_value(value)}" for name, value in values.items() if value is not None)
            lines.append(f"  {key:24} {', '.join(shown)}")
    return lines


def _require_writable(files: list[Path]) -> None:
    """
    Raises:
        FwError: a file that is asked for could not be written in the end.
    """
    import os

    from framework.errors import FwError

    for file in files:
        folder = file.absolute().parent
        if not folder.is_dir() or not os.access(file if file.exists() else folder, os.W_OK):
            raise FwError(f"cannot write {file}", f"is there a folder {folder}, and may you write in it?")


def _compare(
    keys: StudyKeys, arms: tuple[Arm, ...], folder: Path, overwrite: bool, targets: dict[str, Path | None]
) -> None:
    from framework.bench.bench import open_study, run_study
    from framework.cli.outcome import Progress, show_outcome
    from framework.errors import Interrupted

    open_study(folder, keys, arms, overwrite)
    progress = Progress(keys, arms)
    try:
        found = run_study(keys, arms, folder, progress)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; what is done lies in {folder}", "the same command goes on", 2) from None

    from framework.bench.outcome import outcome_of

    outcome = outcome_of(keys, *found)
    _write(keys, len(arms[0].trials), outcome, folder, targets)
    show_outcome(outcome)
    say(f"figures in {folder / 'bench.json'} and bench.csv, report in {folder / 'report.html'}")


def _write(keys: StudyKeys, trials: int, outcome: Outcome, folder: Path, targets: dict[str, Path | None]) -> None:
    import json

    from framework.bench.as_json import as_csv, as_json
    from framework.bench.machine import machine, method
    from framework.files import write_text
    from framework.report.study_charts import picture
    from framework.report.study_report import write_study_report

    facts = keys.name, outcome, method(keys, trials), machine()
    document = as_json(*facts)
    for file in (folder / "bench.json", targets["json"]):
        if file is not None:
            write_text(file, json.dumps(document, indent=2) + "\n")
    write_text(folder / "bench.csv", as_csv(outcome))
    if drawn := picture(outcome):
        write_text(folder / "score-against-time.svg", drawn)
    for page in (folder / "report.html", targets["html"]):
        if page is not None:
            write_study_report(page, *facts)
