"""What the index keeps of a config class binds like the class itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import framework as fw
from framework.bind import bind
from framework.errors import Origin
from framework.shapes import decode_class, decode_type, describe, encode_class, encode_type, to_plain
from framework.tables import CORE_KEYS, EngineTable, TrainTable, WeightsSource


@attrs.frozen(kw_only=True)
class Inner:
    size: fw.PositiveInt = fw.key(4)
    where: Path = fw.key(Path("a/b"))


@attrs.frozen(kw_only=True)
class Keys:
    """A class with a key of every kind."""

    need: fw.Count = fw.key(doc="needed")
    flag: bool = fw.key(True)
    rate: float | None = fw.key(None)
    word: str = fw.key("a 'quoted' word", "a word")
    path: Path = fw.key(Path("x"))
    paths: tuple[Path, ...] = fw.key((Path("y"), Path("z")))
    pair: tuple[float, float] = fw.key((0.9, 0.999))
    choice: Literal["a", 1, True] = fw.key("a")
    inner: Inner = fw.key(Inner(size=2))
    maybe_inner: Inner | float = fw.key(Inner())
    inners: tuple[Inner, ...] = fw.key((Inner(), Inner(size=9)))
    table: dict[str, int] = fw.key({"a": 1})
    free: dict[str, Any] = fw.key({})
    weights: tuple[WeightsSource, ...] = fw.key(("random",))
    bounded: Annotated[float, fw.Bounds(ge=0, lt=1)] = fw.key(0.5)
    infinite: float = fw.key(float("inf"))


def nowhere(path: Any, of_key: bool) -> Origin:
    return Origin("recipe", folder="/r")


def again(config: type) -> type:
    return decode_class("Keys", json.loads(json.dumps(encode_class(config))))


def outcome(config: type, table: dict[str, Any]) -> Any:
    found, problems = bind(config, table, ("t",), nowhere)
    return to_plain(found) if not problems else [(problem.message, problem.hints) for problem in problems]


CLASSES = (Keys, Inner, TrainTable, EngineTable, *CORE_KEYS.values())


@pytest.mark.parametrize("config", CLASSES, ids=lambda config: config.__name__)
def test_defaults_survive(config: type) -> None:
    needed = {"Keys": {"need": 0}, "BackboneKeys": {"weights": ["random"]}}.get(config.__name__, {})
    assert outcome(again(config), needed) == outcome(config, needed)
    assert isinstance(outcome(config, needed), dict)


def test_defaults_keep_their_types() -> None:
    found, _ = bind(again(Keys), {"need": 0}, (), nowhere)
    assert found.path == Path("x")
    assert found.paths == (Path("y"), Path("z"))
    assert (found.inner.size, found.inner.where) == (2, Path("a/b"))
    assert found.maybe_inner.size == 4
    assert [inner.size for inner in found.inners] == [4, 9]
    assert found.table == {"a": 1}
    found.table["b"] = 2
    assert bind(again(Keys), {"need": 0}, (), nowhere)[0].table == {"a": 1}


values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats(-1, 2) | st.sampled_from(["a", "b", "random", "file:x"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["size", "where", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)
names = st.sampled_from([*attrs.fields_dict(Keys), "typo"])


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(names, values, max_size=3))
def test_both_bind_alike(table: dict[str, Any]) -> None:
    assert outcome(_COPY, table) == outcome(Keys, table)


_COPY = again(Keys)


@pytest.mark.parametrize(
    "kind",
    [int, float, bool, str, Path, Any, WeightsSource, type(None), int | None, tuple[int, ...], tuple[int, str],
     Literal["a", 2], dict[str, float], fw.Fraction, Annotated[int, "a remark"], dict[str, tuple[fw.Count, ...]]],
    ids=str,
)  # fmt: skip
def test_types_survive(kind: Any) -> None:
    code = json.loads(json.dumps(encode_type(kind)))
    assert encode_type(decode_type(code)) == code
    assert describe(decode_type(code)) == describe(kind)


@pytest.mark.parametrize("kind", [bytes, list[int], set, Callable, complex, object, dict[str, bytes]], ids=str)
def test_a_type_that_toml_cannot_state_is_refused(kind: Any) -> None:
    with pytest.raises(TypeError, match="cannot state"):
        encode_type(kind)


def test_a_default_that_toml_cannot_state_is_refused() -> None:
    @attrs.frozen
    class Odd:
        x: Any = fw.key(object())

    with pytest.raises(TypeError, match="key 'x': a recipe cannot state its default"):
        encode_class(Odd)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (fw.Fraction, "a number from 0 to 1"),
        (fw.PositiveInt | None, "an integer greater than 0"),
        (tuple[float, float], "an array of 2 numbers"),
        (tuple[int, str], "an array of 2: an integer, a string"),
        (tuple[Literal["norm", "bias"], ...], "an array of any of 'norm', 'bias'"),
        (Literal["a", "b"], "one of 'a', 'b'"),
        (dict[str, Any], "a table of values"),
        (Inner, "a table with the keys size, where"),
        (float | tuple[float, ...], "a number or an array of numbers"),
    ],
    ids=str,
)
def test_types_in_words(kind: Any, words: str) -> None:
    assert describe(kind) == words
