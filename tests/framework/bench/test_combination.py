"""Combinations: a policy and what is added to it, as a command, a study's file or a recipe says it."""

from __future__ import annotations

from typing import Any

import pytest
from additions import Additions

from framework.bench.combination import Combination, policies_from, spaced
from framework.catalog import PluginSource
from framework.errors import FwError
from framework.index import Index


@pytest.fixture(scope="module")
def added(toys: Index) -> Index:
    """The toys, and what can be added to them."""
    return toys.including([PluginSource.of(Additions(), "additions", "acme-additions")])


RANKED = {"use": "low_rank", "rank": 4}


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("frozen", [{"use": "frozen"}]),
        (" frozen , full", [{"use": "frozen"}, {"use": "full"}]),
        ("last_stages(n=2, norm=\"batch\"),x/y()", [{"use": "last_stages", "n": 2, "norm": "batch"}, {"use": "x/y"}]),
        ("groups(names=['a','b'],scale=0.5)", [{"use": "groups", "names": ["a", "b"], "scale": 0.5}]),
        ("frozen+scales", [{"use": "frozen", "adapter": {"use": "scales"}}]),
        (
            "frozen,frozen + low_rank(rank=4) ,full+pull(weight=1e+4)+average",
            [{"use": "frozen"}, {"use": "frozen", "adapter": RANKED},
             {"use": "full", "regularizer": {"use": "pull", "weight": 1e4}, "finisher": {"use": "average"}}],
        ),
        ("x(p='a+b')+average()", [{"use": "x", "p": "a+b", "finisher": {"use": "average"}}]),
    ],
)  # fmt: skip
def test_words_are_read_with_their_keys_and_each_addition_as_its_kind(
    added: Index, text: str, entries: list[dict[str, Any]]
) -> None:
    assert policies_from(text, added) == entries


@pytest.mark.parametrize(
    "text",
    ["", "frozen,", "frozen full", "last_stages(n=2", "last_stages(n)", "last_stages(2)", "+scales", "frozen+",
     "frozen++scales", "frozen+,full", "frozen+low_rank(rank)", "frozen+low_rank scales"],
)  # fmt: skip
def test_words_that_are_no_policies_are_refused_with_an_example(added: Index, text: str) -> None:
    with pytest.raises(FwError, match="for instance: --policies"):
        policies_from(text, added)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("frozen+averag", "no adapter, regularizer or finisher is called 'averag'.*did you mean 'average'"),
        ("frozen+scale", "did you mean 'scales'"),
        ("frozen+pul", "did you mean 'pull'"),
        ("frozen+x", "there are: .*low_rank, scales, .*pull, mean, .*average"),
        ("frozen+last_stages(n=2)", "'last_stages' is a freezing policy: a comma stands before it"),
        ("frozen+scales+low_rank", "'frozen' has two adapters: 'scales' and 'low_rank'.*one of each kind"),
        ("frozen+average+average", "'frozen' has two finishers"),
        ("scales", "'scales' is an adapter and stands behind a policy.*--policies frozen\\+scales"),
        ("frozen+mean", "'mean' is a regularizer and a finisher.*regularizer = \"mean\""),
    ],
)
def test_what_cannot_be_added_is_named(added: Index, text: str, said: str) -> None:
    with pytest.raises(FwError, match=f"(?s){said}"):
        policies_from(text, added)


def test_an_entry_is_a_policy_and_tables_of_a_recipe() -> None:
    entry = {"finisher": "average", "use": "full", "norm": "batch", "adapter": RANKED}
    found = Combination.of_entry(entry)
    assert list(found.tables.items()) == [
        ("freezing", {"use": "full", "norm": "batch"}), ("adapter", RANKED), ("finisher", {"use": "average"})
    ]  # fmt: skip
    assert found.words == 'full(norm="batch") + low_rank(rank=4) + average'
    recipe = {"finisher": {"use": "average"}, "head": {"use": "linear"}, "adapter": RANKED,
              "freezing": {"use": "full", "norm": "batch"}}  # fmt: skip
    assert Combination.of_recipe(recipe).words == found.words


def test_words_are_read_as_what_they_say(added: Index) -> None:
    text = "frozen, frozen + low_rank(rank=4), last_stages(n=2) + pull(weight=0.5) + average(decay=0.5)"
    assert ", ".join(Combination.of_entry(entry).words for entry in policies_from(text, added)) == text


def test_its_names_go_from_its_words_to_its_policy_alone() -> None:
    entry = {"use": "last_stages", "n": 2, "adapter": RANKED}
    assert Combination.of_entry(entry).names == (
        "last_stages(n=2) + low_rank(rank=4)", "last_stages + low_rank", "last_stages(n=2)", "last_stages"
    )  # fmt: skip
    assert Combination.of_entry({"use": "frozen"}).names == ("frozen",)
    assert spaced("frozen+ema  +pull") == spaced(" frozen + ema + pull ") == "frozen + ema + pull"


def test_what_no_recipe_could_say_has_words_too() -> None:
    """They stand in the message that says what is wrong with it."""
    assert Combination.of_entry({"n": 2, "adapter": 3, "finisher": {"decay": 1}}).words == "?(n=2) + ? + ?(decay=1)"
    assert Combination.of_recipe({"adapter": RANKED}).names == ("low_rank(rank=4)", "low_rank", "?")
