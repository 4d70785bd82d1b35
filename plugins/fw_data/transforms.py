"""Transforms: `center_crop`, deterministic, the default everywhere, and `augment`, random, for training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import attrs

import framework as fw

Step = Callable[[Any], Any]
HueShift = Annotated[float, fw.Bounds(ge=0, le=0.5)]


@attrs.frozen(kw_only=True)
class CenterCrop:
    """Resize the shorter side, crop the centre, normalise: as timm and torchvision evaluate."""

    crop_pct: fw.PositiveFloat | None = fw.key(None, "share of the resized side that is kept; absent: the backbone's")
    resize: fw.Count = fw.key(0, "shorter side after resizing, in pixels, instead of crop_pct; 0: by crop_pct")

    def build(self, spec: fw.InputSpec) -> fw.Pipeline:
        """The steps; all are deterministic."""
        from fw_data import steps

        crop = steps.evaluation_geometry(spec, self.crop_pct or spec.crop_pct, self.resize)
        made = (steps.AdaptChannels(spec.channels), *crop, steps.ToFloat(), steps.normalization(spec))
        return fw.Pipeline(made, len(made))


@attrs.frozen(kw_only=True)
class RandAugment:
    """Random operations in a row (RandAugment, 1909.13719)."""

    num_ops: fw.PositiveInt = fw.key(2, "operations per image")
    magnitude: Annotated[int, fw.Bounds(ge=0, le=30)] = fw.key(9, "strength of each, 0 to 30")


@attrs.frozen(kw_only=True)
class ColorJitter:
    """Random changes of colour, each by a factor from 1 - x to 1 + x (hue: a shift from -x to x)."""

    brightness: fw.NonNegative = fw.key(0.0, "largest change of brightness")
    contrast: fw.NonNegative = fw.key(0.0, "largest change of contrast")
    saturation: fw.NonNegative = fw.key(0.0, "largest change of saturation")
    hue: HueShift = fw.key(0.0, "largest shift of hue, at most 0.5")


@attrs.frozen(kw_only=True)
class Augment:
    """Random crop and flip, and, where asked, more; the defaults are those of PyTorch's transfer learning tutorial."""

    crop: Literal["random_resized", "pad", "none"] = fw.key(
        "random_resized", "random_resized: a random part, resized; pad: center_crop, then shifted; none: center_crop"
    )
    scale: tuple[fw.PositiveFloat, fw.PositiveFloat] = fw.key((0.08, 1.0), "random_resized: area of the part, from, to")
    ratio: tuple[fw.PositiveFloat, fw.PositiveFloat] = fw.key(
        (3 / 4, 4 / 3), "random_resized: width over height of the part, from, to"
    )
    padding: fw.PositiveFloat = fw.key(0.125, "pad: largest shift, as a share of the side; 4 pixels of 32")
    hflip: fw.Fraction = fw.key(0.5, "probability of a horizontal flip")
    vflip: fw.Fraction = fw.key(0.0, "probability of a vertical flip")
    color_jitter: ColorJitter | fw.NonNegative = fw.key(
        0.0, "one number for brightness, contrast and saturation, or a table with hue; 0: off"
    )
    rand_augment: RandAugment | None = fw.key(None, "num_ops operations of this magnitude; absent: off")
    erasing: fw.Fraction = fw.key(0.0, "probability of erasing a random rectangle (1708.04896)")

    def build(self, spec: fw.InputSpec) -> fw.Pipeline:
        """The steps; what stands before the first random one is deterministic.

        Raises:
            fw.FwError: a range is upside down, or the channels do not allow an operation on colour.
        """
        from fw_data import steps

        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if low > high:
                raise fw.FwError(f"transform.{name} is [{low:g}, {high:g}]", "state the smaller number first")
        before: list[Step] = [steps.AdaptChannels(spec.channels)]
        if self.crop != "random_resized":
            before += steps.evaluation_geometry(spec, spec.crop_pct, 0)
        drawn = [*self._crop(spec), *self._flips(), *self._colors(spec)]
        last = self._erasing()
        plain = [steps.ToFloat(), steps.normalization(spec)]
        made = (*before, *drawn, *plain, *last)
        return fw.Pipeline(made, len(before) if drawn else len(made) - len(last))

    def _crop(self, spec: fw.InputSpec) -> list[Step]:
        from torchvision.transforms import v2

        from fw_data import steps

        mode = steps.interpolation_mode(spec)
        size = list(spec.size)
        if self.crop == "random_resized":
            return [v2.RandomResizedCrop(size, self.scale, self.ratio, interpolation=mode, antialias=True)]
        if self.crop == "pad":
            rows, columns = (max(1, round(side * self.padding)) for side in size)
            return [v2.RandomCrop(size, padding=[columns, rows])]
        return []

    def _flips(self) -> list[Step]:
        from torchvision.transforms import v2

        flips = ((self.hflip, v2.RandomHorizontalFlip), (self.vflip, v2.RandomVerticalFlip))
        return [flip(p) for p, flip in flips if p > 0]

    def _colors(self, spec: fw.InputSpec) -> list[Step]:
        from torchvision.transforms import v2

        jitter = self.color_jitter
        amounts = (jitter, jitter, jitter, 0.0) if isinstance(jitter, float | int) else attrs.astuple(jitter)
        made: list[Step] = [v2.ColorJitter(*amounts)] if any(amounts) else []
        if self.rand_augment is not None:
            mode = v2.InterpolationMode.BILINEAR
            made.append(v2.RandAugment(self.rand_augment.num_ops, self.rand_augment.magnitude, interpolation=mode))
        if made and spec.channels not in (1, 3):
            raise fw.FwError(f"color_jitter and rand_augment work on 1 or 3 channels, not on {spec.channels}",
                             "leave them out")  # fmt: skip
        return made

    def _erasing(self) -> list[Step]:
        from torchvision.transforms import v2

        return [v2.RandomErasing(self.erasing)] if self.erasing > 0 else []
