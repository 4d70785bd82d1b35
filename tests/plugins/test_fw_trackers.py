"""Trackers: what a run leaves in files and in the stores of other tools, resumed runs and faults included."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest

import framework as fw
import fw_trackers
from framework.catalog import PluginSource
from framework.display import NullDisplay
from framework.hooks import RUN_HOOKS
from framework.index import Index
from framework.recipe import load_recipe
from framework.runs import resume_run, start_run
from framework.testing import plugin_checks
from fw_trackers.jsonl import EVENTS
from fw_trackers.tracker import Tracker
from fw_trackers.watch import TRACKERS, Watch

FAST = [
    *("data.images=40", "data.classes=2", "data.size=32", "backbone.image_size=32", "train.batch_size=16"),
    *("train.epochs=3", "engine.threads=1", "train.report=false", "backbone.use=timm/test_efficientnet"),
    "engine.partition=off",
]

test_plugin = plugin_checks(fw_trackers)


class Said(NullDisplay):
    """Remembers warnings; breaks down after an epoch, as a process that is killed does."""

    def __init__(self, dies_after: int = 0) -> None:
        self.dies_after = dies_after
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def epoch(self, facts: Mapping[str, Any]) -> None:
        if facts["epoch"] == self.dies_after:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def tracked(index):
    """The installed plugins, the trackers among them."""
    return index.including([PluginSource.of(fw_trackers, "fw_trackers")])


def run(tracked: Index, folder: Path, said: Said) -> None:
    """Runs `smoke`, fast."""
    start_run(load_recipe("smoke", tracked, FAST), tracked, folder, False, said)


@attrs.frozen
class Left:
    """What a run left: its directory, its warnings, and where MLflow keeps it."""

    folder: Path
    warnings: list[str]
    uri: str


@pytest.fixture(scope="module")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An empty store, and none of the machine's own settings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
        uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/store.db"
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        yield uri


@pytest.fixture(scope="module", params=["whole", "resumed"])
def left(request, tracked, mlflow_store: str, tmp_path_factory: pytest.TempPathFactory) -> Left:
    """A run under every tracker that can be used here; or one that dies after its second epoch, before any checkpoint,
    and is resumed, so that two epochs come again.
    """
    folder, said = tmp_path_factory.mktemp(request.param) / "run", Said()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FW_TRACKERS", ",".join(name for name in TRACKERS if name == "jsonl" or find_spec(name)))
        if request.param == "whole":
            run(tracked, folder, said)
        else:
            with pytest.raises(KeyboardInterrupt):
                run(tracked, folder, Said(dies_after=2))
            resume_run(folder, tracked, said)
    return Left(folder, said.warnings, mlflow_store)


def events(folder: Path, *names: str) -> list[dict[str, Any]]:
    """The events of a run directory, or those of some kinds."""
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (folder / EVENTS).read_text().splitlines()]
    return [line for line in lines if not names or line["event"] in names]


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a line of metrics.jsonl."""
    return {name: value for name, value in line.items() if "." in name}


# ------------------------------------------------------------------------------------------------- runs


def test_a_run_leaves_its_events_and_each_epoch_once(left: Left) -> None:
    assert left.warnings == []
    found = [line for line in events(left.folder) if line["event"] != "checkpoint_written"]  # due after 5 s
    starts = 2 if "resumed" in str(left.folder) else 1
    assert [line["event"] for line in found] == [*["run_started"] * starts, *["epoch_ended"] * 3, "run_ended"]
    assert found[0]["classes"] == ["class_0", "class_1"]
    assert (found[0]["epochs"], found[0]["steps"]) == (3, 6)
    epochs = events(left.folder, "epoch_ended")
    assert [line["metrics"] for line in epochs] == [numbers(line) for line in logged(left.folder)]
    assert [(line["epoch"], line["step"]) for line in epochs] == [(1, 2), (2, 4), (3, 6)]
    summary = json.loads((left.folder / "summary.json").read_text())
    assert found[-1]["status"] == "done"
    assert found[-1]["metrics"]["best.test.accuracy"] == summary["metrics"]["best"]["test"]["accuracy"]
    assert sorted(line["time"] for line in found) == [line["time"] for line in found]


def test_two_runs_in_one_process_do_not_mix(tracked, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("framework.api.installed_index", lambda: tracked)
    small = {"data.images": 40, "backbone.image_size": 32, "train.epochs": 1, "train.report": False}
    variants = {name: {**small, "optimizer.lr": rate} for name, rate in (("a", 0.1), ("b", 0.001))}
    assert [result["status"] for result in fw.run_each("smoke", variants, out=tmp_path)] == ["done", "done"]
    for name in variants:
        found = events(tmp_path / name, "epoch_ended")
        assert [line["metrics"] for line in found] == [numbers(line) for line in logged(tmp_path / name)]
    assert events(tmp_path / "a", "run_ended")[0]["metrics"] != events(tmp_path / "b", "run_ended")[0]["metrics"]


# --------------------------------------------------------------------------------------- what is told again


def epoch(number: int, value: float = 0.5) -> tuple[str, dict[str, Any]]:
    return "fw_epoch_ended", {"epoch": number, "step": 5 * number, "metrics": {"val.accuracy": value}, "lr": 0.1,
                              "images_per_s": 9.0}  # fmt: skip


def checkpoint(number: int, step: int) -> tuple[str, dict[str, Any]]:
    return "fw_checkpoint_written", {"epoch": number, "step": step, "path": "checkpoint.safetensors"}


def plan(after: int, step: int) -> tuple[str, dict[str, Any]]:
    return "fw_plan_changed", {"epoch": after, "step": step, "trainable": ["a", "b"], "added": ("b",), "removed": (),
                               "schedule": "restart", "scales": [0.5, 1.0]}  # fmt: skip


STARTED = "fw_run_started", {"name": "x", "recipe": {"seed": 0}, "classes": ["a"], "steps": 20, "epochs": 4}
ENDED = "fw_run_ended", {"status": "done", "summary": {
    "epochs": 4, "steps": 20, "metrics": {"best": {"epoch": 1, "monitor": "val.accuracy", "val": {"accuracy": 0.5}}},
}}  # fmt: skip
STORY = (
    *(
        STARTED,
        epoch(1),
        plan(1, 5),
        checkpoint(2, 10),
        epoch(2),
        plan(2, 10),
        checkpoint(2, 11),
        plan(2, 12),
        epoch(3),
    ),
    *(checkpoint(4, 20), epoch(4), ENDED),
)


def tell(folder: Path, story: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Tells the hooks of the plugin."""
    for hook, facts in story:
        getattr(fw_trackers, hook)(facts={"run_dir": str(folder), **facts})


def without_times(folder: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "time"} for line in events(folder)]


def test_wherever_a_run_is_killed_its_events_are_those_of_a_whole_one(tmp_path: Path) -> None:
    tell(tmp_path, STORY)
    whole = without_times(tmp_path)
    assert len(whole) == len(STORY)
    pairs = enumerate(pairwise(hook for hook, _ in STORY), 1)
    of_an_epoch = {at for at, pair in pairs if pair == ("fw_checkpoint_written", "fw_epoch_ended")}
    checked = 0
    for told in range(1, len(STORY)):
        for begins in set(range(1, told + 1)) - of_an_epoch:  # which is told when its checkpoint is on disk, not again
            folder = tmp_path / f"{told}-{begins}"
            folder.mkdir()
            tell(folder, STORY[:told])
            tell(folder, [STARTED, *STORY[begins:]])
            found = without_times(folder)
            assert [line for line in found if line["event"] != "run_started"] == whole[1:], (told, begins)
            assert sum(line["event"] == "run_started" for line in found) == 2
            checked += 1
    print(f"{checked} interruptions")
    assert checked > 40


def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path: Path) -> None:
    tell(tmp_path, STORY[:3])
    with (tmp_path / EVENTS).open("a") as file:
        file.write('{"event": "epoch_en')
    tell(tmp_path, [STARTED, *STORY[3:]])
    assert [line["event"] for line in events(tmp_path)][:5] == [
        "run_started", "epoch_ended", "plan_changed", "run_started", "checkpoint_written",
    ]  # fmt: skip


def test_what_is_no_number_is_null(tmp_path: Path) -> None:
    tell(tmp_path, [STARTED, epoch(1, math.nan)])
    assert events(tmp_path, "epoch_ended")[0]["metrics"] == {"val.accuracy": None}


def test_a_change_of_plan_names_what_came_and_went(tmp_path: Path) -> None:
    tell(tmp_path, [STARTED, plan(1, 5)])
    [line] = events(tmp_path, "plan_changed")
    assert (line["trainable"], line["added"], line["removed"]) == (2, ["b"], [])
    assert (line["schedule"], line["scales"]) == ("restart", [0.5, 1.0])


def test_runs_whose_events_alternate_do_not_mix(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    for hook, facts in STORY:
        for folder, value in zip(folders, (0.25, 0.75), strict=True):
            tell(folder, [epoch(facts["epoch"], value) if hook == "fw_epoch_ended" else (hook, facts)])
    for folder, value in zip(folders, (0.25, 0.75), strict=True):
        found = events(folder, "epoch_ended")
        assert [line["metrics"]["val.accuracy"] for line in found] == [value] * 4


# ------------------------------------------------------------------------------------------------- faults


def test_a_name_that_is_no_tracker_is_one_warning_and_the_run_goes_on(tracked, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("FW_TRACKERS", "tensorbord")
    said = Said()
    run(tracked, tmp_path / "run", said)
    [warning] = said.warnings
    assert warning.startswith("plugin fw_trackers failed in fw_run_started: FwError: FW_TRACKERS names 'tensorbord'")
    assert "did you mean 'tensorboard'?" in warning
    assert len(events(tmp_path / "run", "epoch_ended")) == 3


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("mlflow", "mlflow")])
def test_a_library_that_is_not_installed_is_one_message_with_what_to_install(
    tmp_path: Path, monkeypatch, name: str, module: str
) -> None:
    monkeypatch.setenv("FW_TRACKERS", f" {name},")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(fw.FwError) as caught:
        tell(tmp_path, STORY[:1])
    assert f"the tracker '{name}' needs a library" in caught.value.message
    assert f"pip install 'fw-transfer[{name}]'" in caught.value.hint
    tell(tmp_path, STORY[1:])
    assert len(events(tmp_path)) == len(STORY)


class Failing(Tracker):
    """Fails at the second epoch and counts what it is told."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.epochs: list[int] = facts["told"]

    def epoch_ended(self, facts: Mapping[str, Any]) -> None:
        self.epochs.append(facts["epoch"])
        if facts["epoch"] == 2:
            raise OSError("the server is away")


def test_a_tracker_that_fails_is_reported_once_and_the_others_go_on(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("fw_trackers.watch.TRACKERS", {"failing": Failing, **TRACKERS})
    monkeypatch.setenv("FW_TRACKERS", "failing")
    monkeypatch.setattr(fw_trackers, "_WATCH", Watch())
    told: list[int] = []
    tell(tmp_path, [(STARTED[0], {**STARTED[1], "told": told}), epoch(1)])
    with pytest.raises(fw.FwError, match="'failing' failed and is told no more: OSError: the server is away"):
        tell(tmp_path, [epoch(2)])
    tell(tmp_path, [epoch(3), ENDED])
    assert told == [1, 2]
    assert [line["epoch"] for line in events(tmp_path, "epoch_ended")] == [1, 2, 3]


def test_every_run_hook_is_implemented_and_nothing_else() -> None:
    assert {name for name in vars(fw_trackers) if name.startswith("fw_")} == set(RUN_HOOKS)


def test_importing_the_plugin_imports_no_library_of_a_tracker() -> None:
    code = "import sys, fw_trackers; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "fw_trackers" in loaded
    assert loaded & {"tensorboard", "mlflow", "torch", "numpy"} == set()


# -------------------------------------------------------------------------------------------- tensorboard


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would draw of a run directory."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return {tag: [(point.step, point.value) for point in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_draws_what_the_run_logged_and_each_epoch_once(left: Left) -> None:
    pytest.importorskip("tensorboard")
    drawn, lines = scalars(left.folder), logged(left.folder)
    for name in numbers(lines[0]):
        expected = [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in lines]
        assert drawn[name.replace(".", "/", 1)] == expected
    assert [step for step, _ in drawn["lr"]] == [2, 4, 6]
    summary = json.loads((left.folder / "summary.json").read_text())
    [(step, value)] = drawn["best/test.accuracy"]
    assert (step, value) == (6, pytest.approx(summary["metrics"]["best"]["test"]["accuracy"], rel=1e-6))


def test_tensorboard_keeps_the_epoch_after_which_a_plan_changes_again(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("FW_TRACKERS", "tensorboard")
    tell(tmp_path, STORY[:9])
    tell(tmp_path, [STARTED, *STORY[5:]])
    drawn = scalars(tmp_path)
    assert [step for step, _ in drawn["val/accuracy"]] == [5, 10, 15, 20]
    assert dict(drawn["trainable"]) == {5: 2, 10: 2, 12: 2}


# ------------------------------------------------------------------------------------------------- mlflow


def mlflow_run(folder: Path, uri: str) -> tuple[Any, dict[str, list[tuple[int, float]]]]:
    """The run that MLflow has of a run directory, and the history of its metrics."""
    import mlflow

    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("fw-transfer")
    [found] = client.search_runs([experiment.experiment_id], f"tags.`fw.run_dir` = '{folder}'")
    run_id = found.info.run_id
    points = {name: client.get_metric_history(run_id, name) for name in found.data.metrics}
    return found, {name: [(point.step, point.value) for point in history] for name, history in points.items()}


def test_mlflow_keeps_recipe_and_numbers_and_each_epoch_once(left: Left) -> None:
    pytest.importorskip("mlflow")
    found, history = mlflow_run(left.folder, left.uri)
    lines = logged(left.folder)
    for name in numbers(lines[0]):
        assert history[name] == [(line["step"], line[name]) for line in lines]
    assert history["epoch"] == [(2, 1), (4, 2), (6, 3)]
    assert found.info.status == "FINISHED"
    assert found.data.params["backbone.use"] == "timm/test_efficientnet"
    assert found.data.params["train.epochs"] == "3"
    assert found.data.params["backbone.weights"] == '["random"]'
    summary = json.loads((left.folder / "summary.json").read_text())
    assert found.data.metrics["best.test.accuracy"] == summary["metrics"]["best"]["test"]["accuracy"]
    assert not (left.folder / "mlflow.db").exists(), "the store that MLFLOW_TRACKING_URI names is elsewhere"


def test_mlflow_without_a_store_of_ones_own_lies_in_the_run_directory(
    mlflow_store: str, tmp_path: Path, monkeypatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("FW_TRACKERS", "mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    tell(tmp_path, [STARTED, epoch(1), plan(1, 5), (ENDED[0], {**ENDED[1], "status": "audit failed"})])
    found, history = mlflow_run(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert found.info.status == "FAILED"
    assert history["trainable"] == [(5, 2)]
