"""Side: a small network beside the backbone that reads what its stages give."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

import framework as fw

BACKBONE, CHILD = "backbone", "side"
TEMPERATURE = 0.1
"""Of the gates, as in the paper."""
WIDENING = 2
"""How much wider the hidden layer of a block is."""


@attrs.frozen(kw_only=True)
class Side:
    """A side network on the outputs of the stages (ladder side tuning, 2206.06522).

    It goes along the stages with a state of `width` numbers. At each stage a learned gate g mixes a linear projection
    of the stage's output with the state, g * projection + (1 - g) * state, and a residual block follows; what is left
    at the end is projected and added to the backbone's features. The last projection is zero at first. The paper claims
    that training needs 69 % less memory than full fine-tuning, where other methods with as few parameters save 26 %,
    since no gradient goes through the backbone.

    The paper's side blocks are small transformers on all tokens of a language model, whose weights are cut from the
    backbone's. Here outputs are averaged over tokens or places first, and norms stand before the projections, so that
    it fits every backbone; blocks are two linear layers, drawn at random. With `freezing.use = "frozen"` all that the
    side network reads depends on the image alone: a vector for each stage, which is computed once and stored. It cannot
    be merged into the backbone.
    """

    width: fw.PositiveInt = fw.key(64, "numbers in the state of the side network")

    def build(self) -> fw.Adapter:
        """The adapter."""
        return SideAdapter(self)


class SideAdapter(fw.Adapter):
    """Sets a `side` on the backbone.

    Args:
        keys: what the recipe says.
    """

    mergeable = False

    def __init__(self, keys: Side) -> None:
        self.keys = keys

    def insert(self, network: nn.Module, layout: fw.Layout) -> None:
        """Adds the side network, and hooks that show it what the stages give.

        Raises:
            FwError: no stage gives a single tensor, or there is one alone, so that this is what the backbone gives.
        """
        ends = {stage: end for stage, end in layout.ends.items() if end != BACKBONE}
        if not ends:
            raise fw.FwError("side finds no stage in this backbone that gives a single tensor", "take another adapter")
        tensors = dict(network.named_parameters())
        shapes = [layout.outputs[end] for end in ends.values()]
        axes = [
            channel_axis(shape, {len(tensors[name]) for name in stage.parameters if tensors[name].ndim == 1})
            for shape, stage in zip(shapes, layout.select(ends), strict=True)
        ]
        channels = [shape[axis] for shape, axis in zip(shapes, axes, strict=True)]
        side = SideNetwork(channels, self.keys.width, layout.outputs[BACKBONE][-1])
        for number, (end, axis) in enumerate(zip(ends.values(), axes, strict=True)):
            network.get_submodule(end).register_forward_hook(Tap(side.taps, number, axis))
        backbone = network.get_submodule(BACKBONE)
        backbone.add_module(CHILD, side)
        backbone.register_forward_hook(add_side)


class Tap:
    """A forward hook that keeps a stage's output, averaged to a vector, without its gradient.

    Args:
        taps: where to, under `number`; a dict that the side network holds too, so that in a copy of the network both
            have the same one.
        number: of the stage.
        axis: of the output's channels.
    """

    def __init__(self, taps: dict[int, Tensor], number: int, axis: int) -> None:
        self.taps, self.number, self.axis = taps, number, axis

    def __call__(self, stage: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keeps (N, channels)."""
        places = [axis for axis in range(1, output.ndim) if axis != self.axis]
        self.taps[self.number] = output.detach().mean(places) if places else output.detach()


class SideNetwork(nn.Module):
    """Features (N, features), and vectors of the stages (N, channels) -> better features.

    Args:
        channels: of each stage.
        width: of the state.
        features: length of the feature vector.

    Attributes:
        taps: number of a stage -> its vector, while the backbone computes.
    """

    def __init__(self, channels: Sequence[int], width: int, features: int) -> None:
        super().__init__()
        self.taps: dict[int, Tensor] = {}
        self.down = nn.ModuleList(nn.Sequential(nn.LayerNorm(size), nn.Linear(size, width)) for size in channels)
        self.gates = nn.Parameter(torch.zeros(len(channels)))
        self.blocks = nn.ModuleList(Block(width) for _ in channels)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, features)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, features: Tensor) -> Tensor:
        """The features (N, features) and what the vectors, which are then let go, add to them."""
        state: Tensor | float = 0.0
        for number, share in enumerate(torch.sigmoid(self.gates / TEMPERATURE)):
            projected = self.down[number](self.taps.pop(number))
            state = self.blocks[number](share * projected + (1 - share) * state)
        added: Tensor = self.up(self.norm(state))
        return features + added


class Block(nn.Module):
    """State (N, width) -> the same, with what two linear layers make of it added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, WIDENING * width)
        self.narrow = nn.Linear(WIDENING * width, width)

    def forward(self, state: Tensor) -> Tensor:
        """The sum."""
        change: Tensor = self.narrow(functional.gelu(self.widen(self.norm(state))))
        return state + change


def add_side(backbone: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    """The forward hook of a backbone that has a `side`."""
    side: SideNetwork = getattr(backbone, CHILD)
    features: Tensor = side(output) if side.taps else output  # a chain of modules has called it as its last one
    return features


def channel_axis(shape: Sequence[int], lengths: Set[int]) -> int:
    """The axis of the channels in what a stage gives.

    Of three dimensions it is the last: tokens come first. Of four it is the second or the last: the other two of an
    image are equal, or else its size is the length of a vector of the stage; where both could be, the second.

    Args:
        shape: (1, ...).
        lengths: of the stage's biases and the like.
    """
    if len(shape) != 4:
        return len(shape) - 1
    _, first, middle, last = shape
    if (first == middle) != (middle == last):
        return 3 if first == middle else 1
    return 3 if last in lengths and first not in lengths else 1
