"""Each check of data sets finds a data set with that one fault, and says nothing against a good one."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import framework as fw
from framework.testing import Case, failures
from framework.testing.kit import subjects
from framework.testing.of_datasets import CHECKS
from framework.testing.pictures import picture

pytestmark = pytest.mark.sweep  # every check of a kind, against every plugin with a fault

CLASSES = ("cat", "dog")
EACH = 8
"""Images of each class."""


def photographs(folder: Path) -> Mapping[str, Any]:
    """A few pictures in one folder for each class."""
    for number in range(2 * EACH):
        file = folder / CLASSES[number % 2] / f"{number:02d}.png"
        file.parent.mkdir(exist_ok=True)
        picture(3, (6, 8), number).save(file)
    return {"root": folder}


# ---------------------------------------------------------------------------------------------------- sources


class Files:
    """Picture files."""

    concurrent = True

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def load(self, index: int) -> Any:
        return fw.read_picture(self.files[index])

    def digest(self, index: int) -> str:
        return fw.file_digests([self.files[index]])[0]


class OneAtATime(Files):
    concurrent = False


class Transparent(Files):
    def load(self, index: int) -> Any:
        return super().load(index).convert("RGBA")


class Floats(Files):
    def load(self, index: int) -> Any:
        return torch.from_numpy(np.array(super().load(index))).permute(2, 0, 1) / 255


class Arrays(Files):
    def load(self, index: int) -> Any:
        return np.array(super().load(index))


class Unreadable(OneAtATime):
    def load(self, index: int) -> Any:
        raise fw.UnreadableImage("the disk is on fire")


class Wears(OneAtATime):
    """Gives another picture at the second time."""

    def __init__(self, files: list[Path]) -> None:
        super().__init__(files)
        self.seen: set[int] = set()

    def load(self, index: int) -> Any:
        image = super().load(index)
        if index in self.seen:
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        self.seen.add(index)
        return image


class Seeds(OneAtATime):
    def load(self, index: int) -> Any:
        torch.manual_seed(index)
        return super().load(index)


class DrawsByNumpy(OneAtATime):
    def load(self, index: int) -> Any:
        np.random.rand()
        return super().load(index)


class HoldsALambda(OneAtATime):
    def __init__(self, files: list[Path]) -> None:
        super().__init__(files)
        self.open = lambda index: fw.read_picture(files[index])


class LosesItsOrder(OneAtATime):
    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files[::-1]}


class SharesAPlace(Files):
    """Keeps where it reads for all threads at once."""

    def load(self, index: int) -> Any:
        self.place = index
        time.sleep(0.002)
        return super().load(self.place)


class OneDigest(OneAtATime):
    def digest(self, index: int) -> str:
        return "always the same"


class DigestOfThePath(OneAtATime):
    def digest(self, index: int) -> str:
        file = self.files[index]
        return hashlib.sha256(file.name.encode() + file.read_bytes()).hexdigest()


class Opens(OneAtATime):
    def load(self, index: int) -> Any:
        image = Image.open(self.files[index])
        image.load()
        return image


class OpensLazily(OneAtATime):
    def load(self, index: int) -> Any:
        return Image.open(self.files[index])


# -------------------------------------------------------------------------------------------------- data sets


@attrs.frozen(kw_only=True)
class Good:
    """Picture files in a folder for each class."""

    root: Path = fw.key(doc="the folder")

    def build(self, seed: int) -> Any:
        if not self.root.is_dir():
            raise fw.FwError(f"{self.root} does not exist", "set data.root to a folder")
        files = sorted(self.root.rglob("*.png"))
        task = fw.Task("multiclass", self.classes())
        whole = fw.Split(self.source(files), tuple(range(len(files))), self.names(files), self.targets(files))
        return self.made(task, self.cut(whole, task, seed), seed)

    def source(self, files: list[Path]) -> Any:
        return Files(files)

    def classes(self) -> tuple[str, ...]:
        return CLASSES

    def names(self, files: list[Path]) -> tuple[str, ...]:
        return tuple(file.relative_to(self.root).as_posix() for file in files)

    def targets(self, files: list[Path]) -> Tensor:
        return torch.tensor([CLASSES.index(file.parent.name) for file in files])

    def cut(self, whole: Any, task: Any, seed: int) -> dict[str, Any]:
        return fw.cut_split(whole, task, seed, val=0.25, test=0.25)

    def made(self, task: Any, splits: dict[str, Any], seed: int) -> Any:
        return fw.make_data(task, splits)


@attrs.frozen(kw_only=True)
class Tags(Good):
    """The same with any number of classes for each picture, and no test split."""

    def build(self, seed: int) -> Any:
        files = sorted(self.root.rglob("*.png")) if self.root.is_dir() else []
        if not files:
            raise fw.FwError(f"{self.root} holds no picture", "set data.root to a folder of pictures")
        task = fw.Task("multilabel", CLASSES)
        whole = fw.Split(Files(files), tuple(range(len(files))), self.names(files), self.targets(files))
        return fw.make_data(task, fw.cut_split(whole, task, seed, val=0.25))

    def targets(self, files: list[Path]) -> Tensor:
        return torch.tensor([[float(file.parent.name == name) for name in CLASSES] for file in files])


@attrs.frozen(kw_only=True)
class TagsAsIntegers(Tags):
    """Targets of the wrong type."""

    def targets(self, files: list[Path]) -> Tensor:
        return super().targets(files).long()


@attrs.frozen(kw_only=True)
class NoValidation(Good):
    """Train and test alone."""

    def made(self, task: Any, splits: dict[str, Any], seed: int) -> Any:
        return attrs.evolve(super().made(task, splits, seed), val=None)


@attrs.frozen(kw_only=True)
class TooFewNames(Good):
    """A name is missing."""

    def made(self, task: Any, splits: dict[str, Any], seed: int) -> Any:
        train = splits["train"]
        made = super().made(task, splits, seed)
        return attrs.evolve(made, train=attrs.evolve(train, names=train.names[:-1]))


@attrs.frozen(kw_only=True)
class NoFingerprint(Good):
    """No fingerprint."""

    def made(self, task: Any, splits: dict[str, Any], seed: int) -> Any:
        return attrs.evolve(super().made(task, splits, seed), fingerprint="")


@attrs.frozen(kw_only=True)
class OneNameForTwoClasses(Good):
    """Two classes of one name."""

    def classes(self) -> tuple[str, ...]:
        return ("cat", "cat")


@attrs.frozen(kw_only=True)
class ABlankClass(Good):
    """A class without a name."""

    def classes(self) -> tuple[str, ...]:
        return ("cat", " ")


@attrs.frozen(kw_only=True)
class OneNameForAllImages(Good):
    """Images without names of their own."""

    def names(self, files: list[Path]) -> tuple[str, ...]:
        return ("image",) * len(files)


@attrs.frozen(kw_only=True)
class CountsFromOne(Good):
    """A target that no class has."""

    def targets(self, files: list[Path]) -> Tensor:
        return super().targets(files) + 1

    def cut(self, whole: Any, task: Any, seed: int) -> dict[str, Any]:
        parts = super().cut(attrs.evolve(whole, targets=whole.targets - 1), task, seed)
        return {name: attrs.evolve(part, targets=part.targets + 1) for name, part in parts.items()}


@attrs.frozen(kw_only=True)
class ShortTargets(Good):
    """Targets of too few bits."""

    def targets(self, files: list[Path]) -> Tensor:
        return super().targets(files).int()


@attrs.frozen(kw_only=True)
class ValidatesOnTrain(Good):
    """An image of the training split is in the validation split, too."""

    def cut(self, whole: Any, task: Any, seed: int) -> dict[str, Any]:
        parts = super().cut(whole, task, seed)
        known = [whole.indices.index(index) for index in (*parts["val"].indices, parts["train"].indices[0])]
        return {**parts, "val": whole.take(known)}


@attrs.frozen(kw_only=True)
class SplitsByChance(Good):
    """A split that the seed does not decide on."""

    def cut(self, whole: Any, task: Any, seed: int) -> dict[str, Any]:
        return super().cut(whole, task, random.randrange(1000))


@attrs.frozen(kw_only=True)
class ForgetsTheSplit(Good):
    """A fingerprint of the images, wherever they are."""

    def made(self, task: Any, splits: dict[str, Any], seed: int) -> Any:
        found = sorted(split.digest(at) for split in splits.values() for at in range(len(split)))
        return attrs.evolve(
            super().made(task, splits, seed), fingerprint=hashlib.sha256(str(found).encode()).hexdigest()
        )


@attrs.frozen(kw_only=True)
class ForgetsTheImages(Good):
    """A fingerprint of names alone."""

    def made(self, task: Any, splits: dict[str, Any], seed: int) -> Any:
        found = str([(name, split.names) for name, split in splits.items()])
        return attrs.evolve(super().made(task, splits, seed), fingerprint=hashlib.sha256(found.encode()).hexdigest())


@attrs.frozen(kw_only=True)
class NoQuestionAsked(Good):
    """Lists a folder without looking whether it is there."""

    def build(self, seed: int) -> Any:
        list(self.root.iterdir())
        return super().build(seed)


def reading(source: type[Files]) -> type[Any]:
    """A config class whose images come from this source."""
    body = {"source": lambda self, files: source(files)}
    made = attrs.make_class(source.__name__, [], bases=(Good,), kw_only=True, frozen=True, class_body=body)
    made.__doc__ = "A data set whose source has a fault."
    return made


class Offers:
    """A plugin with one data set."""

    def __init__(self, config: type[Any]) -> None:
        self.component = fw.Component("sample", config)

    @fw.hookimpl
    def fw_datasets(self) -> Any:
        return [self.component]


MUTANTS = (
    ("gives_whole_splits", NoValidation),
    ("gives_whole_splits", TooFewNames),
    ("gives_whole_splits", NoFingerprint),
    ("names_each_class_once", OneNameForTwoClasses),
    ("names_each_class_once", ABlankClass),
    ("names_each_image_once", OneNameForAllImages),
    ("targets_fit_the_task", CountsFromOne),
    ("targets_fit_the_task", ShortTargets),
    ("targets_fit_the_task", TagsAsIntegers),
    ("splits_share_no_image", ValidatesOnTrain),
    ("same_seed_same_data", SplitsByChance),
    ("another_split_has_another_fingerprint", ForgetsTheSplit),
    ("another_content_has_another_fingerprint", ForgetsTheImages),
    ("missing_files_are_explained", NoQuestionAsked),
    ("images_are_pictures_or_bytes", reading(Transparent)),
    ("images_are_pictures_or_bytes", reading(Floats)),
    ("images_are_pictures_or_bytes", reading(Arrays)),
    ("images_are_pictures_or_bytes", reading(Unreadable)),
    ("an_image_is_the_same_twice", reading(Wears)),
    ("reading_draws_nothing", reading(Seeds)),
    ("reading_draws_nothing", reading(DrawsByNumpy)),
    ("copies_read_the_same", reading(HoldsALambda)),
    ("copies_read_the_same", reading(LosesItsOrder)),
    ("threads_read_the_same", reading(SharesAPlace)),
    ("equal_images_have_equal_digests", reading(DigestOfThePath)),
    ("damaged_images_are_unreadable", reading(Opens)),
    ("damaged_images_are_unreadable", reading(OpensLazily)),
)


@pytest.mark.parametrize("config", [Good, Tags, reading(OneAtATime)])
def test_a_good_data_set_passes(config: type[Any]) -> None:
    assert failures(Offers(config), keys={"sample": photographs}) == {}


@pytest.mark.parametrize(("check", "config"), MUTANTS, ids=[f"{config.__name__}-{check}" for check, config in MUTANTS])
def test_a_fault_is_found_and_nothing_else(check: str, config: type[Any]) -> None:
    found = failures(Offers(config), keys={"sample": photographs})
    assert set(found) == {f"sample-{check}"}, found


def test_one_digest_for_all_images_is_found(tmp_path: Path) -> None:
    """Where files are at hand its fingerprint, made of digests, is found, too."""
    photographs(tmp_path)
    found = failures(Offers(reading(OneDigest)), keys={"sample": {"root": tmp_path}})
    assert set(found) == {"sample-different_images_have_different_digests"}, found


def test_every_check_applies_where_there_are_files_and_leaves_them_as_they_were(tmp_path: Path) -> None:
    _, subject = subjects(Offers(Good))
    case = Case(subject.plugin, subject.kind, subject.component, photographs, tmp_path)
    photographs(tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.png")}
    skipped = []
    for check in CHECKS:
        try:
            check.run(case)
        except pytest.skip.Exception as reason:
            skipped.append(f"{check.name}: {reason}")
        assert before == {file: file.read_bytes() for file in tmp_path.rglob("*.png")}, check.name
    assert not skipped


def test_each_check_has_a_mutant() -> None:
    names = {check.name for check in CHECKS}
    print(f"{len(MUTANTS) + 1} faults for {len(names)} checks of data sets")
    assert names == {check for check, _ in MUTANTS} | {"different_images_have_different_digests"}
