"""The commands that train and use a run, on a real tiny run, and how a run is displayed."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from framework.cli.display import PlainDisplay, Speed, ended_lines, epoch_line, metric_lines, started_lines
from framework.index import Index

TINY = [
    "--set", "data.images=60", "--set", "data.classes=3", "--set", "data.size=32", "--set", "backbone.image_size=32",
    "--set", "train.batch_size=12", "--set", "train.epochs=2", "--set", "freezing.use=frozen",
]  # fmt: skip


@pytest.fixture(scope="module")
def run_dir(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the smoke recipe, made by the command."""
    import contextlib

    from framework.cli import main

    folder = tmp_path_factory.mktemp("runs") / "smoke"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["run", "smoke", *TINY, "--out", str(folder)])
    assert code == 0, err.getvalue()
    (folder.parent / "said.txt").write_text(out.getvalue())
    return folder


def test_a_run_tells_its_head_a_line_an_epoch_and_a_table(run_dir: Path) -> None:
    said = (run_dir.parent / "said.txt").read_text()
    lines = said.splitlines()
    assert lines[0] == f"smoke -> {run_dir}"
    assert lines[1] == "RANDOM BACKBONE: not transfer learning"
    assert sum(line.startswith("epoch ") for line in lines) == 2
    assert "audit    120 frozen tensors, 0 moved" in said
    assert lines[-1] == f"run      {run_dir}"


def test_a_run_directory_in_use_is_refused_with_the_flag_that_replaces_it(cli, run_dir: Path) -> None:
    before = (run_dir / "summary.json").read_bytes()
    result = cli("run", "smoke", *TINY, "--out", str(run_dir))
    assert result.code == 2
    assert "--overwrite" in result.err
    assert (run_dir / "summary.json").read_bytes() == before


def test_with_json_standard_output_holds_the_summary_alone(index, cli, tmp_path: Path) -> None:
    result = cli("run", "smoke", *TINY, "--out", str(tmp_path / "r"), "--json")
    assert result.code == 0, result.err
    summary = json.loads(result.out)
    assert summary == json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["audit"]["frozen_moved"] == 0
    assert "epoch 2/2" in result.err


def test_resume_of_a_finished_run_is_refused(cli, run_dir: Path) -> None:
    result = cli("resume", str(run_dir))
    assert result.code == 2
    assert "is finished" in result.err


@pytest.mark.parametrize("command", [["resume"], ["eval"], ["predict", "."]])
def test_what_is_no_run_directory_is_one_clear_error(cli, here: Path, command: list[str]) -> None:
    (here / "x.png").write_bytes(b"")
    name, *rest = command
    result = cli(name, "nowhere", *rest)
    assert (result.code, result.out) == (2, "")
    assert "nowhere" in result.err


def test_eval_repeats_the_runs_own_figures(cli, run_dir: Path) -> None:
    summary = json.loads((run_dir / "summary.json").read_text())
    result = cli("eval", str(run_dir), "--json")
    assert result.code == 0, result.err
    metrics = json.loads(result.out)["metrics"]
    for split in ("val", "test"):
        assert metrics[split]["accuracy"] == pytest.approx(summary["metrics"]["best"][split]["accuracy"])
    table = cli("eval", str(run_dir)).out.splitlines()
    assert table[0].split()[0] == "loss"
    assert [line.split()[0] for line in table[1:]] == ["val", "test"]


def test_predict_prints_a_line_an_image_or_writes_a_table(cli, run_dir: Path, here: Path) -> None:
    from PIL import Image

    (here / "photos").mkdir()
    for name in ("a.png", "b.jpg"):
        Image.new("RGB", (40, 30), "teal").save(here / "photos" / name)
    (here / "photos" / "cut.png").write_bytes((here / "photos" / "a.png").read_bytes()[:40])
    plain = cli("predict", str(run_dir), "photos")
    assert plain.code == 0, plain.err
    rows = [line.split(None, 2) for line in plain.out.splitlines()]
    assert [row[0] for row in rows] == ["photos/a.png", "photos/b.jpg", "photos/cut.png"]
    assert rows[2][1] == "unreadable"
    assert "warning: 1 of 3 images could not be read" in plain.err
    assert cli("predict", str(run_dir), "photos/a.png", "photos/b.jpg", "-o", "p.csv").code == 0
    table = list(csv.DictReader((here / "p.csv").open()))
    assert [row["image"] for row in table] == ["photos/a.png", "photos/b.jpg"]
    for row in table:
        shares = {name[2:]: float(value) for name, value in row.items() if name.startswith("p_")}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-4)
        assert row["predicted"] == max(shares, key=shares.get)
    assert cli("predict", str(run_dir), "photos/a.png", "-o", "-").out.splitlines()[0].startswith("image,predicted,p_")
    assert cli("predict", str(run_dir), "photos/cut.png").code == 2
    assert cli("predict", str(run_dir), "photos/none.png").code == 2


def _parameters(line: str) -> int:
    """The first number of a line of the layout."""
    return int(next(word for word in line.replace(",", "").split() if word.isdecimal()))


def test_show_layout_adds_up(index, cli) -> None:
    result = cli("show", "smoke", "--layout", "--set", "backbone.image_size=32")
    assert result.code == 0, result.err
    header, *rows, total = result.out.splitlines()
    assert header.split()[0] == "stage"
    assert sum(map(_parameters, rows)) == _parameters(total)
    assert [row.split()[0] for row in rows] == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    assert sum("frozen" in row for row in rows) == 4


# ---------------------------------------------------------------------------------------------------- display

STARTED = {
    "name": "x", "run_dir": "runs/x", "epochs": 3, "steps": 30, "step": 0, "transfer": True,
    "weights": {"used": "IMAGENET1K_V1", "why": "first choice"}, "params": {"total": 1000, "trainable": 10},
}  # fmt: skip


def test_the_head_of_a_run() -> None:
    assert list(started_lines(STARTED)) == [
        "x -> runs/x",
        "weights IMAGENET1K_V1",
        "10 of 1,000 parameters train; 3 epochs, 30 steps",
    ]
    lines = list(
        started_lines({**STARTED, "transfer": False, "step": 12, "weights": {"used": "random", "why": "no hub"}})
    )
    assert lines[1:] == [
        "RANDOM BACKBONE: not transfer learning",
        "weights random (no hub)",
        "10 of 1,000 parameters train; 3 epochs, 30 steps, 12 of them done",
    ]


def test_an_epochs_line() -> None:
    metrics = {"train.loss": 1.5, "val.loss": 0.25, "val.accuracy": 0.75, "val.ece": 0.1}
    line = epoch_line({"epoch": 2, "epochs": 10, "metrics": metrics, "lr": 0.001, "seconds": 3.21})
    assert line == "epoch  2/10  train.loss 1.5000  val.loss 0.2500  val.accuracy 0.7500  lr 0.001  3.2 s"


def test_metrics_as_a_table() -> None:
    metrics = {"final": {"epoch": 3, "val": {"loss": 0.5}}, "best": {"val": {"loss": 0.25, "accuracy": 1.0}}}
    assert metric_lines(metrics) == ["           loss    accuracy", "final val  0.5000", "best val   0.2500  1.0000"]
    assert metric_lines({}) == []


def test_the_closing_table_names_skipped_images() -> None:
    text = "\n".join(
        ended_lines({"time_s": {"train": 1.0, "total": 2.0}, "skipped_images": {"a": "cut"}, "run_dir": "r"})
    )
    assert "skipped  1 unreadable image, listed in summary.json" in text
    assert "time     2.0 s (train 1.0)" in text


def test_a_reader_that_goes_away_does_not_stop_a_run() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    display = PlainDisplay(Gone())
    display.started(STARTED)
    display.note("still here")
    closed = io.StringIO()
    closed.close()
    PlainDisplay(closed).note("still here")


def test_speed_is_of_the_images_since_it_began_and_is_shown_ten_times_a_second() -> None:
    now = [100.0]
    speed = Speed(lambda: now[0])
    assert speed.per_second(320) == 0.0
    assert speed.due()
    now[0] += 0.05
    assert not speed.due()
    now[0] += 1.95
    assert speed.per_second(520) == pytest.approx(100)
    assert speed.due()


def test_the_bar_lives_on_a_terminal_and_goes_away() -> None:
    from framework.cli.bar import BarDisplay

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    display = BarDisplay(stream)
    display.started({**STARTED, "transfer": False})
    for step in range(1, 31):
        display.batch({"epoch": 0, "step": step, "steps": 30, "loss": 1.0, "images": 10 * step})
    display.epoch({"epoch": 1, "epochs": 3, "metrics": {"train.loss": 1.0}, "lr": 0.1, "seconds": 1.0})
    display.warn("a [strange] thing")
    display.ended({"run_dir": "runs/x"})
    said = stream.getvalue()
    assert "RANDOM BACKBONE" in said
    assert "images/s" in said
    assert int(re.findall(r"(\d+) MB", said)[-1]) > 20
    assert "epoch 1/3" in said
    assert "a [strange] thing" in said
