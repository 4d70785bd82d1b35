"""Arms: the ways of training that a study compares, and the recipe of each of their cells."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from framework.bench.combination import Combination, spaced
from framework.bench.study import ENGINES, Study, StudyKeys
from framework.errors import FwError, Problem, RecipeError, did_you_mean
from framework.index import Index
from framework.recipe import AT_MOST_ONE, Recipe, check
from framework.sources import Document, overridden
from framework.toml_text import toml_value

OF_A_COMPARISON = {"train.keep_model": "none", "train.report": False}
"""Nothing of these is compared, and writing them would be the slowest thing of short runs."""
DECLARED = ("name", "doc", "freezing", *AT_MOST_ONE)
"""In what two recipes of a study may always differ."""
NEVER_DECLARED = ("data", "backbone.weights", "backbone.sha256")
"""In what a comparison would be of something else, whoever declares it."""


@attrs.frozen(eq=False)
class Arm:
    """One of the ways of training that are compared.

    Attributes:
        name: what it is called in tables.
        names: what its policy, with what is added to it, may be called, the closest first.
        document: the recipe, the policy, what is added to it and the variant laid over it.
        index: what components there are.
        trials: the settings that are tried for it; none where nothing is tuned.
    """

    name: str
    names: Sequence[str]
    document: Document
    index: Index
    trials: tuple[Mapping[str, Any], ...] = ()

    @property
    def policy(self) -> str:
        """The policy, and what is added to it, in words."""
        return self.names[0]

    @property
    def slug(self) -> str:
        """Its name as a folder may be called."""
        return slug(self.name)

    def cell(self, seed: int, engine: str = "auto", settings: Mapping[str, Any] | None = None) -> Recipe:
        """The recipe of one of its cells.

        Args:
            seed: of everything but the split, which is the same for all seeds.
            engine: one of `ENGINES`.
            settings: dotted keys -> values that were chosen for it.

        Raises:
            RecipeError: whatever is wrong with it.
        """
        return check(overridden(self.document, {**(settings or {}), **ENGINES[engine], "seed": seed}), self.index)


def arms_of(study: Study, index: Index, overrides: Sequence[str] = ()) -> tuple[Arm, ...]:
    """Every arm of a study, the one that all are compared to first; each cell's recipe was checked.

    Args:
        study: what is compared.
        index: what components there are.
        overrides: `a.b=value` arguments, for every recipe.

    Raises:
        FwError: nothing is compared; a recipe is not there; two arms are the same; numbers of trials differ.
        RecipeError: whatever is wrong with a recipe under a policy, or with a key that is tuned.
    """
    keys = study.keys
    for what, given in (("recipe", keys.bases), ("seed", keys.seeds), ("engine setting", keys.engines)):
        if not given:
            raise FwError(f"the study names no {what}", "there is nothing to be trained")
    if keys.others and keys.timed != "whole":
        raise FwError(
            "study.others are programs, whose steps nobody sees", 'set study.timed = "whole", or leave them out'
        )
    arms = tuple(_each(study, index, overrides))
    names = [arm.name for arm in arms] + list(keys.others)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FwError(f"the study compares {twice[0]!r} with itself", "name each recipe, policy and variant once")
    _require_known_policies(keys, arms)
    _require_fair(arms)
    for arm in arms:
        _require_valid(arm, keys)
    return arms


def _require_valid(arm: Arm, keys: StudyKeys) -> None:
    """
    Raises:
        RecipeError: whatever is wrong with one of the arm's recipes, and which arm that is.
    """
    try:
        for settings in arm.trials or ({},):
            arm.cell(keys.seeds[0], keys.engines[0], settings)
    except RecipeError as error:
        hint = f"it is the recipe of {arm.name!r}, which the study compares"
        raise RecipeError([
            attrs.evolve(of, hints=(*_meant_beside_the_policy(of, arm), *of.hints, hint)) for of in error.problems
        ]) from None  # fmt: skip


def _meant_beside_the_policy(problem: Problem, arm: Arm) -> Sequence[str]:
    """What was meant by an unknown key of the policy that is nearly the name of an addition's table."""
    names = [name for name in _table(arm.document, "freezing") if problem.message.startswith(f"unknown key {name!r}")]
    return [f"{near} What is added to a policy stands in its entry under that name"
            for name in names if (near := did_you_mean(name, AT_MOST_ONE))]  # fmt: skip


def _each(study: Study, index: Index, overrides: Sequence[str]) -> Iterator[Arm]:
    keys = study.keys
    for base, read in zip(keys.bases, study.documents(overrides), strict=True):
        document = _ready(read, keys)
        common = {**_of_the_data(document, keys), **OF_A_COMPARISON}
        for entry in _entries(keys):
            placed = document if entry is None else _under(document, entry, keys)
            for variant, changes in (keys.variants or {"": {}}).items():
                merged = overridden(placed, {**common, **changes})
                names = (entry or Combination.of_recipe(merged.tables)).names
                said = [Path(base).stem] if len(keys.bases) > 1 or entry is None else []
                said += [names[0]] if entry is not None else []
                name = " / ".join([*said, *([variant] if variant else [])])
                yield Arm(name, names, merged, index, keys.trials(names))


def _entries(keys: StudyKeys) -> Sequence[Combination | None]:
    """What is compared; None for what a recipe says itself."""
    return [Combination.of_entry(entry) for entry in keys.policies] or [None]


def _of_the_data(document: Document, keys: StudyKeys) -> dict[str, Any]:
    """One split for all seeds and trials: a test image of one seed must not have chosen the settings for another."""
    sizes = {"data.subset.train": 800, "data.subset.val": 200} if keys.protocol == "vtab1k" else {}
    return {"data.split_seed": _table(document, "data").get("split_seed", keys.seeds[0]), **sizes}


def _ready(document: Document, keys: StudyKeys) -> Document:
    """A recipe without the numbers of images that the protocol states itself."""
    data = _table(document, "data")
    if keys.protocol == "val" or not isinstance(data.get("subset"), Mapping):
        return document
    test = {name: value for name, value in data["subset"].items() if name.startswith("test")}
    return attrs.evolve(document, tables={**document.tables, "data": {**data, "subset": test}})


def _table(document: Document, name: str) -> Mapping[str, Any]:
    found = document.tables.get(name)
    return found if isinstance(found, Mapping) else {}


def _under(document: Document, entry: Combination, keys: StudyKeys) -> Document:
    """A recipe under a policy and what is added to it. Each stands as written: the recipe's own keys are not mixed in.

    An addition of the recipe's own stays where no entry of the study has one of its kind; then all arms have it.
    """
    compared = {"freezing", *(name for policy in keys.policies for name in AT_MOST_ONE if name in policy)}
    bare = {name: value for name, value in document.tables.items() if name not in compared}
    return overridden(attrs.evolve(document, tables=bare), entry.tables)


def slug(name: str) -> str:
    """A name as a file may be called."""
    return re.sub(r"[^\w.=-]+", "-", name).strip("-")


def _require_known_policies(keys: StudyKeys, arms: Sequence[Arm]) -> None:
    """
    Raises:
        FwError: spaces are given for a policy that is not compared.
    """
    known = sorted({name for arm in arms for name in arm.names})
    for name in keys.tune_for:
        if spaced(name) not in map(spaced, known):
            raise FwError(f"study.tune_for names {name!r}, which is not compared",
                          did_you_mean(name, known) or f"compared are: {', '.join(known)}")  # fmt: skip


def _require_fair(arms: Sequence[Arm]) -> None:
    """
    Raises:
        FwError: one arm has more trials than another.
    """
    for arm in arms:
        if len(arm.trials) != len(arms[0].trials):
            raise FwError(f"{arms[0].name} has {len(arms[0].trials)} trials and {arm.name} {len(arm.trials)}",
                          "a fair comparison gives every policy as many; ranges may differ")  # fmt: skip


# ------------------------------------------------------------------------------------------------- differences


def differences(arms: Sequence[Arm], seed: int) -> dict[str, dict[str, Any]]:
    """Dotted key -> arm -> value, for every key in which the resolved recipes of a seed differ."""
    flat = {arm.name: dict(_flat(arm.cell(seed).resolved())) for arm in arms}
    keys = sorted({key for values in flat.values() for key in values})
    found = {key: {name: values.get(key) for name, values in flat.items()} for key in keys}
    return {key: of for key, of in found.items() if any(value != of[arms[0].name] for value in of.values())}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if items is None or not value:
        yield path, value
        return
    for name, item in items:
        yield from _flat(item, f"{path}.{name}" if path else str(name))


def require_comparable(arms: Sequence[Arm], keys: StudyKeys) -> None:
    """
    Raises:
        FwError: recipes differ in a key that the study does not declare, in their data, or in their weights.
    """
    known = sorted({key for arm in arms for key, _ in _flat(arm.cell(keys.seeds[0]).resolved())})
    for key in keys.vary:
        if not any(_is_under(name, key) for name in known):
            raise FwError(f"study.vary names {key!r}, which no recipe has", did_you_mean(key, known))
    declared = (*DECLARED, *keys.vary, *(key for changes in keys.variants.values() for key in changes))
    for key, values in differences(arms, keys.seeds[0]).items():
        if _is_under(key, *NEVER_DECLARED):
            raise FwError(f"the recipes differ in {key}: {_shown(values)}",
                          "then their figures say nothing of each other; --force compares them")  # fmt: skip
        if not _is_under(key, *declared):
            raise FwError(f"the recipes differ in {key} beside the policy: {_shown(values)}",
                          (f"if you compare that, declare it: --vary {key}", "--force asks no questions"))  # fmt: skip


def _is_under(key: str, *tables: str) -> bool:
    return any(key == table or key.startswith(f"{table}.") for table in tables)


def _shown(values: Mapping[str, Any]) -> str:
    """The different values, each with the first arm that has it."""
    first: dict[str, str] = {}
    for name, value in values.items():
        first.setdefault("absent" if value is None else toml_value(value), name)
    return ", ".join(f"{text} ({name})" for text, name in first.items())
