"""L2-SP: the squared distance of the weights from where they started (1802.01483)."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from torch import Tensor, nn

import framework as fw
from fw_regularizers.pull import HEAD_WEIGHT, pull


@attrs.frozen(kw_only=True)
class L2SP:
    """Weights are pulled to where they started, the head's to zero (L2-SP, 1802.01483).

    The term is weight/2 times the squared distance of the backbone's training parameters from their values at the start
    of the run, those of norms and biases included, as in the paper, plus head_weight/2 times the squared length of the
    head's. What an adapter added is held to its start with the backbone, since it is there that it changes nothing of
    the network that was pretrained. It takes the place of weight decay, so leave `optimizer.weight_decay` at 0. A
    parameter that begins to train later is held to the start of the run, too. The paper claims that this does better
    than decay to zero, the more so the fewer images there are.
    """

    weight: fw.NonNegative = fw.key(0.1, "factor of half the squared distance of all but the head's; 0 for none")
    head_weight: fw.NonNegative = fw.key(0.01, HEAD_WEIGHT)

    def build(self) -> fw.Regularizer:
        """The regularizer."""
        return StartingPoint(self)


class StartingPoint(fw.Regularizer):
    """Holds all parameters but the head's as the run began with them.

    Args:
        keys: what the recipe says.
    """

    def __init__(self, keys: L2SP) -> None:
        self.keys = keys
        self.starts: dict[str, Tensor] = {}

    def start(self, network: nn.Module, layout: fw.Layout, initial: Mapping[str, Tensor]) -> None:
        """Remembers where each parameter started, on the network's device."""
        heads = {*layout.head.parameters}
        self.starts = {name: initial[name].to(parameter.device) for name, parameter in network.named_parameters()
                       if name not in heads}  # fmt: skip

    def term(self, trainable: Mapping[str, nn.Parameter], images: Tensor | None) -> Tensor:
        """The weighted squares, float32; a part whose weight is 0 is left out."""
        moved = {name: tensor for name, tensor in trainable.items() if name in self.starts}
        heads = {name: tensor for name, tensor in trainable.items() if name not in self.starts}
        return pull(self.keys.weight, moved, self.starts) + pull(self.keys.head_weight, heads, {})
