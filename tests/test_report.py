"""The report of a run, opened in a browser: what it says, that it is all there, and that names stay text."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import HOSTILE, Page, in_a_browser, opened_in, require_harmless
from PIL import Image
from test_plans_that_change import EPOCHS, NETWORKS, SMALL, Plugin

from framework.catalog import PluginSource
from framework.display import NullDisplay
from framework.errors import FwError, Interrupted
from framework.index import Index, build_index
from framework.recipe import load_recipe
from framework.report import charts, mistakes, page, run_report
from framework.report.charts import Axis, Series
from framework.runs import resume_run, start_run

FAST = [
    *("backbone.use=timm/test_efficientnet", "backbone.image_size=32", "train.batch_size=20"),
    *("engine.threads=1", "engine.device=cpu", "engine.partition=off"),
]
RANDOM = ["data.images=60", "data.classes=3", "data.size=32", *FAST, "train.epochs=2"]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], tuple[Page, list[str]]]:
    """`opened(file)`: what a browser makes of a page, and what its console says."""
    return partial(opened_in, tmp_path_factory.mktemp("browser"))


# -------------------------------------------------------------------------------------------------- runs


class Telling(NullDisplay):
    """Keeps what it is warned of."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def rows_of(folder: Path, split: str = "test") -> list[dict[str, str]]:
    with (folder / "predictions" / f"{split}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def photographs(folder: Path, images: int = 120) -> Path:
    """Noisy pictures of four hostile classes, whose files have hostile names too, and the table of their labels."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    patterns = draw.normal(0, 25, (len(HOSTILE), 5, 5, 3))
    lines = []
    for number in range(images):
        kind = number % len(HOSTILE)
        pixels = np.kron(patterns[kind], np.ones((8, 12, 1))) + draw.normal(128, 60, (40, 60, 3))
        name = f"<img src=x onerror=alert({number})> & $x$.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
        lines.append([name, HOSTILE[kind]])
    (folder / "broken.png").write_bytes(b"<b>no picture</b>")
    with (folder / "photos.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "label"], *lines, ["broken.png", HOSTILE[0]]])
    return folder / "photos.csv"


@pytest.fixture(scope="module")
def hostile(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run on hostile names."""
    folder = tmp_path_factory.mktemp("hostile")
    data = f"data={{use='csv', file='{photographs(folder / 'photos')}', on_error='skip'}}"
    more = ["name='<i>smoke & mirrors</i>'", "train.epochs=6", "optimizer.lr=0.002", "freezing.use=frozen"]
    start_run(load_recipe("smoke", index, [data, *FAST, *more]), index, folder / "run", False, NullDisplay())
    return folder / "run"


@pytest.fixture(scope="module")
def shown(hostile: Path, opened) -> tuple[Page, list[str]]:
    """That run's report in a browser."""
    return opened(hostile / "report.html")


# ---------------------------------------------------------------------------------------------- what it says


@in_a_browser
def test_a_browser_shows_the_runs_figures_and_takes_every_name_for_text(hostile: Path, shown) -> None:
    found, console = shown
    assert console == []
    require_harmless(found)
    summary = json.loads((hostile / "summary.json").read_text())
    best = summary["metrics"]["best"]
    assert found.texts("h1") == ["<i>smoke & mirrors</i>"]
    assert found.texts("title")[0] == "RANDOM BACKBONE: not transfer learning - <i>smoke & mirrors</i>: run report"
    assert "RANDOM BACKBONE: not transfer learning" in found.texts("p")
    assert f"test accuracy {best['test']['accuracy']:.4f}" in found.texts("li")
    scores = {row[0]: row[1:] for row in found.table("Best epoch")}
    assert scores["loss"] == [f"{value:.4f}" for value in (
        best["test"]["loss"], best["val"]["loss"],
        summary["metrics"]["final"]["val"]["loss"], summary["metrics"]["final"]["train"]["loss"])]  # fmt: skip
    assert any(summary["selection"] in text for text in found.texts("p"))
    assert (hostile / "recipe.toml").read_text().split() == found.texts("code")[0].split()
    assert summary["weights"]["sha256"] in found.texts("td")
    assert found.table("1 could not be read")[1][0] == "broken.png"
    facts = dict(row for row in found.table("The policy"))
    assert facts["frozen tensors"] == f"{summary['audit']['frozen_tensors']}, 0 moved"


@in_a_browser
def test_the_confusion_matrix_is_that_of_the_predictions(hostile: Path, shown) -> None:
    rows = rows_of(hostile)
    names = sorted(HOSTILE)
    head, *body = shown[0].table("Test split")
    assert head == ["target", *names, "right"]
    assert [row[0] for row in body] == names
    for target, *counts, right in body:
        of_class = [row for row in rows if row["target"] == target]
        assert counts == [str(sum(row["predicted"] == name for row in of_class)) for name in names]
        hits = sum(row["predicted"] == target for row in of_class)
        assert right == f"{100 * hits / len(of_class):.1f} %"


@in_a_browser
def test_the_worst_errors_are_those_of_the_predictions_with_their_pictures(hostile: Path, shown) -> None:
    wrong = [row for row in rows_of(hostile) if row["target"] != row["predicted"]]
    wrong.sort(key=lambda row: -float(row[f"p_{row['predicted']}"]))
    found = shown[0]
    pictures = found.all("img")
    assert len(pictures) > 3, "too few errors to say anything"
    assert [picture.attributes["alt"] for picture in pictures] == [row["image"] for row in wrong][:24]
    details = found.texts("dd")
    for at, row in enumerate(wrong[:24]):
        sure = float(row[f"p_{row['predicted']}"])
        assert details[4 * at : 4 * at + 4] == [row["image"], row["target"], row["predicted"], f"{sure:.3f}"]


@in_a_browser
def test_a_page_that_did_something_would_be_noticed(tmp_path: Path, opened) -> None:
    """The same looks, at a page whose names were not escaped: each of the checks above can fail."""
    file = tmp_path / "bad.html"
    file.write_text(
        f"<html><body>{HOSTILE[0]}<svg><text>{HOSTILE[1]}</text></svg><script>missing()</script></body></html>"
    )
    found, console = opened(file)
    assert any("missing is not defined" in line for line in console)
    assert "data-taken" in found.elements[0].attributes
    assert len(found.all("script")) == 2
    with pytest.raises(AssertionError):
        require_harmless(found)


@in_a_browser
def test_names_in_charts_are_text_in_a_page(tmp_path: Path, opened) -> None:
    """Drawings go into a page as they are."""
    drawn = [
        charts.lines(HOSTILE[0], [Series(name, [1, 2], [1, 2]) for name in HOSTILE], Axis(HOSTILE[1]), Axis("y")),
        charts.stacked_bars(HOSTILE[1], HOSTILE, {name: [1.0] * 4 for name in HOSTILE}, Axis("x")),
    ]
    template = '{% extends "base.html" %}{% block main %}{% for one in drawn %}{{ one }}{% endfor %}{% endblock %}'
    file = tmp_path / "charts.html"
    file.write_text(page.environment().from_string(template).render(drawn=drawn), encoding="utf-8")
    found, console = opened(file)
    assert console == []
    require_harmless(found)
    shown = [charts.literal(name) for name in HOSTILE]
    assert [found.texts("text").count(name) for name in shown] == [2 + 1, 2 + 1 + 1, 2 + 1, 2 + 1]
    assert found.texts("title")[1:] == list(HOSTILE[:2])


def test_the_file_holds_all_that_it_shows(hostile: Path) -> None:
    text = (hostile / "report.html").read_text(encoding="utf-8")
    without_pictures = re.sub(r"data:image/jpeg;base64,[\w+/=]+", "", text)
    assert re.findall(r"https?:|//[a-z]|@import|url\((?!#)", without_pictures) == []
    assert '<html lang="en">' in text
    found = Page(text)
    require_harmless(found)
    assert [svg.attributes["role"] for svg in found.all("svg")] == ["img"] * 3
    assert len(found.all("caption")) == len(found.all("table"))
    assert all(head.attributes["scope"] in ("col", "row") for head in found.all("th"))
    assert all(picture.attributes["alt"] for picture in found.all("img"))
    ids = re.findall(r'<[^>]* id="([^"]+)"', text)
    assert len(ids) == len(set(ids))


# -------------------------------------------------------------------------------------------- other tasks


@pytest.fixture
def go(index: Index, tmp_path: Path) -> Callable[..., Page]:
    """Runs `smoke` on random images and gives its report."""

    def run(*overrides: str, display: NullDisplay | None = None) -> Page:
        recipe = load_recipe("smoke", index, [*RANDOM, *overrides])
        start_run(recipe, index, tmp_path / "run", False, display or NullDisplay())
        return Page((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))

    return run


def test_a_multilabel_task_has_a_row_for_each_class(go, tmp_path: Path) -> None:
    found = go("data.kind=multilabel", "loss.use=torch/BCEWithLogitsLoss", "train.monitor=val.loss")
    assert len(found.all("svg")) == 2, "the loss is the monitor, and drawn already"
    rows = rows_of(tmp_path / "run")
    for name, *shown in found.table("Test split")[1:]:
        has, given = ([name in row[column].split("|") for row in rows] for column in ("target", "predicted"))
        both = sum(map(all, zip(has, given, strict=True)))
        assert shown[:3] == [str(sum(has)), str(sum(given)), str(both)]
        assert shown[4] == f"{both / sum(has):.3f}"


def test_of_many_classes_the_most_confused_pairs_are_shown(go, tmp_path: Path) -> None:
    found = go("data.classes=31", "data.images=186", "train.epochs=1")
    rows = rows_of(tmp_path / "run")
    _, *pairs = found.table("Test split")
    assert 0 < len(pairs) <= 30
    assert [int(pair[2]) for pair in pairs] == sorted((int(pair[2]) for pair in pairs), reverse=True)
    for target, predicted, count, _ in pairs:
        assert sum((row["target"], row["predicted"]) == (target, predicted) for row in rows) == int(count)


def test_without_a_test_split_the_report_is_about_validation(go, tmp_path: Path) -> None:
    found = go("data.test=0", "engine.partition=off", "backbone.weights=['random']")
    assert found.table("Validation split, 12 images")
    assert 'None: engine.partition = "off".' in found.texts("p")
    assert any("no test split: validation, also used for selection" in text for text in found.texts("p"))
    assert any(text.startswith("validation accuracy") for text in found.texts("li"))


def test_a_run_that_got_everything_right_has_no_worst_errors(go, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mistakes, "worst", lambda answers: [])
    assert "Every image of the test split was predicted rightly." in go().texts("p")


# ---------------------------------------------------------------------------------------------- what may fail


def test_a_run_that_was_told_so_writes_no_report(index: Index, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(run_report, "write_run_report", None)  # calling it would warn
    told = Telling()
    start_run(load_recipe("smoke", index, [*RANDOM, "train.report=false"]), index, tmp_path / "run", False, told)
    assert not (tmp_path / "run" / "report.html").exists()
    assert told.warnings == []


def no_room(path: Path, text: str) -> None:
    raise FwError(f"cannot write {path}: no room")


@pytest.mark.parametrize("broken", ["render", "thumbnail", "write_text"])
def test_a_report_that_cannot_be_made_fails_no_run(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fails(*given: Any, **facts: Any) -> str:
        raise OSError("no room")

    monkeypatch.setattr(run_report, broken, no_room if broken == "write_text" else fails)
    told = Telling()
    recipe = load_recipe("smoke", index, [*RANDOM, "data.classes=8", "train.epochs=1"])
    summary = start_run(recipe, index, tmp_path / "run", False, told)
    assert summary["status"] == "done"
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    assert [text.startswith("there is no report: ") and "no room" in text for text in told.warnings] == [True]
    assert not (tmp_path / "run" / "report.html").exists()


def test_an_image_that_has_gone_leaves_its_place_and_the_reason(index: Index, tmp_path: Path, monkeypatch) -> None:
    file = photographs(tmp_path / "photos", 60)
    told, honest = Telling(), run_report.write_run_report

    def after_the_images_went(*given: Any) -> None:
        for picture in file.parent.glob("*.png"):
            picture.unlink()
        honest(*given)

    monkeypatch.setattr(run_report, "write_run_report", after_the_images_went)
    data = f"data={{use='csv', file='{file}', on_error='skip'}}"
    recipe = load_recipe("smoke", index, [data, *FAST, "train.epochs=1", "freezing.use=frozen"])
    start_run(recipe, index, tmp_path / "run", False, told)
    found = Page((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    assert told.warnings == []
    assert found.all("img") == []
    wrong = [row for row in rows_of(tmp_path / "run") if row["target"] != row["predicted"]]
    assert wrong
    assert found.texts("span").count("no picture: there is no such file") == len(wrong)


# ------------------------------------------------------------------------------------------------- resuming


@pytest.fixture(scope="module")
def plugged(index: Index) -> Index:
    """The installed plugins, and one whose policy follows a script of changes."""
    return Index((*index.plugins, *build_index([PluginSource.of(Plugin(), "scripts", "acme-scripts")]).plugins))


class StopAfter(NullDisplay):
    """Asks the run to stop after an epoch."""

    def __init__(self, epoch: int) -> None:
        self.stop = epoch

    def epoch(self, facts) -> None:
        if facts["epoch"] == self.stop:
            os.kill(os.getpid(), signal.SIGTERM)


def curves_of(folder: Path) -> Iterator[str]:
    text = (folder / "report.html").read_text(encoding="utf-8")
    for drawing in re.findall(r"<svg .*?</svg>", text, re.DOTALL):
        if "by epoch" in drawing:
            yield drawing


def test_a_report_says_what_an_adapter_and_a_finisher_did(index: Index, tmp_path: Path) -> None:
    added = ["backbone.use=timm/test_vit", "freezing.use=frozen", "adapter.use=lora", "finisher.use=ema"]
    summary = start_run(load_recipe("smoke", index, [*RANDOM, *added]), index, tmp_path / "run", False, NullDisplay())
    adapter, metrics = summary["adapter"], summary["metrics"]
    assert 0 < adapter["difference"] < 1e-4
    found = Page((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    said = (f"Adapter lora: {adapter['parameters']:,} parameters added, merged into the network's own, "
            f"which moved logits by at most {adapter['difference']:.1g} of the largest.")  # fmt: skip
    assert said in found.texts("p")
    head, *rows = found.table("Weights that ema made")
    assert head[1:5] == ["test, ema", "val, ema", "test, raw", "val, raw"]
    scores = {row[0]: row[1:5] for row in rows}
    assert scores["loss"] == [f"{metrics[which][split]['loss']:.4f}" for which in ("best", "raw")
                              for split in ("test", "val")]  # fmt: skip


def test_a_resumed_run_reports_all_its_epochs_and_changes_of_plan(plugged: Index, tmp_path: Path) -> None:
    script = "freezing={use='scripted', script='there and back in mid-epoch'}"
    recipe = load_recipe("smoke", plugged, [*SMALL, *NETWORKS["layer_norm"], script, "engine.partition=off",
                                              "train.report=true"])  # fmt: skip
    summary = start_run(recipe, plugged, tmp_path / "whole", False, NullDisplay())
    with pytest.raises(Interrupted):
        start_run(recipe, plugged, tmp_path / "parts", False, StopAfter(2))
    resumed = resume_run(tmp_path / "parts", plugged, NullDisplay())
    assert resumed["plan_changes"] == summary["plan_changes"]
    assert [(change["epoch"], change["step"], change["removed"]) for change in summary["plan_changes"]] == [
        *((0, 1, 0), (1, 3, summary["plan_changes"][0]["added"]), (2, 5, 0)),
    ]
    found = Page((tmp_path / "parts" / "report.html").read_text(encoding="utf-8"))
    assert [row[0] for row in found.table("metrics.jsonl")] == ["epoch", *(str(n + 1) for n in range(EPOCHS))]
    assert [row[:2] for row in found.table("Tensors that train")[1:]] == [["2", "1"], ["4", "2"], ["6", "3"]]
    assert found.table("Tensors that train")[1][5] == ", ".join(summary["plan_changes"][0]["stages"])
    drawn = list(curves_of(tmp_path / "parts"))
    assert drawn == list(curves_of(tmp_path / "whole"))
    assert ["plan change" in drawing for drawing in drawn] == [True, True]
    assert all(len(re.findall(r"stroke-dasharray: 1.2,2.4", drawing)) == 3 + 1 for drawing in drawn)


def test_a_step_stands_among_epochs_by_the_log() -> None:
    epochs = [{"epoch": 1, "step": 4}, {"epoch": 2, "step": 8}, {"epoch": 3, "step": 10}]
    assert [run_report.epoch_of(step, epochs) for step in (0, 2, 4, 6, 9, 10)] == [0, 0.5, 1, 1.5, 2.5, 3]
