"""Digests: SHA-256 of many files, remembered between runs by path, size and time."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from framework.files import file_sha256
from framework.index import cache_folder

_SETTLED_NS = 2_000_000_000
Known = dict[str, tuple[int, int, str]]
"""Absolute path -> size in bytes, modification time in ns, SHA-256."""


def file_digests(files: Sequence[Path]) -> list[str]:
    """SHA-256 of each file's bytes. Files of the same size and time as at an earlier call are not read again.

    A file that cannot be read gets a value that no other file has. What is remembered lies in the cache folder, one
    file per folder of data; without a writable cache every call reads all.
    """
    paths = [os.path.abspath(file) for file in files]
    if not paths:
        return []
    memory = _memory_file(paths)
    known = _read(memory)
    stamps = {path: _stamp(path) for path in paths}
    stale = [path for path, stamp in stamps.items() if known.get(path, ())[:2] != stamp]
    fresh = dict(zip(stale, _hash_all(stale), strict=True))
    _remember(memory, known, {path: (*stamps[path], digest) for path, digest in fresh.items()})
    return [fresh[path] if path in fresh else known[path][2] for path in paths]


def _stamp(path: str) -> tuple[int, int]:
    try:
        stat = os.stat(path)
    except OSError:
        return (-1, -1)
    return (stat.st_size, stat.st_mtime_ns)


def _hash_all(paths: Iterable[str]) -> list[str]:
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(_hash, paths))


def _hash(path: str) -> str:
    try:
        return file_sha256(Path(path))
    except OSError:
        return hashlib.sha256(f"unreadable {path}".encode("utf-8", "surrogateescape")).hexdigest()


def _memory_file(paths: Sequence[str]) -> Path:
    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    name = hashlib.sha256(folder.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return cache_folder() / "digests" / f"{name}.json"


def _read(memory: Path) -> Known:
    try:
        raw = json.loads(memory.read_text(encoding="utf-8"))
        return {str(path): (int(size), int(time_ns), str(digest)) for path, (size, time_ns, digest) in raw.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _remember(memory: Path, known: Known, fresh: Mapping[str, tuple[int, int, str]]) -> None:
    """Keeps what can be trusted: a file written a moment ago could change again without its time moving."""
    settled = time.time_ns() - _SETTLED_NS
    kept = {path: entry for path, entry in fresh.items() if 0 <= entry[1] < settled}
    if not kept:
        return
    scratch = memory.with_name(f"{memory.name}.{os.getpid()}")
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(json.dumps({**known, **kept}), encoding="utf-8")
        os.replace(scratch, memory)
    except OSError:
        scratch.unlink(missing_ok=True)
