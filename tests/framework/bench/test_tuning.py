"""Tuning: which settings are chosen by trials that a test made up, and what is trained with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from framework.bench import tuning
from framework.bench.arms import Arm
from framework.bench.spaces import Space
from framework.bench.study import StudyKeys
from framework.bench.trained import Job, Trained
from framework.bench.tuning import chosen_of, edges_of, jobs_of_finals, jobs_of_trials, tune_and_train

RATES = (0.001, 0.01, 0.1)
KEYS = StudyKeys(base="x", seeds=(0, 1), tune={"lr": RATES})


def arm(name: str = "full") -> Arm:
    """An arm whose recipe nobody looks at."""
    return Arm(name, (name,), None, None, KEYS.trials((name,)))  # type: ignore[arg-type]


def trial(lr: float, score: float | None, seed: int = 2, higher: bool = True, of: Arm | None = None) -> Trained:
    """A run with a validation score; None: it failed."""
    job = Job(of or arm(), seed, {"lr": lr}, Path(f"{lr}-{seed}"))
    if score is None:
        return Trained(job, "out of memory")
    monitor = "val.accuracy" if higher else "val.loss"
    best = {"monitor": monitor, "higher_is_better": higher, "val": {monitor.partition(".")[2]: score}}
    return Trained(job, "", {"metrics": {"best": best}})


def scored(*scores: float | None, higher: bool = True) -> list[Trained]:
    return [trial(lr, score, higher=higher) for lr, score in zip(RATES, scores, strict=True)]


@pytest.mark.parametrize(
    ("scores", "higher", "chosen"),
    [
        ((0.5, 0.9, 0.7), True, 0.01),
        ((0.5, 0.9, 0.7), False, 0.001),
        ((0.9, 0.5, 0.9), True, 0.001),  # the first of equals
        ((0.7, 0.2, 0.2), False, 0.01),
        ((None, 0.1, None), True, 0.01),
        ((None, 3.0, 2.0), False, 0.1),
        ((math.nan, 0.1, 0.2), True, 0.1),
        ((-2.0, -1.0, -3.0), True, 0.01),
    ],
)
def test_the_best_score_is_chosen_and_nothing_that_failed(
    scores: Sequence[float | None], higher: bool, chosen: float
) -> None:
    settings, found = chosen_of(scored(*scores, higher=higher))
    assert settings == {"lr": chosen}
    known = [None if score is None or math.isnan(score) else score for score in scores]
    assert found == [({"lr": lr}, score) for lr, score in zip(RATES, known, strict=True)]


def test_where_every_trial_failed_nothing_is_chosen_and_without_trials_nothing_is_set() -> None:
    assert chosen_of(scored(None, None, math.nan))[0] is None
    assert chosen_of([]) == ({}, [])
    assert jobs_of_finals(arm(), KEYS, None, Path("study")) == []


def test_several_seeds_count_by_their_mean_and_all_of_them_have_to_end() -> None:
    runs = [
        trial(0.1, 1.0, 2), trial(0.1, 0.2, 3),  # the best single score, and not the best mean
        trial(0.2, 0.7, 2), trial(0.2, 0.7, 3),
        trial(0.3, 0.9, 2), trial(0.3, None, 3),
    ]  # fmt: skip
    settings, scores = chosen_of(runs)
    assert settings == {"lr": 0.2}
    assert [score for _, score in scores] == [pytest.approx(0.6), pytest.approx(0.7), None]


def test_trials_have_a_seed_of_their_own_and_finals_those_of_the_study() -> None:
    trials = jobs_of_trials(arm(), KEYS, Path("study"))
    finals = jobs_of_finals(arm(), KEYS, {"lr": 0.1}, Path("study"))
    assert [(job.seed, job.settings["lr"]) for job in trials] == [(2, lr) for lr in RATES]
    assert [(job.seed, job.settings) for job in finals] == [(seed, {"lr": 0.1}) for seed in (0, 1)]
    assert len({job.folder for job in [*trials, *finals]}) == 5
    assert not {job.seed for job in trials} & {job.seed for job in finals}


def test_only_the_finals_of_vtab1k_train_on_the_validation_images() -> None:
    keys = StudyKeys(base="x", protocol="vtab1k", tune={"lr": RATES})
    assert [job.settings for job in jobs_of_trials(arm(), keys, Path())] == [{"lr": lr} for lr in RATES]
    (final,) = jobs_of_finals(arm(), keys, {"lr": 0.1}, Path())
    assert final.settings == {"lr": 0.1, "data.join_val": True}


def test_a_choice_at_the_end_of_its_range_is_told() -> None:
    keys = StudyKeys(base="x", tune={"lr": Space(log=(0.01, 1.0), trials=3), "norm": ("fixed", "batch")})
    found = [edges_of(arm(), keys, {"lr": lr, "norm": "fixed"}) for lr in (0.01, 0.1, 1.0)]
    assert found == [{"lr": "lowest"}, {}, {"lr": "highest"}]
    assert edges_of(arm(), keys, None) == {}


def test_each_arm_is_tuned_by_its_own_trials_and_trained_with_its_own_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """All trials come before the first final, and what failed at tuning has no final."""
    arms = [arm("frozen"), arm("full"), arm("broken")]
    asked: list[list[Job]] = []
    scores = {"frozen": (0.1, 0.2, 0.3), "full": (0.3, 0.2, 0.1), "broken": (None, None, None)}

    def train(jobs: Sequence[Job], folder: Path, note: Any) -> list[Trained]:
        asked.append(list(jobs))
        return [_run(job) for job in jobs]

    def _run(job: Job) -> Trained:
        score = scores[job.arm.name][RATES.index(job.settings["lr"])]
        return trial(job.settings["lr"], score, job.seed, of=job.arm)

    monkeypatch.setattr(tuning, "train", train)
    tuned = tune_and_train(arms, KEYS, Path("study"), lambda kind, run: None)
    assert [len(jobs) for jobs in asked] == [9, 4]
    assert [_rate(one.settings) for one in tuned] == [0.1, 0.001, None]
    assert [one.edges for one in tuned] == [{"lr": "highest"}, {"lr": "lowest"}, {}]
    assert [[run.job.seed for run in one.finals] for one in tuned] == [[0, 1], [0, 1], []]
    assert all(run.job.settings == one.settings for one in tuned for run in one.finals)


def _rate(settings: Mapping[str, Any]) -> Any:
    return settings.get("lr")
