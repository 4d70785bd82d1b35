"""The same training beside peers, whole processes from start to end, at the same settings.

    pytest -n 0 benchmarks/bench_peers.py --benchmark-json=peers.json

Rounds of all contestants are interleaved; medians, ratios, accuracies, peak memory and settings stand in each
benchmark's extra_info. What pytest-benchmark times itself is the whole contest and means nothing. A budget that is
missed is said, not asserted: the machine may be busy.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence

import pytest
from peers import contest
from peers.contest import Claim, Contestant, Laps, compete, figures, ours, peer, settings, told

pytestmark = pytest.mark.timeout(0)  # a contest takes as long as its slowest contestant, several times
FROZEN_EPOCHS, LAST_STAGE_EPOCHS, FULL_EPOCHS = 20, 10, 3
MEMORY_AT_MOST = 0.7
CLAIMS = {
    "frozen": [
        Claim("features.py", "ours cold", 0.9),
        Claim("features.py", "ours warm", 3),
        Claim("tutorial", "ours cold", 15),
        Claim("lightning", "ours cold", 10),
    ],
    "frozen bf16": [Claim("features.py", "ours cold", 0.9), Claim("features.py", "ours warm", 3)],
    "last stage": [Claim("lightning", "ours", 2.3)],
    "full fp32": [Claim("lightning", "ours", 1.0)],
    "full bf16": [Claim("lightning", "ours", 1.1)],
}
LIGHTNING_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed"}
BASELINE = """
import resource
import torch, torchvision, torchmetrics
import framework.runs
import fw_data.csv_file, fw_data.folder, fw_data.sources, fw_data.steps, fw_data.transforms
import fw_freezing.once, fw_freezing.stages, fw_heads.heads, fw_torchvision.backbones
import fw_training.losses, fw_training.metrics, fw_training.optimizers, fw_training.schedulers, fw_training.scores
"""
"""What a run of ours imports, and nothing done with it: the counterpart of what a peer measures after its imports."""


when_long = pytest.mark.skipif(contest.SHORT, reason="FW_BENCH_SHORT: its contestants run in another row")
in_bf16 = pytest.mark.skipif(not contest.computes_in_bf16(), reason="this CPU has no bf16; FW_BENCH_BF16=1 insists")


@pytest.fixture(scope="module")
def frozen() -> Laps:
    """The laps of the frozen row, which two tests read."""
    epochs = contest.epochs(FROZEN_EPOCHS)
    length = f"--epochs={epochs}"
    return compete([
        ours("ours cold", train__epochs=epochs),
        ours("ours warm", cold=False, train__epochs=epochs),
        peer("features.py", "features.py", length),
        peer("tutorial", "tutorial.py", "--plain", "--frozen", length),
        peer("lightning", "lightning_finetune.py", "--train=head", length),
    ])  # fmt: skip


def contest_of(benchmark, row: str, laps: Laps, epochs: int, precision: str) -> None:
    """Puts a row's figures into extra_info and prints them."""
    found = figures(laps, CLAIMS[row])
    benchmark.extra_info.update(found, settings=settings(epochs=contest.epochs(epochs), precision=precision))
    print(f"\n{row}, {contest.epochs(epochs)} epochs, {precision}\n{told(laps, found)}")


def timed(benchmark, contestants: Sequence[Contestant]) -> Laps:
    return benchmark.pedantic(compete, args=(contestants,), rounds=1)


def test_frozen(benchmark, frozen: Laps) -> None:
    benchmark.pedantic(lambda: frozen, rounds=1)
    contest_of(benchmark, "frozen", frozen, FROZEN_EPOCHS, "fp32")


@when_long
@in_bf16
def test_frozen_in_bf16(benchmark) -> None:
    epochs = contest.epochs(FROZEN_EPOCHS)
    keys = {"train__epochs": epochs, "train__precision": "bf16"}
    laps = timed(benchmark, [
        ours("ours cold", **keys),
        ours("ours warm", cold=False, **keys),
        peer("features.py", "features.py", f"--epochs={epochs}", "--precision=bf16"),
    ])  # fmt: skip
    contest_of(benchmark, "frozen bf16", laps, FROZEN_EPOCHS, "bf16")


@when_long
def test_last_stage(benchmark) -> None:
    epochs = contest.epochs(LAST_STAGE_EPOCHS)
    laps = timed(benchmark, [
        ours("ours", train__epochs=epochs, freezing__use="last_stages", freezing__n=1),
        peer("lightning", "lightning_finetune.py", "--train=last_stage", f"--epochs={epochs}"),
    ])  # fmt: skip
    contest_of(benchmark, "last stage", laps, LAST_STAGE_EPOCHS, "fp32")


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=in_bf16)])
def test_full_fine_tuning(benchmark, precision: str) -> None:
    epochs = contest.epochs(FULL_EPOCHS)
    options = ("--train=all", f"--epochs={epochs}", f"--precision={LIGHTNING_PRECISION[precision]}")
    laps = timed(benchmark, [
        ours("ours", train__epochs=epochs, freezing__use="full", train__precision=precision),
        peer("lightning", "lightning_finetune.py", *options),
    ])  # fmt: skip
    contest_of(benchmark, f"full {precision}", laps, FULL_EPOCHS, precision)


def test_memory_above_imports(benchmark, frozen: Laps) -> None:
    baseline = benchmark.pedantic(our_baseline_mb, rounds=1)
    rivals = [lap.peak_mb - lap.baseline_mb for lap in frozen["tutorial"]]
    mine, theirs = contest.median_peak(frozen["ours cold"]) - baseline, statistics.median(rivals)
    ratio = mine / theirs
    reached = contest.reached(ratio, at_most=MEMORY_AT_MOST)
    benchmark.extra_info.update(
        ours_above_baseline_mb=round(mine, 1), our_baseline_mb=round(baseline, 1),
        tutorial_above_baseline_mb=round(theirs, 1), ratio=round(ratio, 3), at_most=MEMORY_AT_MOST, reached=reached,
        settings=settings(epochs=contest.epochs(FROZEN_EPOCHS), precision="fp32"),
    )  # fmt: skip
    print(f"\nmemory above imports: ours {mine:.0f} MB, the tutorial's {theirs:.0f} MB, ratio {ratio:.2f} "
          f"({contest.verdict(reached, f'at most {MEMORY_AT_MOST}')})")  # fmt: skip


def our_baseline_mb() -> float:
    """Peak resident size of a process that imports what a run of ours imports, the median of three."""
    peaks = [contest.run_process([sys.executable, "-c", BASELINE])[1] for _ in range(3)]
    return statistics.median(peaks)
