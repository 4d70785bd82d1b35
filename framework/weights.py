"""Weights: tries a recipe's sources in order of preference and says which was used, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from framework.component import Component
from framework.contracts import Backbone, BackboneRequest, WeightsInfo, WeightsUnavailable
from framework.errors import FwError
from framework.files import file_sha256, load_tensors, tensors_digest
from framework.network import load_state
from framework.streams import stream_seed
from framework.tables import BackboneKeys


@attrs.frozen
class WeightsUsed:
    """What a backbone's tensors are.

    Attributes:
        asked: the recipe's list.
        used: the entry that was taken.
        name: the source in full.
        why: why this one and none before it.
        sha256: of the file, or, where there is none, of the tensors as loaded.
        licence: as its publisher states it, or "unknown".
        transfer: whether they carry anything over from other data.
    """

    asked: tuple[str, ...]
    used: str
    name: str
    why: str
    sha256: str
    licence: str
    transfer: bool


PRETRAINED = 0
"""The seed of what is drawn for a network that has weights, so that it is the same whatever the recipe's seed."""


def build_backbone(component: Component, keys: BackboneKeys, config: Any, seed: int) -> tuple[Backbone, WeightsUsed]:
    """The backbone with the first weights of the list that can be had.

    Args:
        component: for messages.
        keys: the core's keys of `[backbone]`.
        config: the component's config object.
        seed: the recipe's; random weights are a function of it.

    Raises:
        FwError: no source can be had, each with its reason; weights that do not fit; another SHA-256 than asked.
    """
    reasons: list[str] = []
    for source in keys.weights:
        try:
            backbone, transfer = _attempt(config, keys, source, seed)
        except WeightsUnavailable as error:
            reasons.append(f"{source}: {error}")
            continue
        return backbone, _used(backbone, keys, source, reasons, transfer)
    raise FwError(f"no weights for {component.name}: " + "; ".join(reasons), _advice(keys.weights))


def _advice(sources: Sequence[str]) -> tuple[str, str]:
    plain = '"random" at the end of the list runs without pretrained weights, and says so'
    return (
        'add another source to backbone.weights: "file:PATH" takes a file that was fetched elsewhere, '
        '"run:DIR" the backbone of a finished run',
        "" if "random" in sources else plain,
    )


def _attempt(config: Any, keys: BackboneKeys, source: str, seed: int) -> tuple[Backbone, bool]:
    scheme, _, rest = source.partition(":")
    if source == "random":
        return build_bare(config, keys, seed), False
    if scheme == "file" and rest:
        return _from_file(build_bare(config, keys, PRETRAINED), Path(rest)), True
    if scheme == "run" and rest:
        return _from_run(build_bare(config, keys, PRETRAINED), Path(rest))
    return _seeded(config, request(keys, source), PRETRAINED), True


def request(keys: BackboneKeys, weights: str | None) -> BackboneRequest:
    """The core's keys as a builder gets them."""
    size = (keys.image_size, keys.image_size) if isinstance(keys.image_size, int) else keys.image_size
    return BackboneRequest(weights, keys.in_channels, size, keys.drop_rate, keys.drop_path_rate, dict(keys.options),
                           keys.download_timeout)  # fmt: skip


def seed_of(keys: BackboneKeys, seed: int) -> int:
    """From what a network is drawn whose tensors a run of this recipe brings: as it was when the run began."""
    return seed if "random" in keys.weights else PRETRAINED


def build_bare(config: Any, keys: BackboneKeys, seed: int) -> Backbone:
    """The architecture with parameters drawn from the seed."""
    return _seeded(config, request(keys, None), seed)


def _seeded(config: Any, wanted: BackboneRequest, seed: int) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "backbone"))
        backbone: Backbone = config.build(wanted)
    return backbone


def _used(backbone: Backbone, keys: BackboneKeys, source: str, reasons: list[str], transfer: bool) -> WeightsUsed:
    info = backbone.weights or WeightsInfo("drawn at random from the seed", licence="none")
    sha256 = file_sha256(info.file) if info.file else tensors_digest(backbone.module.state_dict())
    if keys.sha256 and sha256 != keys.sha256:
        raise FwError(f"the weights {source!r} have SHA-256 {sha256}, but the recipe pins {keys.sha256}",
                      "find the file that was used before, or take backbone.sha256 out of the recipe")  # fmt: skip
    why = "first choice" if not reasons else "; ".join(reasons)
    return WeightsUsed(tuple(keys.weights), source, info.name, why, sha256, info.licence, transfer)


def _from_file(backbone: Backbone, path: Path) -> Backbone:
    if not path.is_file():
        raise WeightsUnavailable(f"{path} is a folder, no file" if path.is_dir() else f"there is no file {path}")
    state = _read_state(path)
    if _first_parts(state) == {"backbone", "head"} and "backbone" not in _first_parts(backbone.module.state_dict()):
        raise FwError(f"{path} holds the whole network of a run, head and all",
                      f'"run:{path.parent}" takes the backbone of a run')  # fmt: skip
    load_backbone(backbone.module, _unwrapped(state, backbone.module), path)
    return attrs.evolve(backbone, weights=WeightsInfo(str(path), path))


def _from_run(backbone: Backbone, folder: Path) -> tuple[Backbone, bool]:
    file = folder / "model.safetensors"
    if not file.is_file():
        raise WeightsUnavailable(f"{folder} holds no finished run")
    tensors, facts = load_tensors(file)
    if facts.get("delta"):
        raise FwError(f"{file} holds what moved in the run, not a whole backbone", f"first: fw merge {folder}")
    if facts.get("adapter") and not facts.get("merged"):
        raise FwError(f"{file} holds a backbone with the adapter {facts['adapter']['use']!r} in it",
                      "only a run whose adapter was merged has a backbone of its own")  # fmt: skip
    state = {name.removeprefix("backbone."): t for name, t in tensors.items() if name.startswith("backbone.")}
    load_backbone(backbone.module, state, file)
    earlier = facts["weights"]
    name = f"run {facts['name']} (from {earlier['name']})"
    return attrs.evolve(backbone, weights=WeightsInfo(name, file, earlier["licence"])), bool(facts["transfer"])


def _read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or .pth file; wrappers such as {"state_dict": ...} are taken off."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader has its own family of errors for a bad file
        reason = str(error).strip().partition("\n")[0]
        raise FwError(f"cannot read weights from {path}: {reason}",
                      "take a .safetensors file, or a .pth file that holds nothing but tensors") from error  # fmt: skip
    for wrapper in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise FwError(f"{path} holds no state dict", "save model.state_dict(), not the model")
    return dict(state)


def _first_parts(names: Iterable[str]) -> set[str]:
    """The first parts of names of tensors."""
    return {name.partition(".")[0] for name in names}


def _unwrapped(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The same without the "module." of a wrapper, or the "backbone." of a network, unless its own begin so."""
    own = module.state_dict()
    for prefix in ("module.", "backbone."):
        if all(name.startswith(prefix) for name in state) and not all(name.startswith(prefix) for name in own):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def load_backbone(module: nn.Module, state: Mapping[str, Tensor], place: Path) -> None:
    """Loads a state dict that must fit, but for the classifier that the backbone no longer has.

    Raises:
        FwError: missing, unexpected and mis-shaped tensors, by name.
    """
    own = module.state_dict()
    removed = tuple(f"{name}." for name, child in module.named_modules() if name and isinstance(child, nn.Identity))
    offered = {name: value for name, value in state.items() if name in own or not name.startswith(removed)}
    complaints = {
        "missing": [name for name in own if name not in offered],
        "unexpected": [name for name in offered if name not in own],
        "of another shape": [f"{name} {tuple(offered[name].shape)} for {tuple(own[name].shape)}" for name in own
                             if name in offered and offered[name].shape != own[name].shape],
    }  # fmt: skip
    found = [f"{len(names)} {what} ({_some(names)})" for what, names in complaints.items() if names]
    if found:
        raise FwError(f"the weights in {place} do not fit this backbone: " + ", ".join(found),
                      "backbone.use, in_channels and image_size must be those that they were made with")  # fmt: skip
    load_state(module, offered)


def _some(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
