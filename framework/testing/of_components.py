"""Checks of components: what each must hold whatever its kind: its keys, its names, its place in the index."""

from __future__ import annotations

import inspect
import json
import re
import tomllib
from collections.abc import Collection, Mapping
from typing import Any

import attrs
import pytest

from framework.bind import bind
from framework.builder import make_config
from framework.component import Component, first_doc_line, recipe_fields, source_place
from framework.errors import FwError, Origin, Problem, RecipeError
from framework.hooks import ComponentHooks, Kind
from framework.recipe import check as check_recipe
from framework.shapes import encode_fields, to_plain
from framework.sources import Document
from framework.tables import core_keys
from framework.testing.case import Case, Check, check
from framework.toml_text import toml_text

# --------------------------------------------------------------------------------------------- its config class


@check
def keys_are_frozen(case: Case) -> None:
    """Its config is a frozen attrs class, so that what a recipe states cannot change as a run goes on."""
    config = case.config()
    name = next((field.name for field in attrs.fields(type(config))), "anything")
    try:
        setattr(config, name, getattr(config, name, None))
        frozen = False
    except AttributeError as error:
        frozen = isinstance(error, attrs.exceptions.FrozenError)
    assert frozen, f"{_class(case)} can be changed: decorate it with @attrs.frozen(kw_only=True)"


@check
def keys_are_set_by_name(case: Case) -> None:
    """Every key is keyword-only, so that another one can be added at any place, with or without a default."""
    placed = [field.name for field in attrs.fields(case.the.config) if not field.kw_only]
    assert not placed, (
        f"{_class(case)} takes {', '.join(placed)} by position: decorate it with @attrs.frozen(kw_only=True)"
    )


@check
def says_what_it_is(case: Case) -> None:
    """Its config class has a docstring, whose first line `fw list` and `fw show` print."""
    assert first_doc_line(case.the.config), f"{_class(case)} has no docstring: say in one line what it is"


@check
def keys_say_what_they_are(case: Case) -> None:
    """Every key has a line of its own, which `fw show` and error messages print."""
    if _is_of_a_family(case):
        pytest.skip("a family's keys are documented by the library that it wraps")
    bare = [field.name for field in recipe_fields(case.the) if not field.metadata.get("doc")]
    assert not bare, f'{_class(case)} does not say what {", ".join(bare)} is for: fw.key(DEFAULT, "what it does")'


@check
def keys_survive_a_recipe(case: Case) -> None:
    """A recipe with every default filled in, written down and read again, makes the same config."""
    resolved = _resolved(case, case.keys(), "with the keys that it is checked with")
    try:
        text = toml_text({"table": resolved})
    except TypeError as error:
        raise AssertionError(f"the defaults of {_class(case)} cannot be written in a recipe: {error}") from error
    again = _resolved(case, tomllib.loads(text)["table"], "with every default filled in")
    for key in resolved:
        assert again[key] == resolved[key], (
            f"the default of {key!r} is {resolved[key]!r}, but {again[key]!r} where a resumed run reads its recipe: "
            "a default must mean the same wherever it is read"
        )
    config = case.config()
    try:
        told = make_config(case.the, again, _kind(case).table)
    except RecipeError as error:
        raise AssertionError(f"{_class(case)} refuses what the index says that it accepts: {error}") from error
    for field in recipe_fields(case.the):
        one, other = getattr(config, field.name), getattr(told, field.name)
        assert one == other, (
            f"{field.name!r} is {one!r} where a recipe leaves it out, but {other!r} where the resolved recipe states "
            "its default: a default must be the same every time"
        )


@check
def build_takes_what_it_is_given(case: Case) -> None:
    """`build` takes what the hook's contract gives it, in that order."""
    build = getattr(case.config(), "build", None)
    given = _given_to_build(_kind(case))
    call = f"build({', '.join(given)})"
    assert callable(build), f"{_class(case)} has no method {call}"
    signature = inspect.signature(build)
    try:
        signature.bind(*given)
    except TypeError as error:
        raise AssertionError(f"{_class(case)} is built by {call}, but its own is build{signature}: {error}") from None
    taken = [name for name in signature.parameters if name in given]
    assert taken == sorted(taken, key=given.index), (
        f"{_class(case)} is built by {call}, by position, but its own takes {', '.join(taken)}"
    )


def _given_to_build(kind: Kind) -> tuple[str, ...]:
    """The names of the arguments in `config.build(...)`, from the hook's docstring, which is the contract."""
    doc = inspect.getdoc(getattr(ComponentHooks, kind.hook)) or ""
    arguments = re.findall(r"config\.build\((.*?)\)", doc)[0]
    return tuple(argument.partition(":")[0].strip() for argument in arguments.split(",") if argument)


# ----------------------------------------------------------------------------------------------------- its names


@check
def name_is_its_own(case: Case) -> None:
    """No other component of its kind has its name: with two of one name no recipe can be read."""
    kind = _kind(case)
    owners = [
        f"{record.source.label} at {card.place}"
        for record in case.index().plugins for card in record.cards
        if (card.registry, card.name) == (kind.registry, case.name)
    ]  # fmt: skip
    assert len(owners) == 1, f"the {kind.noun} {case.name!r} is in {' and in '.join(owners)}: rename one of them"


@check
def typo_in_its_name_is_answered(case: Case) -> None:
    """A misspelt name is an error that says the right one."""
    kind = _kind(case)
    wrong = _misspelt(case.name, case.index().names(kind.registry))
    answer = _answer(case, {"use": wrong}, f"no {kind.noun} is called {wrong!r}")
    assert repr(case.name) in answer, (
        f"whoever writes {wrong!r} for {case.name!r} is told {answer!r}: another {kind.noun} has too like a name"
    )


@check
def typo_in_a_key_is_answered(case: Case) -> None:
    """A misspelt key is an error that says the right one."""
    keys = [field.name for field in recipe_fields(case.the)]
    if not keys:
        pytest.skip("it has no keys")
    for key in keys:
        wrong = _misspelt(key, [*keys, *attrs.fields_dict(core_keys(_kind(case).table))])
        answer = _answer(case, case.table(**{wrong: 1}), f"unknown key {wrong!r}")
        assert repr(key) in answer, (
            f"whoever writes {wrong!r} for the key {key!r} is told {answer!r}: another key has too like a name"
        )


def _misspelt(name: str, known: Collection[str]) -> str:
    """The name with one letter doubled, the last where that is no name either."""
    doubled = (name[:at] + name[at - 1 :] for at in range(len(name), 0, -1))
    return next(word for word in (*doubled, f"{name}_") if word not in known)


def _answer(case: Case, table: Mapping[str, Any], complaint: str) -> str:
    """The near names in the error about a table of a recipe."""
    problem = next(problem for problem in _problems(case, table) if problem.message.startswith(complaint))
    return next((hint for hint in problem.hints if hint.startswith("did you mean")), "nothing")


def _problems(case: Case, table: Mapping[str, Any]) -> tuple[Problem, ...]:
    """What is wrong with a recipe that has this table alone; that it lacks the others is only part of it."""
    name = _kind(case).table
    tables = {name: {"train": table} if name == "transform" else table}
    with pytest.raises(RecipeError) as refused:
        check_recipe(Document(tables, {}, "recipe.toml", "recipe"), case.index())
    return refused.value.problems


# ------------------------------------------------------------------------------------------ its entry in the index


@check
def index_knows_it_as_it_is(case: Case) -> None:
    """The index, which is all that listing and checking recipes read, says of it what the plugin says."""
    card, the = case.card(), case.the
    choices = {key: list(names) for key, names in the.choices.items()}
    told = (case.plugin.source.name, first_doc_line(the.config), source_place(the.config), the.requires)
    _same("its plugin, docstring, place and requirement", (card.plugin, card.doc, card.place, card.requires), told)
    _same("its keys", card.fields, encode_fields(recipe_fields(the)))
    _same("the choices of its keys", {key: list(names) for key, names in card.choices.items()}, choices)


def _same(what: str, known: Any, told: Any) -> None:
    """As JSON, for a record that was kept has been through it."""
    known, told = json.dumps(known), json.dumps(told)
    assert known == told, f"{what} are {told} now, but {known} in the index: a hook must yield the same each time"


@check
def is_found_by_name(case: Case) -> None:
    """A run, which asks for it by name, gets the component that the hook lists under that name."""
    hook = _kind(case).hook
    try:
        found = case.index().catalog().component(hook, case.name)
    except FwError as error:
        raise AssertionError(f"{hook} lists {case.name!r}, but gives none of that name: {error.message}; "
                             "a family's member is called PREFIX/NAME") from error  # fmt: skip
    assert found.name == case.name, f"{hook} lists {case.name!r}, but gives {found.name!r} under that name"
    _same("its keys", encode_fields(recipe_fields(case.the)), encode_fields(recipe_fields(found)))


@check
def what_it_fixes_is_a_key(case: Case) -> None:
    """What it fixes is a field of its class; what it names choices for is a key that a recipe can set."""
    fields = [field.name for field in attrs.fields(case.the.config)]
    settable = [*(field.name for field in recipe_fields(case.the)), *attrs.fields_dict(core_keys(_kind(case).table))]
    for what, names, known in (("fixed", case.the.fixed, fields), ("choices", case.the.choices, settable)):
        unknown = sorted(set(names).difference(known))
        assert not unknown, f"{what} of {case.name!r} names {', '.join(unknown)}; there is {', '.join(known) or 'none'}"


# ------------------------------------------------------------------------------------------------------- helpers


def _kind(case: Case) -> Kind:
    assert case.kind is not None
    return case.kind


def _class(case: Case) -> str:
    return f"{case.the.config.__name__} ({source_place(case.the.config)})"


def _is_of_a_family(case: Case) -> bool:
    offered = case.plugin.offers(_kind(case).hook)
    return not any(isinstance(item, Component) and item.name == case.name for item in offered)


def _resolved(case: Case, keys: Mapping[str, Any], which: str) -> dict[str, Any]:
    """The keys as a recipe keeps them, every default filled in.

    Raises:
        AssertionError: the index refuses them.
    """
    shape = case.card().shape
    config, problems = bind(shape, keys, (_kind(case).table,), lambda path, of_key: Origin(case.name))
    words = "; ".join(problem.message for problem in problems)
    assert not problems, (
        f"a recipe of {case.name!r} {which} is refused: {words}; every key needs a type (`width: int = fw.key(64)`), "
        "and a default of that type"
    )
    plain: dict[str, Any] = to_plain(config)
    return plain


CHECKS: tuple[Check, ...] = (
    keys_are_frozen,
    keys_are_set_by_name,
    says_what_it_is,
    keys_say_what_they_are,
    keys_survive_a_recipe,
    build_takes_what_it_is_given,
    name_is_its_own,
    typo_in_its_name_is_answered,
    typo_in_a_key_is_answered,
    index_knows_it_as_it_is,
    is_found_by_name,
    what_it_fixes_is_a_key,
)
