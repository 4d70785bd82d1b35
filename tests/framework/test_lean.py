"""Lean: the bits of torch's own gradients, and nothing kept that they do not need."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import attrs
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from framework.lean import Lean, batch_norm, conv2d

NETWORKS = {
    "batch norm": (lambda: torchvision.models.resnet18(weights=None), 0.7, 1.0),
    "dense connections": (lambda: torchvision.models.densenet121(weights=None), 0.9, 1.0),
    "depthwise": (lambda: timm.create_model("test_efficientnet"), 0.8, 0.9),
    "weight standardisation": (lambda: timm.create_model("test_nfnet"), 0.9, None),
    "group norm": (lambda: timm.create_model("resnet18", norm_layer="groupnorm"), 1.0, 1.0),
    "layer norm": (lambda: timm.create_model("test_convnext"), 1.0, 1.0),
}
"""Network, and the most that may be kept of what torch keeps, with biases and with norms alone trainable."""


@attrs.frozen
class Left:
    """What a pass forward and back leaves."""

    output: Tensor
    gradients: dict[str, Tensor]
    kept_bytes: int


def passed(network: nn.Module, images: Tensor, context: Any) -> Left:
    network.zero_grad(set_to_none=True)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), context:
        output = network(images)
    output.square().mean().backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return Left(output.detach(), gradients, sum(kept.values()))


def train_only(network: nn.Module, what: str) -> bool:
    """Lets biases, or the parameters of norms, train; whether there are any."""
    norms = [module for module in network.modules() if "norm" in type(module).__name__.lower()]
    of_norms = {id(parameter) for module in norms for parameter in module.parameters(recurse=False)}
    for name, parameter in network.named_parameters():
        chosen = id(parameter) in of_norms if what == "norms" else name.endswith("bias")
        parameter.requires_grad_(chosen)
    return any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("what", ["biases", "norms"])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_torchs_to_the_bit_and_less_is_kept(name: str, what: str, memory_format: Any) -> None:
    build, with_biases, with_norms = NETWORKS[name]
    most = with_biases if what == "biases" else with_norms
    torch.manual_seed(0)
    network = build().eval().to(memory_format=memory_format)  # statistics are fixed
    assert train_only(network, what) is (most is not None)
    if most is None:
        return
    images = torch.randn(3, 3, 96, 96).contiguous(memory_format=memory_format)
    plain, lean = passed(network, images, nullcontext()), passed(network, images, Lean())
    assert torch.equal(plain.output, lean.output)
    assert plain.gradients.keys() == lean.gradients.keys()
    assert [key for key, one in plain.gradients.items() if not torch.equal(one, lean.gradients[key])] == []
    print(f"\n{name}, {what}: {lean.kept_bytes / plain.kept_bytes:.2f} of what torch keeps")
    assert lean.kept_bytes <= most * plain.kept_bytes


def test_under_autocast_too() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    network.eval()
    assert train_only(network, "biases")
    images = torch.randn(2, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        plain, lean = passed(network, images, nullcontext()), passed(network, images, Lean())
    assert lean.output.dtype == plain.output.dtype
    assert torch.equal(plain.output, lean.output)
    assert all(torch.equal(one, lean.gradients[key]) for key, one in plain.gradients.items())
    assert lean.kept_bytes < plain.kept_bytes


def test_what_trains_is_left_to_torch() -> None:
    """A weight that takes a gradient, statistics of the batch, and a pass without gradients."""
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    weight = torch.randn(4, 3, 3, 3, requires_grad=True)
    assert "Convolution" in type(conv2d(images, weight).grad_fn).__name__
    assert "_Convolution" not in type(conv2d(images, weight).grad_fn).__name__
    norm = nn.BatchNorm2d(3)
    settings = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    assert "_Norm" not in type(batch_norm(images, *settings, True, 0.1, 1e-5, True).grad_fn).__name__
    with torch.no_grad():
        assert conv2d(images, weight.detach()).grad_fn is None
    assert conv2d(images.detach(), weight.detach()).grad_fn is None


@pytest.mark.parametrize("padding", ["same", 1, (2, 1)])
def test_every_way_of_padding(padding: Any) -> None:
    layer = nn.Conv2d(3, 4, 3, padding=padding, groups=1).requires_grad_(False)
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    with Lean():
        lean = layer(images)
    (of_lean,) = torch.autograd.grad(lean.sum(), images)
    (of_plain,) = torch.autograd.grad(layer(images).sum(), images)
    assert torch.equal(of_lean, of_plain)
