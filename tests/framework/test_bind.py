"""Binding is strict: nothing is converted but integers to floats and arrays to tuples, and every problem is told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import attrs
import pytest

import framework as fw
from framework.bind import bind
from framework.errors import Origin
from framework.tables import BackboneKeys, WeightsSource


@attrs.frozen(kw_only=True)
class Inner:
    size: fw.PositiveInt = fw.key(1, "its size")
    where: Path | None = fw.key(None)


@attrs.frozen(kw_only=True)
class Keys:
    need: int = fw.key(doc="a number of things")
    flag: bool = fw.key(False)
    rate: float = fw.key(0.5)
    word: str = fw.key("x")
    path: Path = fw.key(Path("here"))
    share: fw.Fraction = fw.key(0.0)
    pair: tuple[float, int] = fw.key((1.0, 1))
    many: tuple[fw.PositiveInt, ...] = fw.key(())
    choice: Literal["a", "b", 3] = fw.key("a")
    maybe: float | None = fw.key(None)
    either: int | float | str = fw.key(0)
    precise: float | int = fw.key(0)
    size: fw.PositiveInt | tuple[fw.PositiveInt, fw.PositiveInt] | None = fw.key(None)
    inner: Inner = fw.key(Inner())
    inners: tuple[Inner, ...] = fw.key(())
    table: dict[str, int] = fw.key({})
    paths: tuple[Path, ...] = fw.key(())
    places: dict[str, Path] = fw.key({})
    weights: tuple[WeightsSource, ...] = fw.key(())
    free: dict[str, Any] = fw.key({})


def origins(path: tuple[Any, ...], of_key: bool) -> Origin:
    return Origin(".".join(map(str, path)) + (" key" if of_key else ""), folder="/recipes")


def bound(**table: Any) -> Keys:
    keys, problems = bind(Keys, {"need": 1, **table}, ("t",), origins)
    assert not problems, problems
    return keys


def problems_of(**table: Any) -> list[Any]:
    keys, problems = bind(Keys, {"need": 1, **table}, ("t",), origins)
    assert keys is None
    assert problems
    return problems


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("need", "3"), ("need", 3.9), ("need", 3.0), ("need", True), ("need", []), ("need", {}),
        ("flag", 1), ("flag", 0), ("flag", "true"), ("flag", "false"),
        ("rate", "0.5"), ("rate", True), ("rate", [0.5]),
        ("word", 3), ("word", True), ("word", ["x"]),
        ("path", 3), ("path", ["x"]),
        ("share", 1.5), ("share", -0.1), ("share", float("nan")), ("share", "0.5"), ("share", 2),
        ("pair", [1.0]), ("pair", [1.0, 2, 3]), ("pair", [1.0, 2.5]), ("pair", ["1", 1]), ("pair", "12"), ("pair", 1),
        ("many", [1, 0]), ("many", [1, "2"]), ("many", [True]), ("many", 1), ("many", "12"), ("many", {"a": 1}),
        ("choice", "c"), ("choice", "A"), ("choice", 3.0), ("choice", True), ("choice", "3"),
        ("maybe", "1"), ("maybe", False),
        ("either", True), ("either", [1]),
        ("size", 0), ("size", [1]), ("size", [1, 0]), ("size", [1, 2, 3]), ("size", "224"), ("size", True),
        ("inner", 3), ("inner", []), ("inner", "x"), ("inner", {"size": 0}), ("inner", {"sise": 1}),
        ("inners", {"size": 1}), ("inners", [3]), ("inners", [{"size": "1"}]),
        ("table", 3), ("table", [1]), ("table", {"a": "1"}), ("table", {"a": True}), ("table", {"a": 1.0}),
        ("weights", "random"), ("weights", [1]),
        ("free", 3), ("free", [1]),
    ],
)  # fmt: skip
def test_a_wrong_value_is_never_converted(key: str, value: Any) -> None:
    (problem,) = problems_of(**{key: value})
    assert f"t.{key}" in problem.message or f"[t.{key}" in problem.message
    assert problem.origin.source.startswith(f"t.{key}")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("rate", 1, 1.0),
        ("maybe", 3, 3.0),
        ("either", 3, 3),
        ("either", 3.5, 3.5),
        ("precise", 3, 3),
        ("share", 1, 1.0),
        ("pair", [1, 2], (1.0, 2)),
        ("pair", (1, 2), (1.0, 2)),
        ("many", [1, 2], (1, 2)),
        ("choice", 3, 3),
        ("size", 8, 8),
        ("size", [8, 9], (8, 9)),
        ("inner", {"size": 2}, Inner(size=2)),
        ("inners", [{}, {"size": 2}], (Inner(), Inner(size=2))),
        ("table", {"a": 1}, {"a": 1}),
        ("free", {"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}),
        ("maybe", None, None),
    ],
)
def test_what_is_accepted_keeps_its_value_and_gets_its_type(key: str, value: Any, expected: Any) -> None:
    found = getattr(bound(**{key: value}), key)
    assert found == expected
    assert repr(found) == repr(expected)


def test_absent_keys_take_their_defaults() -> None:
    assert bound() == Keys(need=1)


def test_every_problem_is_told_at_once_with_its_place() -> None:
    problems = problems_of(flag=1, many=[1, 0, "x"], inner={"size": 0, "extra": 1}, inners=[{}, {"size": -1}], typo=1)
    places = {problem.origin.source for problem in problems}
    assert places == {
        "t.flag",
        "t.many.1",
        "t.many.2",
        "t.inner.size",
        "t.inner.extra key",
        "t.inners.1.size",
        "t.typo key",
    }


def test_a_missing_key_says_what_it_takes() -> None:
    keys, (problem,) = bind(Keys, {}, ("t",), origins)
    assert keys is None
    assert problem.message == "[t] has no 'need'"
    assert problem.hints == ("need is an integer: a number of things",)


def test_an_unknown_key_lists_those_of_the_same_table_that_are_the_cores_too() -> None:
    _, (problem,) = bind(Inner, {"siez": 1}, ("t",), origins, ("use", "subset"))
    assert problem.message == "unknown key 'siez' in [t]"
    assert problem.hints == ("did you mean 'size'?", "accepted keys: size, where, use, subset")
    _, (problem,) = bind(Keys, {"need": 1, "inner": {"siez": 1}}, ("t",), origins, ("use",))
    assert problem.hints[-1] == "accepted keys: size, where"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("need", "3", "t.need: the string '3' is not an integer"),
        ("need", True, "t.need: the boolean true is not an integer"),
        ("share", 1.5, "t.share: the number 1.5 must be at most 1"),
        ("choice", "c", "t.choice: the string 'c' is not one of 'a', 'b', 3"),
        ("many", [1, 0], "t.many.1: the integer 0 must be greater than 0"),
        ("size", [0, 1], "t.size.0: the integer 0 must be greater than 0"),
        (
            "size",
            "x",
            "t.size: the string 'x' is not an integer greater than 0 or an array of 2 integers greater than 0",
        ),
        ("maybe", "x", "t.maybe: the string 'x' is not a number"),
        ("pair", [1], "t.pair: the array [1] is not an array of 2: a number, an integer"),
        ("table", 3, "t.table: the integer 3 is not a table of integers"),
    ],
)
def test_messages(key: str, value: Any, message: str) -> None:
    (problem,) = problems_of(**{key: value})
    assert problem.message == message


def test_relative_paths_are_resolved_where_they_are_written_however_deep() -> None:
    keys = bound(
        path="a", paths=["b", "/c"], inner={"where": "d"}, inners=[{"where": "e"}], places={"x": "f"}, word="g",
        weights=["file:h.pth", "run:../i", "random", "a1_in1k"],
    )  # fmt: skip
    assert keys.path == Path("/recipes/a")
    assert keys.paths == (Path("/recipes/b"), Path("/c"))
    assert keys.inner.where == Path("/recipes/d")
    assert keys.inners[0].where == Path("/recipes/e")
    assert keys.places == {"x": Path("/recipes/f")}
    assert keys.word == "g"
    assert keys.weights == ("file:/recipes/h.pth", "run:/recipes/../i", "random", "a1_in1k")


def test_home_is_expanded_and_an_unknown_users_home_is_left(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert bound(path="~/photos").path == Path("/home/me/photos")
    assert bound(path="~no_such_user/x").path == Path("~no_such_user/x")


def test_bounds_of_every_kind() -> None:
    @attrs.frozen
    class Bounded:
        x: Annotated[float, fw.Bounds(gt=0, lt=1)]

    assert bind(Bounded, {"x": 0.5}, (), origins)[0] == Bounded(0.5)
    for value in (0, 1, -1, 2):
        assert bind(Bounded, {"x": value}, (), origins)[0] is None


def test_the_cores_backbone_keys_bind() -> None:
    keys, problems = bind(BackboneKeys, {"weights": ["random"], "image_size": [96, 128]}, ("backbone",), origins)
    assert not problems
    assert keys.image_size == (96, 128)
    assert keys.options == {}
