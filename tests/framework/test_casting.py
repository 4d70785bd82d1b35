"""Casting: weights that are cast once give the bits that autocast gives, for networks of every kind."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from sweeps import often

from framework.assemble import assemble
from framework.casting import bf16_weights
from framework.display import NullDisplay
from framework.partition import Wish, divide
from framework.recipe import load_recipe
from framework.runs import prepare_run

NETWORKS = {
    "batch_norm": ("torchvision/resnet18", 64),
    "layer_norm": ("timm/test_vit", 160),
    "depthwise": ("timm/test_efficientnet", 64),
    "weight_standardisation": ("timm/test_nfnet", 64),
    "group_norm": ("timm/test_resnet", 64),
}
POLICIES = ("frozen", "last_stages")
QUICK = [("batch_norm", "last_stages"), ("weight_standardisation", "last_stages")]


@pytest.mark.parametrize(("network", "policy"), often([*product(NETWORKS, POLICIES)], quick=QUICK))
def test_weights_cast_once_give_the_bits_of_autocast(index, network: str, policy: str) -> None:
    name, size = NETWORKS[network]
    asked = [f"backbone.use={name}", f"backbone.image_size={size}", f"freezing.use={policy}", "train.precision=bf16",
             "engine.device=cpu", f"data.size={size}"]  # fmt: skip
    run = assemble(load_recipe("smoke", index, asked), index)
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    partition = divide(run.frozen, images[:2], Wish(), run.model.flops)
    assert bf16_weights(partition.fixed.module)
    cast = partition.fixed.prepared("bf16", compiled=False, lanes=1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected, found = partition.fixed(images), cast(images)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert not any(p.dtype == torch.bfloat16 for p in partition.fixed.module.parameters())


def test_a_weight_that_meets_anything_else_is_not_cast() -> None:
    class Standardised(torch.nn.Conv2d):
        def forward(self, images):
            return self._conv_forward(images, self.weight - self.weight.mean(), self.bias)

    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), Standardised(4, 4, 3), torch.nn.BatchNorm2d(4))
    assert set(bf16_weights(network)) == {"0.weight", "0.bias"}


def test_the_networks_own_weights_stay_in_fp32(index, tmp_path) -> None:
    recipe = load_recipe("smoke", index, ["train.precision=bf16", "backbone.use=timm/test_efficientnet"])
    run = prepare_run(recipe, index, tmp_path, NullDisplay())
    run.feed.follow(2)
    assert {p.dtype for p in run.parts.network.parameters()} == {torch.float32}
