"""Tuning: the same number of trials for every policy, the choice on validation alone, and the choice trained anew."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from framework.bench.arms import Arm
from framework.bench.study import StudyKeys
from framework.bench.trained import Job, Trained, train


@attrs.frozen(eq=False)
class Tuned:
    """What an arm's scores come from.

    Attributes:
        arm: whose.
        trials: (settings, mean validation score over the seeds of trials, None where one failed), in the grid's order.
        settings: what was chosen; empty where nothing is tuned.
        edges: key -> `lowest` or `highest`, where the choice ends its range.
        finals: a run for each seed, with the settings that were chosen.
    """

    arm: Arm
    trials: Sequence[tuple[Mapping[str, Any], float | None]]
    settings: Mapping[str, Any]
    edges: Mapping[str, str]
    finals: Sequence[Trained]


def tune_and_train(
    arms: Sequence[Arm], keys: StudyKeys, folder: Path, note: Callable[[str, Trained], None]
) -> list[Tuned]:
    """Every trial of every arm, then the finals of each with what its trials chose.

    Args:
        arms: what is compared.
        keys: of the study.
        folder: of the study.
        note: told of each run: `trial` or `final`, and how it ended.

    Raises:
        KeyboardInterrupt: somebody stopped it; what is done stays done.
    """
    jobs = [job for arm in arms for job in jobs_of_trials(arm, keys, folder)]
    trials = train(jobs, folder, lambda run: note("trial", run))
    chosen = {arm.name: chosen_of([run for run in trials if run.job.arm is arm]) for arm in arms}
    jobs = [job for arm in arms for job in jobs_of_finals(arm, keys, chosen[arm.name][0], folder)]
    finals = train(jobs, folder, lambda run: note("final", run))
    return [
        Tuned(arm, chosen[arm.name][1], chosen[arm.name][0] or {}, edges_of(arm, keys, chosen[arm.name][0]),
              [run for run in finals if run.job.arm is arm])
        for arm in arms
    ]  # fmt: skip


def jobs_of_trials(arm: Arm, keys: StudyKeys, folder: Path) -> list[Job]:
    """The runs that an arm's settings are chosen by."""
    return [
        Job(arm, seed, settings, folder / "trials" / arm.slug / f"{number:02d}-{seed}")
        for number, settings in enumerate(arm.trials)
        for seed in keys.seeds_of_trials
    ]


def jobs_of_finals(arm: Arm, keys: StudyKeys, settings: Mapping[str, Any] | None, folder: Path) -> list[Job]:
    """The runs that an arm is judged by; none where every trial failed."""
    if settings is None:
        return []
    settings = settings_of_finals(keys, settings)
    return [Job(arm, seed, settings, folder / "finals" / arm.slug / str(seed)) for seed in keys.seeds]


def settings_of_finals(keys: StudyKeys, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What was chosen, and what the protocol asks for once it is."""
    return {**chosen, **({"data.join_val": True} if keys.protocol == "vtab1k" else {})}


def chosen_of(
    trials: Sequence[Trained],
) -> tuple[Mapping[str, Any] | None, list[tuple[Mapping[str, Any], float | None]]]:
    """The settings with the best mean validation score (the first of equals), and the scores of all.

    Nothing is chosen where every trial failed; nothing is what was chosen where there were none.
    """
    of: dict[str, list[Trained]] = {}
    for run in trials:
        of.setdefault(str(run.job.settings), []).append(run)
    scores = [(runs[0].job.settings, _mean_score(runs)) for runs in of.values()]
    known = [(score, settings) for settings, score in scores if score is not None]
    if not known:
        return (None if trials else {}), scores
    sign = 1 if _higher_is_better(trials) else -1
    best = max(sign * score for score, _ in known)
    return next(settings for score, settings in known if sign * score == best), scores


def _mean_score(runs: Sequence[Trained]) -> float | None:
    scores = [run.score("val") for run in runs]
    known = [score for score in scores if score is not None]
    return statistics.fmean(known) if len(known) == len(scores) else None


def _higher_is_better(runs: Sequence[Trained]) -> bool:
    return all(run.summary["metrics"]["best"]["higher_is_better"] for run in runs if run.summary)


def edges_of(arm: Arm, keys: StudyKeys, settings: Mapping[str, Any] | None) -> dict[str, str]:
    """Where the choice ends its range, so that the policy may do better outside it."""
    spaces = keys.spaces(arm.names)
    found = {key: spaces[key].edge(value) for key, value in (settings or {}).items() if key in spaces}
    return {key: edge for key, edge in found.items() if edge}
