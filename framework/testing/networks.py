"""Networks: small ones of different structure, for checks that need a layout, real steps or a real run."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from framework.catalog import PluginSource
from framework.component import Component, key
from framework.contracts import Backbone, BackboneRequest, InputSpec, Layout, WeightsUnavailable
from framework.hooks import hookimpl
from framework.layout import derive_layout
from framework.network import Network
from framework.testing.chance import seeded

SIDE, FEATURES, CLASSES = 16, 16, 3
"""Side of an image in pixels, length of the feature vector, logits of an image."""


@attrs.frozen(eq=False)
class Sample:
    """A network with its layout.

    Attributes:
        name: of the backbone, as `BACKBONES` has it.
        network: images (N, 3, SIDE, SIDE) -> logits (N, CLASSES).
        layout: its stages.
    """

    name: str
    network: Network
    layout: Layout


def sample(name: str, renamed: bool = False) -> Sample:
    """A network that belongs to the caller, with the same tensors each time.

    Args:
        name: of the backbone, as `BACKBONES` has it.
        renamed: whether its modules have other names, in the same order.
    """
    network, layout = copy.deepcopy(_made(name, renamed))
    return Sample(name, network, layout)


@cache
def _made(name: str, renamed: bool) -> tuple[Network, Layout]:
    with seeded(0):
        network = Network(BACKBONES[name](), nn.Linear(FEATURES, CLASSES))
    if renamed:
        _rename(network)
    return network, derive_layout(network, None, (3, SIDE, SIDE))


def _rename(network: nn.Module) -> None:
    """Gives all that containers hold another name; what the network computes stays the same."""
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential):
            children = list(module.children())
            module._modules.clear()
            module._modules.update({f"part{number}": child for number, child in enumerate(children)})


# -------------------------------------------------------------------------------------------------- backbones


class Chain(nn.Sequential):
    """A chain of modules; what is set on it later is no link of it."""

    def __init__(self, links: OrderedDict[str, nn.Module]) -> None:
        super().__init__(links)
        self.links = len(links)

    def forward(self, given: Tensor) -> Tensor:
        """What the last link gives."""
        for module in list(self.children())[: self.links]:
            given = module(given)
        return given


class Residual(nn.Sequential):
    """A chain of modules, and what goes into it added to what comes out."""

    def forward(self, given: Tensor) -> Tensor:
        """The sum, of the same shape."""
        changed = given
        for module in self:
            changed = module(changed)
        return given + changed


class Patches(nn.Module):
    """Images (N, 3, SIDE, SIDE) -> tokens (N, 16, width), each with its position."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, width, 4, stride=4)
        self.positions = nn.Parameter(torch.randn(1, (SIDE // 4) ** 2, width) / 10)

    def forward(self, images: Tensor) -> Tensor:
        """The tokens."""
        tokens: Tensor = self.project(images).flatten(2).transpose(1, 2)
        return tokens + self.positions


class Attention(nn.Module):
    """Tokens (N, count, width) -> the same, each mixed with those that it attends to."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ask = nn.Linear(width, 3 * width)
        self.give = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """The mixed tokens."""
        query, keys, values = self.ask(tokens).chunk(3, dim=-1)
        mixed: Tensor = self.give(nn.functional.scaled_dot_product_attention(query, keys, values))
        return mixed


class Mean(nn.Module):
    """Tokens (N, count, width) -> features (N, width)."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Their mean."""
        return tokens.mean(1)


def convolutional(norm: Callable[[int], nn.Module]) -> nn.Module:
    """Four stages of convolutions, each followed by what `norm` makes for a number of channels."""
    convolution = partial(_convolution, norm)
    return Chain(OrderedDict[str, nn.Module](
        stem=convolution(3, 8, 2),
        layer1=Residual(OrderedDict[str, nn.Module](first=convolution(8, 8), second=convolution(8, 8))),
        layer2=nn.Sequential(OrderedDict[str, nn.Module](first=convolution(8, FEATURES, 2), drop=nn.Dropout(0.1))),
        layer3=Residual(OrderedDict[str, nn.Module](first=convolution(FEATURES, FEATURES), drop=nn.Dropout(0.1))),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
    ))  # fmt: skip


def _convolution(norm: Callable[[int], nn.Module], inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=norm is nn.Identity)
    return nn.Sequential(OrderedDict[str, nn.Module](conv=conv, norm=norm(outputs), act=nn.ReLU()))


def transformer() -> nn.Module:
    """Patches, three blocks of attention, and a norm at the end, which is the neck."""
    blocks = nn.Sequential(*(_block(FEATURES) for _ in range(3)))
    return Chain(OrderedDict[str, nn.Module](
        embed=Patches(FEATURES), blocks=blocks, norm=nn.LayerNorm(FEATURES), pool=Mean()
    ))  # fmt: skip


def _block(width: int) -> nn.Module:
    attend = OrderedDict[str, nn.Module](norm=nn.LayerNorm(width), mix=Attention(width), drop=nn.Dropout(0.1))
    think = OrderedDict[str, nn.Module](
        norm=nn.LayerNorm(width), widen=nn.Linear(width, 2 * width), act=nn.GELU(), narrow=nn.Linear(2 * width, width)
    )
    return nn.Sequential(OrderedDict[str, nn.Module](attend=Residual(attend), think=Residual(think)))


BACKBONES: Mapping[str, Callable[[], nn.Module]] = {
    "batch_norm": partial(convolutional, nn.BatchNorm2d),
    "layer_norm": transformer,
    "group_norm": partial(convolutional, partial(nn.GroupNorm, 2)),
    "no_norm": partial(convolutional, nn.Identity),
}
"""Name -> what makes a backbone, images (N, 3, SIDE, SIDE) -> features (N, FEATURES)."""


# ------------------------------------------------------------------------------------------------ a component


@attrs.frozen(kw_only=True)
class SmallNetwork:
    """One of the kit's networks, for recipes that the kit runs."""

    network: str = key("batch_norm", "which one")

    def build(self, request: BackboneRequest) -> Backbone:
        """The backbone with freshly drawn parameters, whatever the size of an image."""
        if request.weights is not None:
            raise WeightsUnavailable("the kit's networks have none")
        return Backbone(BACKBONES[self.network](), FEATURES, InputSpec((SIDE, SIDE), crop_pct=1.0))


class _Plugin:
    @hookimpl
    def fw_backbones(self) -> list[Component]:
        return [Component("kit_network", SmallNetwork)]


NETWORKS = PluginSource.of(_Plugin(), "kit_networks", "fw-transfer")
"""A plugin that is not installed; `index.including([NETWORKS])` knows the backbone `kit_network`."""


def backbone_table(name: str) -> dict[str, Any]:
    """One of the networks as a recipe's `[backbone]`."""
    return {"use": "kit_network", "network": name, "weights": ["random"]}
