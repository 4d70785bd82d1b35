"""What `fw bench` makes of a cell beside itself, and what `fw compare` makes of one that was slowed on purpose.

    pytest -n 0 -s benchmarks/bench_noise.py --benchmark-json=noise.json     # 80 minutes, nothing else running

Each repeat is a study of its own, of one cell, which is timed twice in each of its rounds. The interval of the ratio of
the two should hold 1, whatever the machine does meanwhile, and a study beside the next one should be no change. A cell
slowed on purpose has a loss that sleeps for a tenth of the median step. It is studied between every other two repeats,
and should be found beside both. FW_NOISE_REPEATS asks for fewer repeats than 20.
"""

from __future__ import annotations

import itertools
import math
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
from peers import contest

pytestmark = pytest.mark.timeout(0)
REPEATS = 1 if contest.SHORT else int(os.environ.get("FW_NOISE_REPEATS", "20"))
ROUNDS = 1 if contest.SHORT else 6
IMAGES = 80 if contest.SHORT else 400
CELL = {
    "data.use": "random", "data.images": IMAGES, "data.size": 36, "data.split_seed": 0, "loss.use": "slowed",
    "train.keep_model": "none", "train.report": False, "engine.partition": "off", "engine.cache": "off",
    "engine.memory_format": "contiguous",
}  # fmt: skip
PLUGIN = '''
import time

import attrs
import framework as fw
from torch import nn

@attrs.frozen(kw_only=True)
class Slowed:
    """Cross entropy after a rest."""
    delay: fw.NonNegative = fw.key(0.0, "seconds to rest before each loss")

    def build(self, task, counts, images):
        entropy = nn.CrossEntropyLoss()

        def loss(logits, targets):
            time.sleep(self.delay)
            return entropy(logits, targets)

        return loss

@fw.hookimpl
def fw_losses():
    yield fw.Component("slowed", Slowed)
'''


@pytest.fixture
def slowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss that sleeps, installed for this process and those that it starts."""
    info = tmp_path / "site" / "slowed_fw-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slowed-fw\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[framework.plugins]\nslowed = slowed\n")
    (tmp_path / "site" / "slowed.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
    monkeypatch.setenv("FW_CACHE_DIR", str(tmp_path / "cache"))


def cell(delay: float) -> Any:
    """The frozen recipe under the usual loop, each step slowed by so many seconds."""
    from framework.bench.laps import Cell
    from framework.index import installed_index
    from framework.recipe import load_recipe

    recipe = load_recipe("resnet18_frozen", installed_index(), {**CELL, "loss.delay": delay})
    return Cell("resnet18_frozen / plain", "resnet18_frozen", "plain", recipe)


def study(of: Any, folder: Path, rounds: int = ROUNDS) -> tuple[list[Any], list[Any]]:
    """The costs of a cell, and of its second laps, round by round."""
    from framework.bench.costs import costs_of
    from framework.bench.laps import AGAIN, run_laps

    laps = list(run_laps([of], rounds, folder, lambda text: None, is_warm=True))
    assert not any(lap.reason for lap in laps), laps
    first, again = ([costs_of(lap, of) for lap in laps if lap.cell.endswith(AGAIN) is second]
                    for second in (False, True))  # fmt: skip
    print(folder.name, beside(again, first, "step_s"), flush=True)
    return first, again


def beside(again: list[Any], first: list[Any], cost: str) -> Any:
    """The ratio of a cost of second laps to that of the first ones."""
    from framework.bench.statistics import cost_ratio

    return cost_ratio([getattr(one, cost) for one in again], [getattr(one, cost) for one in first])


def figures(of: Any, costs: tuple[list[Any], list[Any]]) -> Any:
    """A study as `fw compare` reads it."""
    from framework.bench.figures import Figures, Measured, strays

    first, again = costs
    measured = Measured("noise", of.name, {"time": tuple(one.step_s for one in first),
                                           "memory": tuple(one.peak_mb for one in first)}, {})  # fmt: skip
    noise = {cost: strays(attrs.asdict(beside(again, first, name)))
             for cost, name in (("time", "step_s"), ("memory", "peak_mb"))}  # fmt: skip
    return Figures(Path("noise.json"), {("noise", of.name): measured}, {}, {}, {}, noise, {}, True)


def verdicts(plain: Any, studies: list[Any], late: Any, slowed_ones: list[Any]) -> dict[str, list[str]]:
    """What `fw compare` says of each study and the next one, and of each slowed one beside those around it."""
    from framework.bench.compare import compare

    def verdict(before: Any, after: Any) -> str:
        return compare(before, after, 0.05).verdict

    found = [figures(plain, costs) for costs in studies]
    slowed_found = [figures(late, costs) for costs in slowed_ones]
    return {
        "unchanged": [verdict(*pair) for pair in itertools.pairwise(found)],
        "slowed": [verdict(of, slow) for number, slow in enumerate(slowed_found) for of in found[2 * number :][:2]],
    }


def rehearsed_step(of: Any, folder: Path) -> float:
    """The median seconds of a cell's step."""
    median: float = statistics.median(one.step_s for one in study(of, folder, rounds=1)[0])
    return median


def test_noise(benchmark, slowed: None, tmp_path: Path) -> None:
    from framework.bench.machine import machine

    plain = cell(0.0)
    step = 0.05 if contest.SHORT else rehearsed_step(plain, tmp_path / "rehearsal")
    late = cell(step / 10)
    studies: list[Any] = []
    slowed_ones: list[Any] = []

    def all_repeats() -> None:
        for number in range(REPEATS):
            studies.append(study(plain, tmp_path / f"study-{number}"))
            if number % 2 == 0:
                slowed_ones.append(study(late, tmp_path / f"slowed-{number}"))

    benchmark.pedantic(all_repeats, rounds=1)
    found: dict[str, Any] = {}
    for cost in ("step_s", "total_s", "peak_mb"):
        ratios = [beside(again, first, cost) for first, again in studies]
        bounded = [of for of in ratios if of.low is not None]  # none of a study that was cut short
        found[cost] = {
            "holds_1": sum(of.low <= 1 <= of.high for of in bounded), "of": len(bounded),
            "median_half_width": round(statistics.median([of.half_width for of in bounded] or [math.nan]), 4),
        }  # fmt: skip
    told = verdicts(plain, studies, late, slowed_ones)
    counts = {side: {verdict: given.count(verdict) for verdict in sorted(set(given))} for side, given in told.items()}
    benchmark.extra_info.update(beside_itself=found, compare=counts, step_s=step, rounds=ROUNDS, machine=machine())
    print(f"\n{found}\n{counts}\nstep {1000 * step:.2f} ms")
