"""Images of a torchvision data set as a source, with targets and digests found without decoding where they can be."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from PIL import Image

import framework as fw

_PROBES = 12


class LibrarySource:
    """A data set of torchvision. A copy opens it again instead of carrying its arrays."""

    def __init__(self, library: type[Any], arguments: Mapping[str, Any]) -> None:
        """
        Args:
            library: the class.
            arguments: what it is constructed with.
        """
        self.library = library
        self.arguments = dict(arguments)
        self.digests: Sequence[str] = ()
        self._dataset: Any = None

    @property
    def dataset(self) -> Any:
        """The library's object, opened at first use; nothing is downloaded twice."""
        if self._dataset is None:
            self.arguments |= {"download": False} if "download" in self.arguments else {}
            self.open()
        return self._dataset

    def open(self) -> None:
        """Constructs the library's object. Raises whatever the library raises."""
        self._dataset = self.library(**self.arguments)

    def item(self, index: int) -> tuple[Image.Image, Any]:
        """The image, decoded, and the target as the library gives it."""
        found = self.dataset[index]
        if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], Image.Image)):
            kinds = (
                ", ".join(type(part).__name__ for part in found) if isinstance(found, tuple) else type(found).__name__
            )
            raise fw.FwError(f"torchvision/{self.library.__name__} gives ({kinds}), not (image, class)",
                             "it is no image classification data set")  # fmt: skip
        found[0].load()
        return found

    def load(self, index: int) -> Image.Image:
        """The picture in mode L or RGB. Raises `UnreadableImage`."""
        try:
            image, _ = self.item(index)
        except fw.FwError:
            raise
        except Exception as error:  # a damaged file makes decoders raise nearly anything
            raise fw.UnreadableImage(str(error) or type(error).__name__) from error
        return image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")

    def digest(self, index: int) -> str:
        """SHA-256 of the image's file, or of its pixels."""
        if not self.digests:
            read_split(self, "copied")  # a copy finds what its original did
        return self.digests[index] if self.digests else pixel_digest(self.item(index)[0])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_dataset": None, "digests": ()}


@attrs.frozen
class ReadSplit:
    """One split of a library's data set: its source, names, and targets, or None where it has no labels."""

    source: LibrarySource
    names: tuple[str, ...]
    targets: list[int] | None

    def split(self) -> fw.Split:
        """The same as the core takes it."""
        import torch

        targets = torch.tensor(self.targets or [], dtype=torch.int64)
        return fw.Split(self.source, tuple(range(len(self.names))), self.names, targets)


def read_split(source: LibrarySource, name: str) -> ReadSplit:
    """Names, targets and digests of every image.

    The library keeps targets, file paths or pixels in attributes whose names differ. An attribute counts as the
    targets, files or pixels if it agrees with what the data set gives for a dozen images spread over it; only where
    none does is every image decoded, once.

    Raises:
        fw.FwError: the data set is empty, or gives something other than (image, class).
    """
    dataset = source.dataset
    label = f"torchvision/{source.library.__name__}"
    if len(dataset) == 0:
        raise fw.FwError(f"{label} has no image in its {name} split", "check its files")
    places = sorted({round(at) for at in np.linspace(0, len(dataset) - 1, _PROBES)})
    probes = {at: source.item(at) for at in places}
    numbers = tuple(f"{name}-{number:05d}" for number in range(len(dataset)))
    if all(target is None for _, target in probes.values()):
        return ReadSplit(source, numbers, None)
    targets = next((known for column in _columns(dataset) if (known := _matching_targets(column, probes))), None)
    files = next((found for column in _columns(dataset) if (found := _matching_files(column, probes))), None)
    rows = next((column for column in _columns(dataset) if files is None and _holds_pixels(column, probes)), None)
    if files is not None:
        source.digests = fw.file_digests(files)
    elif rows is not None:
        source.digests = [_row_digest(row) for row in rows]
    if targets is None or not source.digests:
        targets = _decode_all(source, targets)
    wrong = next((number for number, target in enumerate(targets) if target < 0), None)
    if wrong is not None:
        raise fw.FwError(f"{label}: image {wrong} of {name} has the target {targets[wrong]}, which is no class",
                         "choose keys of this data set that give a class for every image")  # fmt: skip
    return ReadSplit(source, _file_names(files) if files else numbers, targets)


def _columns(dataset: Any) -> Iterator[Any]:
    """What the object keeps for every image: its attributes of the right length, and the columns of those of pairs."""
    for value in vars(dataset).values():
        if isinstance(value, str | dict) or not hasattr(value, "__len__") or not hasattr(value, "__getitem__"):
            continue
        if getattr(value, "ndim", 1) == 0 or len(value) != len(dataset):
            continue
        yield value
        if isinstance(value[0], tuple | list):
            yield from ([row[column] for row in value] for column in range(len(value[0])))


def _matching_targets(column: Any, probes: Mapping[int, tuple[Image.Image, Any]]) -> list[int] | None:
    if any(_whole(target) is None or _whole(column[at]) != _whole(target) for at, (_, target) in probes.items()):
        return None
    found = [_whole(value) for value in column]
    return [value for value in found if value is not None] if None not in found else None


def _whole(value: Any) -> int | None:
    """The integer that a Python, numpy or torch scalar is, or None."""
    if getattr(value, "ndim", 0) == 0 and hasattr(value, "item"):
        value = value.item()
    return value if type(value) is int else None


def _matching_files(column: Any, probes: Mapping[int, tuple[Image.Image, Any]]) -> list[Path] | None:
    if not isinstance(column, list | tuple) or not all(isinstance(path, str | Path) for path in column):
        return None
    try:
        matches = all(_shows(Path(column[at]), image) for at, (image, _) in probes.items())
    except (OSError, SyntaxError, ValueError):
        return None
    return [Path(path) for path in column] if matches else None


def _shows(file: Path, image: Image.Image) -> bool:
    with Image.open(file) as opened:
        return opened.size == image.size and opened.convert(image.mode).tobytes() == image.tobytes()


def _holds_pixels(column: Any, probes: Mapping[int, tuple[Image.Image, Any]]) -> bool:
    """Whether rows hold the pixels of the images, in whatever order of rows, columns and channels."""
    if getattr(column, "ndim", 0) < 3:
        return False
    pairs = ((np.asarray(column[at]).ravel(), np.asarray(image).ravel()) for at, (image, _) in probes.items())
    return all(row.dtype == np.uint8 and np.array_equal(np.sort(row), np.sort(pixels)) for row, pixels in pairs)


def _row_digest(row: Any) -> str:
    pixels = np.ascontiguousarray(np.asarray(row))
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()


def pixel_digest(image: Image.Image) -> str:
    """SHA-256 of mode, size and pixels."""
    return hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).hexdigest()


def _decode_all(source: LibrarySource, targets: list[int] | None) -> list[int]:
    """Digests, and targets where they are not known, from the images themselves."""
    digests, found = list(source.digests), []
    for number in range(len(source.dataset)):
        image, target = source.item(number)
        if not source.digests:
            digests.append(pixel_digest(image))
        whole = _whole(target)
        if whole is None:
            raise fw.FwError(f"torchvision/{source.library.__name__} gives the target {target!r}, which is no class "
                             f"number, for image {number}", "choose keys that give one class per image")  # fmt: skip
        found.append(whole)
    source.digests = digests
    return targets if targets is not None else found


def _file_names(files: Sequence[Path]) -> tuple[str, ...]:
    common = Path(*_shared_parts([path.parent.parts for path in files]))
    return tuple(path.relative_to(common).as_posix() for path in files)


def _shared_parts(all_parts: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    first, last = min(all_parts), max(all_parts)
    length = next(
        (at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last))
    )
    return first[:length]
