"""The transforms of fw_data, against timm's and torchvision's own."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

import framework as fw
from fw_data.transforms import Augment, CenterCrop, ColorJitter, RandAugment

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def photographs():
    wide = Image.fromarray(load_sample_image("china.jpg"))  # 640 x 427
    return [wide, wide.transpose(Image.Transpose.ROTATE_90), wide.resize((90, 77))]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("size", [(224, 224), (96, 96), (128, 192)])
def test_center_crop_is_timms(photographs, size, crop_pct, interpolation):
    from timm.data import create_transform

    spec = fw.InputSpec(size, MEAN, STD, interpolation, crop_pct)
    ours = CenterCrop().build(spec)
    theirs = create_transform((3, *size), False, interpolation=interpolation, mean=MEAN, std=STD, crop_pct=crop_pct)
    for photograph in photographs:
        got = ours(photograph)
        assert got.shape == (3, *size)
        assert torch.allclose(got, theirs(photograph), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("crop", "resize"), [(224, 256), (224, 232), (224, 224), (299, 342), (288, 320), (64, 93)])
def test_center_crop_is_torchvisions_preset(photographs, crop, resize):
    from torchvision.transforms._presets import ImageClassification

    theirs = ImageClassification(crop_size=crop, resize_size=resize)
    by_pct = CenterCrop().build(fw.InputSpec((crop, crop), crop_pct=crop / resize))
    stated = CenterCrop(resize=resize).build(fw.InputSpec((crop, crop)))
    for photograph in photographs:
        wanted = theirs(photograph)
        assert torch.allclose(by_pct(photograph), wanted, rtol=0, atol=1e-6)
        assert torch.allclose(stated(photograph), wanted, rtol=0, atol=1e-6)


def test_augment_by_default_is_the_tutorials(photographs):
    from torchvision import transforms

    tutorial = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(list(MEAN), list(STD)),
        ]
    )
    ours = Augment().build(fw.InputSpec())
    for seed in range(6):
        torch.manual_seed(seed)
        wanted = tutorial(photographs[0])
        torch.manual_seed(seed)
        assert torch.allclose(ours(photographs[0]), wanted, rtol=0, atol=1e-6)


EVERYTHING = Augment(
    vflip=0.5, color_jitter=ColorJitter(brightness=0.4, hue=0.1), rand_augment=RandAugment(), erasing=0.5
)
PIPELINES = [
    (CenterCrop(), 5),
    (CenterCrop(crop_pct=1.0), 5),
    (Augment(), 1),
    (EVERYTHING, 1),
    (Augment(crop="pad"), 3),
    (Augment(crop="none"), 3),
    (Augment(crop="none", hflip=0.0), 5),
    (Augment(crop="none", hflip=0.0, erasing=1.0), 5),
    (Augment(color_jitter=0.3), 1),
]


@pytest.mark.parametrize(("config", "deterministic"), PIPELINES)
def test_deterministic_steps_are_right_and_pipelines_can_be_copied(photographs, config, deterministic):
    pipeline = config.build(fw.InputSpec((48, 40)))
    assert pipeline.deterministic_steps == deterministic
    copied = pickle.loads(pickle.dumps(pipeline))
    state = torch.get_rng_state()
    value = photographs[0]
    for step in pipeline.steps[:deterministic]:
        value = step(value)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(1)
    first = pipeline(photographs[0])
    torch.manual_seed(1)
    assert torch.equal(first, copied(photographs[0]))
    assert (type(first), first.dtype, first.shape) == (torch.Tensor, torch.float32, (3, 48, 40))
    drawn = {tuple(pipeline(photographs[0]).flatten()[::97].tolist()) for _ in range(8)}
    assert (len(drawn) == 1) == pipeline.deterministic


def test_small_images_are_shifted_not_zoomed():
    dot = np.zeros((8, 8), np.uint8)
    dot[4, 4] = 255
    spec = fw.InputSpec((32, 32), (0.0,), (1.0,), "nearest", 1.0, channels=1)
    pipeline = Augment(crop="pad", hflip=0.0).build(spec)
    torch.manual_seed(0)
    seen = [pipeline(Image.fromarray(dot)) for _ in range(20)]
    assert {float(image.sum()) for image in seen} == {16.0}
    rows = {int(image[0].any(1).nonzero()[0]) for image in seen}
    assert rows <= set(range(12, 21))
    assert len(rows) > 3


def test_channels_are_adapted():
    grey, rgb = Image.new("L", (10, 10), 100), Image.new("RGB", (10, 10), (255, 0, 0))
    three = CenterCrop().build(fw.InputSpec((8, 8), (0.0,) * 3, (1.0,) * 3))
    one = CenterCrop().build(fw.InputSpec((8, 8), (0.0,), (1.0,), channels=1))
    assert torch.allclose(three(grey), torch.full((3, 8, 8), 100 / 255))
    assert torch.allclose(one(rgb), torch.full((1, 8, 8), 76 / 255))
    assert torch.allclose(three(torch.full((1, 9, 9), 51, dtype=torch.uint8)), torch.full((3, 8, 8), 0.2))


def test_tensors_and_pictures_give_the_same(photographs):
    pipeline = CenterCrop().build(fw.InputSpec(interpolation="bicubic"))
    tensor = torch.from_numpy(np.array(photographs[0])).permute(2, 0, 1)
    assert torch.equal(pipeline(tensor), pipeline(photographs[0]))


def test_other_numbers_of_channels():
    five = torch.randint(0, 256, (5, 20, 30), dtype=torch.uint8)
    pipeline = Augment(erasing=0.5).build(fw.InputSpec((16, 16), channels=5))
    assert pipeline(five).shape == (5, 16, 16)
    with pytest.raises(fw.FwError, match="an image has 5 channels, the network takes 3") as error:
        CenterCrop().build(fw.InputSpec())(five)
    assert error.value.hint == "set backbone.in_channels = 5"
    with pytest.raises(fw.FwError, match="an image has 3 channels, the network takes 5"):
        pipeline(Image.new("RGB", (9, 9)))
    with pytest.raises(fw.FwError, match="an image has 1 channel, the network takes 5"):
        pipeline(Image.new("L", (9, 9)))


@pytest.mark.parametrize(
    ("config", "spec", "message"),
    [
        (Augment(scale=(1.0, 0.5)), fw.InputSpec(), r"transform.scale is \[1, 0.5\]"),
        (Augment(ratio=(2.0, 0.5)), fw.InputSpec(), "transform.ratio"),
        (Augment(color_jitter=0.4), fw.InputSpec(channels=5), "color_jitter and rand_augment work on 1 or 3"),
        (CenterCrop(), fw.InputSpec(interpolation="bicubik"), "interpolation 'bicubik'"),
        (CenterCrop(), fw.InputSpec(interpolation="lanczos", channels=4), "works on 1 or 3 channels"),
    ],
)
def test_what_cannot_be_built(config, spec, message):
    with pytest.raises(fw.FwError, match=message) as error:
        config.build(spec)
    assert error.value.hint
