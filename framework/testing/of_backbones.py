"""Checks of backbones: what is built, what a request may ask, the features, and the modes of the module."""

from __future__ import annotations

import pytest
import torch

from framework.testing import of_stages, of_weights
from framework.testing.builds import CHANNELS, attempt, built, complaint, in_words, probe_of, taken, working
from framework.testing.case import Case, Check, check
from framework.testing.chance import seeded
from framework.testing.probes import (
    require_each_row_alone,
    require_same_each_time,
    require_still_tensors,
    require_torchs_generator,
    said,
)
from framework.testing.training import numbers

INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos")
"""As torchvision and PIL name them."""
RATE, DRAWS = 0.5, 8
"""Passes in train mode that are all alike once in 2 ** 28, where of four images each is dropped half of the time."""


# -------------------------------------------------------------------------------------- checks: what is built


@check
def builds_without_weights(case: Case) -> None:
    """`build(request)` with `weights=None` gives a Backbone: a module, its feature_dim and its input."""
    made = attempt(case, {})
    if made.failed and made.reached:
        pytest.skip("see builds_offline")
    assert not made.failed, (
        f"a request without weights raises {said(made.outcome)}: where request.weights is None, build the architecture "
        "alone"
    )
    wrong = complaint(made.outcome)
    assert wrong is None, wrong


@check
def builds_offline(case: Case) -> None:
    """An architecture without weights asks nothing of the network."""
    reached = attempt(case, {}).reached
    assert not reached, f"a request without weights asks for {', '.join(dict.fromkeys(reached))}: fetch nothing then"


@check
def changes_no_setting_of_torch(case: Case) -> None:
    """Building leaves torch's settings as they were: they are the whole process's."""
    changed = attempt(case, {}).changed
    assert not changed, f"build changes what {', '.join(changed)} gives: put it back before you return"


@check
def gives_feature_vectors(case: Case) -> None:
    """In evaluation mode one image or several give finite float32 features of shape (N, feature_dim)."""
    probe = probe_of(built(case))
    for count in (1, 3):
        wrong = probe.complaint(count)
        assert wrong is None, f"{wrong}: a head takes (N, feature_dim)"


@check
def gives_feature_vectors_in_train_mode(case: Case) -> None:
    """In train mode, too, the module gives one tensor (N, feature_dim), and nothing beside it."""
    wrong = probe_of(working(case)).complaint(4, training=True)
    assert wrong is None, f"{wrong}; auxiliary outputs have no place in a backbone"


@check
def features_depend_on_the_image(case: Case) -> None:
    """Two images give two feature vectors."""
    probe = probe_of(working(case))
    one, other = probe.given(probe.rows(2))
    assert not torch.equal(one, other), "two images of noise give the same features: what does it look at?"


# -------------------------------------------------------------------------------------- checks: what is asked


@check
def says_what_images_it_takes(case: Case) -> None:
    """The input spec holds a mean and a deviation for each channel of pixels in 0..1, and words that are known."""
    spec = built(case).input
    rules = {
        f"input.channels is {spec.channels}, and {CHANNELS} were asked for": spec.channels == CHANNELS,
        f"input.mean and input.std have {len(spec.mean)} and {len(spec.std)} values for {CHANNELS} channels":
            len(spec.mean) == len(spec.std) == CHANNELS,
        f"input.mean is {spec.mean}, and pixels lie in 0..1: divide by 255?": all(0 <= m <= 1 for m in spec.mean),
        f"input.std is {spec.std}, and pixels lie in 0..1: divide by 255?": all(0 < d <= 1 for d in spec.std),
        f"input.interpolation is {spec.interpolation!r}, and none of {', '.join(INTERPOLATIONS)}":
            spec.interpolation in INTERPOLATIONS,
        f"input.crop_pct is {spec.crop_pct}, and no share of the resized image": 0 < spec.crop_pct <= 1,
    }  # fmt: skip
    broken = [text for text, holds in rules.items() if not holds]
    assert not broken, "; ".join(broken)


@check
def takes_one_channel_or_refuses(case: Case) -> None:
    """Asked for `in_channels = 1` it takes images of one channel, with one mean and deviation, or raises a FwError."""
    backbone = taken(case, {"in_channels": 1})
    if backbone is None:
        return
    spec = backbone.input
    assert (spec.channels, len(spec.mean), len(spec.std)) == (1, 1, 1), (
        f"asked for in_channels = 1, input has {spec.channels} channels, {len(spec.mean)} means and {len(spec.std)} "
        "deviations: spec.for_channels(request.in_channels) gives what it should have"
    )
    wrong = probe_of(backbone, 1).complaint(2)
    assert wrong is None, f"asked for in_channels = 1: {wrong}"


@check
def takes_another_image_size_or_refuses(case: Case) -> None:
    """Asked for another `image_size` it takes such images and says so, or raises a FwError."""
    own = working(case).input.size
    size = tuple(side // 2 if side >= 64 else 2 * side for side in own)
    backbone = taken(case, {"image_size": size})
    if backbone is None:
        return
    assert backbone.input.size == size, (
        f"asked for image_size = {size}, input.size is {backbone.input.size}: take request.image_size, or refuse it "
        "with fw.FwError(message, hint)"
    )
    wrong = probe_of(backbone).complaint(2)
    assert wrong is None, f"asked for image_size = {size}: {wrong}"


@check
def takes_drop_rates_or_refuses(case: Case) -> None:
    """Asked for `drop_rate` or `drop_path_rate` it drops something in train mode, or raises a FwError."""
    for name in ("drop_rate", "drop_path_rate"):
        backbone = taken(case, {name: RATE})
        if backbone is None:
            continue
        probe = probe_of(backbone)
        if probe.complaint(4, training=True):
            pytest.skip("see gives_feature_vectors_in_train_mode")
        _shake(backbone.module)
        rows = probe.rows(4)
        first = probe.given(rows, training=True)
        drops = any(not torch.equal(first, probe.given(rows, training=True, seed=seed)) for seed in range(1, DRAWS))
        assert drops, (
            f"asked for {name} = {RATE}, train mode drops nothing: take request.{name}, or refuse it with "
            "fw.FwError(message, hint)"
        )


def _shake(module: torch.nn.Module) -> None:
    """Moves all parameters a little: some branches begin at zero (ResNets of timm), and to drop these shows nowhere."""
    with torch.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            parameter.add_(numbers(parameter.shape, seed), alpha=0.1)


@check
def refuses_unknown_options(case: Case) -> None:
    """An entry of `options` that it does not know raises a FwError, as every typo in a recipe does."""
    asked = {"options": {"no_such_option": 1}}
    assert taken(case, asked) is None, (
        f"a request with {in_words(asked)} builds: refuse what request.options has and you do not take, with "
        "fw.FwError(message, hint)"
    )


# ---------------------------------------------------------------------------------------------- checks: modes


@check
def evaluates_the_same_each_time(case: Case) -> None:
    """In evaluation mode the same images give the same features."""
    require_same_each_time(probe_of(working(case)))


@check
def evaluates_each_row_alone(case: Case) -> None:
    """In evaluation mode the features of an image do not hang on the others of its batch."""
    require_each_row_alone(probe_of(working(case)))


@check
def evaluation_changes_no_tensor(case: Case) -> None:
    """In evaluation mode no parameter and no buffer is written to."""
    require_still_tensors(probe_of(working(case)))


@check
def draws_from_torchs_generator_alone(case: Case) -> None:
    """In train mode all that is random comes from torch's global generator, which the engine seeds at every step."""
    require_torchs_generator(probe_of(working(case, training=True)))


@check
def leaves_images_alone(case: Case) -> None:
    """The images that go in are not written to."""
    probe = probe_of(working(case))
    images = probe.rows(2)
    before = images.clone()
    with torch.no_grad(), seeded(0):
        probe.module(images)
    assert torch.equal(images, before), "the module writes to the images that it is given: x = x - mean, not x -= mean"


CHECKS: tuple[Check, ...] = (
    builds_without_weights,
    builds_offline,
    changes_no_setting_of_torch,
    gives_feature_vectors,
    gives_feature_vectors_in_train_mode,
    features_depend_on_the_image,
    says_what_images_it_takes,
    takes_one_channel_or_refuses,
    takes_another_image_size_or_refuses,
    takes_drop_rates_or_refuses,
    refuses_unknown_options,
    evaluates_the_same_each_time,
    evaluates_each_row_alone,
    evaluation_changes_no_tensor,
    draws_from_torchs_generator_alone,
    leaves_images_alone,
    *of_weights.CHECKS,
    *of_stages.CHECKS,
)
