"""Splits: which images go to train, val and test, drawn by seed, and the fingerprint of what came out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from random import Random

import attrs

from framework.contracts import Data, Split
from framework.errors import FwError, did_you_mean
from framework.streams import stream_seed
from framework.task import Task

SPLITS = ("train", "val", "test")


def make_data(task: Task, splits: Mapping[str, Split], notes: Sequence[str] = ()) -> Data:
    """A data set from its splits by name (`train`, `val` and, where there is one, `test`), fingerprinted."""
    return Data(
        task=task,
        train=splits["train"],
        val=splits["val"],
        test=splits.get("test"),
        fingerprint=fingerprint(task, splits),
        notes=tuple(notes),
    )


def fingerprint(task: Task, splits: Mapping[str, Split]) -> str:
    """SHA-256 over the task, the class names, and for each split the name, target and content of every image."""
    digest = hashlib.sha256(json.dumps([task.kind, task.classes]).encode())
    for name in SPLITS:
        split = splits.get(name)
        if split is None:
            continue
        digest.update(json.dumps([name, len(split)]).encode())
        for position, target in enumerate(split.targets.tolist()):
            digest.update(json.dumps([split.names[position], target, split.digest(position)]).encode())
    return digest.hexdigest()


def cut_split(
    whole: Split, task: Task, seed: int, *, val: float, test: float = 0.0, groups: Sequence[str] | None = None
) -> dict[str, Split]:
    """Cuts one split into train, val and (where `test` is above 0) test, stratified, drawn by seed.

    Multiclass without groups: every class is divided alike, with at least one image in each part. Multilabel, or with
    groups: iterative stratification (Sechidis et al. 2011), whole groups at a time.

    Args:
        whole: the images to divide.
        task: what they show.
        seed: the recipe's seed.
        val, test: shares of the images, together below 1.
        groups: one group name per image; no group lies in two parts.

    Raises:
        FwError: a class, or the number of groups, is too small to divide.
    """
    if val <= 0 or val + test >= 1:
        raise FwError(f"shares of {val:g} for val and {test:g} for test leave nothing to train or validate on",
                      "val must be above 0, and val + test below 1")  # fmt: skip
    shares = {"train": 1.0 - val - test, "val": val, "test": test}
    shares = {name: share for name, share in shares.items() if share > 0}
    rng = Random(stream_seed(seed, "split"))
    if groups is None and task.kind == "multiclass":
        parts = _cut_classes(whole.targets.tolist(), task.classes, shares, rng)
    else:
        parts = _cut_units(label_sets(whole, task), _units(len(whole), groups), shares, rng, groups is not None)
    return {name: whole.take(sorted(positions)) for name, positions in parts.items()}


def label_sets(split: Split, task: Task) -> list[tuple[int, ...]]:
    """The classes of each image, for both kinds of task."""
    rows = split.targets.tolist()
    if task.kind == "multiclass":
        return [(target,) for target in rows]
    return [tuple(column for column, value in enumerate(row) if value) for row in rows]


def _cut_classes(
    targets: Sequence[int], classes: Sequence[str], shares: Mapping[str, float], rng: Random
) -> dict[str, list[int]]:
    parts: dict[str, list[int]] = {name: [] for name in shares}
    by_class = positions_by_class(targets)
    small = [target for target in sorted(by_class) if len(by_class[target]) < len(shares)]
    if small:
        raise _too_small(small, by_class, classes, list(shares))
    for target in sorted(by_class):
        positions = by_class[target]
        rng.shuffle(positions)
        start = 0
        for name, size in _sizes(len(positions), shares).items():
            parts[name] += positions[start : start + size]
            start += size
    return parts


def positions_by_class(targets: Sequence[int]) -> dict[int, list[int]]:
    """Where each class stands in a list of targets."""
    found: dict[int, list[int]] = defaultdict(list)
    for position, target in enumerate(targets):
        found[target].append(position)
    return dict(found)


def _sizes(count: int, shares: Mapping[str, float]) -> dict[str, int]:
    """How many of `count` images each part gets: the nearest number to its share, and at least one."""
    sizes = {name: max(1, int(count * share + 0.5)) for name, share in shares.items() if name != "train"}
    while count - sum(sizes.values()) < 1:
        largest = max(sizes, key=lambda name: sizes[name])
        sizes[largest] -= 1
    return {"train": count - sum(sizes.values()), **sizes}


def draw_stratified(split: Split, task: Task, total: int, rng: Random) -> list[int]:
    """Positions of `total` images with the class shares of the split.

    Multiclass: each class gets its share, rounded by largest remainders, ties by lot. Multilabel: iterative
    stratification, then images by lot until the total is met.
    """
    order = list(range(len(split)))
    rng.shuffle(order)
    if task.kind == "multiclass":
        by_class = positions_by_class([int(split.targets[position]) for position in order])
        quotas = _quotas({target: len(held) for target, held in by_class.items()}, total, rng)
        return sorted(order[slot] for target in by_class for slot in by_class[target][: quotas[target]])
    sizes = {"taken": float(total), "left": float(len(split) - total)}
    taken = allocate(label_sets(split, task), [[position] for position in order], sizes, rng)["taken"]
    rng.shuffle(taken)
    chosen = frozenset(taken)
    return sorted([*taken, *(position for position in order if position not in chosen)][:total])


def _quotas(counts: Mapping[int, int], total: int, rng: Random) -> dict[int, int]:
    exact = {target: total * count / sum(counts.values()) for target, count in sorted(counts.items())}
    quotas = {target: int(share) for target, share in exact.items()}
    lots = {target: rng.random() for target in exact}
    due = sorted(exact, key=lambda target: (round(quotas[target] - exact[target], 9), lots[target]))
    for target in due[: total - sum(quotas.values())]:
        quotas[target] += 1
    return quotas


def _too_small(
    small: Sequence[int], by_class: Mapping[int, Sequence[int]], classes: Sequence[str], parts: Sequence[str]
) -> FwError:
    first = ", ".join(f"{classes[target]!r} ({len(by_class[target])})" for target in small[:3])
    more = f" and {len(small) - 3} more" if len(small) > 3 else ""
    large = [name for target, name in enumerate(classes) if target not in small]
    words = "class has" if len(small) == 1 else "classes have"
    return FwError(
        f"{len(small)} {words} too few images to be split into {', '.join(parts)}: {first}{more}",
        (
            did_you_mean(classes[small[0]], large),
            f"a class needs at least {len(parts)} images; add some, leave the class out, or state the splits yourself",
        ),
    )


def _units(count: int, groups: Sequence[str] | None) -> list[list[int]]:
    if groups is None:
        return [[position] for position in range(count)]
    members: dict[str, list[int]] = defaultdict(list)
    for position, group in enumerate(groups):
        members[group].append(position)
    return [members[group] for group in sorted(members)]


def _cut_units(
    labels: Sequence[tuple[int, ...]],
    units: list[list[int]],
    shares: Mapping[str, float],
    rng: Random,
    grouped: bool,
) -> dict[str, list[int]]:
    thing = "groups" if grouped else "images"
    if len(units) < len(shares):
        raise FwError(f"{len(units)} {thing} are too few to be split into {', '.join(shares)}",
                      f"at least {len(shares)} {thing} are needed; add some, or ask for fewer splits")  # fmt: skip
    parts = allocate(labels, units, {name: share * len(labels) for name, share in shares.items()}, rng)
    for name in shares:
        if not parts[name]:
            biggest = max(parts, key=lambda other: len(parts[other]))
            raise FwError(f"the split gives {name} no image: the {thing} do not divide into these shares "
                          f"({biggest} gets {len(parts[biggest])} of {len(labels)} images)",
                          f"use a larger share for {name}, or smaller {thing}")  # fmt: skip
    return parts


@attrs.define
class _Want:
    """What a part still lacks: images in all, and images of each class."""

    total: float
    of_class: dict[int, float]


def allocate(
    labels: Sequence[tuple[int, ...]], units: list[list[int]], sizes: Mapping[str, float], rng: Random
) -> dict[str, list[int]]:
    """Deals units (images, or groups of them) out to parts so that each part gets its share of every class.

    Iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011): the rarest class first, larger units first, each to
    the part that lacks that class most. Sizes are met but for rounding in each class and the size of the units.

    Args:
        labels: the classes of each image.
        units: positions of the images in each unit; every image in exactly one.
        sizes: how many images each part should have; together as many as there are.
        rng: decides ties.
    """
    counts = [Counter(label for position in unit for label in labels[position]) for unit in units]
    totals = sum(counts, Counter())
    wants = {
        name: _Want(size, {label: n * size / len(labels) for label, n in totals.items()})
        for name, size in sizes.items()
    }
    order = list(range(len(units)))
    rng.shuffle(order)
    order.sort(key=lambda unit: -len(units[unit]))
    parts: dict[str, list[int]] = {name: [] for name in sizes}
    for label, unit in _rarest_first(order, counts):
        name = _neediest(wants, label, rng)
        parts[name] += units[unit]
        wants[name].total -= len(units[unit])
        for other, n in counts[unit].items():
            wants[name].of_class[other] -= n
    return parts


def _rarest_first(order: Sequence[int], counts: Sequence[Counter[int]]) -> list[tuple[int | None, int]]:
    """Units with the class for whose sake they are dealt out; those without any class come last."""
    holders: dict[int, list[int]] = defaultdict(list)
    for unit in order:
        for label in counts[unit]:
            holders[label].append(unit)
    left = {label: len(held) for label, held in holders.items()}
    done: set[int] = set()
    dealt: list[tuple[int | None, int]] = []
    while left:
        rarest = min(left, key=lambda label: (left[label], label))
        for unit in holders[rarest]:
            if unit not in done:
                done.add(unit)
                dealt.append((rarest, unit))
                for label in counts[unit]:
                    if label in left:
                        left[label] -= 1
        del left[rarest]
    return dealt + [(None, unit) for unit in order if unit not in done]


def _neediest(wants: Mapping[str, _Want], label: int | None, rng: Random) -> str:
    def need(name: str) -> tuple[float, float]:
        want = wants[name]
        return (round(want.of_class[label], 9) if label is not None else 0.0, round(want.total, 9))

    most = max(need(name) for name in wants)
    return rng.choice([name for name in wants if need(name) == most])
