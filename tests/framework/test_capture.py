"""Capture: what a network writes through views, and buffers that it makes anew, are in the divided network too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from framework.capture import capture
from framework.contracts import Plan
from framework.cut import choose_cut
from framework.division import fixed_part, trainable_part
from framework.freezing import put_back
from framework.marking import mark


class Masked(nn.Module):
    """Adds a mask that is written piece by piece, as the shifted windows of Swin do."""

    def forward(self, maps: Tensor) -> Tensor:
        mask = maps.new_zeros(maps.shape[2:])
        mask[:2] = 3.0
        mask[:, 1:3] = 5.0
        return maps + mask


class Pasted(nn.Module):
    """Writes what depends on the image to a view of a new tensor."""

    def forward(self, maps: Tensor) -> Tensor:
        canvas = torch.zeros_like(maps)
        canvas[:, :, 1:] = maps[:, :, :-1]
        return maps + canvas


@pytest.mark.parametrize("first", [nn.Identity, Masked, Pasted])
@pytest.mark.parametrize("last", [nn.Identity, Masked, Pasted])
def test_writes_through_views_are_kept_on_both_sides_of_the_boundary(first: type, last: type) -> None:
    head = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), last(), nn.Flatten(), nn.Linear(4 * 36, 2))
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), first(), nn.ReLU(), head)
    plan = Plan({f"3.{name}": 1.0 for name, _ in head.named_parameters()})
    images = torch.randn(2, 3, 6, 6)
    captured = capture(network, images)
    marks = mark(captured, set(plan.trainable))
    cut = choose_cut(captured, marks, 2**20)
    fixed, trained = fixed_part(captured, cut), trainable_part(captured, cut)
    more = torch.randn(5, 3, 6, 6)
    assert torch.equal(trained(*fixed(more)), network(more))
    # what is computed once holds all that comes before the first thing that trains
    assert cut.boundary[0].meta["val"].shape[1:] == (4, 6, 6)
    assert cut.flops_share > 0.3


def test_a_buffer_that_was_made_anew_in_another_shape_is_left_alone() -> None:
    module = nn.Module()
    module.register_buffer("places", torch.zeros(1))
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    module.places = torch.arange(4.0)
    put_back(module, before)
    assert torch.equal(module.places, torch.arange(4.0))
