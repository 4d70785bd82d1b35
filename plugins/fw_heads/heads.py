"""Heads: config classes that build the module from features (N, feature_dim) to logits (N, classes)."""

from __future__ import annotations

from typing import Literal

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

import framework as fw

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


@attrs.frozen(kw_only=True)
class Linear:
    """One linear layer, initialised as torch does."""

    bias: bool = fw.key(True, "add a bias to each logit")
    zero_init: bool = fw.key(False, "start from logits that are all 0")

    def build(self, feature_dim: int, task: fw.Task) -> nn.Module:
        """The layer."""
        return _linear(feature_dim, task.num_classes, self.bias, self.zero_init)


@attrs.frozen(kw_only=True)
class Mlp:
    """Hidden layers with an activation and dropout, then one linear layer."""

    hidden: fw.PositiveInt = fw.key(512, "width of each hidden layer")
    layers: fw.PositiveInt = fw.key(1, "how many hidden layers")
    activation: Literal["relu", "gelu", "silu", "tanh"] = fw.key("relu", "after each hidden layer")
    dropout: fw.Fraction = fw.key(0.0, "share of hidden features dropped in training")
    zero_init: bool = fw.key(False, "start from logits that are all 0")

    def build(self, feature_dim: int, task: fw.Task) -> nn.Module:
        """The layers in order."""
        modules: list[nn.Module] = []
        width = feature_dim
        for _ in range(self.layers):
            modules += [nn.Linear(width, self.hidden), ACTIVATIONS[self.activation]()]
            if self.dropout:
                modules.append(nn.Dropout(self.dropout))
            width = self.hidden
        return nn.Sequential(*modules, _linear(width, task.num_classes, True, self.zero_init))


@attrs.frozen(kw_only=True)
class Cosine:
    """Scaled cosine between the features and one direction per class (1804.09501)."""

    scale: fw.PositiveFloat = fw.key(10.0, "factor on the cosine, where training begins")
    learnable: bool = fw.key(True, "train the factor too")

    def build(self, feature_dim: int, task: fw.Task) -> nn.Module:
        """The layer."""
        return CosineHead(feature_dim, task.num_classes, self.scale, self.learnable)


@attrs.frozen(kw_only=True)
class NoHead:
    """The features are the logits; for a backbone with as many features as the task has classes."""

    def build(self, feature_dim: int, task: fw.Task) -> nn.Module:
        """The identity.

        Raises:
            FwError: the numbers differ, so that no loss or metric could read the features as classes.
        """
        if feature_dim != task.num_classes:
            raise fw.FwError(
                f"[head] none: the backbone gives {feature_dim} features and the task has {task.num_classes} classes",
                'use a head that maps one to the other, such as "linear"',
            )
        return nn.Identity()


class CosineHead(nn.Module):
    """Cosine similarity to one weight vector per class, times a scale.

    Args:
        features: length of a feature vector.
        classes: number of logits.
        scale: the factor where training begins.
        learnable: whether it is a parameter; else it is a buffer.
    """

    scale: Tensor

    def __init__(self, features: int, classes: int, scale: float, learnable: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.Linear(features, classes, bias=False).weight.detach())
        factor = torch.full((1,), scale)
        if learnable:
            self.scale = nn.Parameter(factor)
        else:
            self.register_buffer("scale", factor)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, classes), each between -scale and scale."""
        cosine = functional.linear(functional.normalize(features), functional.normalize(self.weight))
        return self.scale * cosine


def _linear(features: int, classes: int, bias: bool, zero: bool) -> nn.Linear:
    layer = nn.Linear(features, classes, bias=bias)
    if zero:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
    return layer


HEADS = {"linear": Linear, "mlp": Mlp, "cosine": Cosine, "none": NoHead}
