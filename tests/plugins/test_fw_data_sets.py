"""The data sets of fw_data: digits, image folder, CSV, idx, random."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import framework as fw
from framework import digests
from framework.data import Images, class_counts, duplicates, loader
from framework.index import PluginSource, build_index
from framework.pictures import read_picture
from fw_data.csv_file import Csv
from fw_data.digits import Digits
from fw_data.folder import ImageFolder
from fw_data.idx import Idx
from fw_data.keys import Shares
from fw_data.random_images import RandomImages

FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FW_CACHE_DIR", str(folder))
    return folder


def picture(file, seed=0, size=(9, 7), mode="RGB"):
    file.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(file)
    return file


def class_folders(root, counts, start=0):
    for name, count in counts.items():
        for number in range(count):
            start += 1
            picture(root / name / f"{number:02d}.png", start)
    return start


def render(error):
    return error.value.render()


def test_the_plugin_offers_what_it_says():
    import fw_data

    index = build_index([PluginSource.of(fw_data, "fw_data")])
    assert not index.broken
    assert index.names("datasets") == ["digits", "image_folder", "csv", "idx", "random"]
    assert index.names("transforms") == ["center_crop", "augment"]


# ------------------------------------------------------------------------------------------------ digits


def test_digits_are_split_alike_and_hold_no_duplicates():
    data = Digits().build(seed=0)
    assert [len(split) for split in (data.train, data.val, data.test)] == [1079, 359, 359]
    assert max(class_counts(data.val, 10)) - min(class_counts(data.val, 10)) <= 2
    assert duplicates(data) == []
    image = data.train.load(0)
    assert (image.mode, image.size, image.getextrema()[1]) == ("L", (8, 8), 255)
    assert Digits().build(0).fingerprint == data.fingerprint != Digits().build(1).fingerprint
    assert Digits(test=0.0).build(0).test is None


def test_sources_are_cheap_to_copy():
    data = Digits().build(0)
    copied = pickle.dumps(data.train.source)
    assert len(copied) < 1000
    assert pickle.loads(copied).load(5).tobytes() == data.train.source.load(5).tobytes()


# ------------------------------------------------------------------------------------------ image folder


def test_one_folder_is_split_by_seed_and_stratified(tmp_path):
    class_folders(tmp_path, {"cat": 10, "dög": 20, "犬": 5})
    data = ImageFolder(root=tmp_path).build(0)
    assert data.task.classes == ("cat", "dög", "犬")
    assert class_counts(data.train, 3) == [6, 12, 3]
    assert class_counts(data.val, 3) == class_counts(data.test, 3) == [2, 4, 1]
    assert data.train.names[-1].startswith("犬/")
    assert data.train.load(len(data.train) - 1).size == (9, 7)
    assert "60/20/20" in data.notes[0]
    assert ImageFolder(root=tmp_path).build(0).fingerprint == data.fingerprint


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_split_folders_are_taken_as_they_are(tmp_path, val):
    start = class_folders(tmp_path / "train", {"a": 3, "b": 4})
    start = class_folders(tmp_path / val, {"a": 2, "b": 1}, start)
    class_folders(tmp_path / "test", {"b": 1}, start)
    data = ImageFolder(root=tmp_path).build(0)
    assert [class_counts(split, 2) for split in (data.train, data.val, data.test)] == [[3, 4], [2, 1], [0, 1]]
    assert data.val.names == (f"{val}/a/00.png", f"{val}/a/01.png", f"{val}/b/00.png")


def test_val_is_cut_from_train_where_it_has_no_folder(tmp_path):
    start = class_folders(tmp_path / "train", {"a": 10, "b": 10})
    class_folders(tmp_path / "test", {"a": 2, "b": 2}, start)
    data = ImageFolder(root=tmp_path, split=Shares(val=0.3)).build(0)
    assert [class_counts(split, 2) for split in (data.train, data.val, data.test)] == [[7, 7], [3, 3], [2, 2]]


def test_a_class_called_train_is_a_class(tmp_path):
    class_folders(tmp_path, {"bus": 5, "train": 5})
    assert ImageFolder(root=tmp_path).build(0).task.classes == ("bus", "train")


def test_files_that_are_no_images_are_left_out(tmp_path):
    class_folders(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / "._00.png").write_bytes(b"resource fork")
    (tmp_path / ".cache").mkdir()
    picture(tmp_path / "a" / "deeper" / "UPPER.PNG", 99)
    data = ImageFolder(root=tmp_path, split=Shares(val=0.4, test=0.0)).build(0)
    names = {*data.train.names, *data.val.names}
    assert len(names) == 7
    assert "a/deeper/UPPER.PNG" in names


def missing_root(root):
    class_folders(root / "fotos", {"a": 1})
    return ImageFolder(root=root / "photos"), "photos does not exist", "did you mean 'fotos'?"


def empty_root(root):
    return ImageFolder(root=root), "has no class folders; it is empty", "/CLASS/*.jpg"


def images_without_folders(root):
    picture(root / "1.png")
    return ImageFolder(root=root), "has no class folders, only 1 images", "folder of its own"


def unknown_class(root):
    class_folders(root / "train", {"tiger": 3})
    class_folders(root / "val", {"tigers": 3})
    return ImageFolder(root=root), "val/tigers is a class that", "did you mean 'tiger'?"


def small_class(root):
    class_folders(root, {"a": 9, "b": 2})
    return ImageFolder(root=root), "too few images to be split into train, val, test: 'b' (2)", "at least 3"


def empty_class(root):
    class_folders(root, {"a": 9})
    (root / "b").mkdir()
    return ImageFolder(root=root), "b holds no image", ".png"


def no_train(root):
    class_folders(root / "val", {"a": 9})
    class_folders(root / "test", {"a": 9})
    return ImageFolder(root=root), "has split folders (val, test) but no train folder", "add a train folder"


def two_vals(root):
    for name in ("train", "val", "valid"):
        class_folders(root / name, {"a": 2})
    return ImageFolder(root=root), "both of which mean val", "rename or merge"


FOLDER_ERRORS = [
    missing_root, empty_root, images_without_folders, unknown_class, small_class, empty_class, no_train, two_vals,
]  # fmt: skip


@pytest.mark.parametrize("case", FOLDER_ERRORS, ids=lambda case: case.__name__)
def test_folder_errors(tmp_path, case):
    config, message, hint = case(tmp_path)
    with pytest.raises(fw.FwError) as error:
        config.build(0)
    assert message in error.value.message
    assert hint in error.value.hint


def test_data_are_never_touched_and_digests_are_remembered(tmp_path, cache, monkeypatch):
    class_folders(tmp_path, {"a": 4, "b": 4})
    files = sorted(tmp_path.rglob("*.png"))
    old = time.time_ns() - 60 * 10**9
    for file in files:
        os.utime(file, ns=(old, old))
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}
    first = ImageFolder(root=tmp_path).build(0).fingerprint
    assert sorted(tmp_path.rglob("*.png")) == files
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files} == before

    read = []
    real = digests.file_sha256
    monkeypatch.setattr(digests, "file_sha256", lambda path: read.append(path) or real(path))
    assert ImageFolder(root=tmp_path).build(0).fingerprint == first
    assert read == []
    picture(files[0], 1234)
    assert ImageFolder(root=tmp_path).build(0).fingerprint != first
    assert read == [files[0]]
    memory = next((cache / "digests").glob("*.json"))
    memory.write_text("{ damaged")
    assert ImageFolder(root=tmp_path).build(0).fingerprint != first


# ---------------------------------------------------------------------------------------------- pictures


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    levels = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    image = read_picture(tmp_path / "deep.png")
    assert (image.mode, list(image.tobytes())) == ("L", [0, 1, 128, 255])


def test_modes_become_grey_or_rgb(tmp_path):
    red = Image.new("RGB", (4, 2), (200, 10, 10))
    red.convert("P").save(tmp_path / "palette.png")
    red.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    red.convert("1").save(tmp_path / "bits.png")
    clear = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    clear.convert("LA").save(tmp_path / "clear_grey.png")
    transparent = Image.new("P", (4, 2), 0)
    transparent.save(tmp_path / "clear_palette.png", transparency=0)
    found = {file.stem: read_picture(file) for file in sorted(tmp_path.iterdir())}
    assert {name: image.mode for name, image in found.items()} == {
        "palette": "RGB", "cmyk": "RGB", "bits": "L", "clear": "RGB", "clear_grey": "L", "clear_palette": "RGB",
    }  # fmt: skip
    assert found["palette"].getpixel((0, 0)) == (200, 10, 10) or found["palette"].getpixel((0, 0))[0] > 150
    assert found["cmyk"].getpixel((0, 0))[0] > 150 > found["cmyk"].getpixel((0, 0))[1]
    assert found["clear"].getpixel((0, 0)) == found["clear_palette"].getpixel((0, 0)) == (255, 255, 255)
    assert found["clear_grey"].getpixel((0, 0)) == 255


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (8, 4), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_picture(tmp_path / "turned.jpg").size == (4, 8)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[: len(data) // 2], "truncated"),
        (lambda data: b"", "the file is empty"),
        (lambda data: b"<html>404</html>", "no image format that Pillow knows"),
    ],
)
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_damaged_files_are_unreadable_with_a_reason(tmp_path, damage, reason, ending):
    file = picture(tmp_path / f"image.{ending}", size=(64, 64))
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(fw.UnreadableImage, match=reason):
        read_picture(file)


def test_floating_point_pixels_are_unreadable(tmp_path):
    Image.fromarray(np.ones((3, 3), dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(fw.UnreadableImage, match="floating-point"):
        read_picture(tmp_path / "float.tif")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_truncated_file_is_raised_or_skipped(tmp_path, workers):
    from fw_data.transforms import CenterCrop

    class_folders(tmp_path, {"a": 6, "b": 6})
    data = ImageFolder(root=tmp_path).build(0)
    broken = tmp_path / data.train.names[2]
    broken.write_bytes(broken.read_bytes()[:60])
    pipeline = CenterCrop().build(fw.InputSpec(size=(8, 8)))
    order = list(range(len(data.train)))
    skipped = [s for b in loader(Images(data.train, pipeline, 0, "skip"), order, 0, 4, workers) for s in b.skipped]
    assert [position for position, _ in skipped] == [2]
    assert "truncated" in skipped[0][1]
    with pytest.raises(fw.FwError) as error:
        list(loader(Images(data.train, pipeline, 0, "raise"), order, 0, 4, workers))
    assert data.train.names[2] in error.value.message
    assert 'data.on_error = "skip"' in error.value.hint


# --------------------------------------------------------------------------------------------------- csv


def table(root, text, name="labels.csv"):
    (root / name).write_text(text, encoding="utf-8")
    return root / name


def rows_with_images(root, rows):
    """Rows of a CSV file whose first cell is a path, with an image for each."""
    for number, row in enumerate(rows):
        picture(root / row.split(",")[0], number)
    return "\n".join(rows) + "\n"


def test_csv_multiclass_with_split_column(tmp_path):
    rows = [f"im/{n}ä.png,{'cat' if n % 2 else 'dog'},{'train' if n < 6 else 'valid'}" for n in range(8)]
    file = table(tmp_path, "\ufeffpath,label,split\n" + rows_with_images(tmp_path, rows))
    data = Csv(file=file).build(0)
    assert data.task == fw.Task("multiclass", ("cat", "dog"))
    assert [len(data.train), len(data.val), data.test] == [6, 2, None]
    assert data.val.names == ("im/6ä.png", "im/7ä.png")
    assert data.train.targets.tolist() == [1, 0, 1, 0, 1, 0]


def test_csv_multilabel_with_classes_and_groups(tmp_path):
    rows = [f"{n}.png,{'red;big' if n % 3 else ''},{n // 4}" for n in range(40)]
    file = table(tmp_path, "path,tags,patient\n" + rows_with_images(tmp_path, rows))
    config = Csv(file=file, labels="tags", separator=";", group="patient", classes=("big", "red", "rare"))
    data = config.build(0)
    assert data.task.kind == "multilabel"
    assert data.train.targets.dtype == torch.float32
    assert all(row in ([0, 0, 0], [1, 1, 0]) for row in data.train.targets.tolist())
    homes = [{int(name[:-4]) // 4 for name in split.names} for split in (data.train, data.val, data.test)]
    assert all(homes)
    assert sum(map(len, homes)) == len(set.union(*homes))


def test_csv_cuts_val_from_train_without_crossing_groups(tmp_path):
    rows = [f"{n}.png,{n % 2},{'test' if n >= 20 else 'train'},{n // 2}" for n in range(24)]
    file = table(tmp_path, "path,label,split,group\n" + rows_with_images(tmp_path, rows))
    data = Csv(file=file, val=0.3).build(0)
    assert len(data.test) == 4
    assert len(data.val) == 6
    assert not {int(n[:-4]) // 2 for n in data.train.names} & {int(n[:-4]) // 2 for n in data.val.names}


CSV_ERRORS = [
    ("path,label\n1.png,cat\n1.png,dgo\n", {"classes": ("cat", "dog")},
     "labels.csv:3: 'dgo' is not in data.classes", "did you mean 'dog'?"),
    ("file,label\n1.png,cat\n", {}, "labels.csv:1 has no column 'path'", "set data.path"),
    ("path,lable\n1.png,cat\n", {}, "labels.csv:1 has no column 'label'", "did you mean 'lable'?"),
    ("path,label\n1.png,cat\n", {"split": "fold"}, "labels.csv:1 has no column 'fold'", "set data.split"),
    ("path,label\n1.png,cat\n\n2.png,cat\n", {}, "labels.csv:4: image", "did you mean '1.png'?"),
    ("path,label\n1.png,cat,\n", {}, "labels.csv:2 has 3 columns, not 2", "double quotes"),
    ("path,label\n1.png,\"a\nb\"\n1.png,\"cat\"x\n", {}, "labels.csv:4: ", "check the quotes"),
    ("path,label\n1.png,\"cat\n", {}, "labels.csv:2: ", "check the quotes"),
    ("path,label\n1.png,\n", {}, "labels.csv:2 has no label", "fill column 'label'"),
    ("path,label,split\n1.png,cat,trian\n", {}, "labels.csv:2: 'trian' is no split", "did you mean 'train'"),
    ("path,label,split\n1.png,cat,val\n", {}, "has no row of the split train", "mark the rows"),
    ("path,label,split\n1.png,cat,train\n1.png,dog,val\n", {},
     "labels.csv:3: class 'dog' of val is in no row of train", "classes in train: cat"),
    ("path,label,split,group\n1.png,cat,train,7\n1.png,cat,val,7\n", {},
     "labels.csv:3: group '7' is in val, but line 2 has it in train", "one split"),
    ("path,label\n", {}, "lists no image", "add a row"),
    ("path,label\n1.png,cat\n", {"root": Path("/nonexistent/photos")}, "photos does not exist", "recipe's folder"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "keys", "message", "hint"), CSV_ERRORS)
def test_csv_errors_name_file_and_line(tmp_path, text, keys, message, hint):
    picture(tmp_path / "1.png")
    with pytest.raises(fw.FwError) as error:
        Csv(file=table(tmp_path, text), **keys).build(0)
    assert message in error.value.message
    assert hint in error.value.hint


def test_csv_missing_or_in_another_encoding(tmp_path):
    table(tmp_path, "path,label\n", "labels.csv")
    with pytest.raises(fw.FwError, match="does not exist") as error:
        Csv(file=tmp_path / "label.csv").build(0)
    assert "did you mean 'labels.csv'?" in error.value.hint
    (tmp_path / "latin.csv").write_bytes("path,label\n1.png,cat\n2.png,dög\n".encode("latin-1"))
    with pytest.raises(fw.FwError, match=r"latin\.csv:3 is not UTF-8"):
        Csv(file=tmp_path / "latin.csv").build(0)


# --------------------------------------------------------------------------------------------------- idx


def idx_bytes(array):
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + array.tobytes()


def idx_files(root, ending="", train=40, test=10):
    rng = np.random.default_rng(0)
    for prefix, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (count, 5, 4), dtype=np.uint8)
        labels = (np.arange(count) % 4).astype(np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            data = idx_bytes(array)
            (root / f"{prefix}-{name}-ubyte{ending}").write_bytes(gzip.compress(data) if ending else data)
    return root


def test_idx_plain_and_gzipped_are_the_same(tmp_path):
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    for folder in (plain, packed):
        folder.mkdir()
    data = Idx(root=idx_files(plain), val=0.2).build(0)
    assert data.fingerprint == Idx(root=idx_files(packed, ".gz"), val=0.2).build(0).fingerprint
    assert [class_counts(split, 4) for split in (data.train, data.val, data.test)] == [[8] * 4, [2] * 4, [3, 3, 2, 2]]
    assert data.task.classes == ("0", "1", "2", "3")
    assert (data.test.load(0).mode, data.test.load(0).size) == ("L", (4, 5))
    assert len(pickle.dumps(data.train.source)) < 1000


def test_idx_without_test_and_with_class_names(tmp_path):
    idx_files(tmp_path)
    for file in tmp_path.glob("t10k*"):
        file.unlink()
    data = Idx(root=tmp_path, classes=("shirt", "coat", "bag", "boot")).build(0)
    assert data.test is None
    assert data.task.classes[3] == "boot"
    with pytest.raises(fw.FwError, match=r"labels up to 3, but data\.classes names 2"):
        Idx(root=tmp_path, classes=("shirt", "coat")).build(0)


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("part", ["train-images-idx3", "t10k-labels-idx1"])
@pytest.mark.parametrize("damage", [lambda d: d[:-7], lambda d: d[:3], lambda d: b"\0\0\x0d" + d[3:], lambda d: b""])
def test_damaged_idx_files_are_one_clear_error(tmp_path, ending, part, damage):
    file = idx_files(tmp_path, ending) / f"{part}-ubyte{ending}"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(fw.FwError) as error:
        Idx(root=tmp_path).build(0)
    assert str(file) in error.value.message
    assert "is damaged" in error.value.message


def test_idx_files_that_do_not_fit_or_are_missing(tmp_path):
    idx_files(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(9, np.uint8)))
    with pytest.raises(fw.FwError, match="10 images, but there are 9 labels"):
        Idx(root=tmp_path).build(0)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(fw.FwError, match="no train-labels-idx1-ubyte, plain or") as error:
        Idx(root=tmp_path).build(0)
    assert "train-images-idx3-ubyte" in error.value.hint


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian package dataset-fashion-mnist is not installed")
def test_fashion_mnist_from_its_own_files():
    data = Idx(root=FASHION, val=0.1).build(0)
    assert [len(split) for split in (data.train, data.val, data.test)] == [54000, 6000, 10000]
    assert class_counts(data.val, 10) == [600] * 10
    assert data.test.load(0).size == (28, 28)


# ------------------------------------------------------------------------------------------------ random


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
def test_random_images_can_be_learned(kind):
    from sklearn.linear_model import LogisticRegression

    data = RandomImages(size=(12, 10), channels=2, classes=3, images=240, kind=kind).build(0)
    assert data.train.load(0).shape == (2, 12, 10)
    assert data.train.load(0).dtype == torch.uint8

    def pixels(split):
        return torch.stack([split.load(p) for p in range(len(split))]).flatten(1).numpy() / 255

    targets = [split.targets if kind == "multiclass" else split.targets[:, 0] for split in (data.train, data.test)]
    model = LogisticRegression(C=0.1, max_iter=500).fit(pixels(data.train), targets[0])
    assert model.score(pixels(data.test), targets[1]) > 0.8


def test_random_images_are_functions_of_seed_and_index():
    few, many = RandomImages(images=20).build(3), RandomImages(images=50).build(3)
    assert torch.equal(few.train.source.load(7), many.train.source.load(7))
    assert not torch.equal(few.train.source.load(7), few.train.source.load(8))
    assert few.fingerprint != RandomImages(images=20).build(4).fingerprint
    assert pickle.loads(pickle.dumps(few.train.source)) == few.train.source
