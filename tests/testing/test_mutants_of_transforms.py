"""Each check of transforms finds a transform with that one fault, and says nothing against a good one."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

import framework as fw
from framework.testing import failures
from framework.testing.of_transforms import CHECKS

pytestmark = pytest.mark.sweep  # every check of a kind, against every plugin with a fault

Step = Callable[[Any], Any]


@attrs.frozen
class Fit:
    """A picture in the network's channels and size."""

    spec: fw.InputSpec

    def __call__(self, image: Any) -> Image.Image:
        picture = functional.to_pil_image(image) if isinstance(image, Tensor) else image
        return self.resized(picture.convert("L" if self.spec.channels == 1 else "RGB"))

    def resized(self, picture: Image.Image) -> Image.Image:
        return picture.resize(self.spec.size[::-1])


@attrs.frozen
class Scale:
    """A picture as a normalised tensor."""

    spec: fw.InputSpec

    def __call__(self, picture: Image.Image) -> Tensor:
        pixels = functional.pil_to_tensor(picture).float() / 255
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.spec.mean, self.spec.std))
        return (pixels - mean) / std


def flip(picture: Image.Image) -> Image.Image:
    return functional.horizontal_flip(picture) if torch.rand(1) < 0.5 else picture


@attrs.frozen(kw_only=True)
class Good:
    """Resizes, flips at random, and normalises."""

    def build(self, spec: fw.InputSpec) -> Any:
        if spec.channels not in (1, 3):
            raise fw.FwError(f"this transform takes pictures, not images of {spec.channels} channels", "use another")
        return fw.Pipeline(*self.steps(spec))

    def steps(self, spec: fw.InputSpec) -> tuple[tuple[Step, ...], int]:
        return (Fit(spec), flip, Scale(spec)), 1


@attrs.frozen(kw_only=True)
class Plain(Good):
    """The same without chance."""

    def steps(self, spec: fw.InputSpec) -> tuple[tuple[Step, ...], int]:
        return (Fit(spec), Scale(spec)), 2


@attrs.frozen(kw_only=True)
class JustAFunction(Good):
    """A function instead of a pipeline."""

    def build(self, spec: fw.InputSpec) -> Any:
        return Scale(spec)


@attrs.frozen(kw_only=True)
class CountsTooFar(Good):
    """Says that more steps are deterministic than there are."""

    def steps(self, spec: fw.InputSpec) -> tuple[tuple[Step, ...], int]:
        return (Fit(spec), Scale(spec)), 3


@attrs.frozen
class NeverLarger(Fit):
    def resized(self, picture: Image.Image) -> Image.Image:
        height, width = self.spec.size
        return picture.resize((min(width, picture.width), min(height, picture.height)))


@attrs.frozen
class AlwaysOneSize(Fit):
    def resized(self, picture: Image.Image) -> Image.Image:
        return picture.resize((32, 24))


@attrs.frozen
class ColourOnly(Fit):
    def __call__(self, image: Any) -> Image.Image:
        if isinstance(image, Image.Image) and image.mode == "L" and self.spec.channels == 3:
            raise ValueError("a grey picture")
        return super().__call__(image)


@attrs.frozen
class PicturesOnly(Fit):
    def __call__(self, image: Any) -> Image.Image:
        if self.spec.channels == 3:
            assert isinstance(image, Image.Image)
        return super().__call__(image)


@attrs.frozen
class NeverGrey(Fit):
    def __call__(self, image: Any) -> Image.Image:
        if self.spec.channels == 1:
            raise ValueError("one channel")
        return super().__call__(image)


@attrs.frozen
class Bytes(Scale):
    def __call__(self, picture: Image.Image) -> Tensor:
        return super().__call__(picture) * 255


@attrs.frozen
class OfImageNet(Scale):
    spec: fw.InputSpec = attrs.field(converter=lambda spec: fw.InputSpec().for_channels(spec.channels))


def flip_by_random(picture: Image.Image) -> Image.Image:
    return functional.horizontal_flip(picture) if random.random() < 0.5 else picture


def flip_by_numpy(picture: Image.Image) -> Image.Image:
    return functional.horizontal_flip(picture) if np.random.rand() < 0.5 else picture


@attrs.define(eq=False)
class EverySecond:
    """Flips every second image."""

    calls: int = 0

    def __call__(self, picture: Image.Image) -> Image.Image:
        self.calls += 1
        return functional.horizontal_flip(picture) if self.calls % 2 else picture


@attrs.define(eq=False)
class OwnGenerator:
    """Flips by a generator of its own."""

    generator: random.Random = attrs.field(factory=lambda: random.Random(0))

    def __call__(self, picture: Image.Image) -> Image.Image:
        return functional.horizontal_flip(picture) if self.generator.random() < 0.5 else picture


def waste_a_draw(picture: Image.Image) -> Image.Image:
    torch.rand(1)
    return picture


@attrs.define(eq=False)
class Remembers:
    """Keeps the picture it works on."""

    picture: Any = None

    def __call__(self, picture: Image.Image) -> Image.Image:
        self.picture = picture
        time.sleep(0.002)
        return self.picture


@attrs.define(eq=False)
class Mirrors:
    """Forgets its setting when it is copied."""

    on: bool = True

    def __call__(self, picture: Image.Image) -> Image.Image:
        return functional.horizontal_flip(picture) if self.on else picture

    def __getstate__(self) -> dict[str, Any]:
        return {"on": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.on = state["on"]


def blacken_a_corner(image: Any) -> Any:
    if isinstance(image, Tensor):
        image[:, 0, 0] = 0
    else:
        image.paste(0, (0, 0, 1, 1))
    return image


def made_of(steps: Callable[[fw.InputSpec], tuple[tuple[Step, ...], int]]) -> type[Any]:
    """A config class whose pipeline has these steps."""
    body = {"steps": lambda self, spec: steps(spec)}
    made = attrs.make_class("Mutant", [], bases=(Good,), kw_only=True, frozen=True, class_body=body)
    made.__doc__ = "A transform with a fault."
    return made


class Offers:
    """A plugin with one transform."""

    def __init__(self, config: type[Any]) -> None:
        self.component = fw.Component("sample", config)

    @fw.hookimpl
    def fw_transforms(self) -> Any:
        return [self.component]


MUTANTS = {
    "a function": ("gives_a_pipeline", JustAFunction),
    "counts too far": ("gives_a_pipeline", CountsTooFar),
    "never larger": ("gives_what_the_network_takes", made_of(lambda spec: ((NeverLarger(spec), Scale(spec)), 2))),
    "always one size": ("gives_what_the_network_takes", made_of(lambda spec: ((AlwaysOneSize(spec), Scale(spec)), 2))),
    "colour only": ("takes_grey_and_tensors", made_of(lambda spec: ((ColourOnly(spec), Scale(spec)), 2))),
    "never grey": ("other_channels_work_or_are_refused", made_of(lambda spec: ((NeverGrey(spec), Scale(spec)), 2))),
    "bytes": ("normalises_as_the_spec_says", made_of(lambda spec: ((Fit(spec), Bytes(spec)), 2))),
    "always ImageNet's": ("normalises_as_the_spec_says", made_of(lambda spec: ((Fit(spec), OfImageNet(spec)), 2))),
    "a flip by random, called fixed": (
        "deterministic_steps_draw_nothing", made_of(lambda spec: ((Fit(spec), flip_by_random, Scale(spec)), 3)),
    ),
    "a wasted draw": (
        "deterministic_steps_draw_nothing", made_of(lambda spec: ((Fit(spec), waste_a_draw, Scale(spec)), 3)),
    ),
    "remembers": (
        "deterministic_steps_bear_threads", made_of(lambda spec: ((Fit(spec), Remembers(), Scale(spec)), 3)),
    ),
    "a flip by random": ("draws_by_torch_alone", made_of(lambda spec: ((Fit(spec), flip_by_random, Scale(spec)), 1))),
    "a flip by numpy": ("draws_by_torch_alone", made_of(lambda spec: ((Fit(spec), flip_by_numpy, Scale(spec)), 1))),
    "a lambda": (
        "can_be_copied_to_workers", made_of(lambda spec: ((Fit(spec), lambda picture: picture, Scale(spec)), 3)),
    ),
    "forgets": ("can_be_copied_to_workers", made_of(lambda spec: ((Fit(spec), Mirrors(), Scale(spec)), 3))),
    "blackens": ("leaves_its_image_alone", made_of(lambda spec: ((blacken_a_corner, Fit(spec), Scale(spec)), 3))),
}  # fmt: skip
KEEPS_SOMETHING = (EverySecond, OwnGenerator)


@pytest.mark.parametrize("config", [Good, Plain])
def test_a_good_transform_passes(config: type[Any]) -> None:
    assert failures(Offers(config)) == {}


@pytest.mark.parametrize(("check", "config"), MUTANTS.values(), ids=MUTANTS)
def test_a_fault_is_found_and_nothing_else(check: str, config: type[Any]) -> None:
    found = failures(Offers(config))
    assert set(found) == {f"sample-{check}"}, found


@pytest.mark.parametrize("step", KEEPS_SOMETHING)
def test_what_a_step_keeps_from_image_to_image_is_found(step: Callable[[], Step]) -> None:
    found = failures(Offers(made_of(lambda spec: ((Fit(spec), step(), Scale(spec)), 1))))
    assert "keep nothing from image to image" in found["sample-draws_by_torch_alone"]


def no_tensor(tensor: Tensor) -> Any:
    return tensor.numpy()


def nothing_finite(tensor: Tensor) -> Tensor:
    return tensor / 0


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (no_tensor, "became a ndarray; the last step must give a tensor"),
        (Tensor.double, "became a tensor of torch.float64; the network takes torch.float32"),
        (nothing_finite, "values that are not finite"),
        (torch.nn.Flatten(), "became a tensor (3, 768); the spec asks for (3, 24, 32)"),
    ],
)
def test_what_no_network_takes_is_named(last: Step, words: str) -> None:
    found = failures(Offers(made_of(lambda spec: ((Fit(spec), Scale(spec), last), 3))))
    assert words in found["sample-gives_what_the_network_takes"]


def test_pictures_alone_are_not_enough() -> None:
    found = failures(Offers(made_of(lambda spec: ((PicturesOnly(spec), Scale(spec)), 2))))
    assert "sample-takes_grey_and_tensors" in found


def test_checks_leave_the_random_generators_as_they_were() -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    failures(Offers(Good))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())


def test_each_check_has_a_mutant() -> None:
    names = {check.name for check in CHECKS}
    print(f"{len(MUTANTS) + len(KEEPS_SOMETHING) + 1} faults for {len(names)} checks of transforms")
    assert names == {check for check, _ in MUTANTS.values()}
