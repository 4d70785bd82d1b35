"""torchvision's image classification data sets, found by their signatures, as the family `torchvision/<dataset>`.

A data set belongs to it if its constructor takes a `transform` and nothing without a default but `root`. Those that
also transform images and targets jointly predict boxes or masks, and are left out unless their target is a category.
Whether it gives (image, class) is checked when it is built.
"""

from __future__ import annotations

import contextlib
import inspect
import socket
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

import attrs

import framework as fw

_GIVEN = ("train", "split", "transform", "target_transform", "transforms", "loader", "is_valid_file")
_OTHER_NAMES = {"val": ("val", "valid", "validation"), "test": ("test",)}


def dataset_family() -> fw.Family:
    """`torchvision/<dataset>`, spelled as in `torchvision.datasets`."""
    return fw.Family("torchvision", lambda: list(_known()), _member)


def _member(name: str) -> fw.Component:
    if name not in _known():
        raise fw.FwError(f"torchvision has no image classification data set {name!r}",
                         fw.name_hints(name, list(_known()), "data sets"))  # fmt: skip
    return fw.Component(f"torchvision/{name}", _config(name))


@lru_cache(maxsize=1)
def _known() -> dict[str, type[Any]]:
    from torchvision import datasets

    found = {name: getattr(datasets, name) for name in sorted(datasets.__all__)}
    return {name: item for name, item in found.items() if inspect.isclass(item) and _classifies(item)}


def _classifies(item: type[Any]) -> bool:
    from torchvision.datasets import VisionDataset

    parameters = inspect.signature(item).parameters
    required = {p.name for p in parameters.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
    forwards = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    targets = next((parameters[name].default for name in ("target_type", "target_types") if name in parameters), None)
    return (
        issubclass(item, VisionDataset)
        and item is not VisionDataset
        and required <= {"root"}
        and (forwards or {"transform", "target_transform"} <= set(parameters))
        and ("transforms" not in parameters or targets == "category")
    )


@attrs.frozen(kw_only=True, slots=False)
class TorchvisionDataset:
    """A data set of torchvision; the constructor's other arguments become keys of their own."""

    library: ClassVar[type[Any]]
    val: Annotated[float, fw.Bounds(gt=0, lt=1)] = fw.key(0.2, "share for validation, where there is no such split")
    test: Annotated[float, fw.Bounds(ge=0, lt=1)] = fw.key(0.2, "share for the test, where there are no splits at all")
    download_timeout: fw.PositiveFloat = fw.key(30.0, "seconds that a download may wait for the network")

    def build(self, seed: int) -> fw.Data:
        """The data set with its own splits; what it lacks is cut from train by seed, stratified."""
        from fw_torchvision.images import read_split

        opened = self._open_splits()
        read = {name: read_split(source, name) for name, source in opened.items()}
        notes = [f"the library's own splits: {', '.join(read)}"] if len(read) > 1 else []
        if "test" in read and read["test"].targets is None:
            del read["test"]
            notes.append("the library's test images have no labels, so there is no test split")
        task = fw.Task("multiclass", _class_names(opened["train"].dataset, read))
        splits = {name: found.split() for name, found in read.items()}
        if "val" not in splits:
            test = 0.0 if len(opened) > 1 else self.test
            splits |= fw.cut_split(splits["train"], task, seed, val=self.val, test=test)
            notes.append(
                f"cut from train by seed {seed}, stratified: val {self.val:.3g}"
                + (f", test {test:.3g}" if test else "")
            )
        return fw.make_data(task, splits, notes)

    def _open_splits(self) -> dict[str, Any]:
        """A source for each split that the library has."""
        parameters = inspect.signature(self.library).parameters
        if "train" in parameters:
            return {"train": self._open(train=True), "test": self._open(train=False)}
        if "split" not in parameters:
            return {"train": self._open()}
        train = self._try("train") or self._open(split=parameters["split"].default)
        found = {name: self._first(words) for name, words in _OTHER_NAMES.items()}
        return {"train": train, **{name: source for name, source in found.items() if source is not None}}

    def _first(self, words: tuple[str, ...]) -> Any:
        return next((source for word in words if (source := self._try(word)) is not None), None)

    def _try(self, word: str) -> Any:
        try:
            return self._open(split=word)
        except _UnknownSplitError:
            return None

    def _open(self, **split: Any) -> Any:
        from fw_torchvision.images import LibrarySource

        source = LibrarySource(self.library, {**self._arguments(), **split})
        with _patient(self.download_timeout), contextlib.redirect_stdout(sys.stderr):
            try:
                source.open()
            except Exception as error:
                if isinstance(error, ValueError) and "for argument split" in str(error):
                    raise _UnknownSplitError from error
                raise self._failure(error) from error
        return source

    def _arguments(self) -> dict[str, Any]:
        names = inspect.signature(self.library).parameters
        return {name: value for name, value in fw.recipe_arguments(self).items() if name in names}

    def _failure(self, error: Exception) -> fw.FwError:
        name, why = f"torchvision/{self.library.__name__}", " ".join(str(error).split()) or type(error).__name__
        root = getattr(self, "root", None)
        if isinstance(error, ImportError):
            return fw.FwError(f"{name} needs a package that is not installed: {why}", "install it")
        if getattr(self, "download", False):
            hint = f"check the network, or put the files under {root} and set data.download = false"
            return fw.FwError(f"{name} cannot be downloaded to {root}: {why}", hint)
        can = hasattr(self, "download")
        return fw.FwError(f"{name} cannot be read from {root}: {why}",
                          f"put its files under {root}" + (", or set data.download = true" if can else ""))  # fmt: skip


class _UnknownSplitError(Exception):
    """The library has no split of that name."""


@lru_cache
def _config(name: str) -> type[Any]:
    library = _known()[name]
    stated: Mapping[str, tuple[Any, Any]] = {"root": (Path, inspect.Parameter.empty), "download": (bool, False)}
    doc = f"torchvision.datasets.{name}, with the arguments of its constructor as keys."
    made = fw.config_from_signature(name, library, skip=_GIVEN, overrides=stated, base=TorchvisionDataset, doc=doc)
    made.library = library
    return made


@contextlib.contextmanager
def _patient(seconds: float) -> Iterator[None]:
    """Sockets opened inside give up after so many seconds; torchvision's downloads state no time-out."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _class_names(dataset: Any, read: Mapping[str, Any]) -> tuple[str, ...]:
    """The library's class names, made unique; numbers where it has none for every target."""
    highest = max(max(found.targets) for found in read.values() if found.targets)
    stated = getattr(dataset, "classes", None)
    if not isinstance(stated, list | tuple) or len(stated) <= highest:
        return tuple(str(number) for number in range(highest + 1))
    names = [", ".join(name) if isinstance(name, tuple | list) else str(name) for name in stated]
    return tuple(name if names.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names))
