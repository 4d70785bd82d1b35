"""Checks of a data set's images: reading them, copying their source, and their digests."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import attrs
import pytest
import torch
from PIL import Image
from torch import Tensor

from framework.contracts import Data, Split, UnreadableImage
from framework.testing.case import Case, Check, check
from framework.testing.chance import moved, seeded, states
from framework.testing.data import (
    built,
    digests,
    holding,
    pictures_under,
    read,
    rebuilt,
    settled,
    shown,
    shows,
    some_of,
    splits_of,
)
from framework.testing.pictures import pixel_hash

THREADS = 4
NO_FILES = "it is checked without picture files; give its keys as a function that writes some into a folder"


@check
def images_are_pictures_or_bytes(case: Case) -> None:
    """An image is a PIL picture in mode L or RGB, or a uint8 tensor (C, H, W)."""
    for name, split in some_of(built(case)).items():
        images = {split.names[position]: _image(split, position) for position in range(len(split))}
        assert any(image is not None for image in images.values()), (
            f"none of {len(images)} images of {name} can be read"
        )
        for called, image in images.items():
            assert image is None or _is_image(image), (
                f"image {called!r} of {name} is {_described(image)}; give a PIL picture in mode L or RGB "
                "(fw.read_picture does), or a uint8 tensor (C, H, W)"
            )


@check
def an_image_is_the_same_twice(case: Case) -> None:
    """Whenever an image is read, it shows the same, and has the same digest."""
    for name, split in some_of(built(case)).items():
        first = [read(split, position) for position in range(len(split))]
        again = [read(split, position) for position in reversed(range(len(split)))]
        differing = sum(one != other for one, other in zip(first, reversed(again), strict=True))
        assert not differing, (
            f"{differing} of {len(first)} images of {name} differ when they are read again; what is random belongs "
            "into a transform"
        )


@check
def reading_draws_nothing(case: Case) -> None:
    """Reading an image leaves the global random generators alone, from which training draws."""
    for name, split in some_of(built(case)).items():
        with seeded(0):
            before = states()
            for position in range(len(split)):
                read(split, position)
            drawn = moved(before)
        assert not drawn, (
            f"reading images of {name} moves the global generator of {drawn}; draw from a generator of your own, "
            "seeded by fw.stream_seed(seed, index)"
        )


@check
def copies_read_the_same(case: Case) -> None:
    """A source can be pickled, and its copy reads the same images."""
    for name, split in some_of(built(case)).items():
        try:
            source = pickle.loads(pickle.dumps(split.source))
        except Exception as error:
            raise AssertionError(
                f"the source of {name} cannot be copied to worker processes: {error}; "
                "make it an object of a module's class, and leave open files and lambdas out of what is pickled"
            ) from error
        copied = attrs.evolve(split, source=source)
        for position in range(len(split)):
            assert read(copied, position) == read(split, position), (
                f"a pickled copy of the source reads another image for {split.names[position]!r} of {name}; "
                "copy all that `load` and `digest` need"
            )


@check
def threads_read_the_same(case: Case) -> None:
    """A source that says `concurrent = True` reads the same images when several threads ask at once."""
    case = settled(case)
    alone, together = (some_of(built(case)) for _ in range(2))
    concurrent = [name for name, split in together.items() if getattr(split.source, "concurrent", False)]
    if any(alone[name].names != together[name].names for name in concurrent):
        pytest.skip("its splits are others at another time")
    if not concurrent:
        pytest.skip("its sources do not say that several threads may read at once")
    for name in concurrent:
        positions = range(len(alone[name]))
        expected = [shows(alone[name], position) for position in positions]
        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(partial(shows, together[name]), positions))
        assert found == expected, (
            f"{THREADS} threads that read {name} at once get other images than one alone; let `load` change nothing "
            "that calls share (an open file, say), or leave `concurrent` out"
        )


@check
def different_images_have_different_digests(case: Case) -> None:
    """Images that show different things have different digests."""
    first: dict[str, tuple[str, str]] = {}
    for split in some_of(built(case)).values():
        for position, name in enumerate(split.names):
            shown_here, digest = read(split, position)
            assert digest, f"the digest of {name!r} is {digest!r}; give a hash as text"
            other, shown_there = first.setdefault(digest, (name, shown_here))
            assert shown_there == shown_here, (
                f"{other!r} and {name!r} differ, but have one digest; make it a SHA-256 of the image's bytes"
            )


@check
def equal_images_have_equal_digests(case: Case) -> None:
    """An exact duplicate has the digest of its original, wherever it lies."""
    case = settled(case)
    files = pictures_under(case.folder)
    if len(files) < 2:
        pytest.skip(NO_FILES)
    before = _distinct(built(case))
    with holding(files[-1], files[0].read_bytes()):
        doubled = rebuilt(case)
        after = _distinct(doubled) if doubled else before
    one_less = before[0] - 1
    if after[0] != one_less or before[1] != before[0]:
        pytest.skip("there are duplicates among its images already, or it does not read these files")
    assert after[1] == one_less, (
        f"when {files[-1].name} holds the bytes of {files[0].name}, their digests differ; "
        "let only what an image holds come into its digest, not its name or number"
    )


@check
def damaged_images_are_unreadable(case: Case) -> None:
    """A picture file that is cut short makes `load` raise `UnreadableImage`, and nothing else."""
    case = settled(case)
    files = pictures_under(case.folder)
    if not files:
        pytest.skip(NO_FILES)
    splits, content = splits_of(built(case)).values(), files[0].read_bytes()
    with holding(files[0], content[: len(content) // 2]):
        unread = [_unreadable(split, position) for split in splits for position in range(len(split))]
    if not any(unread):
        pytest.skip("it reads its images without this file")


def _distinct(data: Data) -> tuple[int, int]:
    """How many images of a data set differ, and how many of their digests."""
    return len(set(shown(data))), len(set(digests(data)))


def _unreadable(split: Split, position: int) -> bool:
    try:
        pixel_hash(split.load(position))  # a picture that is only opened is decoded here
    except UnreadableImage:
        return True
    except Exception as error:
        raise AssertionError(
            f"a file that is cut short ends in {type(error).__name__}: {error}; read with fw.read_picture, or decode "
            "all of it in `load` and raise fw.UnreadableImage(reason): then a run can name the image, or skip it"
        ) from error
    return False


def _image(split: Split, position: int) -> Any:
    try:
        return split.load(position)
    except UnreadableImage:
        return None


def _is_image(image: Any) -> bool:
    if isinstance(image, Tensor):
        return image.dtype == torch.uint8 and image.dim() == 3
    return isinstance(image, Image.Image) and image.mode in ("L", "RGB")


def _described(image: Any) -> str:
    if isinstance(image, Tensor):
        return f"a tensor {tuple(image.shape)} of {image.dtype}"
    return f"a picture in mode {image.mode}" if isinstance(image, Image.Image) else f"a {type(image).__name__}"


CHECKS: tuple[Check, ...] = (
    images_are_pictures_or_bytes,
    an_image_is_the_same_twice,
    reading_draws_nothing,
    copies_read_the_same,
    threads_read_the_same,
    different_images_have_different_digests,
    equal_images_have_equal_digests,
    damaged_images_are_unreadable,
)
