"""CSV: a table of image files with their labels, and, where it has them, splits and groups."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

import framework as fw
from fw_data.folder import require_folder
from fw_data.keys import TestShare, ValShare, stated
from fw_data.sources import FileSource

if TYPE_CHECKING:
    from torch import Tensor

_SPLIT_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
                "dev": "val", "test": "test", "testing": "test"}  # fmt: skip


@attrs.frozen
class Row:
    """One image: the line it stands on, its path as written, its labels, its split and group where stated."""

    line: int
    path: str
    labels: tuple[str, ...]
    split: str
    group: str


@attrs.frozen(kw_only=True)
class Csv:
    """A CSV file with one image per row: its path, its label or labels, and perhaps its split and group."""

    file: Path = fw.key(doc="the CSV file; its first row names the columns")
    root: Path | None = fw.key(None, "what paths in it are relative to; absent: the CSV file's folder")
    path: str = fw.key("path", "column of the image's path")
    label: str = fw.key("label", "column of the image's class")
    labels: str = fw.key("", "column of the image's classes, any number of them: makes the task multilabel")
    separator: str = fw.key("|", "what stands between the classes of one image")
    split: str | None = fw.key(None, "column that says train, val or test; absent: `split`, if the file has it")
    group: str | None = fw.key(None, "column of a group that never crosses splits; absent: `group`, if the file has it")
    classes: tuple[str, ...] = fw.key((), "the classes in order; absent: those in the file, sorted")
    val: ValShare = fw.key(0.2, "share of the images for validation, where no split says so")
    test: TestShare = fw.key(0.2, "share of the images for the test, where the file has no splits")
    delimiter: str = fw.key(",", "what stands between columns")

    def build(self, seed: int) -> fw.Data:
        """The rows of the file as splits; rows keep their order."""
        rows = self._read()
        root = self.root or self.file.parent
        require_folder(root, "data.root")
        self._require_images(rows, root)
        task = fw.Task("multilabel" if self.labels else "multiclass", self._classes(rows))
        names = tuple(row.path for row in rows)
        source = FileSource(root, names)
        whole = fw.Split(source, tuple(range(len(rows))), names, _targets(rows, task))
        splits, notes = self._split(whole, rows, task, seed)
        return fw.make_data(task, splits, notes)

    def _read(self) -> list[Row]:
        if not self.file.is_file():
            beside = [path.name for path in sorted(self.file.parent.glob("*.csv"))]
            hints = fw.name_hints(self.file.name, beside, f"CSV files in {self.file.parent}")
            raise fw.FwError(f"data.file {self.file} does not exist", hints)
        if len(self.delimiter) != 1:
            raise fw.FwError(f"data.delimiter {self.delimiter!r} is not one character", 'such as "," or "\\t"')
        lines = _lines(self.file, self.delimiter)
        header = [name.strip() for name in next(lines, (0, []))[1]]
        columns = self._columns(header)
        rows = [self._row(line, cells, header, columns) for line, cells in lines]
        if not rows:
            raise fw.FwError(f"{self.file} lists no image", "add a row below the column names for each image")
        return rows

    def _columns(self, header: Sequence[str]) -> dict[str, int]:
        """Where each column stands that is used."""
        wanted = {"path": self.path, "label": self.labels or self.label, "split": self.split, "group": self.group}
        for key in ("split", "group"):
            if wanted[key] is None and key in header:
                wanted[key] = key
        places = {}
        for key, name in wanted.items():
            if name is None:
                continue
            if header.count(name) != 1:
                setting = "labels" if key == "label" and self.labels else key
                problem = "has no column" if name not in header else "has more than one column"
                hints = fw.name_hints(name, [column for column in header if column != name], "columns")
                raise fw.FwError(f"{self.file}:1 {problem} {name!r}",
                                 [*hints, f"set data.{setting} to the column's name"])  # fmt: skip
            places[key] = header.index(name)
        return places

    def _row(self, line: int, cells: Sequence[str], header: Sequence[str], columns: Mapping[str, int]) -> Row:
        place = f"{self.file}:{line}"
        if len(cells) != len(header):
            raise fw.FwError(f"{place} has {len(cells)} columns, not {len(header)} as the first row",
                             f"put a value that contains {self.delimiter!r} between double quotes")  # fmt: skip
        cell = {key: cells[column].strip() for key, column in columns.items()}
        if not cell["path"]:
            raise fw.FwError(f"{place} has no path", f"fill column {self.path!r}")
        labels = [word.strip() for word in cell["label"].split(self.separator)] if self.labels else [cell["label"]]
        if not self.labels and not cell["label"]:
            raise fw.FwError(f"{place} has no label", f"fill column {self.label!r}, or remove the row")
        split = cell.get("split", "")
        if "split" in columns and split.lower() not in _SPLIT_WORDS:
            raise fw.FwError(
                f"{place}: {split!r} is no split", fw.name_hints(split, ["train", "val", "test"], "splits")
            )
        if "group" in columns and not cell["group"]:
            raise fw.FwError(f"{place} has no group", f"fill column {header[columns['group']]!r}")
        return Row(line, cell["path"], tuple(dict.fromkeys(filter(None, labels))),
                   _SPLIT_WORDS.get(split.lower(), ""), cell.get("group", ""))  # fmt: skip

    def _require_images(self, rows: Iterable[Row], root: Path) -> None:
        missing = [row for row in rows if not (root / row.path).is_file()]
        if not missing:
            return
        first = missing[0]
        folder = (root / first.path).parent
        more = f" (nor do the images of {len(missing) - 1} more rows)" if len(missing) > 1 else ""
        message = f"{self.file}:{first.line}: image {root / first.path} does not exist{more}"
        if not folder.is_dir():
            raise fw.FwError(message, "set data.root to the folder that paths are relative to")
        beside = sorted(path.name for path in folder.iterdir() if path.is_file())
        raise fw.FwError(message, fw.name_hints(Path(first.path).name, beside, f"files in {folder}", 5))

    def _classes(self, rows: Sequence[Row]) -> tuple[str, ...]:
        if not self.classes:
            found = tuple(sorted({label for row in rows for label in row.labels}))
            if not found:
                raise fw.FwError(
                    f"column {self.labels!r} of {self.file} names no class", "fill it, or state data.classes"
                )
            return found
        repeated = next((name for name in self.classes if self.classes.count(name) > 1), None)
        if repeated is not None:
            raise fw.FwError(f"data.classes names {repeated!r} twice", "name each class once")
        known = frozenset(self.classes)
        for row in rows:
            unknown = next((label for label in row.labels if label not in known), None)
            if unknown is not None:
                raise fw.FwError(f"{self.file}:{row.line}: {unknown!r} is not in data.classes",
                                 fw.name_hints(unknown, self.classes, "classes"))  # fmt: skip
        return self.classes

    def _split(
        self, whole: fw.Split, rows: Sequence[Row], task: fw.Task, seed: int
    ) -> tuple[dict[str, fw.Split], list[str]]:
        groups = [row.group for row in rows] if rows[0].group else None
        by_groups = ", whole groups" if groups else ", stratified"
        if not rows[0].split:
            notes = [f"split {stated(self.val, self.test)} by seed {seed}{by_groups}"]
            return fw.cut_split(whole, task, seed, val=self.val, test=self.test, groups=groups), notes
        self._require_whole_groups(rows)
        at = {
            name: [number for number, row in enumerate(rows) if row.split == name] for name in ("train", "val", "test")
        }
        if not at["train"]:
            raise fw.FwError(f"{self.file} has no row of the split train", "mark the rows to train on")
        self._require_trained_classes(rows)
        splits = {name: whole.take(numbers) for name, numbers in at.items() if numbers}
        if "val" in splits:
            return splits, ["split by the file's column"]
        of_train = [groups[number] for number in at["train"]] if groups else None
        splits |= fw.cut_split(splits["train"], task, seed, val=self.val, groups=of_train)
        return splits, ["split by the file's column", f"val is {self.val:.3g} of its train by seed {seed}{by_groups}"]

    def _require_whole_groups(self, rows: Iterable[Row]) -> None:
        first: dict[str, Row] = {}
        for row in rows:
            other = first.setdefault(row.group, row) if row.group else row
            if other.split != row.split:
                raise fw.FwError(f"{self.file}:{row.line}: group {row.group!r} is in {row.split}, but line "
                                 f"{other.line} has it in {other.split}", "a group must lie in one split")  # fmt: skip

    def _require_trained_classes(self, rows: Sequence[Row]) -> None:
        trained = {label for row in rows if row.split == "train" for label in row.labels}
        for row in rows:
            untrained = next((label for label in row.labels if label not in trained), None)
            if untrained is not None:
                raise fw.FwError(f"{self.file}:{row.line}: class {untrained!r} of {row.split} is in no row of train",
                                 fw.name_hints(untrained, sorted(trained), "classes in train"))  # fmt: skip


def _lines(file: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The rows with the line that each begins on; empty lines are left out.

    Raises:
        fw.FwError: the file is no UTF-8, or its quoting is broken.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            begins = 1
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield begins, cells
                begins = reader.line_num + 1
    except csv.Error as error:
        raise fw.FwError(f"{file}:{begins}: {error}", "check the quotes of the row that begins there") from error
    except UnicodeDecodeError as error:
        line = file.read_bytes()[: error.start].count(b"\n") + 1
        raise fw.FwError(f"{file}:{line} is not UTF-8 text: {error.reason}", "save the file as UTF-8") from error
    except OSError as error:
        raise fw.FwError(f"{file} cannot be read: {error.strerror}", "check its permissions") from error


def _targets(rows: Sequence[Row], task: fw.Task) -> Tensor:
    import torch

    column = {name: number for number, name in enumerate(task.classes)}
    if task.kind == "multiclass":
        return torch.tensor([column[row.labels[0]] for row in rows], dtype=torch.int64)
    targets = torch.zeros(len(rows), task.num_classes)
    for number, row in enumerate(rows):
        targets[number, [column[label] for label in row.labels]] = 1.0
    return targets
