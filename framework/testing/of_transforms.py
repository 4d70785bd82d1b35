"""Checks of transforms: what a pipeline makes of an image, and what it says about chance."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import torch
from torch import Tensor

from framework.contracts import InputSpec, Pipeline
from framework.errors import FwError
from framework.testing.case import Case, Check, check
from framework.testing.chance import moved, seeded, states
from framework.testing.pictures import SIZES, picture, pixels, same

if TYPE_CHECKING:
    from framework.contracts import ImageLike

SPEC = InputSpec(size=(24, 32))
SPECS = (SPEC, InputSpec(size=(32, 24), interpolation="bicubic", crop_pct=1.0))
OTHER_RANGE = attrs.evolve(SPEC, mean=(0.3, 0.5, 0.6), std=(0.2, 0.3, 0.5))
HALF_A_GREY_LEVEL = 1 / 510
DRAWS = 13
"""Images to a check of chance, an odd number, so that a step is found that acts on every second one."""


@check
def gives_a_pipeline(case: Case) -> None:
    """`build` gives a pipeline that says how many of its first steps draw nothing at random."""
    made = case.config().build(SPEC)
    assert isinstance(made, Pipeline), f"build gave {made!r}; it must give fw.Pipeline(steps, deterministic_steps)"
    assert made.steps, "there is no step; the last one must give the network's tensor"
    assert all(map(callable, made.steps)), f"steps must be functions of one value, not {made.steps!r}"
    count, steps = made.deterministic_steps, len(made.steps)
    assert 0 <= count <= steps, (
        f"deterministic_steps is {count!r} of {steps} steps; count how many of the first draw nothing at random"
    )


@check
def gives_what_the_network_takes(case: Case) -> None:
    """A picture of any size becomes a finite float32 tensor of the network's channels and size."""
    config = case.config()
    for spec in SPECS:
        pipeline = _built(config, spec)
        for size in SIZES:
            _require_input(pipeline, picture(3, size), spec)


@check
def takes_grey_and_tensors(case: Case) -> None:
    """A network of three channels takes grey pictures, and uint8 tensors of one or three channels, too."""
    pipeline = _built(case.config())
    for image in _images(SIZES[0]):
        _require_input(pipeline, image, SPEC)


@check
def other_channels_work_or_are_refused(case: Case) -> None:
    """A network of one or of five channels gets its input, or an `FwError` says why not."""
    config = case.config()
    for channels, images in ((1, _images(SIZES[0])), (5, [pixels(5, SIZES[0])])):
        spec = SPEC.for_channels(channels)
        for image in images:
            try:
                _require_input(_built(config, spec), image, spec)
            except FwError:
                continue


@check
def normalises_as_the_spec_says(case: Case) -> None:
    """Pixels leave as (pixel - mean) / std of the spec, a pixel being 0 to 1."""
    config = case.config()
    one, other = (_before_normalising(_built(config, spec), spec) for spec in (SPEC, OTHER_RANGE))
    # more than half, since a part may be blanked after normalisation (random erasing)
    within = ((one > -0.05) & (one < 1.05)).float().mean().item()
    assert within > 0.5, (
        f"undone with the spec's mean and std, {1 - within:.0%} of the values lie outside 0..1; "
        "scale bytes by 1/255, then subtract spec.mean and divide by spec.std"
    )
    agreeing = ((one - other).abs() < HALF_A_GREY_LEVEL).float().mean().item()
    assert agreeing > 0.5, (
        f"another mean and std of the spec change {1 - agreeing:.0%} of the pixels below them; "
        "subtract spec.mean and divide by spec.std, channel by channel, at the end"
    )


@check
def deterministic_steps_draw_nothing(case: Case) -> None:
    """The steps that are called deterministic give the same every time, and leave all random generators alone."""
    before = _beginning(_built(case.config()))
    made = []
    for seed in (1, 2):
        with seeded(seed):
            start = states()
            made.append([before.partly(image) for image in _pictures()])
            drawn = moved(start)
        assert not drawn, (
            f"the first {len(before.steps)} steps are called deterministic, but draw from the generator of {drawn}; "
            "lower deterministic_steps"
        )
    assert same(*made), (
        f"the first {len(before.steps)} steps are called deterministic, but give another result at another time; "
        "lower deterministic_steps"
    )


@check
def deterministic_steps_bear_threads(case: Case) -> None:
    """Several threads can call the deterministic steps at once, as the engine does where a source allows it."""
    before = _beginning(_built(case.config()))
    expected, again = ([before.partly(image) for image in _pictures()] for _ in range(2))
    if not same(expected, again):
        pytest.skip("the steps that are called deterministic are not")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(before.partly, _pictures()))
    assert same(found, expected), "called by four threads, steps mix their images up; keep nothing of one in the step"


@check
def draws_by_torch_alone(case: Case) -> None:
    """What is random depends on torch's global generator and on nothing else."""
    pipeline = _built(case.config())
    if pipeline.deterministic:
        pytest.skip("it draws nothing")
    before = Pipeline(pipeline.steps[: pipeline.deterministic_steps], pipeline.deterministic_steps)
    rest = Pipeline(pipeline.steps[pipeline.deterministic_steps :], 0)
    values = [before.partly(image) for image in _pictures()]
    first, again = (_drawn(rest, values, others=others) for others in (1, 2))
    assert same(first, again), (
        "under one torch seed an image became two different tensors; draw with torch's functions and no generator of "
        "your own, never with random or numpy, and keep nothing from image to image"
    )


@check
def can_be_copied_to_workers(case: Case) -> None:
    """The pipeline can be pickled, and its copy does the same."""
    pipeline = _built(case.config())
    try:
        copied = pickle.loads(pickle.dumps(pipeline))
    except Exception as error:
        raise AssertionError(
            f"the pipeline cannot be copied to worker processes: {error}; "
            "make each step an object of a module's class, not a lambda or a function within a function"
        ) from error
    assert same(_drawn(pipeline, _pictures()), _drawn(copied, _pictures())), (
        "a pickled copy of the pipeline gives other tensors; let each step keep all of its settings when copied"
    )


@check
def leaves_its_image_alone(case: Case) -> None:
    """The image that goes in is the same afterwards: the engine may hold on to it."""
    pipeline = _built(case.config())
    for seed in range(DRAWS):
        for image in (picture(3, SIZES[0], seed), pixels(3, SIZES[0], seed)):
            kept = copy.deepcopy(image)
            with seeded(seed):
                pipeline(image)
            assert same(image, kept), "a step changes the image it is given; let it work on a copy"


def _built(config: Any, spec: InputSpec = SPEC) -> Pipeline:
    made = config.build(spec)
    if not isinstance(made, Pipeline):
        pytest.skip("it gives no pipeline")
    return made


def _beginning(pipeline: Pipeline) -> Pipeline:
    """The deterministic steps alone."""
    count = pipeline.deterministic_steps
    if not count:
        pytest.skip("no step is called deterministic")
    return Pipeline(pipeline.steps[:count], count)


def _images(size: tuple[int, int]) -> Iterator[ImageLike]:
    """Every form in which a source gives an image of one or three channels."""
    for channels in (1, 3):
        yield picture(channels, size)
        yield pixels(channels, size)


def _pictures() -> list[ImageLike]:
    """The same pictures at every call, each a new object."""
    return [picture(3, SIZES[number % len(SIZES)], number) for number in range(DRAWS)]


def _drawn(pipeline: Pipeline, values: Sequence[Any], others: int = 0) -> list[Any]:
    """What becomes of copies of some values, each under a seed of its own."""
    made = []
    for number, value in enumerate(values):
        with seeded(number, others + number):
            made.append(pipeline.partly(copy.deepcopy(value)))
    return made


def _before_normalising(pipeline: Pipeline, spec: InputSpec) -> Tensor:
    """All values of some tensors as they were before mean and std came in."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))
    return torch.cat([(made * std + mean).flatten() for made in _drawn(pipeline, _pictures())])


def _require_input(pipeline: Pipeline, image: ImageLike, spec: InputSpec) -> None:
    """Refuses what a network of this spec cannot take."""
    what = f"a tensor {tuple(image.shape)}" if isinstance(image, Tensor) else f"a {image.mode} picture {image.size}"
    with seeded(0):
        made = pipeline(image)
    assert isinstance(made, Tensor), f"{what} became a {type(made).__name__}; the last step must give a tensor"
    assert made.dtype == torch.float32, f"{what} became a tensor of {made.dtype}; the network takes torch.float32"
    shape = (spec.channels, *spec.size)
    assert made.shape == shape, (
        f"{what} became a tensor {tuple(made.shape)}; the spec asks for {shape}: spec.channels, then spec.size"
    )
    assert made.isfinite().all(), f"{what} became a tensor with values that are not finite"


CHECKS: tuple[Check, ...] = (
    gives_a_pipeline,
    gives_what_the_network_takes,
    takes_grey_and_tensors,
    other_channels_work_or_are_refused,
    normalises_as_the_spec_says,
    deterministic_steps_draw_nothing,
    deterministic_steps_bear_threads,
    draws_by_torch_alone,
    can_be_copied_to_workers,
    leaves_its_image_alone,
)
