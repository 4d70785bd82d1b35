"""Spaces and the words of a command: what a tuned key may be, and which seeds and spaces are meant."""

from __future__ import annotations

from typing import Any

import pytest

from framework.bench.spaces import Space, grid
from framework.bench.study import ranges_from, seeds_from
from framework.errors import FwError


def test_points_are_evenly_spaced_by_logarithm_or_value_and_hold_both_ends() -> None:
    assert Space(log=(1e-4, 1.0), trials=5).points == (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    assert Space(log=(1e-4, 1e-1), trials=7).points == (1e-4, 3.162e-4, 1e-3, 3.162e-3, 1e-2, 3.162e-2, 1e-1)
    assert Space(linear=(-1, 1), trials=5).points == (-1.0, -0.5, 0.0, 0.5, 1.0)
    assert Space(values=("b", "a")).points == ("b", "a")
    assert len(Space(log=(1, 2)).points) == 7


def test_the_ends_of_a_range_are_its_edges_and_words_have_none() -> None:
    space = Space(log=(1e-4, 1.0), trials=5)
    assert [space.edge(value) for value in space.points] == ["lowest", "", "", "", "highest"]
    unordered = Space(values=(1, 0.1, 10))
    assert [unordered.edge(value) for value in unordered.points] == ["", "lowest", "highest"]
    assert Space(values=("fixed", "batch")).edge("fixed") == ""
    assert Space(values=(False, True)).edge(True) == ""


def test_a_grid_is_every_combination_the_last_key_first_to_change() -> None:
    spaces = {"a": Space(values=(1, 2)), "b": Space(values=("x", "y"))}
    assert grid(spaces) == ({"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"})
    assert grid({}) == ({},)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "this one has none"),
        ({"log": (1, 2), "values": (1,)}, "this one has log and values"),
        ({"log": (1.0, 0.1)}, "low is below high, and above 0"),
        ({"log": (0.0, 1.0)}, "and above 0"),
        ({"linear": (1.0, 1.0)}, "low is below high$"),
        ({"linear": (0.0, 1.0), "trials": 1}, "at least 2"),
        ({"values": ()}, "values is empty"),
        ({"values": (1, 2, 1)}, "something twice"),
    ],
)
def test_a_space_that_holds_no_points_says_why(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Space(**keys)


def test_seeds_are_numbers_and_spans() -> None:
    assert seeds_from("0,3, 7") == [0, 3, 7]
    assert seeds_from("0-4") == [0, 1, 2, 3, 4]
    assert seeds_from("9,0-1") == [9, 0, 1]


@pytest.mark.parametrize("text", ["", "a", "1,", "-1", "3-1", "1-", "0.5", "0,0", "0-3,2"])
def test_words_that_are_no_seeds_or_name_one_twice_are_refused(text: str) -> None:
    with pytest.raises(FwError, match=r"no seeds|twice"):
        seeds_from(text)


def test_spaces_are_tables_or_arrays_of_toml() -> None:
    assert ranges_from(["optimizer.lr={log=[1e-4,1.0],trials=7}", " a = [1, 2]"]) == {
        "optimizer.lr": {"log": [1e-4, 1.0], "trials": 7},
        "a": [1, 2],
    }


@pytest.mark.parametrize("argument", ["optimizer.lr", "lr=0.1", "lr=[0.1", "lr=fast", "lr=[1]\nb=[2]"])
def test_words_that_are_no_space_are_refused_with_an_example(argument: str) -> None:
    with pytest.raises(FwError, match="for instance: --tune"):
        ranges_from([argument])
