"""The feature store: never a stale row, whatever changes, breaks, is killed or runs beside it; no image read twice."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from interruptions import child, wait
from PIL import Image
from torch import Tensor

from framework import data, features, filling, keeping
from framework.display import NullDisplay
from framework.entries import store_folder
from framework.files import load_tensors
from framework.partition import in_chunks
from framework.recipe import load_recipe
from framework.runs import start_run

IMAGES = 40
SMALL = [
    *("data.use=image_folder", "backbone.use=timm/test_vit", "backbone.image_size=32", "freezing.use=frozen"),
    *("train.batch_size=8", "train.epochs=2", "engine.threads=1", "engine.device=cpu", "engine.chunk=8"),
    *("head.use=mlp", "head.dropout=0.2", "engine.partition=require", "train.report=false"),
]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two classes of pictures, written long ago."""
    root = tmp_path_factory.mktemp("photographs")
    for number in range(IMAGES):
        write_picture(root / f"class_{number % 2}" / f"{number:02d}.png", number)
    return root


def write_picture(file: Path, seed: int) -> None:
    file.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    os.utime(file, (1e9 + seed, 1e9 + seed))  # so that its digest is remembered


@attrs.frozen
class Left:
    """What a run leaves."""

    summary: dict
    log: str
    tensors: dict[str, Tensor]

    @property
    def computed(self) -> int:
        return self.summary["partition"]["images_computed"]

    @property
    def found(self) -> int:
        return self.summary["partition"]["images_found"]


def left_in(folder: Path, summary: dict) -> Left:
    return Left(summary, (folder / "metrics.jsonl").read_text(), load_tensors(folder / "model.safetensors")[0])


def require_same(one: Left, other: Left) -> None:
    assert one.log == other.log
    assert [name for name, tensor in one.tensors.items() if not torch.equal(tensor, other.tensors[name])] == []


@pytest.fixture
def session_cache() -> str:
    """The cache of all tests, with the index of the plugins in it."""
    return os.environ["FW_CACHE_DIR"]


@pytest.fixture
def in_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """`in_store("one")`: runs use the store of this name from now on, which is empty at first."""

    def choose(name: str) -> Path:
        monkeypatch.setenv("FW_CACHE_DIR", str(tmp_path / "stores" / name))
        return store_folder()

    return choose


Go = Callable[..., Left]


@pytest.fixture
def go(index, tmp_path: Path, photographs: Path, in_store) -> Iterator[Go]:
    """Runs `smoke` on photographs, with a store of its own; gives what is left."""
    in_store("own")
    numbers = iter(range(100))

    def run(*overrides: str, root: Path = photographs) -> Left:
        folder = tmp_path / f"run{next(numbers)}"
        return left_in(folder, start(index, folder, root, *overrides))

    return run


def start(index, folder: Path, root: Path, *overrides: str, display: NullDisplay | None = None) -> dict:
    checked = load_recipe("smoke", index, [*SMALL, f"data.root={root}", *overrides])
    return start_run(checked, index, folder, False, display or NullDisplay())


def segments(store: Path) -> list[Path]:
    return sorted(store.glob("*/*.safetensors"))


def rows_in(store: Path) -> dict[str, tuple[Tensor, ...]]:
    """Image -> its rows."""
    found: dict[str, tuple[Tensor, ...]] = {}
    for file in segments(store):
        tensors, facts = load_tensors(file)
        for place, image in enumerate(facts["images"]):
            found[image] = tuple(tensors[name][place] for name in sorted(tensors))
    return found


# ------------------------------------------------------------------------------------------------- changes

CHANGES = {
    "weights": ["seed=1"],  # random ones are drawn by the seed
    "statistics": ["backbone.use=timm/test_efficientnet", "freezing.norm=recalibrate"],
    "transform": [f"transform.{split}={{use='center_crop', resize=48}}" for split in ("train", "eval")],
    "precision": ["train.precision=bf16"],
    "chunk": ["engine.chunk=4"],
    "memory format": ["engine.memory_format=channels_last"],
    "size of the image": ["backbone.image_size=48"],
    "channels": ["backbone.in_channels=1"],
}


@pytest.fixture(scope="module")
def filled(index, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache whose store has the rows of every image before anything changed."""
    cache, runs = tmp_path_factory.mktemp("filled"), tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FW_CACHE_DIR", str(cache))
        for number, backbone in enumerate(([], ["backbone.use=timm/test_efficientnet"])):
            summary = start(index, runs / str(number), photographs, *backbone)
            assert summary["partition"]["images_computed"] == IMAGES
    return cache


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_no_row_is_stale(
    filled: Path, go: Go, in_store, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    in_store("empty")
    expected = go(*CHANGES[change])
    monkeypatch.setenv("FW_CACHE_DIR", str(filled))
    changed = go(*CHANGES[change])
    assert (changed.found, changed.computed) == (0, IMAGES)
    require_same(changed, expected)


def test_a_changed_image_is_computed_again_and_no_other(go: Go, in_store, photographs: Path, tmp_path: Path) -> None:
    go()
    changed = Path(shutil.copytree(photographs, tmp_path / "changed"))
    file = changed / "class_0" / "00.png"
    write_picture(file, 1000)
    found = go(root=changed)
    assert (found.found, found.computed) == (IMAGES - 1, 1)
    in_store("empty")
    require_same(found, go(root=changed))


def test_a_second_run_finds_every_image_and_other_weights_find_none(go: Go) -> None:
    first = go()
    assert first.computed == IMAGES
    second = go()
    assert (second.computed, second.found) == (0, IMAGES)
    require_same(second, first)
    assert go("seed=7").found == 0


# -------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove"])
def test_a_damaged_segment_is_found_and_computed_again(
    go: Go, in_store, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(filling, "SEGMENT_BYTES", 1)  # a segment for each batch
    store = in_store("damaged")
    first = go()
    files = segments(store)
    assert len(files) > 3
    content = bytearray(files[1].read_bytes())
    lost = len(load_tensors(files[1])[1]["images"])
    content[-1] ^= 1
    if damage == "remove":
        files[1].unlink()
    else:
        files[1].write_bytes({"flip": content, "truncate": content[:-100], "empty": b""}[damage])
    second = go()
    assert (second.computed, second.found) == (lost, IMAGES - lost)
    require_same(second, first)
    assert go().computed == 0


@pytest.mark.parametrize("moment", ["between segments", "within a segment"])
def test_killed_while_filling_the_next_run_goes_on(go: Go, in_store, index, photographs, tmp_path, moment: str) -> None:
    store = in_store("killed")

    def killed() -> None:
        filling.SEGMENT_BYTES = 1
        append, replace = features.DiskEntry.append, os.replace

        def stop() -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        def append_and_stop(self, *rows) -> None:
            append(self, *rows)
            if len(segments(store)) == 2:
                stop()

        def replace_or_stop(source, target) -> None:
            if str(target).endswith("000002.safetensors"):
                stop()
            replace(source, target)

        if moment == "between segments":
            features.DiskEntry.append = append_and_stop
        else:
            os.replace = replace_or_stop
        start(index, tmp_path / "killed", photographs)

    assert wait(child(killed)) == -signal.SIGKILL
    assert len(segments(store)) == 2
    scratch = [file for file in store.rglob(".*") if file.is_file()]
    assert len(scratch) == (1 if moment == "within a segment" else 0)
    after = go()
    assert after.found == 16
    assert after.computed == IMAGES - 16
    assert [file for file in store.rglob(".*") if file.is_file()] == []
    in_store("undisturbed")
    require_same(after, go())


def test_a_full_disk_is_one_clear_error_and_what_was_kept_is_used(
    session_cache: str, go: Go, in_store, cli, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system itself refuses the third segment: no file may grow beyond 64 bytes from then on."""
    store = in_store("full")
    shutil.copytree(session_cache, os.environ["FW_CACHE_DIR"], ignore=shutil.ignore_patterns("features"))
    append = features.DiskEntry.append
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(self, *rows) -> None:
        if len(segments(store)) == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
        append(self, *rows)

    overrides = [part for override in (*SMALL, f"data.root={photographs}") for part in ("--set", override)]
    with monkeypatch.context() as full:
        full.setattr(filling, "SEGMENT_BYTES", 1)
        full.setattr(features.DiskEntry, "append", limited)
        try:
            refused = cli("run", "smoke", "--out", tmp_path / "refused", *overrides)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert refused.code == 2
    assert [line.startswith("error:") for line in refused.err.splitlines()].count(True) == 1
    assert "the feature store: cannot write" in refused.err
    assert "000002.safetensors" in refused.err
    assert "Traceback" not in refused.err
    assert len(segments(store)) == 2
    assert [file for file in store.rglob(".*") if file.is_file()] == []
    after = go()
    assert (after.found, after.computed) == (16, IMAGES - 16)
    in_store("undisturbed")
    require_same(after, go())


# ------------------------------------------------------------------------------------------- several users


class Telling(NullDisplay):
    """Writes to a pipe once it is told that another run fills the entry."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def note(self, text: str) -> None:
        if "another run fills" in text:
            os.write(self.pipe, b"x")


def test_of_two_processes_one_fills_and_the_other_waits(go: Go, index, photographs: Path, tmp_path: Path) -> None:
    filled, waited = os.pipe(), os.pipe()

    def first() -> None:
        append = features.DiskEntry.append
        os.close(waited[1])

        def slowly(self, *rows) -> None:
            features.DiskEntry.append = append
            os.write(filled[1], b"x")
            assert os.read(waited[0], 1), "the other run did not wait"
            append(self, *rows)

        features.DiskEntry.append = slowly
        start(index, tmp_path / "first", photographs)

    def second() -> None:
        os.close(filled[1])
        assert os.read(filled[0], 1), "the other run filled nothing"
        start(index, tmp_path / "second", photographs, display=Telling(waited[1]))

    processes = [child(first), child(second)]
    os.close(filled[1])
    os.close(waited[1])
    assert [wait(process) for process in processes] == [0, 0]
    one, other = (left_in(folder, summary_in(folder)) for folder in (tmp_path / "first", tmp_path / "second"))
    assert one.computed + other.computed == IMAGES
    assert one.computed > 0
    require_same(one, other)
    assert go().computed == 0


def summary_in(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


# -------------------------------------------------------------------------------------------------- reading


def test_with_the_store_full_no_image_is_read_and_no_worker_started(
    go: Go, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pictures are no pictures any more; size and time are what they were, so that their digests are known."""
    root = Path(shutil.copytree(photographs, tmp_path / "copy"))
    first = go(root=root)
    for file in root.glob("*/*.png"):
        stat = file.stat()
        file.write_bytes(b"\0" * stat.st_size)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    def never(*_: object, **__: object) -> None:
        raise AssertionError("images are loaded")

    monkeypatch.setattr(data, "DataLoader", never)
    second = go("train.workers=2", root=root)
    assert second.computed == 0
    require_same(second, first)


def test_rows_depend_neither_on_workers_nor_on_the_order(go: Go, in_store, photographs: Path, tmp_path: Path) -> None:
    chunk = "engine.chunk=3"  # the last one of each batch is filled up
    stores = [in_store("workers")]
    first = go("train.workers=2", chunk)
    again = go(chunk)
    assert again.computed == 0
    require_same(first, again)
    stores.append(in_store("no workers"))
    require_same(go(chunk), first)
    stores.append(in_store("another order"))
    renamed = Path(shutil.copytree(photographs, tmp_path / "renamed"))
    for file in sorted(renamed.glob("*/*.png")):
        file.rename(file.with_name(f"{1000 - 7 * int(file.stem) % 41}.png"))
    go(chunk, root=renamed)
    rows = [rows_in(store) for store in stores]
    assert len(rows[0]) == IMAGES
    assert list(rows[2]) != list(rows[1])
    for other in rows[1:]:
        assert rows[0].keys() == other.keys()
        assert all(torch.equal(a, b) for image in other for a, b in zip(rows[0][image], other[image], strict=True))


def test_rows_do_not_depend_on_threads(go: Go, in_store) -> None:
    """Chunks side by side, each on one thread, give the bits of one after the other."""
    alone = go("engine.threads=1")
    expected = rows_in(store_folder())
    in_store("side by side")
    beside = go("engine.threads=3")
    found = rows_in(store_folder())
    assert found.keys() == expected.keys()
    assert all(torch.equal(a, b) for image in found for a, b in zip(expected[image], found[image], strict=True))
    assert beside.computed == alone.computed == IMAGES


def test_the_fixed_part_always_computes_as_many_rows_at_a_time() -> None:
    """Bits of a matrix product depend on their number; the last rows are filled up with copies, which are cut off."""
    sizes = []

    def fixed(images: Tensor) -> tuple[Tensor, ...]:
        sizes.append(len(images))
        return (images * 2, images.mean(dim=(1, 2, 3)))

    images = torch.rand(7, 3, 2, 2)
    doubled, means = in_chunks(fixed, images, 3)
    assert sizes == [3, 3, 3]
    assert torch.equal(doubled, images * 2)
    assert means.shape == (7,)


@pytest.mark.parametrize("unreadable", [(), (3, 4, 20)])
def test_reading_several_batches_at_once_changes_nothing(
    go: Go, tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch, unreadable: tuple[int, ...]
) -> None:
    root = shutil.copytree(photographs, tmp_path / "damaged")
    for number in unreadable:
        (root / f"class_{number % 2}" / f"{number:02d}.png").write_bytes(b"no picture %d" % number)
    asked = ["data.on_error=skip", "train.batch_size=3"]
    read: list[int] = []
    rows_at = features.Segments.rows_at
    monkeypatch.setattr(features.Segments, "rows_at", lambda own, at: (read.append(len(at)), rows_at(own, at))[1])
    together, most = go(*asked, root=root), max(read)
    read.clear()
    monkeypatch.setattr(keeping, "BLOCK_BYTES", 0)
    alone = go(*asked, root=root)
    assert most > 3
    assert max(read) <= 3
    assert len(together.summary["skipped_images"]) == len(unreadable)
    require_same(together, alone)


@pytest.mark.parametrize(("width", "expected"), [(64, 2048), (512, 256), (5, 1), (2**20, 1)])
def test_batches_that_would_not_begin_at_a_cache_line_are_read_one_by_one(width: int, expected: int) -> None:
    entry = features.MemoryEntry()
    entry.append(["a"], (torch.zeros(1, width),), {})
    assert keeping._batches_at_once(entry, 8) == expected


def test_views_are_drawn_once_each_and_used_in_turn(go: Go) -> None:
    """As many draws as `views`, the same that a whole network sees."""
    drawn = ["transform.train.use=augment", "transform.train.views=2", "train.epochs=4", "train.drop_last=true"]
    divided, plain = go(*drawn), go(*drawn, "engine.partition=off")
    sizes = divided.summary["data"]["images"]
    assert divided.computed == 2 * sizes["train"] + sizes["val"] + sizes["test"]
    require_same(divided, plain)
    assert go(*drawn).computed == 0
    other = go(*drawn, "transform.train.views=1")
    assert other.log != divided.log


# -------------------------------------------------------------------------------------------------- pruning


def test_what_was_used_least_recently_goes_when_the_store_is_full(go: Go, in_store) -> None:
    store = in_store("pruned")
    first = go()
    size = sum(file.stat().st_size for file in segments(store))
    (entry,) = {file.parent for file in segments(store)}
    room = f"engine.cache_gb={1.5 * size / 1e9}"
    assert go("engine.chunk=4", room).computed == IMAGES
    assert not entry.exists()
    assert len({file.parent for file in segments(store)}) == 1
    again = go(room)
    assert (again.found, again.computed) == (0, IMAGES)
    require_same(again, first)
    assert {file.parent for file in segments(store)} == {entry}
