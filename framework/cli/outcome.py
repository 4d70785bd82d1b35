"""Outcome: a study's progress and figures, for people at a terminal."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from framework.cli.common import say
from framework.cli.display import counted

if TYPE_CHECKING:
    from framework.bench.arms import Arm
    from framework.bench.laps import Lap
    from framework.bench.outcome import Outcome, Scores
    from framework.bench.rows import Row
    from framework.bench.statistics import Estimate
    from framework.bench.study import StudyKeys
    from framework.bench.trained import Trained

_WIDTH_OF_A_PIPE = 160


class Progress:
    """Tells of every run and lap, and how many there are."""

    def __init__(self, keys: StudyKeys, arms: Sequence[Arm]) -> None:
        self.done = {"trial": 0, "final": 0, "lap": 0}
        cells = len(arms) * len(keys.engines) + len(keys.others)
        self.total = {
            "trial": len(arms) * len(arms[0].trials) * len(keys.seeds_of_trials),
            "final": len(arms) * len(keys.seeds), "lap": keys.rounds * (cells + 1),
        }  # fmt: skip

    def note(self, text: str) -> None:
        """Something that is no result."""
        say(text)

    def run(self, kind: str, run: Trained) -> None:
        """A `trial` or `final` has ended."""
        settings = "".join(f", {key} {value}" for key, value in run.job.settings.items())
        self._say(kind, f"{run.job.arm.name}, seed {run.job.seed}{settings}: {_ended(run)}")

    def lap(self, lap: Lap) -> None:
        """A cell was timed."""
        image_s = lap.facts.get("image_s")
        took = f"{1000 * statistics.median(image_s):.3g} ms an image" if image_s else f"{lap.seconds:.1f} s"
        self._say("lap", f"{lap.cell}: {f'failed: {lap.reason}' if lap.reason else took}")

    def _say(self, kind: str, text: str) -> None:
        self.done[kind] += 1
        say(f"[{kind} {self.done[kind]}/{self.total[kind]}] {text}")


def _ended(run: Trained) -> str:
    if run.reason:
        return f"failed: {run.reason}"
    shown = {
        "val": run.score("val"),
        **({"test": run.score("test")} if not run.job.folder.match("*/trials/*/*") else {}),
    }
    return ", ".join(f"{split} {run.metric} {score:.4f}" for split, score in shown.items() if score is not None)


def show_outcome(outcome: Outcome) -> None:
    """Prints the tables, what may be said of them, and the noise of the machine."""
    import sys

    from rich.console import Console

    from framework.bench.outcome import SHARED_SETTINGS

    console = Console(width=None if sys.stdout.isatty() else _WIDTH_OF_A_PIPE, highlight=False)
    for table in (_scores_table(outcome), _costs_table(outcome)):
        console.print()
        console.print(table)
    console.print()
    if not outcome.is_tuned:
        console.print(SHARED_SETTINGS, markup=False)
    for line in (*_remarks(outcome), *_noise(outcome)):
        console.print(line, markup=False, soft_wrap=True)


def _scores_table(outcome: Outcome) -> object:
    from rich.table import Table

    table = Table("policy", box=None, header_style="bold", pad_edge=False)
    for title in (*_settings_of(outcome), f"{outcome.split} {outcome.metric}", "difference", "verdict"):
        table.add_column(title, justify="right")
    for one in outcome.scores:
        found = list(one.each.get(outcome.split, {}).values())
        score = f"{statistics.fmean(found):.4f} ({_spread(found)})" if found else "failed"
        chosen = [f"{value:g}" if isinstance(value, float) else str(value) for value in one.settings.values()]
        table.add_row(one.arm, *chosen, score, difference_in_words(one.difference), one.verdict or "")
    return table


def _settings_of(outcome: Outcome) -> list[str]:
    return [key.partition(".")[2] or key for key in outcome.scores[0].settings]


def _spread(values: Sequence[float]) -> str:
    return f"{min(values):.4f} to {max(values):.4f}, n={len(values)}" if len(values) > 1 else "n=1"


def _costs_table(outcome: Outcome) -> object:
    from rich.table import Table

    titles = ("trains", "step", "the pass", "epoch", "to the end", "policy", "engine", "repaid", "memory", "policy")
    table = Table("cell", box=None, header_style="bold", pad_edge=False)
    for title in titles:
        table.add_column(title, justify="right")
    for row in outcome.rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> tuple[str, ...]:
    costs, params = row.median, row.facts.get("params") or {}
    if costs is None:
        return row.cell.name, "", "failed"
    return (
        row.cell.name,
        f"{params['trainable'] / params['total']:.1%}" if params.get("total") else "",
        seconds_in_words(costs.step_s), seconds_in_words(costs.features_s), seconds_in_words(costs.epoch_s),
        seconds_in_words(costs.total_s), ratio_in_words(row.policy_ratio), ratio_in_words(row.engine_ratio),
        f"epoch {row.repaid}" if row.repaid else "", f"{costs.peak_mb:.0f} MB", ratio_in_words(row.policy_memory),
    )  # fmt: skip


def seconds_in_words(value: float | None) -> str:
    """`12.3 s`, `4.5 ms`; nothing where it is not known."""
    if value is None:
        return ""
    return f"{value:.1f} s" if value >= 1 else f"{1000 * value:.1f} ms" if value else "-"


def ratio_in_words(estimate: Estimate | None) -> str:
    """`0.52x [0.50, 0.55]`; with too few rounds for an interval their number."""
    if estimate is None:
        return ""
    if estimate.low is None:
        return f"{estimate.value:.2f}x (n={len(estimate.each)})"
    return f"{estimate.value:.2f}x [{estimate.low:.2f}, {estimate.high:.2f}]"


def difference_in_words(estimate: Estimate | None) -> str:
    """`+0.0123 [+0.0045, +0.0201]`; with too few seeds for an interval the bare number."""
    if estimate is None:
        return ""
    interval = "" if estimate.low is None else f" [{estimate.low:+.4f}, {estimate.high:+.4f}]"
    return f"{estimate.value:+.4f}{interval}"


def _remarks(outcome: Outcome) -> Iterator[str]:
    for one in outcome.scores:
        yield from _remarks_on(one)
    for row in outcome.rows:
        if row.cell.recipe is None and "accuracy" in row.facts:
            yield f"{row.cell.name}: accuracy {row.facts['accuracy']}, by its own count"
        if row.caution:
            yield f"{row.cell.name}: {row.caution}"
        if row.failed:
            yield f"{row.cell.name}: {counted(row.failed, 'measurement')} failed: {row.reason}"


def _remarks_on(scores: Scores) -> Iterator[str]:
    if scores.reason:
        yield f"{scores.arm}: {counted(scores.failed, 'run')} failed: {scores.reason}"
    for key, edge in scores.edges.items():
        value = scores.settings[key]
        yield f"{scores.arm}: {key} = {value} is the {edge} that was tried; a better one may lie beyond it"
    if scores.p_value is not None and scores.verdict:
        images = "" if scores.p_of_images is None else f", over images p = {scores.p_of_images:.3g}"
        yield f"{scores.arm}: over seeds p = {scores.p_value:.3g}{images}, adjusted by Holm"


def _noise(outcome: Outcome) -> Iterator[str]:
    words = {"total_s": "to the end", "step_s": "step", "peak_mb": "memory"}
    found = [f"{words[name]} {ratio_in_words(of)}" for name, of in outcome.noise.items()]
    if found:
        yield f"noise, {outcome.rows[0].cell.name} against itself: {', '.join(found)}"
