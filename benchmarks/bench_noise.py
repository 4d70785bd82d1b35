"""What `fw bench` makes of a cell beside itself, and what `fw compare` makes of one that was slowed on purpose.

    pytest -n 0 -s benchmarks/bench_noise.py --benchmark-json=noise.json     # most of an hour, nothing else running

Each repeat is a study of its own, of one cell, which is timed twice in each of its rounds. The interval of the ratio of
the two should hold 1, whatever the machine does meanwhile; the second one of a study beside the first one of the next
should be no change. A slowed cell has a loss that sleeps for a tenth of the median step.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
from peers import contest

pytestmark = pytest.mark.timeout(0)
REPEATS, SLOWED = (1, 0) if contest.SHORT else (20, 3)
ROUNDS = 6
CELL = {
    "data.split_seed": 0, "train.keep_model": False, "train.report": False, "loss.use": "slowed",
    "engine.partition": "off", "engine.cache": "off", "engine.memory_format": "contiguous",
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


def study(of: Any, folder: Path) -> tuple[list[Any], list[Any]]:
    """The costs of a cell, and of its second laps, round by round."""
    from framework.bench.costs import costs_of
    from framework.bench.laps import AGAIN, run_laps

    laps = list(run_laps([of], ROUNDS, folder, lambda text: None, is_warm=True))
    assert not any(lap.reason for lap in laps), laps
    first, again = ([costs_of(lap, of) for lap in laps if lap.cell.endswith(AGAIN) is second]
                    for second in (False, True))  # fmt: skip
    print(folder.name, beside(again, first, "step_s"), flush=True)
    return first, again


def beside(again: list[Any], first: list[Any], cost: str) -> Any:
    """The ratio of a cost of second laps to that of the first ones."""
    from framework.bench.statistics import cost_ratio

    return cost_ratio([getattr(one, cost) for one in again], [getattr(one, cost) for one in first])


def figures(of: Any, costs: list[Any], noise: Any, file: Path) -> Any:
    """Costs as `fw compare` reads them."""
    from framework.bench.figures import Figures, Measured, strays

    measured = Measured("noise", of.name, {"time": tuple(one.step_s for one in costs),
                                           "memory": tuple(one.peak_mb for one in costs)}, {})  # fmt: skip
    known = {"time": strays(attrs.asdict(noise))}
    return Figures(file, {("noise", of.name): measured}, {}, {}, {}, known, {}, True)


def test_noise(benchmark, slowed: None, tmp_path: Path) -> None:
    from framework.bench.compare import compare
    from framework.bench.machine import machine

    plain = cell(0.0)
    studies: list[Any] = []

    def all_repeats() -> None:
        for number in range(REPEATS):
            studies.append(study(plain, tmp_path / f"study-{number}"))

    benchmark.pedantic(all_repeats, rounds=1)
    found: dict[str, Any] = {}
    for cost in ("step_s", "total_s", "peak_mb"):
        ratios = [beside(again, first, cost) for first, again in studies]
        found[cost] = {
            "holds_1": sum(of.low <= 1 <= of.high for of in ratios), "of": len(ratios),
            "median_half_width": round(statistics.median(of.half_width for of in ratios), 4),
        }  # fmt: skip
    noise = [beside(again, first, "step_s") for first, again in studies]
    step = statistics.median(one.step_s for first, _ in studies for one in first)
    late = cell(step / 10)
    verdicts = {"unchanged": [], "slowed": []}
    for number, (first, _) in enumerate(studies):
        before = figures(plain, first, noise[number], Path("before.json"))
        following = (number + 1) % len(studies)
        after = figures(plain, studies[following][1], noise[following], Path("after.json"))
        verdicts["unchanged"].append(compare(before, after, 0.05).verdict)
    for number in range(SLOWED):
        first, again = study(late, tmp_path / f"slowed-{number}")
        own = beside(again, first, "step_s")
        before = figures(plain, studies[-1 - number][0], noise[-1 - number], Path("before.json"))
        verdicts["slowed"].append(compare(before, figures(late, first, own, Path("after.json")), 0.05).verdict)
    told = {side: {verdict: given.count(verdict) for verdict in sorted(set(given))} for side, given in verdicts.items()}
    benchmark.extra_info.update(beside_itself=found, compare=told, step_s=step, rounds=ROUNDS, machine=machine())
    print(f"\n{found}\n{told}\nstep {1000 * step:.2f} ms")
