"""LoRA: an update of low rank beside each Linear and Conv2d layer."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import attrs
import torch
from torch import Tensor, nn

import framework as fw
from fw_adapters.layers import LAYERS, ROOT, attach, attached, called_layers, detach, example_shape, folds, is_plain

CHILD = "lora"
TAKES = "it takes Linear and Conv2d layers without groups that are called and whose output is linear in their weight"


@attrs.frozen(kw_only=True)
class Lora:
    """Low-rank updates of Linear and Conv2d layers (LoRA, 2106.09685).

    A layer of weight W computes with W + alpha / rank * B A instead: A, drawn at random, leads to `rank` numbers, B,
    zero at first, leads back to the layer's outputs. The paper claims the quality of full fine-tuning with as little as
    a ten thousandth of the trained parameters, and no cost afterwards, since the product is added to W at the end. Its
    `alpha` is set once and kept while the rank varies, so that the learning rate need not be tuned anew.

    The paper adapts the projections of attention alone; here every layer is adapted that `targets` does not leave out,
    but for the head. Of a convolution A has the layer's kernel and geometry and B is 1x1; one with groups is left as it
    is, and so is a layer that standardises its weight, or whose weight is read without the layer being called.
    """

    rank: fw.PositiveInt = fw.key(8, "numbers between the two factors")
    alpha: fw.PositiveFloat = fw.key(8.0, "the update is scaled by alpha / rank")
    dropout: fw.Fraction = fw.key(0.0, "share of the inputs of the update that is dropped in training")
    targets: tuple[str, ...] = fw.key(("*",), 'which layers, as globs over names in the backbone: "blocks.*.attn.*"')

    def __attrs_post_init__(self) -> None:
        if not self.targets:
            raise ValueError("targets must name a layer")

    def build(self) -> fw.Adapter:
        """The adapter."""
        return LoraAdapter(self)


class LoraAdapter(fw.Adapter):
    """Sets a `lora` on each layer.

    Args:
        keys: what the recipe says.
    """

    def __init__(self, keys: Lora) -> None:
        self.keys = keys

    def insert(self, network: nn.Module, layout: fw.Layout) -> None:
        """Adds two factors to each layer that is meant; their product is zero, so that no output changes by a bit.

        Raises:
            FwError: there is no layer that can be adapted, or a pattern matches none.
        """
        layers = {
            name.removeprefix(ROOT): layer
            for name, layer in called_layers(network, layout).items()
            if isinstance(layer, LAYERS) and self._fits(layer)
        }
        for name in self._meant(layers):
            self._add(layers[name])

    def merge(self, network: nn.Module) -> None:
        """Adds each product to the weight of its layer."""
        with torch.no_grad():
            for layer, update in attached(network, CHILD, LowRank):
                weight = layer.get_parameter("weight")
                weight.copy_(weight.double() + update.product())
                detach(layer, CHILD, add_update)

    def _add(self, layer: nn.Module) -> None:
        attach(layer, CHILD, LowRank(layer, self.keys.rank, self.keys.alpha, self.keys.dropout), add_update)

    def _fits(self, layer: nn.Module) -> bool:
        """Whether the layer has no groups and an update of its weight is one of its output."""
        if getattr(layer, "groups", 1) != 1:
            return False
        return is_plain(layer, LAYERS) or folds(layer, example_shape(layer, ()), self._add, self.merge)

    def _meant(self, layers: Mapping[str, nn.Module]) -> list[str]:
        """The names of the layers that match, in their order.

        Raises:
            FwError: there is no layer, or a pattern matches none.
        """
        names = list(layers)
        if not names:
            raise fw.FwError("lora finds no layer in this backbone", f"{TAKES}; take another adapter")
        for pattern in self.keys.targets:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise fw.FwError(f"adapter.targets: {pattern!r} matches no layer that lora can adapt",
                                 (TAKES, *fw.name_hints(pattern, names, "layers")))  # fmt: skip
        return [name for name in names if any(fnmatchcase(name, pattern) for pattern in self.keys.targets)]


class LowRank(nn.Module):
    """What a layer takes -> an update of what it gives, through `rank` numbers.

    Args:
        layer: the first factor takes what it takes, in the same geometry.
        rank: outputs of the first factor.
        alpha: the update is scaled by alpha / rank.
        dropout: share of the inputs that is dropped in training.
    """

    def __init__(self, layer: nn.Module, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.drop = nn.Dropout(dropout) if dropout else None
        self.down = _narrowed(layer, rank)
        outputs = len(layer.get_parameter("weight"))
        linear = isinstance(layer, nn.Linear)
        self.up = nn.Linear(rank, outputs, bias=False) if linear else nn.Conv2d(rank, outputs, 1, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, given: Tensor) -> Tensor:
        """The update, in the shape of the layer's output."""
        kept = given if self.drop is None else self.drop(given)
        update: Tensor = self.up(self.down(kept))
        return self.scale * update

    def product(self) -> Tensor:
        """The update of the layer's weight, in double precision."""
        up, down = self.up.weight.double().flatten(1), self.down.get_parameter("weight").double()
        return self.scale * torch.einsum("or,r...->o...", up, down)


def _narrowed(layer: nn.Module, rank: int) -> nn.Module:
    """A layer like this one with `rank` outputs and no bias; its weight is drawn as torch draws that of a new layer."""
    wide = layer.get_parameter("weight")
    weight = nn.Parameter(wide.new_empty(rank, *wide.shape[1:]))
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
    narrowed = copy.deepcopy(layer, {id(wide): weight})
    narrowed.register_parameter("bias", None)
    setattr(narrowed, "out_features" if isinstance(layer, nn.Linear) else "out_channels", rank)
    return narrowed


def add_update(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    """The forward hook of a layer that has a `lora`."""
    updated: Tensor = output + getattr(layer, CHILD)(*inputs)
    return updated
