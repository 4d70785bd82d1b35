"""A study: seven learning rates by five seeds of the frozen recipe by `fw.run_each`, beside one cold run.

    pytest -n 0 benchmarks/bench_study.py --benchmark-json=study.json

Whole processes both; the study begins with an empty feature store, as the single run does. Rounds alternate.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from typing import Any

import pytest
from peers import contest

pytestmark = pytest.mark.timeout(0)
AT_MOST = 1.5
EPOCHS = 20
RATES = (0.01, 0.001) if contest.SHORT else (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
SEEDS = range(1 if contest.SHORT else 5)
STUDY = """
import json
import sys
import framework as fw

recipe, overrides, out, rates, seeds = json.loads(sys.argv[1])
variants = {
    f"lr {rate}, seed {seed}": {**overrides, "optimizer.lr": rate, "seed": seed} for rate in rates for seed in seeds
}
runs = fw.run_each(recipe, variants, out=out)
print(json.dumps({run.folder.name: run["metrics"]["final"]["val"]["accuracy"] for run in runs}))
"""


def study() -> tuple[float, dict[str, float]]:
    """Seconds of the whole study from an empty store, and the accuracy of each run."""
    out = contest.scratch() / "study"
    shutil.rmtree(out, ignore_errors=True)
    contest.empty_store()
    keys = contest.overrides(train__epochs=contest.epochs(EPOCHS), train__keep_model="none")
    given = json.dumps([str(contest.RECIPE), keys, str(out), RATES, list(SEEDS)])
    seconds, _, output = contest.run_process([sys.executable, "-c", STUDY, given])
    return seconds, json.loads(output.strip().splitlines()[-1])


def rounds() -> tuple[list[float], list[float], dict[str, float]]:
    """Seconds of single cold runs and of studies, and the accuracies of the last study."""
    single = contest.ours("one cold run", train__epochs=contest.epochs(EPOCHS))
    contest.warm_up(single)
    alone, together = [], []
    for _ in range(contest.ROUNDS):
        alone.append(contest.lap(single).seconds)
        seconds, accuracies = study()
        together.append(seconds)
    return alone, together, accuracies


def test_study(benchmark) -> None:
    alone, together, accuracies = benchmark.pedantic(rounds, rounds=1)
    ratio = statistics.median(together) / statistics.median(alone)
    reached = contest.reached(ratio, at_most=AT_MOST)
    found: dict[str, Any] = {"runs": len(accuracies), "one_run_s": alone, "study_s": together, "accuracy": accuracies}
    benchmark.extra_info.update(found, ratio=round(ratio, 3), at_most=AT_MOST, reached=reached,
                                settings=contest.settings(epochs=contest.epochs(EPOCHS), precision="fp32"))  # fmt: skip
    print(f"\n{len(accuracies)} runs: {statistics.median(together):.1f} s, "
          f"one cold run {statistics.median(alone):.1f} s, ratio {ratio:.2f} "
          f"({contest.verdict(reached, f'at most {AT_MOST}')})")  # fmt: skip
