"""Files: written whole or not at all, and safetensors files that know whether they are damaged."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.errors import FwError

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 1 << 20
SCRATCH = ".*.????????"
"""What a file is called while it is being written."""


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a temporary file in the same folder, syncs it, and renames it to `path`.

    Raises:
        FwError: the disk is full or the folder cannot be written; what stood at `path` before is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch_name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        _replace(path, Path(scratch_name), write)
    except OSError as error:
        raise FwError(
            f"cannot write {path}: {error.strerror or error}", "what stood there before is untouched"
        ) from error


def _replace(path: Path, scratch: Path, write: Callable[[Path], None]) -> None:
    try:
        write(scratch)
        _sync(scratch)
        scratch.chmod(0o644)
        os.replace(scratch, path)
        _sync(path.parent)
    finally:
        scratch.unlink(missing_ok=True)


def remove_scratch(folder: Path) -> None:
    """Removes what a killed process left half-written in a folder and those below it."""
    for scratch in folder.rglob(SCRATCH):
        if scratch.is_file():
            scratch.unlink()


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    write_atomically(path, lambda scratch: _fill(scratch, text))


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, indented, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _fill(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """A hash of a tensor's bits, shape and type; equal bits give equal hashes on every device."""
    import torch

    data = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{data.dtype}{tuple(data.shape)}".encode())
    if data.numel():
        digest.update(data.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def tensor_digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The hash of each of several tensors, worked out side by side where they are large."""
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) < _CHUNK:
        return {name: tensor_digest(tensor) for name, tensor in tensors.items()}
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:  # a hash lets go of the interpreter
        return dict(zip(tensors, pool.map(tensor_digest, tensors.values()), strict=True))


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names and contents of several tensors, whatever their order."""
    return digest_of_digests(tensor_digests(tensors))


def digest_of_digests(digests: Mapping[str, str]) -> str:
    """SHA-256 over the names of several tensors and the hashes of their contents."""
    lines = [f"{name} {digests[name]}" for name in sorted(digests)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Any) -> None:
    """Writes tensors and JSON facts as one safetensors file with a checksum over both, whole or not at all."""
    text = json.dumps(facts)
    metadata = {"facts": text, "sha256": _checksum(tensors, text)}
    write_atomically(path, lambda scratch: _save_file(tensors, scratch, metadata))


def _save_file(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path, metadata)
    except SafetensorError as error:  # a full disk comes as one of these
        raise OSError(str(error)) from error


def load_tensors(path: Path, hint: str = "", mapped: bool = False) -> tuple[dict[str, Tensor], Any]:
    """The tensors and facts of `save_tensors`, the checksum verified.

    Args:
        path: the file.
        hint: what to do where it is damaged.
        mapped: the tensors lie in the file, which must stay as it is, and not in memory.

    Raises:
        FwError: the file is missing, truncated, or its content differs from what was written.
    """
    if not path.is_file():
        raise FwError(f"there is no {path}", hint)
    try:
        tensors, metadata = _read_file(path)
    except (OSError, ValueError, RuntimeError) as error:
        raise FwError(f"{path} is damaged: {error}", hint) from error
    if metadata.get("sha256") != _checksum(tensors, metadata.get("facts", "")):
        raise FwError(f"{path} is damaged: its content differs from its checksum", hint)
    kept = tensors if mapped else {name: tensor.clone() for name, tensor in tensors.items()}
    return kept, json.loads(metadata["facts"])


def map_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that this process has just written, in the file and not in memory; nothing is verified."""
    return _read_file(path)[0]


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise OSError(str(error)) from error


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    return hashlib.sha256(f"{tensors_digest(tensors)} {text}".encode()).hexdigest()
