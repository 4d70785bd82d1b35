"""Decoded: images as the deterministic beginning of a transform leaves them, kept so that each is decoded once."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from framework.assemble import Assembly
from framework.contracts import ImageSource, Pipeline, Split, UnreadableImage
from framework.data import in_batches
from framework.filling import Entry, Filler, NotKept, Rows, facts_of_images, missing_from
from framework.identity import content_key
from framework.lanes import side_by_side

if TYPE_CHECKING:
    from framework.contracts import ImageLike

MODES = ("L", "RGB", "tensor")
"""What a row holds: a PIL image in one of two modes (H, W, C), or a uint8 tensor (C, H, W)."""
WORTH_SECONDS = 1.0
"""An entry is filled where the passes that are left would spend more on decoding than this."""
SAMPLE = 8
"""Images that are decoded to see what that costs."""
AT_ONCE, AT_ONCE_BYTES = 32, 2**23
"""Images of a batch, of which several wait at a time; fewer where they are large."""


@attrs.frozen(eq=False)
class Decoded:
    """Lets the splits of a run be read from pixels that are kept.

    Attributes:
        run: the assembly.
        filler: opens and fills entries.
        ready: the splits that are read from an entry, by identity and transform, as (split, pipeline).
    """

    run: Assembly
    filler: Filler
    ready: dict[tuple[int, str], tuple[Split, Pipeline]] = attrs.field(factory=dict)

    def of(self, split: Split, which: str) -> tuple[Split, Pipeline]:
        """A split and the pipeline for its images: with the beginning done already, where that is kept."""
        return self.ready.get((id(split), which)) or (split, self.run.pipeline(which))

    def keep(self, split: Split, which: str, passes: float) -> None:
        """Has the images of a split kept, where that repays.

        Args:
            split: whose images.
            which: `train` or `eval`, the transform.
            passes: how often each image is still to be read.

        Raises:
            NotKept: it repays too little, or there is no room.
        """
        if (id(split), which) in self.ready or self.run.recipe.engine.cache == "off" or not len(split):
            return
        pipeline = self.run.pipeline(which)
        sample = Sample.of(split, pipeline)
        facts = self._facts(which, sample.steps)
        key = content_key(facts)
        entry = self.filler.entry(key, facts)
        names = [split.digest(position) for position in range(len(split))]
        missing = missing_from(entry, names)
        if len(missing) * sample.seconds * (passes - 1) < WORTH_SECONDS and missing:
            raise NotKept("decoding the images again costs too little")
        before = Pipeline(pipeline.steps[: sample.steps], sample.steps)
        entry = self.filler.fill(key, names, sample.bytes, partial(_rows, split, before, sample.at_once))
        rest = Pipeline(pipeline.steps[sample.steps :], pipeline.deterministic_steps - sample.steps)
        self.ready[id(split), which] = (attrs.evolve(split, source=Pixels(split.source, before, entry)), rest)

    def _facts(self, which: str, steps: int) -> dict[str, Any]:
        return {"boundary": "decoded images", "steps": steps, **facts_of_images(self.run, which)}


@attrs.frozen
class Sample:
    """What a few images of a split say of the rest.

    Attributes:
        steps: how many of the first steps, all deterministic, leave a picture of bytes.
        bytes: size of the largest.
        seconds: to read one and take it through these steps.
    """

    steps: int
    bytes: int
    seconds: float

    @property
    def at_once(self) -> int:
        """Images to a batch."""
        return max(1, min(AT_ONCE, AT_ONCE_BYTES // self.bytes))

    @classmethod
    def of(cls, split: Split, pipeline: Pipeline) -> Sample:
        """
        Raises:
            NotKept: the first images cannot be read, or are no pictures of bytes.
        """
        chosen = range(0, len(split), max(1, len(split) // SAMPLE))[:SAMPLE]
        try:
            steps = _steps_of(pipeline, split.load(chosen[0]))
            began = time.perf_counter()
            made = [Pipeline(pipeline.steps[:steps], steps).partly(split.load(position)) for position in chosen]
            seconds = (time.perf_counter() - began) / len(chosen)
        except UnreadableImage as error:
            raise NotKept(f"an image cannot be read: {error}") from error
        return cls(steps, max(math.prod(_bytes_of(image)[0].shape) for image in made), seconds)


def _steps_of(pipeline: Pipeline, image: ImageLike) -> int:
    value: Any = image
    found = 0 if _is_picture(value) else -1
    for number, step in enumerate(pipeline.steps[: pipeline.deterministic_steps], 1):
        value = step(value)
        found = number if _is_picture(value) else found
    if found < 0:
        raise NotKept("the images are no pictures of bytes")
    return found


def _is_picture(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.dtype == torch.uint8 and value.dim() == 3
    return getattr(value, "mode", None) in MODES  # of PIL, which a run that reads no image does not import


def _bytes_of(image: ImageLike) -> tuple[Tensor, int]:
    """An image as a uint8 tensor of three dimensions, and the position of its mode in `MODES`."""
    if isinstance(image, Tensor):
        return image, MODES.index("tensor")
    import numpy as np

    pixels = torch.from_numpy(np.array(image))
    return (pixels if pixels.dim() == 3 else pixels.unsqueeze(-1)), MODES.index(image.mode)


def _rows(split: Split, before: Pipeline, at_once: int, positions: Sequence[int]) -> Rows:
    """Batch by batch: all bytes of its images in a row, and for each its mode and three sides."""
    batches = in_batches(positions, at_once)
    lanes = torch.get_num_threads() if getattr(split.source, "concurrent", False) else 1
    for read, images in side_by_side(partial(_read, split, before), batches, lanes):
        parts = [_bytes_of(image) for image in images]
        table = torch.tensor([[mode, *pixels.shape] for pixels, mode in parts], dtype=torch.int64)
        if read:
            yield read, (torch.cat([pixels.flatten() for pixels, _ in parts]), table), ()


def _read(split: Split, before: Pipeline, positions: Sequence[int]) -> tuple[list[int], list[ImageLike]]:
    read, images = [], []
    for position in positions:
        try:
            image = before.partly(split.load(position))
        except UnreadableImage:
            continue  # whoever asks for it reads the source and hears why
        if _is_picture(image):
            read.append(position)
            images.append(image)
    return read, images


@attrs.define(eq=False)
class Pixels:
    """An image source over an entry; what that lacks is read from the source itself.

    Attributes:
        source: whose images are kept.
        before: the steps that they have behind them.
        entry: holds them.
        begins: for each segment, where the bytes of each image begin.
    """

    source: ImageSource
    before: Pipeline
    entry: Entry
    begins: dict[int, list[int]] = attrs.field(factory=dict)

    def load(self, index: int) -> ImageLike:
        """The image with the first steps done. Raises `UnreadableImage`."""
        place = self.entry.place.get(self.source.digest(index))
        return self.before.partly(self.source.load(index)) if place is None else self._kept(*place)

    def digest(self, index: int) -> str:
        """A hash of the content of the source's image."""
        return self.source.digest(index)

    def _kept(self, segment: int, row: int) -> ImageLike:
        pixels, table = self.entry.tensors[segment]
        if segment not in self.begins:
            sizes = table[:, 1:].prod(dim=1)
            self.begins[segment] = (sizes.cumsum(0) - sizes).tolist()
        from PIL import Image

        mode, *sides = table[row].tolist()
        begin = self.begins[segment][row]
        image = pixels[begin : begin + math.prod(sides)].view(sides)
        if MODES[mode] == "tensor":
            return image.clone()
        return Image.fromarray(image.squeeze(-1).numpy() if MODES[mode] == "L" else image.numpy())
