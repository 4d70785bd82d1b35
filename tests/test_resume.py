"""Resume: whatever stops a run, and whenever, it ends bit for bit as if nothing had."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sweeps import often

import framework as fw
from framework import checkpoint
from framework.display import NullDisplay
from framework.recipe import load_recipe
from framework.runs import resume_run, start_run

SMALL = [
    "data.images=60", "data.classes=3", "data.size=40", "backbone.image_size=32", "train.batch_size=8",
    "train.epochs=3", "engine.threads=1", "train.checkpoint_every=2", "train.accumulate=2",
    "transform.train.use=augment", "backbone.use=timm/test_efficientnet", "optimizer.lr=0.05", "train.report=false",
]  # fmt: skip
DROPOUT = ["backbone.drop_path_rate=0.2", "head.use=mlp", "head.dropout=0.2"]
POLICIES = {
    "full": ["freezing.use=full", "scheduler={use='torch/OneCycleLR', max_lr=0.05}"],
    "last_stages": ["freezing.use=last_stages", "freezing.norm=batch",
                    "scheduler=[{use='warmup', epochs=1}, {use='torch/CosineAnnealingLR'}]"],
    "frozen": ["freezing.use=frozen", "freezing.norm=recalibrate", "scheduler={use='torch/StepLR', step_size=1}"],
}  # fmt: skip


def interrupted(folder: Path, count: int, seed: int, *overrides: str) -> dict:
    script = Path(__file__).with_name("interruptions.py")
    done = subprocess.run(
        [sys.executable, script, folder, str(count), str(seed), "smoke", *SMALL, *DROPOUT, *overrides],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    print(f"{report['killed']} kills in {report['trials']} runs of {report['seconds']} s, "
          f"{report['trials'] - len(report['different'])} of {report['trials']} bit-equal")  # fmt: skip
    return report


@pytest.mark.parametrize(("workers", "partition"), often([(0, "off"), (0, "auto"), (2, "auto")], quick=[(0, "off")]))
def test_killed_and_resumed_is_bit_equal(tmp_path: Path, workers: int, partition: str) -> None:
    engine = [f"train.workers={workers}", f"engine.partition={partition}"]
    report = interrupted(tmp_path, 2, workers, *POLICIES["last_stages"], *engine, "train.mixup=0.2")
    assert report["killed"] >= 2
    assert report["different"] == []


KILLS = 7
"""Under each of three policies: more than twenty in all."""


@pytest.mark.sweep
@pytest.mark.parametrize("policy", POLICIES)
def test_random_kills_are_bit_equal(tmp_path: Path, policy: str) -> None:
    report = interrupted(
        tmp_path, KILLS, 7, *POLICIES[policy], "train.workers=2" if policy == "full" else "train.workers=0",
        "engine.partition=off",  # kills are spread over the steps, of which a divided run spends little time
    )  # fmt: skip
    assert report["killed"] >= KILLS
    assert report["different"] == []


class StopAt(NullDisplay):
    """Sends this process a signal after a step, as a person or a cluster would."""

    def __init__(self, step: int, number: int) -> None:
        self.step, self.number = step, number

    def batch(self, facts) -> None:
        if facts["step"] == self.step:
            os.kill(os.getpid(), self.number)


@pytest.fixture
def stopped(index, tmp_path: Path) -> Path:
    """A run that SIGTERM stopped in its second epoch."""
    recipe = load_recipe("smoke", index, [*SMALL, *POLICIES["full"]])
    with pytest.raises(fw.FwError) as stop:
        start_run(recipe, index, tmp_path / "run", False, StopAt(4, signal.SIGTERM))
    assert stop.value.exit_code == 143
    return tmp_path / "run"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_writes_a_checkpoint_and_says_how_to_go_on(index, tmp_path: Path, number: int, code: int) -> None:
    recipe = load_recipe("smoke", index, [*SMALL, *POLICIES["frozen"]])
    whole = start_run(recipe, index, tmp_path / "whole", False, NullDisplay())
    before = signal.getsignal(number)
    with pytest.raises(fw.FwError, match="fw resume") as stop:
        start_run(recipe, index, tmp_path / "run", False, StopAt(3, number))
    assert stop.value.exit_code == code
    assert signal.getsignal(number) is before
    again = resume_run(tmp_path / "run", index, NullDisplay())
    assert again["metrics"] == whole["metrics"]
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    with pytest.raises(fw.FwError, match="is finished"):
        resume_run(tmp_path / "run", index, NullDisplay())


def test_a_changed_recipe_is_refused_with_a_diff(index, stopped: Path, snapshot) -> None:
    file = stopped / "recipe.toml"
    file.write_text(file.read_text().replace("momentum = 0.9", "momentum = 0.8"))
    with pytest.raises(fw.FwError) as error:
        resume_run(stopped, index, NullDisplay())
    snapshot("recipe_changed", error.value.render())


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_damaged_checkpoint_is_found_and_the_one_before_it_still_works(
    index, stopped: Path, damage: str, snapshot
) -> None:
    newest = checkpoint.path_of(stopped)
    data = bytearray(newest.read_bytes())
    if damage == "flip":
        data[-5] ^= 1
    newest.write_bytes(data if damage == "flip" else data[: len(data) // 2])
    with pytest.raises(fw.FwError, match="damaged") as error:
        resume_run(stopped, index, NullDisplay())
    if damage == "flip":
        snapshot("checkpoint_damaged", error.value.render())
    newest.unlink()
    assert resume_run(stopped, index, NullDisplay())["status"] == "done"


def test_changed_data_is_refused(index, stopped: Path) -> None:
    """The same recipe text, but other images: the random data set draws them from its seed."""
    import framework.builder as assembling

    original = assembling.Builder.data

    def other(self):
        data = original(self)
        return fw.Data(data.task, data.train, data.val, data.test, "another fingerprint")

    assembling.Builder.data = other
    try:
        with pytest.raises(fw.FwError, match="the data changed"):
            resume_run(stopped, index, NullDisplay())
    finally:
        assembling.Builder.data = original


def test_nothing_in_a_run_directory_is_a_pickle(stopped: Path) -> None:
    files = [file for file in stopped.rglob("*") if file.is_file()]
    assert len(files) > 5
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".jsonl", ".toml", ".csv", ".lock", ""}
    leftovers = [file.name for file in files if file.name.startswith(".") and file.name != ".lock"]
    assert leftovers == []
