"""Image folder: one folder per class, with folders for the splits or a split drawn by seed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import attrs

import framework as fw
from fw_data.keys import Shares, stated
from fw_data.sources import FileSource

_SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_SPLIT_NAMES = frozenset(name for names in _SPLIT_FOLDERS.values() for name in names)

Listing = Mapping[str, list[str]]
"""Class name -> paths of its images, relative to the root, sorted."""


@attrs.frozen(kw_only=True)
class ImageFolder:
    """Image files in one folder per class: ROOT/train/CLASS/*.jpg and so on, or ROOT/CLASS/*.jpg and a split."""

    root: Path = fw.key(doc="the folder with the class folders, or with train, val and test folders of them")
    split: Shares = fw.key(Shares(), "how images without a folder of their split are divided, stratified by seed")

    def build(self, seed: int) -> fw.Data:
        """The images found, classes and files in sorted order."""
        require_folder(self.root, "data.root")
        folders = _split_folders(self.root)
        if not folders:
            return self._from_one_folder(seed)
        return self._from_split_folders(folders, seed)

    def _from_one_folder(self, seed: int) -> fw.Data:
        listing = _list_classes(self.root, self.root)
        task = fw.Task("multiclass", tuple(listing))
        whole = _splits(self.root, {"all": listing}, task)["all"]
        splits = fw.cut_split(whole, task, seed, val=self.split.val, test=self.split.test)
        return fw.make_data(task, splits, [f"split {stated(self.split.val, self.split.test)} of one folder by seed "
                                           f"{seed}, stratified"])  # fmt: skip

    def _from_split_folders(self, folders: Mapping[str, Path], seed: int) -> fw.Data:
        if "train" not in folders:
            present = ", ".join(path.name for path in folders.values())
            raise fw.FwError(f"data.root {self.root} has split folders ({present}) but no train folder",
                             "add a train folder of class folders")  # fmt: skip
        listings = {name: _list_classes(folder, self.root) for name, folder in folders.items()}
        task = fw.Task("multiclass", tuple(listings["train"]))
        _require_known_classes(listings, folders, task)
        splits = _splits(self.root, listings, task)
        notes = [f"split by folders: {', '.join(path.name for path in folders.values())}"]
        if "val" not in splits:
            splits |= fw.cut_split(splits["train"], task, seed, val=self.split.val)
            notes.append(f"val is {self.split.val:.3g} of the train folder, by seed {seed}, stratified")
        return fw.make_data(task, splits, notes)


def require_folder(folder: Path, key: str) -> None:
    """Refuses a path that is no folder.

    Raises:
        fw.FwError: with folders of near names beside it.
    """
    if folder.is_dir():
        return
    if folder.exists():
        raise fw.FwError(f"{key} {folder} is a file, not a folder", f"set {key} to the folder that holds the images")
    parent = folder.parent
    if not parent.is_dir():
        raise fw.FwError(f"{key} {folder} does not exist, nor does {parent}",
                         "relative paths start at the recipe's folder")  # fmt: skip
    beside = [path.name for path in _folders(parent)]
    hints = fw.name_hints(folder.name, beside, f"folders in {parent}") if beside else ()
    raise fw.FwError(f"{key} {folder} does not exist", (*hints, f"set {key} to the folder that holds the images"))


def _split_folders(root: Path) -> dict[str, Path]:
    """The folders of the splits, or nothing where root holds the classes themselves.

    A folder called `train` that holds images and no folders is a class (of vehicles), as is any other.
    """
    inside = {path.name: path for path in _folders(root)}
    nested = "train" in inside and bool(_folders(inside["train"]))
    if not inside or not (nested or _SPLIT_NAMES.issuperset(inside)):
        return {}
    found = {}
    for split, names in _SPLIT_FOLDERS.items():
        here = [inside[name] for name in names if name in inside]
        if len(here) > 1:
            raise fw.FwError(f"{root} has the folders {here[0].name} and {here[1].name}, both of which mean {split}",
                             "rename or merge one of them")  # fmt: skip
        if here:
            found[split] = here[0]
    return found


def _list_classes(folder: Path, root: Path) -> Listing:
    classes = _folders(folder)
    if not classes:
        lying = len(_images(folder, root))
        raise fw.FwError(
            f"{folder} has no class folders" + (f", only {lying} images" if lying else "; it is empty"),
            f"put the images of each class into a folder of its own: {folder.name}/CLASS/*.jpg",
        )
    listing = {path.name: _images(path, root) for path in classes}
    empty = [name for name, images in listing.items() if not images]
    if empty:
        raise fw.FwError(f"class folder {folder / empty[0]} holds no image" + _more(empty),
                         f"add images ({', '.join(sorted(fw.PICTURE_EXTENSIONS))}) or remove the folder")  # fmt: skip
    return listing


def _folders(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if path.is_dir() and not _is_hidden(path.name)]
    return sorted(found, key=lambda path: path.name)


def _images(folder: Path, root: Path) -> list[str]:
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        found += [
            (Path(place) / name).relative_to(root).as_posix()
            for name in files
            if not _is_hidden(name) and os.path.splitext(name)[1].lower() in fw.PICTURE_EXTENSIONS
        ]
    return sorted(found)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _require_known_classes(listings: Mapping[str, Listing], folders: Mapping[str, Path], task: fw.Task) -> None:
    for split, listing in listings.items():
        unknown = [name for name in listing if name not in task.classes]
        if unknown:
            hints = fw.name_hints(unknown[0], task.classes, f"classes in {folders['train'].name}")
            raise fw.FwError(f"{folders[split] / unknown[0]} is a class that {folders['train']} lacks" + _more(unknown),
                             hints)  # fmt: skip


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _splits(root: Path, listings: Mapping[str, Listing], task: fw.Task) -> dict[str, fw.Split]:
    """One split per listing, all on one source."""
    import torch

    column = {name: number for number, name in enumerate(task.classes)}
    rows = [
        (split, name, column[label])
        for split, listing in listings.items()
        for label, names in listing.items()
        for name in names
    ]
    names = tuple(name for _, name, _ in rows)
    targets = torch.tensor([target for _, _, target in rows], dtype=torch.int64)
    whole = fw.Split(FileSource(root, names), tuple(range(len(rows))), names, targets)
    return {split: whole.take([at for at, row in enumerate(rows) if row[0] == split]) for split in listings}
