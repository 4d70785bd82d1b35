"""torchvision's classification models as feature extractors, by rule and without a table of models."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import attrs
import torch
import torchvision
from torch import nn
from torchvision.models.vision_transformer import interpolate_embeddings

import framework as fw
from fw_torchvision.downloads import downloading
from fw_torchvision.surgery import drop_auxiliary_heads, remove_class_scores, replace_first_convolution

_OURS = {
    "weights": "backbone.weights",
    "image_size": "backbone.image_size",
    "input_size": "backbone.image_size",
    "dropout": "backbone.drop_rate",
    "stochastic_depth_prob": "backbone.drop_path_rate",
}
_NEVER = ("num_classes", "aux_logits", "progress")


def backbone_family() -> fw.Family:
    """Every classification model of torchvision, as `torchvision/<name>`."""
    return fw.Family("torchvision", _names, _member)


def _names() -> list[str]:
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def _member(name: str) -> fw.Component:
    if name not in _names():
        raise fw.FwError(f"torchvision has no classification model {name!r}",
                         "; ".join(fw.name_hints(name, _names(), "models")))  # fmt: skip
    choices = tuple(torchvision.models.get_model_weights(name).__members__)
    return fw.Component(f"torchvision/{name}", TorchvisionBackbone, {"model": name}, {"weights": choices})


@attrs.frozen(kw_only=True)
class TorchvisionBackbone:
    """A classification model of torchvision without its last layer."""

    model: str = fw.key(doc="torchvision's name of the model")

    def build(self, request: fw.BackboneRequest) -> fw.Backbone:
        """The model up to what its class scores were made from.

        Raises:
            WeightsUnavailable: torchvision does not know these weights, or they cannot be downloaded.
            FwError: the model takes no such option, image size or drop rate.
        """
        weights = _weights(self.model, request.weights)
        spec = _input_spec(weights or torchvision.models.get_model_weights(self.model).DEFAULT)
        spec = attrs.evolve(spec, size=request.image_size or spec.size)
        module = _Builder(self.model, request, spec.size).module(weights)
        drop_auxiliary_heads(module)
        remove_class_scores(module)
        if request.in_channels != spec.channels:
            spec = _take_over_input_transform(module, spec).for_channels(request.in_channels)
            replace_first_convolution(module, request.in_channels, pretrained=weights is not None)
        shape = fw.output_shape(module, (spec.channels, *spec.size))
        if shape is None or len(shape) != 2:
            raise fw.FwError(f"torchvision/{self.model} gives {shape} for one image, not a vector of features")
        return fw.Backbone(module, shape[1], spec, weights=_weights_info(weights))


@attrs.frozen
class _Builder:
    """Calls torchvision's builder of one model with what a request asks for, for images of one size."""

    model: str
    request: fw.BackboneRequest
    size: tuple[int, int]

    @property
    def _accepts(self) -> Mapping[str, inspect.Parameter]:
        """The arguments of the model's class."""
        builder = torchvision.models.get_model_builder(self.model)
        made = inspect.signature(builder, eval_str=True).return_annotation
        return inspect.signature(made).parameters

    def module(self, weights: Any) -> nn.Module:
        """The whole model at the size that the request asks for, its weights resized by torchvision's own function."""
        sized = self._size_arguments()
        if weights is None:
            return self._call(None, sized)
        module = self._call(weights, {})
        if not sized or self._fits(module):
            return module
        resized = self._call(None, sized)
        state = {name: tensor for name, tensor in module.state_dict().items() if name in resized.state_dict()}
        if "encoder.pos_embedding" in state:
            state = interpolate_embeddings(sized["image_size"], module.patch_size, state)
        resized.load_state_dict(state)
        return resized

    def _fits(self, module: nn.Module) -> bool:
        own = getattr(module, "image_size", None)
        return own is not None and (own, own) == self.size

    def _call(self, weights: Any, sized: Mapping[str, Any]) -> nn.Module:
        arguments = {**self._arguments(), **sized}
        if weights is None and "aux_logits" in self._accepts:
            arguments["aux_logits"] = False
        if weights is None and "init_weights" in self._accepts:
            arguments.setdefault("init_weights", True)
        try:
            with downloading(weights.url if weights is not None else "", self.request.timeout):
                module: nn.Module = torchvision.models.get_model(self.model, weights=weights, **arguments)
        except (TypeError, ValueError, AssertionError) as error:
            raise fw.FwError(f"torchvision/{self.model} cannot be built so: {error}", self._options_hint()) from error
        return module

    def _options_hint(self) -> str:
        names = [name for name in self._accepts if name not in _OURS and name not in _NEVER]
        return f"arguments of the model: {', '.join(names)}"

    def _arguments(self) -> dict[str, Any]:
        options = dict(self.request.options)
        for name in options:
            if name in _OURS or name in _NEVER:
                instead = f"set {_OURS[name]} instead" if name in _OURS else "the core decides it"
                raise fw.FwError(f"backbone.options cannot set {name!r}", instead)
            if name not in self._accepts:  # some classes swallow whatever they are given
                raise fw.FwError(f"torchvision/{self.model} has no argument {name!r}", self._options_hint())
        options.update(self._rate("dropout", "drop_rate", self.request.drop_rate))
        options.update(self._rate("stochastic_depth_prob", "drop_path_rate", self.request.drop_path_rate))
        return options

    def _rate(self, argument: str, key: str, value: float | None) -> dict[str, float]:
        if value is None:
            return {}
        if argument not in self._accepts:
            raise fw.FwError(f"torchvision/{self.model} has no {argument}", f"take backbone.{key} out of the recipe")
        return {argument: value}

    def _size_arguments(self) -> dict[str, Any]:
        """The image size as the model's class takes it; nothing where it takes any size."""
        if "input_size" in self._accepts:
            return {"input_size": self.size}
        if "image_size" not in self._accepts:
            return {}
        height, width = self.size
        if height != width:
            raise fw.FwError(f"torchvision/{self.model} takes square images only, not {height}x{width}",
                             "set backbone.image_size to one number")  # fmt: skip
        return {"image_size": height}


def _weights(model: str, name: str | None) -> Any:
    """The member of the model's weights enum called `name`; None for none."""
    if name is None:
        return None
    known = torchvision.models.get_model_weights(model)
    if name in known.__members__:
        return known[name]
    raise fw.WeightsUnavailable(f"torchvision has no weights {name!r} for {model}; "
                                + "; ".join(fw.name_hints(name, list(known.__members__), "it has")))  # fmt: skip


def _weights_info(weights: Any) -> fw.WeightsInfo | None:
    if weights is None:
        return None
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
    return fw.WeightsInfo(repr(weights), file if file.is_file() else None, weights.meta.get("license", "unknown"))


def _input_spec(weights: Any) -> fw.InputSpec:
    """What the weights' own preprocessing says."""
    preset = weights.transforms()
    (crop,), (resize,) = preset.crop_size, preset.resize_size
    return fw.InputSpec((crop, crop), tuple(preset.mean), tuple(preset.std), preset.interpolation.value, crop / resize)


def _take_over_input_transform(module: Any, spec: fw.InputSpec) -> fw.InputSpec:
    """Has the spec change ImageNet's mean and deviation to 0.5, which Inception itself does for three channels only."""
    if not getattr(module, "transform_input", False):
        return spec
    module.transform_input = False
    return attrs.evolve(spec, mean=(0.5,) * 3, std=(0.5,) * 3)
