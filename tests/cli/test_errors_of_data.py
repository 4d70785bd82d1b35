"""What goes wrong once real parts are built: data, weights, run directories. Each text is under snapshot."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

INDEXING = "indexing plugins (once per installed version) ...\n"
RECIPE = """\
extends = "smoke"
name = "photos"

[data]
use = "image_folder"
root = "photos"

[backbone]
image_size = 32

[train]
epochs = 1
batch_size = 6

[engine]
threads = 1
partition = "off"
"""
OFFLINE = "http://127.0.0.1:9"  # the discard port: a proxy that refuses at once

pytestmark = pytest.mark.usefixtures("index")


def draw(file: Path, rng: random.Random) -> None:
    """A small picture of noise."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.frombytes("RGB", (24, 24), rng.randbytes(24 * 24 * 3)).save(file)


@pytest.fixture
def photos(here: Path) -> Path:
    """The recipe `photos.toml`, its folder of twenty pictures, and the same as `photos.csv`."""
    rng = random.Random(0)
    rows = ["path,label"]
    for name in ("cat", "dog"):
        for number in range(10):
            draw(here / "photos" / name / f"{number}.png", rng)
            rows.append(f"{name}/{number}.png,{name}")
    (here / "photos.csv").write_text("\n".join(rows) + "\n")
    (here / "photos.toml").write_text(RECIPE)
    return here


@pytest.fixture
def fails(cli, snapshot, here: Path) -> Callable[..., str]:
    """Runs a command that a user can mend: exit code 2, a text under snapshot, and no run directory left."""

    def check(name: str, *arguments: str, plain: Callable[[str], str] = str) -> str:
        before = sorted((here / "runs").rglob("*"))
        result = cli(*arguments)
        said = plain(result.err.replace(INDEXING, ""))
        assert result.code == 2, said
        assert "Traceback" not in said
        assert sorted((here / "runs").rglob("*")) == before, "nothing is left behind"
        snapshot(name, f"$ fw {' '.join(arguments)}\n{said}")
        return said

    return check


def sets(*overrides: str) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


CSV = sets("data.use=csv", "data.file=photos.csv", "data.root=photos")


def mislabel(folder: Path) -> None:
    """One row says `dgo`."""
    file = folder / "photos.csv"
    file.write_text(file.read_text().replace("dog/9.png,dog", "dog/9.png,dgo"))


def cut_short(file: Path) -> None:
    """A download that stopped half way."""
    file.write_bytes(file.read_bytes()[:800])


# ------------------------------------------------------------------------------------------------- data


def test_a_class_that_the_recipe_does_not_name(photos: Path, fails) -> None:
    mislabel(photos)
    fails("csv_unknown_class", "run", "photos.toml", *CSV, *sets('data.classes=["cat","dog"]'))


def test_a_misspelt_class_where_the_recipe_names_none(photos: Path, fails) -> None:
    mislabel(photos)
    fails("csv_misspelt_class", "run", "photos.toml", *CSV)


def test_a_truncated_image_stops_the_run_and_leaves_nothing(photos: Path, fails) -> None:
    cut_short(photos / "photos" / "cat" / "3.png")
    fails("truncated_image", "run", "photos.toml")
    assert not (photos / "runs").exists()


def test_truncated_images_that_may_be_skipped_are_listed(photos: Path, cli) -> None:
    """In whatever split each lies; the run says how many, the summary which and why."""
    broken = ["cat/1.png", "cat/3.png", "dog/0.png"]
    for name in broken:
        cut_short(photos / "photos" / name)
    before = {file: file.read_bytes() for file in (photos / "photos").rglob("*.png")}
    result = cli("run", "photos.toml", *sets("data.on_error=skip"))
    assert result.code == 0, result.err
    assert "skipped  3 unreadable images, listed in summary.json" in result.out
    summary = json.loads((photos / "runs" / "photos" / "summary.json").read_text())
    assert sorted(summary["skipped_images"]) == broken
    assert all("truncated" in reason for reason in summary["skipped_images"].values())
    assert {file: file.read_bytes() for file in (photos / "photos").rglob("*.png")} == before


def test_duplicates_across_splits(photos: Path, fails, cli) -> None:
    rng = random.Random(1)
    for split, count in (("train", 6), ("val", 3)):
        for name in ("cat", "dog"):
            for number in range(count):
                draw(photos / "split" / split / name / f"{number}.png", rng)
    for number in range(2):
        same = (photos / "split" / "train" / "cat" / f"{number}.png").read_bytes()
        (photos / "split" / "val" / "cat" / f"copy{number}.png").write_bytes(same)
    command = ["run", "photos.toml", *sets("data.root=split")]
    fails("duplicates_across_splits", *command)
    assert cli(*command, *sets("data.duplicates=allow")).code == 0


def test_a_missing_folder(photos: Path, fails) -> None:
    fails("missing_folder", "run", "photos.toml", *sets("data.root=phots"))


def test_a_folder_that_a_shipped_recipe_expects(here: Path, fails) -> None:
    fails("missing_folder_of_a_shipped_recipe", "run", "tutorial_frozen")


# ---------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize(
    ("name", "backbone", "weights"),
    [
        ("download_torchvision", "torchvision/resnet18", "IMAGENET1K_V1"),
        ("download_timm", "timm/resnet18", "a1_in1k"),
    ],
)
def test_a_download_that_cannot_be_made(
    photos: Path, fails, monkeypatch: pytest.MonkeyPatch, name: str, backbone: str, weights: str
) -> None:
    """Within seconds, whatever this machine can reach: the network ends at a port that nobody listens to."""
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(variable, OFFLINE)
        monkeypatch.setenv(variable.upper(), OFFLINE)
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("TORCH_HOME", "HF_HOME"):  # too late for huggingface_hub, which the next line tells
        monkeypatch.setenv(variable, str(photos / "empty"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(photos / "empty"))
    chosen = sets(f"backbone.use={backbone}", f'backbone.weights=["{weights}"]')
    began = time.perf_counter()
    fails(name, "run", "photos.toml", *chosen, plain=without_the_systems_reason)
    seconds = time.perf_counter() - began
    print(f"\n{backbone} {weights}: refused after {seconds:.1f} s")
    assert seconds < 30


def without_the_systems_reason(text: str) -> str:
    """The operating system words it, and the library announces the file."""
    said = "\n".join(line for line in text.splitlines() if not line.startswith("Downloading: "))
    return re.sub(r"(cannot download \S+: ).*", r"\1REASON", said)


# ------------------------------------------------------------------------------------- networks and runs


def test_nothing_trainable(photos: Path, fails) -> None:
    """ResNet-18 gives 512 features, which without a head are the scores of 512 classes."""
    data = sets("data.use=random", "data.classes=512", "data.images=1600", "data.size=8")
    fails("nothing_trainable", "run", "photos.toml", *data, *sets("head.use=none", "freezing.use=frozen"))


def test_an_output_directory_in_use_by_another_run_or_other_files(photos: Path, fails, cli) -> None:
    assert cli("run", "photos.toml").code == 0
    fails("output_finished", "run", "photos.toml")
    (photos / "runs" / "photos" / "summary.json").unlink()
    fails("output_unfinished", "run", "photos.toml")
    fails("output_other_files", "run", "photos.toml", "--out", "photos")
    fails("output_other_files_overwrite", "run", "photos.toml", "--out", "photos", "--overwrite")
    fails("resume_near_name", "resume", "runs/potos")


def test_a_resume_of_what_is_no_run(photos: Path, fails) -> None:
    fails("resume_no_run", "resume", "photos")
    fails("resume_recipe", "resume", "photos.toml")
    fails("resume_nowhere", "resume", "runs/photos")
