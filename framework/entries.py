"""Entries: the feature store on the disk: what each entry holds, its lock, its damage, and which entries go."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs

from framework.errors import FwError
from framework.files import SCRATCH, load_tensors, remove_scratch
from framework.index import cache_folder

FACTS, SEGMENT = "entry.json", "*.safetensors"
KEY = re.compile(r"[0-9a-f]{32}")
FILLED = "another process fills it"


class Damaged(FwError):
    """Segments of the store differ from what was written."""

    exit_code = 3


@attrs.frozen
class Stored:
    """An entry on the disk.

    Attributes:
        folder: `STORE/KEY`.
        size: bytes of what was written whole.
        scratch: bytes that are half-written: by whoever fills it, or by one that was killed.
        last_use: in seconds since the epoch; 0 where `entry.json` is missing.
    """

    folder: Path
    size: int
    scratch: int
    last_use: float

    @property
    def key(self) -> str:
        """What the rows depend on, as a hash."""
        return self.folder.name

    @property
    def is_remnant(self) -> bool:
        """Whether a kill left it without `entry.json`: before the first segment, or as it was being removed."""
        return not self.last_use


@attrs.frozen
class Content:
    """What an entry holds, as its files say.

    Attributes:
        facts: what the rows are; empty where `entry.json` cannot be read.
        segments: how many files of rows there are.
        images: how many images have a row.
        unreadable: how many images could not be read.
        damaged: segments that are cut short, or no segments.
    """

    facts: dict[str, Any]
    segments: int
    images: int
    unreadable: int
    damaged: tuple[str, ...]


def store_folder() -> Path:
    """Where entries lie that outlive a run."""
    return cache_folder() / "features"


# ------------------------------------------------------------------------------------------------ what there is


def stored(store: Path) -> list[Stored]:
    """The entries of a store, the last used first. A folder that is not named like a key is none of its entries."""
    folders = [folder for folder in store.glob("*") if KEY.fullmatch(folder.name) and folder.is_dir()]
    return sorted(map(_look_at, folders), key=lambda entry: (-entry.last_use, entry.key))


def _look_at(folder: Path) -> Stored:
    whole, half = _bytes(folder.glob("[!.]*")), _bytes(folder.glob(SCRATCH))
    return Stored(folder, whole, half, _last_use(folder))


def _bytes(files: Iterable[Path]) -> int:
    total = 0
    for file in files:
        try:
            total += file.stat().st_size
        except FileNotFoundError:  # another process removed it meanwhile
            continue
    return total


def _last_use(folder: Path) -> float:
    try:
        return (folder / FACTS).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def touch(folder: Path) -> None:
    """Notes that an entry was used now; the least recently used ones are pruned first."""
    try:
        os.utime(folder / FACTS)
    except OSError:  # a store that may only be read
        return


def content(folder: Path) -> Content:
    """What an entry holds, from the heads of its files: rows are counted and not read, and torch is not needed."""
    images: set[str] = set()
    unreadable: set[str] = set()
    damaged: list[str] = []
    segments = sorted(folder.glob(SEGMENT))
    for file in segments:
        facts = _segment_facts(file)
        if facts is None:
            damaged.append(file.name)
            continue
        images.update(facts["images"])
        unreadable.update(facts["unreadable"])
    return Content(facts_of(folder), len(segments), len(images), len(unreadable), tuple(damaged))


def _segment_facts(file: Path) -> dict[str, Any] | None:
    """What a segment says of its rows; None where the file is cut short or something else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as segment:  # the library compares the length of the file with its head
            facts = json.loads((segment.metadata() or {})["facts"])
            return {"images": list(facts["images"]), "unreadable": list(facts["unreadable"])}
    except (OSError, SafetensorError, ValueError, TypeError, KeyError):
        return None


def facts_of(folder: Path) -> dict[str, Any]:
    """What the rows of an entry are; empty where `entry.json` cannot be read."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


# -------------------------------------------------------------------------------------------------------- locks


def lock_of(folder: Path) -> Any:
    """The lock of an entry, beside its folder.

    The file, which is empty, stays when the entry goes. Were it removed, a process that opened it before could lock
    what nobody else sees; filelock notices that only in later versions (3.24 does), and not on every file system.
    """
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.with_suffix(".lock"))


def acquired(lock: Any) -> bool:
    """Whether the lock is held now: it is not waited for."""
    from filelock import Timeout

    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def under_lock(folder: Path, act: Callable[[Path], None]) -> str:
    """Does something to an entry, unless another process fills it.

    Returns:
        why it was not done, in one clause; empty: it was.
    """
    try:
        lock = lock_of(folder)
        if not acquired(lock):
            return FILLED
        try:
            act(folder)
        finally:
            lock.release()
    except OSError as error:  # a store of somebody else
        return error.strerror or str(error)
    return ""


def why_kept(folder: Path) -> str:
    """Why an entry could not be removed now; empty: it could. Nothing is written."""
    if not folder.with_suffix(".lock").exists():
        return ""
    return under_lock(folder, lambda _: None)


# ------------------------------------------------------------------------------------------------------- damage


def damage(file: Path) -> str:
    """Why a segment cannot be used; empty: its bytes are those that were written, or it is gone."""
    try:
        load_tensors(file, mapped=True)
    except FwError as error:
        return error.message if file.exists() else ""
    return ""


def remove_damaged(folder: Path, files: Collection[Path]) -> str:
    """Removes segments of an entry.

    Args:
        folder: the entry.
        files: those found damaged; one that was written anew meanwhile stays.

    Returns:
        why nothing was removed; empty: they are gone.
    """

    def remove(_: Path) -> None:
        for file in files:
            if damage(file):
                file.unlink(missing_ok=True)

    return under_lock(folder, remove)


# -------------------------------------------------------------------------------------------------- what goes


@attrs.frozen
class Pruned:
    """What pruning did.

    Attributes:
        removed: entries that are gone.
        kept: entries that should have gone, and why they stay.
        left: bytes of the entries that are there still.
    """

    removed: list[Stored]
    kept: list[tuple[Stored, str]]
    left: int


def remove_entry(folder: Path) -> str:
    """Removes an entry. Who has rows of it mapped keeps them.

    Returns:
        why it stays; empty: it is gone.
    """
    return under_lock(folder, _remove_folder)


def _remove_folder(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def remove_half_written(folder: Path) -> str:
    """Removes what killed processes left half-written in an entry.

    Returns:
        why it stays; empty: it is gone.
    """
    return under_lock(folder, remove_scratch)


def discard(
    entries: Sequence[Stored], wanted: Collection[Stored], limit: float, remove: Callable[[Path], str]
) -> Pruned:
    """Removes some entries, and of the others the least recently used until what is left is no larger than `limit`.

    Args:
        entries: all there are.
        wanted: those that go in any case.
        limit: bytes.
        remove: an entry's folder -> why it stays; empty: it is gone.
    """
    removed: list[Stored] = []
    kept: list[tuple[Stored, str]] = []
    left = sum(entry.size for entry in entries)
    for entry in sorted(entries, key=lambda entry: (entry not in wanted, entry.last_use)):
        if entry not in wanted and left <= limit:
            break
        reason = remove(entry.folder)
        if reason:
            kept.append((entry, reason))
            continue
        removed.append(entry)
        left -= entry.size
    return Pruned(removed, kept, left)


def prune(store: Path, limit: float, in_use: Collection[Path] = ()) -> list[Path]:
    """Removes the entries that were used least recently until the store is no larger than `limit` bytes.

    Entries that are in use here, or that another process fills, stay.

    Returns:
        the folders that were removed.
    """

    def remove(folder: Path) -> str:
        return "this run uses it" if folder in in_use else remove_entry(folder)

    return [entry.folder for entry in discard(stored(store), (), limit, remove).removed]
