"""Study: what is compared: recipes, policies, seeds and engine settings, from a study's file or a command's words."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

from framework.bench.combination import spaced
from framework.bench.spaces import Space, Value, grid
from framework.bind import KeyPath, bind
from framework.component import Count, PositiveInt, key
from framework.errors import FwError, Origin, Problem, RecipeError, did_you_mean
from framework.recipe import is_study
from framework.sources import Document, find_recipe, overridden, read_document

Engine = Literal["plain", "auto"]
ENGINES: Mapping[str, Mapping[str, Any]] = {
    "plain": {"engine.partition": "off", "engine.cache": "off", "engine.memory_format": "contiguous"},
    "auto": {},
}
"""Engine settings that a study compares: the loop that everyone writes, and the recipe's own."""
Ranges = dict[str, Space | tuple[Value, ...]]
TUNE_EXAMPLE = "for instance: --tune 'optimizer.lr={log=[1e-4,1.0],trials=7}' or --tune 'optimizer.lr=[0.1,0.01]'"


@attrs.frozen(kw_only=True)
class StudyKeys:
    """`[study]`: what a study compares."""

    name: str = key("", "the study's name; absent: the file's")
    doc: str = key("", "what the study is for")
    base: str | tuple[str, ...] = key(doc="the recipe, or the recipes, that are compared under each policy")
    policies: tuple[dict[str, Any], ...] = key(
        (),
        "tables of [freezing] to compare, and what is added to each: adapter, regularizer, finisher, by name or table, "
        'as in { use = "full", finisher = "ema" }; of a kind that none names, all have what the recipe has; '
        "absent: each recipe's own",
    )
    variants: dict[str, dict[str, Any]] = key({}, "name -> dotted keys to set: what is compared beside the policy")
    seeds: tuple[Count, ...] = key((0,), "each is trained under every policy, so that differences are paired")
    tune: Ranges = key({}, "dotted key -> its space; every policy gets the same number of trials")
    tune_for: dict[str, Ranges] = key(
        {}, 'policy -> spaces in place of those of tune, as many trials; "full + ema" goes before "full"'
    )
    tune_seeds: tuple[Count, ...] = key((), "of the trials; absent: one that is not among seeds")
    protocol: Literal["val", "vtab1k"] = key(
        "val", "vtab1k: tune on 800 images and validate on 200, then train on all 1,000 to the end (1910.04867)"
    )
    rounds: PositiveInt = key(1, "how often each cell is timed; from 6 on ratios have intervals")
    engines: tuple[Engine, ...] = key(("plain", "auto"), "plain: the usual loop; auto: as the recipe's [engine] says")
    timed: Literal["steps", "whole"] = key("steps", "steps: a few are measured; whole: every timed run goes to its end")
    others: dict[str, tuple[str, ...]] = key({}, 'name -> command of somebody else\'s program; needs timed = "whole"')
    target: float | None = key(None, "score whose time is given; absent: the lowest that any arm ends with")
    vary: tuple[str, ...] = key((), "keys in which the recipes may differ beside the policy, e.g. optimizer.lr")

    def __attrs_post_init__(self) -> None:
        for name in ("seeds", "tune_seeds", "engines"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name} holds something twice")
        for ranges in (self.tune, *self.tune_for.values()):
            for name, of in ranges.items():
                _space(f"tune.{name}", of)

    @property
    def bases(self) -> tuple[str, ...]:
        """The recipes."""
        return (self.base,) if isinstance(self.base, str) else self.base

    @property
    def seeds_of_trials(self) -> tuple[int, ...]:
        """The seeds of the trials."""
        return self.tune_seeds or (max(self.seeds) + 1,)

    def spaces(self, names: Sequence[str]) -> dict[str, Space]:
        """What is tuned for a policy and what is added to it, by key.

        Args:
            names: what `tune_for` may call it, the closest first.
        """
        named = {spaced(name): ranges for name, ranges in self.tune_for.items()}
        ranges = next((named[name] for name in map(spaced, names) if name in named), self.tune)
        return {name: _space(name, of) for name, of in ranges.items()}

    def trials(self, names: Sequence[str]) -> tuple[dict[str, Value], ...]:
        """The settings that are tried for a policy that `tune_for` may call so; none where nothing is tuned."""
        spaces = self.spaces(names)
        return grid(spaces) if spaces else ()


def _space(name: str, of: Space | tuple[Value, ...]) -> Space:
    try:
        return of if isinstance(of, Space) else Space(values=of)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


@attrs.frozen
class Study:
    """A study as it was asked for.

    Attributes:
        keys: what it compares.
        folder: what the names of its recipes are relative to.
    """

    keys: StudyKeys
    folder: Path = Path()

    def documents(self, overrides: Sequence[str] = ()) -> list[Document]:
        """Its recipes, with overrides laid over each.

        Raises:
            FwError: there is no recipe of a name, or it cannot be read.
        """
        return [overridden(read_document(find_recipe(base, self.folder)), overrides) for base in self.keys.bases]

    def under(self, policies: Sequence[Mapping[str, Any]]) -> Study:
        """The same with other policies, as entries of `study.policies`."""
        return attrs.evolve(self, keys=attrs.evolve(self.keys, policies=tuple(map(dict, policies))))


def read_study(names: Sequence[str], chosen: Mapping[str, Any]) -> Study:
    """A study's file, or recipes to be compared as they are.

    Args:
        names: one study, or recipes: paths or shipped names.
        chosen: keys of `[study]`, as TOML values, that stand in place of the file's.

    Raises:
        FwError: there is none of that name; a study stands beside something else.
        RecipeError: everything that is wrong with the study's file, or with what was chosen, at once.
    """
    documents = {name: read_document(find_recipe(name)) for name in names}
    studies = [name for name, document in documents.items() if is_study(document)]
    if not studies:
        name = "-".join(dict.fromkeys(Path(name).stem for name in names))
        return Study(_keys_of(None, {"name": name, "base": list(names)}, chosen))
    if len(documents) > 1:
        raise FwError(f"{studies[0]} is a study and stands alone", "name one study, or recipes without a study")
    document = documents[studies[0]]
    keys = _keys_of(document, _study_table(document), chosen)
    return Study(attrs.evolve(keys, name=keys.name or document.name), Path(document.source).parent)


def _study_table(document: Document) -> Mapping[str, Any]:
    others = [name for name in document.tables if name != "study"]
    near = {
        name: did_you_mean(name, ["study"]) or "what its recipes say stands in them, or in --set" for name in others
    }
    problems = [
        Problem(f"a study has no {name!r} beside [study]", document.origin((name,), True), (hint,))
        for name, hint in near.items()
    ]
    table = document.tables["study"]
    if not isinstance(table, Mapping):
        problems.append(Problem("study is a table: write [study]", document.origin(("study",), False)))
    if problems:
        raise RecipeError(problems)
    return dict(table)


def _keys_of(document: Document | None, table: Mapping[str, Any], chosen: Mapping[str, Any]) -> StudyKeys:
    def origin(path: KeyPath, of_key: bool) -> Origin | None:
        name = str(path[1]) if len(path) > 1 else ""
        if name in chosen:
            return Origin(f"--{name}")
        return document.origin(path, of_key) if document else None

    bound, problems = bind(StudyKeys, {**table, **chosen}, ("study",), origin)
    if bound is None or problems:
        raise RecipeError(problems)
    return bound


def seeds_from(text: str) -> list[int]:
    """The seeds that `0,1,2` or `0-4` means.

    Raises:
        FwError: it cannot be read, or names one twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not (last.isdecimal() and int(last) >= int(first))):
            raise FwError(f"{text!r} names no seeds", "for instance: --seeds 0,1,2 or --seeds 0-4")
        seeds += range(int(first), int(last or first) + 1)
    if len(set(seeds)) < len(seeds):
        raise FwError(f"--seeds {text}: a seed stands there twice", "each is trained once under every policy")
    return seeds


def ranges_from(arguments: Sequence[str]) -> dict[str, Any]:
    """The table that `optimizer.lr={log=[1e-4,1.0],trials=7}` or `optimizer.lr=[0.1,0.01]` means.

    Raises:
        FwError: one cannot be read.
    """
    found = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        try:
            found[name.strip()] = tomllib.loads(f"value = {text}")["value"] if equals and "\n" not in text else None
        except tomllib.TOMLDecodeError:
            found[name.strip()] = None
        if not isinstance(found[name.strip()], (dict, list)):
            raise FwError(f"--tune {argument} names no space", TUNE_EXAMPLE)
    return found
