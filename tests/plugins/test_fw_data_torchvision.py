"""torchvision's data sets as a family."""

from __future__ import annotations

import gzip
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import framework as fw
from framework.component import recipe_fields
from framework.data import class_counts
from framework.shapes import encode_fields
from fw_torchvision import images as library_images
from fw_torchvision.datasets import dataset_family

FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FW_CACHE_DIR", str(tmp_path / "cache"))


def config(name, **keys):
    return dataset_family().member(name).config(**keys)


def test_the_family_is_found_by_rule():
    family = dataset_family()
    names = set(family.names())
    wanted = {"CIFAR10", "DTD", "EuroSAT", "FakeData", "FashionMNIST", "Food101", "ImageNet", "OxfordIIITPet", "STL10"}
    unwanted = {"VOCDetection", "Kitti", "Cityscapes", "CocoDetection", "Flickr8k", "UCF101", "Sintel", "DatasetFolder"}
    assert wanted <= names
    assert not unwanted & names
    keys = {name: [field.name for field in recipe_fields(family.member(name))] for name in names}
    assert all("root" in keys[name] for name in names - {"FakeData"})
    assert not [name for name in names if {"train", "transform", "target_transform", "loader"} & set(keys[name])]
    assert all(encode_fields(recipe_fields(family.member(name))) for name in names)
    print(f"{len(names)} data sets")


def test_a_name_outside_the_family():
    with pytest.raises(fw.FwError, match="no image classification data set 'CIFAR11'") as error:
        dataset_family().member("CIFAR11")
    assert "CIFAR10" in error.value.hint


def test_fake_data_is_cut_by_seed(monkeypatch):
    seen = []
    real = library_images.LibrarySource.item
    monkeypatch.setattr(library_images.LibrarySource, "item", lambda self, at: seen.append(at) or real(self, at))
    keys = {"size": 60, "image_size": (3, 8, 9), "num_classes": 3}
    data = config("FakeData", **keys).build(0)
    assert len(seen) <= 60 + 12
    assert data.test is not None
    assert len(data.train) + len(data.val) + len(data.test) == 60
    assert min(class_counts(data.val, 3)) >= 1
    assert (data.train.load(0).mode, data.train.load(0).size) == ("RGB", (9, 8))
    assert data.fingerprint == config("FakeData", **keys).build(0).fingerprint
    assert data.fingerprint != config("FakeData", **keys, random_offset=1).build(0).fingerprint


def mnist_files(root, train=40, test=12):
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for prefix, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 4).astype(np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (folder / f"{prefix}-{name}-ubyte").write_bytes(head + array.tobytes())
    return root


def test_train_argument_gives_train_and_test(tmp_path, monkeypatch):
    seen = []
    real = library_images.LibrarySource.item
    monkeypatch.setattr(library_images.LibrarySource, "item", lambda self, at: seen.append(at) or real(self, at))
    data = config("MNIST", root=mnist_files(tmp_path), val=0.2).build(0)
    assert len(seen) <= 24, "targets and digests come from the library's arrays"
    assert [class_counts(split, 10)[:4] for split in (data.train, data.val, data.test)] == [[8] * 4, [2] * 4, [3] * 4]
    assert data.task.classes[0] == "0 - zero"
    copied = pickle.dumps(data.test.source)
    assert len(copied) < 1000
    assert pickle.loads(copied).load(3).tobytes() == data.test.load(3).tobytes()


def test_split_argument_gives_the_librarys_splits_from_files(tmp_path):
    """DTD's layout: images by class, lists of files per split."""
    root = tmp_path / "dtd" / "dtd"
    (root / "labels").mkdir(parents=True)
    for number, split in enumerate(("train", "val", "test")):
        lines = [f"{name}/{name}_{number}{k}.jpg" for name in ("banded", "woven") for k in range(3)]
        (root / "labels" / f"{split}1.txt").write_text("\n".join(lines) + "\n")
        for k, line in enumerate(lines):
            file = root / "images" / line
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(100 * number + k).integers(0, 256, (10, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(file)
    data = config("DTD", root=tmp_path).build(0)
    assert [len(split) for split in (data.train, data.val, data.test)] == [6, 6, 6]
    assert data.task.classes == ("banded", "woven")
    assert data.train.names[0] == "banded/banded_00.jpg"
    assert data.val.digest(0) == fw.file_digests([root / "images" / "banded" / "banded_10.jpg"])[0]
    assert data.train.targets.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_damaged_image_is_unreadable(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for k in range(5):
            pixels = np.random.default_rng(k).integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{k}.png")
    data = config("ImageFolder", root=tmp_path).build(0)
    file = tmp_path / data.train.names[0]
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(fw.UnreadableImage, match="truncated"):
        data.train.load(0)


def test_missing_files_and_downloads_that_cannot_be_made(tmp_path, monkeypatch, capsys):
    with pytest.raises(fw.FwError, match=r"torchvision/CIFAR10 cannot be read from .*nowhere") as error:
        config("CIFAR10", root=tmp_path / "nowhere").build(0)
    assert "set data.download = true" in error.value.hint
    for scheme in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")
    with pytest.raises(fw.FwError, match=r"torchvision/CIFAR10 cannot be downloaded to .*refused") as error:
        config("CIFAR10", root=tmp_path / "nowhere", download=True).build(0)
    assert "set data.download = false" in error.value.hint
    assert capsys.readouterr().out == ""


def test_what_is_no_image_classification_is_refused(tmp_path):
    class Pairs(torch.utils.data.Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return Image.new("L", (3, 3)), Image.new("L", (3, 3)), 1

    with pytest.raises(fw.FwError, match=r"gives \(Image, Image, int\), not \(image, class\)"):
        library_images.read_split(library_images.LibrarySource(Pairs, {}), "train")


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian package dataset-fashion-mnist is not installed")
def test_fashion_mnist_and_idx_hold_the_same_images(tmp_path):
    from fw_data.idx import Idx

    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in FASHION.glob("*.gz"):
        with gzip.open(file) as packed, (raw / file.stem).open("wb") as plain:
            shutil.copyfileobj(packed, plain)
    theirs, ours = config("FashionMNIST", root=tmp_path).build(0), Idx(root=FASHION).build(0)
    assert theirs.task.classes[9] == "Ankle boot"
    assert [theirs.test.digest(k) for k in range(50)] == [ours.test.digest(k) for k in range(50)]
    assert torch.equal(theirs.test.targets, ours.test.targets)
