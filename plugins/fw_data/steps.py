"""Steps: single operations on one image that the transforms are made of. All can be copied to worker processes."""

from __future__ import annotations

import math

import attrs
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

import framework as fw

ImageLike = Image.Image | Tensor

_PIL_ONLY = frozenset({v2.InterpolationMode.BOX, v2.InterpolationMode.HAMMING, v2.InterpolationMode.LANCZOS})


@attrs.frozen
class AdaptChannels:
    """Gives an image the channels that a network takes: grey is repeated, RGB becomes its luma (ITU-R 601-2).

    One and three channels leave as a PIL image, so that resizing is Pillow's whatever the source; other numbers of
    channels stay a uint8 tensor (C, H, W).
    """

    channels: int

    def __call__(self, image: ImageLike) -> ImageLike:
        """The image with other channels; an `FwError` where these cannot be made."""
        if isinstance(image, Tensor):
            count = image.shape[0]
            if count not in (1, 3) and count == self.channels:
                return image
            if count not in (1, 3):
                raise self._mismatch(count)
            return self._converted(functional.to_pil_image(image))
        return self._converted(image)

    def _converted(self, image: Image.Image) -> Image.Image:
        wanted = {1: "L", 3: "RGB"}.get(self.channels)
        if wanted is None:
            raise self._mismatch(len(image.getbands()))
        return image if image.mode == wanted else image.convert(wanted)

    def _mismatch(self, count: int) -> fw.FwError:
        return fw.FwError(f"an image has {count} channel{'s' if count > 1 else ''}, the network takes {self.channels}",
                          f"set backbone.in_channels = {count}")  # fmt: skip


@attrs.frozen
class ResizeToCover:
    """Resizes, keeping the aspect ratio, so that the image just covers `size` (height, width); antialiased.

    Sizes are rounded as torchvision (one side) and timm (two different sides) round them.
    """

    size: tuple[int, int]
    interpolation: v2.InterpolationMode

    def __call__(self, image: ImageLike) -> ImageLike:
        """The image, larger or smaller."""
        resized: ImageLike = functional.resize(image, self._target(image), self.interpolation, antialias=True)
        return resized

    def _target(self, image: ImageLike) -> list[int]:
        if self.size[0] == self.size[1]:
            return [self.size[0]]
        sides = functional.get_size(image)
        ratio = min(side / target for side, target in zip(sides, self.size, strict=True))
        return [round(side / ratio) for side in sides]


@attrs.frozen
class ToFloat:
    """A PIL image or uint8 tensor as float32 (C, H, W) in 0..1."""

    def __call__(self, image: ImageLike) -> Tensor:
        """The image as a tensor."""
        pixels = image if isinstance(image, Tensor) else functional.pil_to_tensor(image)
        return pixels.to(torch.float32).div(255)


def evaluation_geometry(spec: fw.InputSpec, crop_pct: float, resize: int) -> list[ResizeToCover | v2.CenterCrop]:
    """Resize and centre crop as timm and torchvision evaluate: the resized side is floor(size / crop_pct).

    Args:
        spec: the size and interpolation of the network's input.
        crop_pct: share of the resized side that the crop keeps.
        resize: the shorter side after resizing, instead of crop_pct; 0: none is stated.
    """
    # the small addend undoes rounding where crop_pct was computed from a whole number of pixels, as 224 / 232
    sides = [math.floor(side / crop_pct + 1e-6) for side in spec.size]
    size = (resize, resize) if resize else (sides[0], sides[1])
    return [ResizeToCover(size, interpolation_mode(spec)), v2.CenterCrop(list(spec.size))]


def interpolation_mode(spec: fw.InputSpec) -> v2.InterpolationMode:
    """The interpolation of an input spec.

    Raises:
        fw.FwError: torchvision knows none of that name, or Pillow alone does and the image is no picture.
    """
    known = [mode.value for mode in v2.InterpolationMode]
    if spec.interpolation not in known:
        raise fw.FwError(f"the backbone's input asks for the interpolation {spec.interpolation!r}",
                         fw.name_hints(spec.interpolation, known, "known"))  # fmt: skip
    mode = v2.InterpolationMode(spec.interpolation)
    if spec.channels not in (1, 3) and mode in _PIL_ONLY:
        raise fw.FwError(f"{spec.interpolation} interpolation works on 1 or 3 channels, not on {spec.channels}",
                         "use a backbone with bilinear or bicubic interpolation")  # fmt: skip
    return mode


def normalization(spec: fw.InputSpec) -> v2.Normalize:
    """Normalisation with the mean and std of a spec; where it has other channels than these, with their averages."""
    mean, std = (
        [sum(of) / len(of)] * spec.channels if len(of) != spec.channels else of for of in (spec.mean, spec.std)
    )
    return v2.Normalize(list(mean), list(std))
