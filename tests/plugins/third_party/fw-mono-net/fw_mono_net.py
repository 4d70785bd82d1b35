"""fw_mono_net: a small convolutional network of one width, written in plain torch."""

from __future__ import annotations

import attrs
from torch import Tensor, nn

import framework as fw

SIZE = (64, 64)


@attrs.frozen(kw_only=True)
class MonoNet:
    """Depthwise-separable blocks of one width, each with a shortcut; it has no pretrained weights."""

    width: fw.PositiveInt = fw.key(32, "channels of every block, and length of the feature vector")
    depth: fw.PositiveInt = fw.key(4, "how many blocks")

    def build(self, request: fw.BackboneRequest) -> fw.Backbone:
        """The network, for images of any size.

        Raises:
            WeightsUnavailable: any weights but freshly drawn ones.
            FwError: a key of the core's that the network has no use for.
        """
        if request.weights is not None:
            raise fw.WeightsUnavailable(f"mono_net has no weights {request.weights!r}; it can be trained from scratch")
        unused = {"drop_rate": request.drop_rate, "drop_path_rate": request.drop_path_rate, "options": request.options}
        for key in (key for key, value in unused.items() if value):
            raise fw.FwError(f"mono_net has no use for backbone.{key}", "take it out of the recipe")
        spec = fw.InputSpec(request.image_size or SIZE, mean=(0.5,) * 3, std=(0.5,) * 3)
        module = Net(request.in_channels, self.width, self.depth)
        return fw.Backbone(module, self.width, spec.for_channels(request.in_channels))


class Net(nn.Module):
    """Images (N, channels, H, W) to features (N, width).

    Args:
        channels: of the image.
        width: of every block.
        depth: how many blocks.
    """

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 4, stride=4, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, images: Tensor) -> Tensor:
        """The features."""
        features: Tensor = self.pool(self.blocks(self.stem(images))).flatten(1)
        return features


class Block(nn.Module):
    """A depthwise and a pointwise convolution beside a shortcut, (N, width, H, W) to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.pointwise = nn.Conv2d(width, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        output: Tensor = self.activation(x + self.norm(self.pointwise(self.depthwise(x))))
        return output


@fw.hookimpl
def fw_backbones() -> list[fw.Component]:
    """`mono_net`."""
    return [fw.Component("mono_net", MonoNet)]
