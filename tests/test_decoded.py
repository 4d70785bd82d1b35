"""Decoded: images are decoded once where that repays, and what trains on them ends the same to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from sweeps import often

from framework import decoded
from framework.display import NullDisplay
from framework.entries import store_folder
from framework.files import load_tensors
from framework.recipe import load_recipe
from framework.runs import start_run

SPLIT = "split={val=0.25, test=0.2}"
ALL = ["backbone.image_size=64", "freezing.use=full", "train.batch_size=8", "engine.threads=1", "engine.device=cpu",
       "train.report=false"]  # fmt: skip
TRANSFORMS = {
    "center_crop": [],
    "whole_image": ["transform.train.use=augment"],  # only decoding comes before the random crop
    "pad": ["transform.train.use=augment", "transform.train.crop=pad"],
    "grey": ["backbone.in_channels=1", "transform.train.use=augment", "transform.train.crop=pad"],
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of crops of two photographs, of different sizes, as PNG, JPEG and in grey."""
    root = tmp_path_factory.mktemp("photos")
    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        (root / name).mkdir()
        whole = Image.fromarray(pixels)
        for number in range(12):
            picture = whole.crop((5 * number, 3 * number, 5 * number + 90 + number, 3 * number + 80))
            kind = (".png", ".jpg")[number % 2]
            (picture.convert("L") if number % 5 == 0 else picture).save(root / name / f"{number:02d}{kind}")
    return root


@pytest.fixture
def go(index, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Trains everything on the photographs; gives the metrics and the tensors that are left."""
    monkeypatch.setattr(decoded, "WORTH_SECONDS", 0.0)

    def run(name: str, *overrides: str) -> tuple[dict, dict]:
        checked = load_recipe(
            "smoke", index, [f"data={{use='image_folder', root='{photos}', {SPLIT}}}", *ALL, *overrides]
        )
        summary = start_run(checked, index, tmp_path / name, False, NullDisplay())
        return summary["metrics"], load_tensors(tmp_path / name / "model.safetensors")[0]

    return run


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The indices that an image file was decoded for."""
    from fw_data.sources import FileSource

    found: list[int] = []
    honest = FileSource.load
    monkeypatch.setattr(FileSource, "load", lambda self, index: found.append(index) or honest(self, index))
    return found


def resized(side: int) -> list[str]:
    """Transforms that no other test uses, and so an entry of its own."""
    return [f"transform.{which}={{use='center_crop', resize={side}}}" for which in ("train", "eval")]


@pytest.mark.parametrize("transform", often(("whole_image", "grey", "center_crop", "pad"), quick=("whole_image",)))
def test_pixels_that_were_kept_train_to_the_same_bits(go, transform: str) -> None:
    plain = go("plain", *TRANSFORMS[transform], "engine.cache=off")
    kept = go("kept", *TRANSFORMS[transform])
    again = go("again", *TRANSFORMS[transform], "engine.cache=memory")
    for metrics, tensors in (kept, again):
        assert metrics == plain[0]
        assert all(torch.equal(tensors[name], plain[1][name]) for name in plain[1])


def test_a_second_run_decodes_nothing_but_the_test_split(go, reads: list[int]) -> None:
    asked = [
        *(f"transform.{which}={{use='center_crop', resize=70}}" for which in ("train", "eval"))
    ]  # an entry of this test's own
    go("first", *asked)
    first = len(reads)
    go("second", *asked, "freezing.use=frozen", "engine.partition=off")
    assert first > 19
    assert len(reads) - first <= 4 + 2 * decoded.SAMPLE


def test_images_are_decoded_once_for_all_plans(go, reads: list[int]) -> None:
    go("thawing", *resized(73), "freezing.use=gradual_unfreeze", "train.epochs=4", "backbone.use=timm/test_resnet")
    images = 24
    assert images <= len(reads) <= images + 2 * decoded.SAMPLE


def test_images_that_cost_little_to_decode_are_not_kept(go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded, "WORTH_SECONDS", 1e6)
    monkeypatch.setenv("FW_CACHE_DIR", str(tmp_path / "cache"))  # tests beside this one fill the common store
    before = set(store_folder().glob("*"))
    go("cheap", *resized(71))
    assert set(store_folder().glob("*")) == before


def test_an_image_that_cannot_be_read_is_skipped_as_without_the_store(go, photos: Path) -> None:
    (photos / "china" / "broken.png").write_bytes((photos / "china" / "02.png").read_bytes()[:200])
    try:
        plain = go("plain", "data.on_error=skip", "engine.cache=off")
        kept = go("kept", "data.on_error=skip")
    finally:
        (photos / "china" / "broken.png").unlink()
    assert kept[0] == plain[0]
    assert all(torch.equal(kept[1][name], plain[1][name]) for name in plain[1])
