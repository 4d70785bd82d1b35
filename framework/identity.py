"""Identity: hashes of what the rows of a feature store depend on: code, tensors, libraries and the machine."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

FORMAT = 2
"""Of the rows of an entry; entries of another one are not read."""
LIBRARIES = ("torch", "torchvision", "timm", "pillow", "numpy")
"""Whose other versions may decode, resize or compute otherwise."""


def code_of_modules(network: nn.Module) -> str:
    """A hash of the source files that define the classes of a network's modules."""
    homes = {type(module).__module__ for module in network.modules()}
    return _code(Path(file) for home in homes if (file := getattr(sys.modules.get(home), "__file__", None)))


def code_of_plugin(config: type[Any]) -> str:
    """A hash of every source file of the plugin that defines a component, imported so far or not."""
    top = sys.modules[config.__module__.partition(".")[0]]
    folders = [Path(folder) for folder in getattr(top, "__path__", ())]
    inside = [file for folder in folders for file in folder.rglob("*.py")]
    own = getattr(top, "__file__", None)
    return _code(inside or ([Path(own)] if own else []))


def _code(files: Iterable[Path]) -> str:
    lines = sorted({_digest_of_file(file, file.stat().st_mtime_ns) for file in files if file.is_file()})
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


@cache
def _digest_of_file(file: Path, changed: int) -> str:
    """A hash of a file's content; `changed` makes a file that was written since be read again."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def libraries() -> dict[str, str]:
    """Library -> version, of those installed."""
    return {name: version for name in LIBRARIES if (version := _version(name)) is not None}


@cache
def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def machine(device: torch.device) -> str:
    """What computes: another processor or accelerator may round otherwise."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def content_key(facts: Mapping[str, Any], weights: str = "") -> str:
    """A hash of plain facts and of what tensors hold: 32 hexadecimal digits.

    Args:
        facts: what stands in the entry beside its rows.
        weights: a hash of the tensors that its rows depend on.
    """
    text = "\n".join(f"{name} {facts[name]!r}" for name in sorted(facts))
    return hashlib.sha256(f"format {FORMAT}\n{text}\n{weights}".encode()).hexdigest()[:32]
