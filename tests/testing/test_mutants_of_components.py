"""Each check of a component fails for a plugin with exactly the fault that it is about, and for no other."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import attrs
import pytest
from torch import nn

import framework as fw
from framework.testing import failures
from framework.testing.of_components import CHECKS

pytestmark = pytest.mark.sweep  # every check of a kind, against every plugin with a fault


class Built:
    """What each of them builds."""

    def build(self, feature_dim: int, task: fw.Task) -> nn.Module:
        return nn.Linear(feature_dim, task.num_classes)


@attrs.frozen(kw_only=True)
class Good(Built):
    """One linear layer."""

    width: fw.PositiveInt = fw.key(64, "of nothing")
    rates: tuple[float, ...] = fw.key((1, 0.5), "of nothing")
    inner: dict[str, Any] = fw.key({"a": 1}, "of nothing")
    where: Path | None = fw.key(None, "of nothing")
    model: str = fw.key("", "which the plugin fixes")


@attrs.define(kw_only=True)
class Mutable(Built):
    """One linear layer."""

    width: int = fw.key(64, "of nothing")


@attrs.define(kw_only=True)
class MutableWithoutKeys(Built):
    """One linear layer."""


@attrs.frozen
class Positional(Built):
    """One linear layer."""

    width: int = fw.key(64, "of nothing")


@attrs.frozen(kw_only=True)
class Silent(Built):
    width: int = fw.key(64, "of nothing")


@attrs.frozen(kw_only=True)
class SilentKey(Built):
    """One linear layer."""

    width: int = fw.key(64)


@attrs.frozen(kw_only=True)
class OfAnotherType(Built):
    """One linear layer."""

    width: int = fw.key(0.5, "of nothing")


@attrs.frozen(kw_only=True)
class OutOfBounds(Built):
    """One linear layer."""

    width: fw.PositiveInt = fw.key(0, "of nothing")


@attrs.frozen(kw_only=True)
class NotTyped(Built):
    """One linear layer."""

    width = fw.key(64, "of nothing")


@attrs.frozen(kw_only=True)
class NotInToml(Built):
    """One linear layer."""

    inner: dict[str, Any] = fw.key({"a": None}, "of nothing")


@attrs.frozen(kw_only=True)
class HereOrThere(Built):
    """One linear layer."""

    where: Path = fw.key(Path("weights"), "of nothing")


NUMBERS = count()


@attrs.frozen(kw_only=True)
class NewEachTime(Built):
    """One linear layer."""

    number: int = attrs.field(factory=lambda: next(NUMBERS), metadata={"doc": "of nothing"})


@attrs.frozen(kw_only=True)
class AlikeButForCase(Built):
    """One linear layer."""

    width: int = fw.key(64, "of nothing")
    Width: int = fw.key(64, "of nothing")


@attrs.frozen(kw_only=True)
class NamedTheOtherWay:
    """One linear layer."""

    def build(self, task: int, feature_dim: fw.Task) -> nn.Module:
        return nn.Linear(task, feature_dim.num_classes)


@attrs.frozen(kw_only=True)
class NotBuilt:
    """One linear layer."""


@attrs.frozen(kw_only=True)
class BuiltOfLess:
    """One linear layer."""

    def build(self, feature_dim: int) -> nn.Module:
        return nn.Linear(feature_dim, 3)


@attrs.frozen(kw_only=True)
class BuiltOfMore:
    """One linear layer."""

    def build(self, feature_dim: int, task: fw.Task, width: int) -> nn.Module:
        return nn.Linear(feature_dim, task.num_classes)


class Heads:
    """A plugin that offers these."""

    def __init__(self, *items: fw.Component | fw.Family) -> None:
        self.items = items

    @fw.hookimpl
    def fw_heads(self) -> tuple[fw.Component | fw.Family, ...]:
        return self.items


class ChoicesThatChange:
    """A plugin whose hook yields another component each time."""

    def __init__(self) -> None:
        self.calls = count()

    @fw.hookimpl
    def fw_heads(self) -> Iterator[fw.Component]:
        yield fw.Component("acme", Good, choices={"width": (str(next(self.calls)),)})


def of(config: type[Any]) -> Heads:
    return Heads(fw.Component("acme", config))


def family(member: str) -> Heads:
    return Heads(fw.Family("acme", lambda: ["one"], lambda name: fw.Component(member.format(name), Good)))


MUTANTS = {
    "mutable": (lambda: of(Mutable), "acme-keys_are_frozen"),
    "mutable without keys": (lambda: of(MutableWithoutKeys), "acme-keys_are_frozen"),
    "by position": (lambda: of(Positional), "acme-keys_are_set_by_name"),
    "no docstring": (lambda: of(Silent), "acme-says_what_it_is"),
    "a key without a doc": (lambda: of(SilentKey), "acme-keys_say_what_they_are"),
    "a default of another type": (lambda: of(OfAnotherType), "acme-keys_survive_a_recipe"),
    "a default out of bounds": (lambda: of(OutOfBounds), "acme-keys_survive_a_recipe"),
    "a key without a type": (lambda: of(NotTyped), "acme-keys_survive_a_recipe"),
    "a default that is no TOML": (lambda: of(NotInToml), "acme-keys_survive_a_recipe"),
    "a relative path": (lambda: of(HereOrThere), "acme-keys_survive_a_recipe"),
    "arguments the other way round": (lambda: of(NamedTheOtherWay), "acme-build_takes_what_it_is_given"),
    "the name of another plugin's": (lambda: Heads(fw.Component("linear", Good)), "linear-name_is_its_own"),
    "a name alike but for case": (
        lambda: Heads(fw.Component("acme", Good), fw.Component("Acme", Good)), "Acme-typo_in_its_name_is_answered"),
    "keys alike but for case": (lambda: of(AlikeButForCase), "acme-typo_in_a_key_is_answered"),
    "choices that change": (ChoicesThatChange, "acme-index_knows_it_as_it_is"),
    "a member without prefix": (lambda: family("{}"), "one-is_found_by_name"),
    "choices for no key": (
        lambda: Heads(fw.Component("acme", Good, choices={"widht": ("64",)})), "acme-what_it_fixes_is_a_key"),
}  # fmt: skip


@pytest.mark.parametrize("good", [
    of(Good), family("acme/{}"), Heads(fw.Component("acme", Good, fixed={"model": "a"}, choices={"width": ("64",)})),
    Heads(fw.Component("acme", Good, requires="install acme")), Heads(),
])  # fmt: skip
def test_a_good_plugin_passes(good: Heads) -> None:
    assert failures(good) == {}


@pytest.mark.parametrize(("plugin", "check"), MUTANTS.values(), ids=MUTANTS)
def test_a_fault_fails_its_check_and_no_other(plugin: Any, check: str) -> None:
    found = failures(plugin())
    assert found.keys() == {check}, found
    assert found[check].startswith("AssertionError: ")


@pytest.mark.parametrize("config", [NotBuilt, BuiltOfLess, BuiltOfMore])
def test_a_build_of_other_arguments_is_told_which(config: type[Any]) -> None:
    """Whatever else cannot be checked without it."""
    assert "build(feature_dim, task)" in failures(of(config))["acme-build_takes_what_it_is_given"]


def test_a_default_that_is_new_each_time_is_refused() -> None:
    assert "the same every time" in failures(of(NewEachTime))["acme-keys_survive_a_recipe"]


def test_every_check_has_a_mutant() -> None:
    covered = {check.rpartition("-")[2] for _, check in MUTANTS.values()}
    print(f"{len(MUTANTS)} mutants of {len(covered)} checks")
    assert covered == {check.name for check in CHECKS}
