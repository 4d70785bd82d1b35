"""timm's models as feature extractors, by timm's own functions and without a table of models."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import attrs
import timm
from timm.data.config import resolve_data_config
from torch import nn

import framework as fw
from fw_timm.downloads import fetch
from fw_timm.grouping import grouping_of
from fw_timm.packaged import PACKAGES, packaged_weights

_OURS = {
    "pretrained": "backbone.weights",
    "in_chans": "backbone.in_channels",
    "img_size": "backbone.image_size",
    "drop_rate": "backbone.drop_rate",
    "drop_path_rate": "backbone.drop_path_rate",
}
_NEVER = ("num_classes", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "features_only")
DEFAULT, PACKAGE = "default", "package"


def backbone_family() -> fw.Family:
    """Every model of timm, as `timm/<name>`."""
    return fw.Family("timm", timm.list_models, _member)


def _member(name: str) -> fw.Component:
    if not timm.is_model(name):
        raise fw.FwError(f"timm has no model {name!r}", "; ".join(fw.name_hints(name, timm.list_models(), "models")))
    return fw.Component(f"timm/{name}", TimmBackbone, {"model": name}, {"weights": _sources(name)})


def _sources(name: str) -> tuple[str, ...]:
    """What `weights` may name for a model: timm's tags, timm's default among them, and a package where there is one."""
    tags = _tags().get(name, ())
    return (*filter(None, tags), *((DEFAULT,) if tags else ()), *((PACKAGE,) if name in PACKAGES else ()))


@lru_cache(maxsize=1)
def _tags() -> Mapping[str, list[str]]:
    """Model -> the tags of its pretrained weights."""
    tags: dict[str, list[str]] = {}
    for full in timm.list_pretrained():
        name, _, tag = full.partition(".")
        tags.setdefault(name, []).append(tag)
    return tags


@attrs.frozen(kw_only=True)
class TimmBackbone:
    """A model of timm without its classifier."""

    model: str = fw.key(doc="timm's name of the model")

    def build(self, request: fw.BackboneRequest) -> fw.Backbone:
        """The model as timm builds it for zero classes.

        Raises:
            WeightsUnavailable: timm does not know these weights, or they cannot be had.
            FwError: the model takes no such option, channels, image size or drop rate, or gives no feature vector.
        """
        source = _source(self.model, request)
        builder = _Builder(self.model, request, source)
        module, spec, shape = builder.shaped({})
        if not _is_vector(shape) and "global_pool" not in request.options:
            # An encoder that gives a sequence or a map: timm's own pooling, where the model has it.
            module, spec, shape = builder.shaped({"global_pool": "avg"})
        if shape is None or not _is_vector(shape):
            given = shape or "several tensors"
            raise fw.FwError(f"timm/{self.model} gives {given} for one image, not a vector of features",
                             "leave backbone.options.global_pool to the model, or use a model that pools")  # fmt: skip
        return fw.Backbone(module, shape[1], spec, grouping_of(module), source.info)


def _is_vector(shape: tuple[int, ...] | None) -> bool:
    return shape is not None and len(shape) == 2


def _input_spec(module: Any) -> fw.InputSpec:
    """What the pretrained settings say, those of timm's default weights where none are loaded."""
    data: dict[str, Any] = resolve_data_config({}, pretrained_cfg=module.pretrained_cfg)  # type: ignore[no-untyped-call]
    channels, height, width = data["input_size"]
    return fw.InputSpec((height, width), tuple(data["mean"]), tuple(data["std"]), data["interpolation"],
                        data["crop_pct"], channels)  # fmt: skip


@attrs.frozen
class _Source:
    """Where the tensors of one build come from.

    Attributes:
        tag: appended to the model's name.
        overlay: entries of timm's pretrained settings; none where nothing is loaded.
        info: for the record.
    """

    tag: str = ""
    overlay: Mapping[str, Any] | None = None
    info: fw.WeightsInfo | None = None


def _source(model: str, request: fw.BackboneRequest) -> _Source:
    wanted = request.weights
    if wanted is None:
        return _Source()
    if wanted == PACKAGE:
        packaged = packaged_weights(model)
        return _Source("", {"state_dict": packaged.state}, packaged.info)
    known = _sources(model)
    if wanted not in known:
        hints = "; ".join(fw.name_hints(wanted, known, "it has"))
        raise fw.WeightsUnavailable(f"timm has no weights {wanted!r} for {model}; {hints}")
    tag = "" if wanted == DEFAULT else wanted
    settings: Any = timm.get_pretrained_cfg(_tagged(model, tag))
    file = fetch(settings, request.timeout)
    name = _tagged(f"timm/{model}", tag or settings.tag or "")
    info = fw.WeightsInfo(name, file, settings.license or "unknown")
    return _Source(tag, {"file": str(file), "custom_load": settings.custom_load}, info)


def _tagged(model: str, tag: str) -> str:
    return f"{model}.{tag}" if tag else model


@attrs.frozen
class _Builder:
    """Calls `timm.create_model` for one model with what a request asks for."""

    model: str
    request: fw.BackboneRequest
    source: _Source

    def shaped(self, more: Mapping[str, Any]) -> tuple[nn.Module, fw.InputSpec, tuple[int, ...] | None]:
        """The model without its classifier, what it expects of an image, and the shape of what it gives.

        Args:
            more: further arguments for timm.
        """
        module = self._module({**self._options(), **self._stated(), **more})
        spec = _input_spec(module).for_channels(self.request.in_channels)
        spec = attrs.evolve(spec, size=self.request.image_size or spec.size)
        return module, spec, fw.output_shape(module, (spec.channels, *spec.size))

    def _module(self, arguments: Mapping[str, Any]) -> nn.Module:
        """The model, told the image size where it wants to know."""
        if self.request.image_size is not None:
            try:
                return self._create({**arguments, "img_size": self.request.image_size})
            except TypeError as error:
                if "img_size" not in str(error):
                    raise self._refusal(error) from error
        try:
            return self._create(arguments)
        except TypeError as error:
            raise self._refusal(error) from error

    def _create(self, arguments: Mapping[str, Any]) -> nn.Module:
        """Raises TypeError where the model takes no such argument."""
        loaded: dict[str, Any] = {}
        if self.source.overlay:
            loaded = {"pretrained": True, "pretrained_cfg_overlay": dict(self.source.overlay)}
        name = _tagged(self.model, self.source.tag)
        try:
            module: Any = timm.create_model(name, num_classes=0, **loaded, **arguments)
        except TypeError:
            raise
        except Exception as error:  # a model may refuse a size or an option in any way it likes
            raise self._refusal(error) from error
        module.pretrained_cfg.pop("state_dict", None)
        built: nn.Module = module
        return built

    def _options(self) -> dict[str, Any]:
        for name in self.request.options:
            if name in _OURS or name in _NEVER:
                instead = f"set {_OURS[name]} instead" if name in _OURS else "the core decides it"
                raise fw.FwError(f"backbone.options cannot set {name!r}", instead)
        return dict(self.request.options)

    def _stated(self) -> dict[str, Any]:
        settings = timm.get_pretrained_cfg(self.model)
        usual = settings.input_size[0] if settings is not None else 3
        stated = {
            "in_chans": self.request.in_channels if self.request.in_channels != usual else None,
            "drop_rate": self.request.drop_rate,
            "drop_path_rate": self.request.drop_path_rate,
        }
        return {name: value for name, value in stated.items() if value is not None}

    def _refusal(self, error: Exception) -> fw.FwError:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        key = next((f"backbone.{name}" for name in ("drop_rate", "drop_path_rate", "in_channels") if name in reason),
                   "backbone.options" if self.request.options else "backbone.image_size")  # fmt: skip
        return fw.FwError(
            f"timm/{self.model} cannot be built so: {reason}", f"change {key}, or take it out of the recipe"
        )
