"""Run directory: all that one run read, decided and produced; never overwritten by accident."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from framework.errors import FwError, did_you_mean
from framework.files import write_json, write_text
from framework.index import Index
from framework.recipe import Recipe

RECIPE, SUMMARY, MODEL = "recipe.toml", "summary.json", "model.safetensors"
ENVIRONMENT, ORIGIN = "environment.json", "origin.json"
_LOCK = ".lock"
_BEFORE_RECIPE = (_LOCK, f".{RECIPE}.????????")
"""What a run that was killed before its recipe was on disk leaves: its lock, and the recipe half-written."""
_LIBRARIES = ("torch", "torchvision", "timm", "torchmetrics", "safetensors", "numpy", "pillow", "fw-transfer")


def default_folder(recipe: Recipe) -> Path:
    """Where a run goes if nobody says: `runs/<name>`."""
    return Path("runs") / recipe.name


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a run directory for this process.

    Raises:
        FwError: another process is at work in it.
    """
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise FwError(f"another process is at work in {folder}", "wait for it, or choose another --out") from None
    try:
        yield
    finally:
        lock.release()
        (folder / _LOCK).unlink(missing_ok=True)


def require_free(folder: Path, overwrite: bool) -> None:
    """
    Raises:
        FwError: there is something in it and `overwrite` was not asked for, or it is no run directory at all.
    """
    if not folder.is_dir() or all(_is_left_by_a_kill(entry) for entry in folder.iterdir()):
        return
    is_run = (folder / RECIPE).is_file()
    if overwrite and not is_run:
        raise FwError(f"{folder} is no run directory, so --overwrite leaves it alone", "choose another --out")
    if overwrite:
        return
    elsewhere = "--overwrite replaces it, --out DIR writes elsewhere"
    if not is_run:
        raise FwError(f"{folder} holds other files", "--out DIR writes elsewhere")
    if is_finished(folder):
        raise FwError(f"{folder} holds a finished run", elsewhere)
    raise FwError(f"{folder} holds an unfinished run", (f"fw resume {folder} continues it", elsewhere))


def _is_left_by_a_kill(entry: Path) -> bool:
    return any(fnmatch(entry.name, pattern) for pattern in _BEFORE_RECIPE)


def require_run(folder: Path) -> None:
    """
    Raises:
        FwError: it is no run directory, with the near names of those that are, here and in `runs`.
    """
    if (folder / RECIPE).is_file():
        return
    lack = f"has no {RECIPE}" if folder.is_dir() else "is a file" if folder.exists() else "does not exist"
    places = dict.fromkeys((folder, folder.parent, Path("runs")))
    known = sorted({str(file.parent) for place in places for file in place.glob(f"*/{RECIPE}")})
    near = did_you_mean(str(folder), known)
    raise FwError(
        f"{folder} is no run directory: it {lack}",
        (
            near,
            f"runs: {', '.join(known[:6])}" if known else "fw run makes run directories: runs/NAME, or what --out says",
        ),
    )


def discard(folder: Path) -> None:
    """Removes a run directory with all that is in it."""
    with locked(folder):
        _empty(folder)
    folder.rmdir()
    with suppress(OSError):  # it holds other runs
        folder.parent.rmdir()


def create(folder: Path, overwrite: bool) -> None:
    """Makes an empty run directory.

    Raises:
        FwError: it is not free, or cannot be made.
    """
    require_free(folder, overwrite)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FwError(f"cannot make the run directory {folder}: {error.strerror}", "choose another --out") from None
    with locked(folder):
        _empty(folder)


def _empty(folder: Path) -> None:
    for entry in sorted(
        folder.iterdir(), key=lambda entry: entry.name == RECIPE
    ):  # last: it makes this a run directory
        if entry.name == _LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Writes the resolved recipe."""
    write_text(folder / RECIPE, recipe.to_toml())


def environment(index: Index) -> dict[str, Any]:
    """The machine, the libraries and the plugins."""
    import os

    import torch

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "plugins": {
            record.source.name: f"{record.source.distribution} {record.source.version}" for record in index.plugins
        },
    }


@cache
def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Writes what a run starts from: `environment`, and beside it the weights, the data and the recipe."""
    write_json(folder / ENVIRONMENT, facts["environment"])
    write_json(folder / ORIGIN, {name: value for name, value in facts.items() if name != "environment"})


def read_facts(folder: Path) -> dict[str, Any]:
    """What a run started from.

    Raises:
        FwError: it was stopped before that was written.
    """
    try:
        environment, origin = (json.loads((folder / name).read_text("utf-8")) for name in (ENVIRONMENT, ORIGIN))
    except (OSError, ValueError):
        raise FwError(f"the run in {folder} was stopped before it began to train",
                      f"start it again: fw run {folder / RECIPE} --out {folder} --overwrite") from None  # fmt: skip
    return {**origin, "environment": environment}


def is_finished(folder: Path) -> bool:
    """Whether the run has written its summary."""
    return (folder / SUMMARY).is_file()
