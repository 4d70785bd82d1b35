"""Checks of data sets: splits, names, targets and fingerprints."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from framework.component import recipe_fields
from framework.contracts import Data
from framework.errors import FwError
from framework.testing import of_sources
from framework.testing.case import Case, Check, check
from framework.testing.chance import seeded
from framework.testing.data import (
    arrangement,
    built,
    edits_under,
    faults,
    holding,
    read,
    rebuilt,
    settled,
    shown,
    some_of,
    splits_of,
)


@check
def gives_whole_splits(case: Case) -> None:
    """`build` gives train, val and perhaps test, each with as many indices, names and targets, and a fingerprint."""
    found = list(faults(case.config().build(0)))
    assert not found, "; ".join(found)


@check
def names_each_class_once(case: Case) -> None:
    """The task is multiclass or multilabel, and each of its classes has a name of its own."""
    task = built(case).task
    assert task.kind in ("multiclass", "multilabel"), f"the task is {task.kind!r}; it must be multiclass or multilabel"
    _require_names(task.classes, "classes")


@check
def names_each_image_once(case: Case) -> None:
    """Within a split each image has a name of its own, which predictions are listed under."""
    for name, split in splits_of(built(case)).items():
        _require_names(split.names, f"images of {name}")


@check
def targets_fit_the_task(case: Case) -> None:
    """Targets are int64 (N,), each the number of a class, or float32 (N, classes) of 0 and 1."""
    data = built(case)
    classes, several = data.task.num_classes, data.task.kind == "multilabel"
    for name, split in splits_of(data).items():
        targets = split.targets
        kind, shape = (torch.float32, (len(split), classes)) if several else (torch.int64, (len(split),))
        assert (targets.dtype, tuple(targets.shape)) == (kind, shape), (
            f"the targets of {name} are {targets.dtype} {tuple(targets.shape)}; "
            f"those of a {data.task.kind} task with {classes} classes are {kind} {shape}"
        )
        allowed = torch.tensor([0.0, 1.0]) if several else torch.arange(classes)
        wrong = targets[~torch.isin(targets, allowed)].tolist()
        assert not wrong, f"a target of {name} is {wrong[0]}; " + (
            "give 0.0 or 1.0 for each class" if several else f"the {classes} classes are numbered from 0"
        )


@check
def splits_share_no_image(case: Case) -> None:
    """No image of a source is in two splits."""
    home: dict[tuple[int, int], str] = {}
    for name, split in splits_of(built(case)).items():
        for index in split.indices:
            other = home.setdefault((id(split.source), index), name)
            assert other == name, (
                f"image {index} of the source is in {other} and in {name}; fw.cut_split divides images without overlap"
            )


@check
def same_seed_same_data(case: Case) -> None:
    """One seed always gives the same splits, names, targets, images and fingerprint."""
    config = case.config()
    made = []
    for other in (1, 2):
        with seeded(other):
            made.append(config.build(0))
    if any(any(faults(data)) for data in made):
        pytest.skip("it gives no whole data set")
    one, again = map(_all_of, made)
    changed = [what for what in one if one[what] != again.get(what)]
    assert not changed, (
        f"built twice with one seed, it differs in: {', '.join(changed)}; sort what is listed, and draw from "
        "generators of your own, seeded by fw.stream_seed(seed, ...), never from global ones"
    )


@check
def another_split_has_another_fingerprint(case: Case) -> None:
    """Where the seed changes the splits, it changes the fingerprint."""
    case = settled(case)
    one, other = (built(case, seed) for seed in (0, 1))
    if arrangement(one) == arrangement(other):
        pytest.skip("its splits do not depend on the seed")
    assert one.fingerprint != other.fingerprint, (
        "two seeds give different splits with one fingerprint; fw.make_data(task, splits) makes one of all they hold"
    )


@check
def another_content_has_another_fingerprint(case: Case) -> None:
    """Where a file changes an image or a target, it changes the fingerprint."""
    case = settled(case)
    edits = list(edits_under(case.folder))
    if not edits:
        pytest.skip("it is checked without files; give its keys as a function that writes some into a folder")
    data = built(case)
    before, seen = (arrangement(data), shown(data)), 0
    for file, content in edits:
        with holding(file, content):
            other = rebuilt(case)
            if other is None or (arrangement(other), shown(other)) == before:
                continue
        seen += 1
        assert other.fingerprint != data.fingerprint, (
            f"a change in {file.relative_to(case.folder)} changes an image or a target, but not the fingerprint; "
            "fw.make_data(task, splits) makes one of all that the splits hold"
        )
    if not seen:
        pytest.skip("no image or target of it comes from a file in the folder")


@check
def missing_files_are_explained(case: Case) -> None:
    """Where a path leads nowhere, an `FwError` says so."""
    case = settled(case)
    keys = case.keys()
    paths = [field.name for field in recipe_fields(case.the) if _takes_a_path(field.type) and keys.get(field.name)]
    if not paths:
        pytest.skip("it takes no path")
    for name in paths:
        try:
            case.config(**{name: str(case.folder / "nothing here")}).build(0)
        except FwError:
            continue
        except Exception as error:
            raise AssertionError(
                f"a missing {name} ends in {type(error).__name__}: {error}; raise fw.FwError(message, hint) instead"
            ) from error


def _require_names(names: Any, of_what: str) -> None:
    """Refuses a list of names that is empty, or in which one is blank or stands twice."""
    assert names, f"there are no {of_what}; give a tuple of their names"
    blank = [name for name in names if not (isinstance(name, str) and name.strip())]
    assert not blank, f"among the names of {of_what} is {blank[0]!r}; give a word to each"
    name, count = Counter(names).most_common(1)[0]
    assert count == 1, f"{count} of the {of_what} are called {name!r}; give each a name of its own"


def _all_of(data: Data) -> dict[str, Any]:
    """What a data set says of itself, and a few of its images."""
    images = {
        f"images of {name}": [read(split, at) for at in range(len(split))] for name, split in some_of(data).items()
    }
    return {**arrangement(data), "fingerprint": data.fingerprint, **images}


def _takes_a_path(kind: Any) -> bool:
    return kind is Path or Path in get_args(kind)


CHECKS: tuple[Check, ...] = (
    gives_whole_splits,
    names_each_class_once,
    names_each_image_once,
    targets_fit_the_task,
    splits_share_no_image,
    same_seed_same_data,
    another_split_has_another_fingerprint,
    another_content_has_another_fingerprint,
    missing_files_are_explained,
    *of_sources.CHECKS,
)
