"""Words: which parameters a recipe means by `head`, `last:2`, the name of a stage or a pattern of parameter names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from itertools import combinations

import framework as fw
from fw_freezing.once import parameters_of

Words = str | tuple[str, ...]
"""One word or several: `all`, `head`, `backbone` (all but the head), `first:N` (the first N stages), `last:N` (the last
N stages and all that follows them: neck and head), the name of a stage, or a glob over parameter names."""

_COUNTED = re.compile(r"(first|last):(\d+)")
_GLOB = re.compile(r"[*?\[]")


def meant_by(words: Words | None, layout: fw.Layout) -> frozenset[str]:
    """The parameters that any of these words means and that can train; none where there are no words.

    Raises:
        fw.FwError: a word that means nothing on this network, with near ones.
    """
    each = (words,) if isinstance(words, str) else words or ()
    return frozenset(name for word in each for name in _meant_by(word, layout)) - layout.fixed


def _meant_by(word: str, layout: fw.Layout) -> Iterable[str]:
    if word == "all":
        return layout.parameters
    if word == "backbone":
        return parameters_of(layout.stages[:-1])
    if counted := _COUNTED.fullmatch(word):
        return parameters_of(_counted(word, counted[1], int(counted[2]), layout))
    if _GLOB.search(word) or word in layout.parameters:
        return _matching(word, layout.parameters)
    return parameters_of(layout.select([word]))


def _counted(word: str, side: str, n: int, layout: fw.Layout) -> tuple[fw.Stage, ...]:
    stages = len(layout.body)
    if n > stages:
        names = ", ".join(stage.name for stage in layout.body)
        raise fw.FwError(f"{word!r}, but the backbone has {stages} stages: {names}", f"count to {stages} at most")
    return layout.stages[:n] if side == "first" else layout.stages[stages - n :]


def _matching(pattern: str, names: tuple[str, ...]) -> list[str]:
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        prefixed = f"backbone.{pattern}"
        meant = any(fnmatchcase(name, prefixed) for name in names)
        hints = f"did you mean {prefixed!r}?" if meant else fw.name_hints(pattern, names, "parameters")
        raise fw.FwError(f"{pattern!r} matches no parameter", hints)
    return found


def scales_by(table: Mapping[str, float], trains: Mapping[str, float], layout: fw.Layout) -> dict[str, float]:
    """The scales that a table of words gives; where several words mean a parameter, the one that means fewest decides.

    Args:
        table: word -> learning-rate scale.
        trains: what trains, by name.
        layout: the network's.

    Returns:
        parameter name -> scale, for what trains and is meant by a word.

    Raises:
        fw.FwError: a word of which nothing trains; two words that contradict each other.
    """
    meant = {word: meant_by(word, layout) for word in table}
    for word, names in meant.items():
        if names.isdisjoint(trains):
            raise fw.FwError(f"scale names {word!r}, of which nothing trains", "let it train, or leave it out of scale")
    for one, other in combinations(table, 2):
        equal = len(meant[one]) == len(meant[other]) and not meant[one].isdisjoint(meant[other])
        if equal and table[one] != table[other]:
            raise fw.FwError(f"scale names the same parameters by {one!r} and by {other!r}", "leave one of them out")
    narrow_last = sorted(table, key=lambda word: -len(meant[word]))
    return {name: table[word] for word in narrow_last for name in meant[word] if name in trains}
