"""The policy that trains everything at rates that fall with depth: `layer_decay`."""

from __future__ import annotations

from typing import Annotated

import attrs

import framework as fw
from fw_freezing.rates import falling, levels

Decay = Annotated[float, fw.Bounds(gt=0, le=1)]


@attrs.frozen(kw_only=True)
class LayerDecay:
    """Everything trains, each layer at `decay` times the rate of the one above it (2003.10555, 2106.08254).

    ELECTRA fine-tunes so, and BEiT and MAE (2111.06377) do for images; to them it is a setting whose effect they do not
    measure: lower layers are more general, and move less. The head has the full rate.

    Of timm's models the layers, and so the scales, are those of `create_optimizer_v2(layer_decay=...)`: single blocks.
    Where a library has no such division, torchvision among them, the stages are the layers; the neck has the rate of
    the last one.
    """

    decay: Decay = fw.key(0.75, "a layer's learning rate over that of the layer above it")
    min_scale: fw.Fraction = fw.key(0.0, "the least scale of a layer")

    def build(self) -> fw.FreezingPolicy:
        """The policy."""
        return ByDepth(self)


class ByDepth(fw.FreezingPolicy):
    """One plan: everything, at the rates of `keys`."""

    def __init__(self, keys: LayerDecay) -> None:
        self.keys = keys

    def start(self, layout: fw.Layout) -> fw.Plan:
        """The plan of the whole run."""
        scales = falling(layout.layers or levels(layout), self.keys.decay)
        return layout.plan({name: max(self.keys.min_scale, scale) for name, scale in scales.items()})
