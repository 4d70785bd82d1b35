"""Data: a data set as a case builds it, what it holds, and other contents for its files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import attrs
import pytest
from PIL import Image
from torch import Tensor

from framework.contracts import Data, Split, UnreadableImage
from framework.data import thinned
from framework.pictures import PICTURE_EXTENSIONS
from framework.splits import SPLITS
from framework.task import Task
from framework.testing.case import Case
from framework.testing.pictures import pixel_hash

IMAGES = 12
"""Images of each split that are read, where a check does not need them all."""
PICTURES, OTHER_FILES, BYTES = 3, 4, 4
"""How many pictures and other files are changed, and how many of the last bytes of each of the latter."""


def settled(case: Case) -> Case:
    """The same case with its keys settled: their files are written once, however often it is built."""
    return attrs.evolve(case, given=case.keys())


def built(case: Case, seed: int = 0) -> Data:
    """The data set; skips where it is none, which a check of its own says."""
    data = case.config().build(seed)
    if any(faults(data)):
        pytest.skip("it gives no whole data set")
    whole: Data = data
    return whole


def rebuilt(case: Case) -> Data | None:
    """The data set after a file was changed; None where it refuses that content."""
    try:
        data = case.config().build(0)
    except Exception:  # a changed byte may make it raise nearly anything
        return None
    return None if any(faults(data)) else data


def faults(data: Any) -> Iterator[str]:
    """What keeps a value from being a data set that can be looked into."""
    if not isinstance(data, Data):
        yield f"build gave {data!r}; it must give fw.Data: fw.make_data(task, splits) makes one"
        return
    task: Any = data.task
    if not isinstance(task, Task):
        yield f"the task is {task!r}; it must be an fw.Task"
    for name in SPLITS:
        split: Any = getattr(data, name)
        if split is None and name == "test":
            continue
        if not isinstance(split, Split):
            yield f"{name} is {split!r}; it must be an fw.Split"
            continue
        targets: Any = split.targets
        if not isinstance(targets, Tensor):
            yield f"the targets of {name} are a {type(targets).__name__}; they must be a tensor"
        elif not len(split.indices) == len(split.names) == len(split.targets):
            yield (f"{name} has {len(split.indices)} indices, {len(split.names)} names and {len(split.targets)} "
                   "targets; each image needs one of each")  # fmt: skip
        elif not split.indices:
            yield f"{name} has no image" + ("; give None where there is no test split" if name == "test" else "")
    if not data.fingerprint:
        yield f"the fingerprint is {data.fingerprint!r}; fw.make_data(task, splits) makes one"


def splits_of(data: Data) -> dict[str, Split]:
    """The splits that a data set has, by name."""
    return {"train": data.train, **data.scored}


def some_of(data: Data) -> dict[str, Split]:
    """The same with a few images in each, at even distances."""
    return splits_of(thinned(data, IMAGES))


def arrangement(data: Data) -> dict[str, Any]:
    """Which images a data set holds and what they are: its task, and the indices, names and targets of each split."""
    found: dict[str, Any] = {"task": data.task}
    for name, split in splits_of(data).items():
        found |= {f"indices of {name}": split.indices, f"names of {name}": split.names}
        found |= {f"targets of {name}": split.targets.tolist()}
    return found


def shows(split: Split, position: int) -> str:
    """What one image shows, as a hash; of one that cannot be read, the reason."""
    try:
        return pixel_hash(split.load(position))
    except UnreadableImage as error:
        return str(error)


def read(split: Split, position: int) -> tuple[str, str]:
    """What one image shows, and its digest."""
    return shows(split, position), split.digest(position)


def shown(data: Data) -> list[str]:
    """What each image of each split shows."""
    return [shows(split, position) for split in splits_of(data).values() for position in range(len(split))]


def digests(data: Data) -> list[str]:
    """The digest of each image of each split."""
    return [split.digest(position) for split in splits_of(data).values() for position in range(len(split))]


# ------------------------------------------------------------------------------------------------------ files


def pictures_under(folder: Path) -> list[Path]:
    """The picture files under a folder, sorted."""
    return [file for file in _files(folder) if file.suffix.lower() in PICTURE_EXTENSIONS]


def edits_under(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Small changes of some files under a folder, one at a time: a picture's first pixel, a bit of another file."""
    pictures = pictures_under(folder)
    for file in pictures[:PICTURES]:
        content = _with_another_pixel(file)
        if content:
            yield file, content
    for file in [file for file in _files(folder) if file not in pictures][:OTHER_FILES]:
        content = file.read_bytes()
        for at in range(1, min(BYTES, len(content)) + 1):
            yield file, content[:-at] + bytes([content[-at] ^ 1]) + content[len(content) - at + 1 :]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _with_another_pixel(file: Path) -> bytes:
    """A picture file, its first pixel 128 levels away; nothing where Pillow cannot do that."""
    buffer = BytesIO()
    try:
        with Image.open(file) as image:
            first: Any = image.getpixel((0, 0))
            image.putpixel((0, 0), tuple(band ^ 128 for band in first) if isinstance(first, tuple) else first ^ 128)
            image.save(buffer, image.format)
    except Exception:  # formats that are only read, pixels that are no integers
        return b""
    return buffer.getvalue()


@contextmanager
def holding(file: Path, content: bytes) -> Iterator[None]:
    """A file with another content, which is put back afterwards."""
    before = file.read_bytes()
    file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(before)
