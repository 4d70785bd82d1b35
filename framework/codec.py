"""Codec: nested state as JSON plus named tensors, without pickle, and back to the same values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from framework.errors import FwError

Json = Any
_PLAIN = (bool, int, float, str, type(None))


def pack(state: Any, prefix: str) -> tuple[Json, dict[str, Tensor]]:
    """Takes nested dicts, lists, tuples, numbers, strings and tensors apart.

    Args:
        state: what to take apart; numpy scalars become numbers.
        prefix: what the names of its tensors begin with.

    Returns:
        JSON that refers to tensors by name, and those tensors (detached, on the CPU, contiguous).

    Raises:
        FwError: something else is in it.
    """
    tensors: dict[str, Tensor] = {}
    return _pack(state, prefix, tensors), tensors


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Json:
    if isinstance(value, Tensor):
        while name in tensors:  # {"a": {"b": ...}, "a.b": ...}
            name += "'"
        tensors[name] = plain_tensor(value)
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {
            "dict": [[_pack(k, f"{name}.key", tensors), _pack(v, f"{name}.{k}", tensors)] for k, v in value.items()]
        }
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_pack(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]}
    if type(value) in _PLAIN:
        return value
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if hasattr(value, "item"):
        return value.item()
    raise FwError(f"the checkpoint cannot hold {name}, a {type(value).__name__}",
                  "a state is made of numbers, strings, lists, tuples, dicts and tensors")  # fmt: skip


def unpack(packed: Json, tensors: Mapping[str, Tensor]) -> Any:
    """Puts together what `pack` took apart; tensors are copies."""
    if not isinstance(packed, dict):
        return packed
    ((kind, inner),) = packed.items()
    if kind == "tensor":
        return tensors[inner].clone()
    if kind == "dtype":
        return getattr(torch, inner)
    if kind == "dict":
        return {unpack(k, tensors): unpack(v, tensors) for k, v in inner}
    items = [unpack(item, tensors) for item in inner]
    return tuple(items) if kind == "tuple" else items


def plain_tensor(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU that shares memory with nothing."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
