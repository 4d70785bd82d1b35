"""A recipe's text: what extends it, what the command line sets, and where each value was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from framework.errors import FwError, RecipeError
from framework.sources import Document, find_recipe, read_document, shipped_recipes

BASE = """\
seed = 1
[head]
use = "mlp"
hidden = [8]
[optimizer]
use = "sgd"
lr = 0.1
no_decay = ["norm"]
[backbone]
use = "toy/net18"
weights = ["random"]
width = 4
[data]
use = "folder"
root = "photos"
subset = { per_class = 5 }
[[scheduler]]
use = "constant"
epochs = 2
[[scheduler]]
use = "step"
step_size = 7
"""


@pytest.fixture
def base(here: Path) -> Path:
    (here / "base.toml").write_text(BASE)
    return here / "base.toml"


def child(base: Path, text: str, name: str = "child.toml") -> Document:
    file = base.parent / name
    file.parent.mkdir(exist_ok=True, parents=True)
    file.write_text(text)
    return read_document(file)


def refusal(*arguments: Any, **keywords: Any) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        read_document(*arguments, **keywords)
    return caught.value


# ------------------------------------------------------------------------------------------------- extends


def test_a_child_changes_what_it_states_and_nothing_else(base: Path) -> None:
    tables = child(base, 'extends = "base.toml"\n[optimizer]\nlr = 0.5\n').tables
    assert tables == {**read_document(base).tables, "optimizer": {"use": "sgd", "lr": 0.5, "no_decay": ["norm"]}}


def test_a_chain_of_three(base: Path) -> None:
    child(base, 'extends = "base.toml"\nseed = 2\n[head]\nhidden = [9]\n', "middle.toml")
    tables = child(base, 'extends = "middle.toml"\nseed = 3\n').tables
    assert (tables["seed"], tables["head"]["hidden"]) == (3, [9])
    assert "extends" not in tables


def test_another_component_drops_the_old_ones_keys_and_keeps_the_cores(base: Path) -> None:
    tables = child(base, """\
extends = "base.toml"
[head]
use = "linear"
[optimizer]
use = "other"
[backbone]
use = "toy/net50"
[data]
use = "digits"
""").tables  # fmt: skip
    assert tables["head"] == {"use": "linear"}
    assert tables["optimizer"] == {"use": "other", "no_decay": ["norm"]}
    assert tables["backbone"] == {"use": "toy/net50", "weights": ["random"]}
    assert tables["data"] == {"use": "digits", "subset": {"per_class": 5}}


def test_the_same_component_named_again_keeps_its_keys(base: Path) -> None:
    assert child(base, 'extends = "base.toml"\n[head]\nuse = "mlp"\n').tables["head"] == {"use": "mlp", "hidden": [8]}


def test_arrays_are_replaced_whole(base: Path) -> None:
    tables = child(base, 'extends = "base.toml"\n[[scheduler]]\nuse = "step"\nstep_size = 1\n').tables
    assert tables["scheduler"] == [{"use": "step", "step_size": 1}]


def test_an_empty_inner_table_empties_and_an_empty_header_does_not(base: Path) -> None:
    tables = child(base, 'extends = "base.toml"\n[head]\n[data]\nsubset = {}\n').tables
    assert tables["data"]["subset"] == {}
    assert tables["head"] == {"use": "mlp", "hidden": [8]}


def test_each_value_knows_the_file_that_states_it(base: Path) -> None:
    document = child(base, 'extends = "../base.toml"\n\n[head]\nhidden = [1,\n 2]\n', "deep/child.toml")
    own, inherited = document.origin(("head", "hidden", 1), False), document.origin(("data", "root"), False)
    assert (Path(own.source).name, own.line, own.column, own.text) == ("child.toml", 5, 2, " 2]")
    assert (Path(inherited.source).name, inherited.line) == ("base.toml", 15)
    assert (own.folder, inherited.folder) == (str(base.parent / "deep"), str(base.parent))


def test_the_place_of_a_replaced_array_is_forgotten(base: Path) -> None:
    document = child(base, 'extends = "base.toml"\n[[scheduler]]\nuse = "step"\n')
    assert {Path(document.origin(path, False).source).name for path in document.written if path[0] == "scheduler"} == {
        "child.toml"
    }


def test_a_shipped_recipe_can_be_extended_from_anywhere(base: Path) -> None:
    name = shipped_recipes()[0]
    extended = child(base, f'extends = "{name}"\nseed = 99\n').tables
    assert extended == {**read_document(find_recipe(name)).tables, "seed": 99}


def test_paths_of_a_shipped_recipe_are_relative_to_the_working_directory(here: Path) -> None:
    name = shipped_recipes()[0]
    assert read_document(find_recipe(name)).origin(("data", "use"), False).folder == str(here)
    (here / "sub").mkdir()
    (here / "sub" / "mine.toml").write_text(f'extends = "{name}"\nseed = 1\n')
    document = read_document(here / "sub" / "mine.toml")
    assert document.origin(("data", "use"), False).folder == str(here)
    assert document.origin(("seed",), False).folder == str(here / "sub")


@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_circle_is_named(here: Path, length: int) -> None:
    for number in range(length):
        (here / f"r{number}.toml").write_text(f'extends = "r{(number + 1) % length}.toml"\n')
    (problem,) = refusal(here / "r0.toml").problems
    circle = " -> ".join([*(f"r{number}" for number in range(length)), "r0"])
    assert problem.message == f"extends goes round in a circle: {circle}"
    assert problem.origin.line == 1


@pytest.mark.parametrize("text", ['extends = "bse.toml"', "extends = 3", 'extends = ["base.toml"]'])
def test_extends_of_what_is_not_there_points_at_it(base: Path, text: str) -> None:
    (base.parent / "child.toml").write_text(text)
    (problem,) = refusal(base.parent / "child.toml").problems
    assert (problem.origin.line, problem.origin.column) == (1, 11)


def test_a_file_with_windows_line_ends_and_a_byte_order_mark(here: Path) -> None:
    (here / "w.toml").write_bytes(b"\xef\xbb\xbfseed = 1\r\n[head]\r\nuse = 'mlp'\r\n")
    document = read_document(here / "w.toml")
    assert document.tables == {"seed": 1, "head": {"use": "mlp"}}
    assert document.origin(("head", "use"), False).text == "use = 'mlp'"


@pytest.mark.parametrize(
    ("text", "line", "column"), [("a = 1\nb = \n", 2, 5), ("[a\n", 1, 3), ("a = 1\na = 2\n", 2, 6), ("x", 1, 2)]
)
def test_a_syntax_error_has_its_place(here: Path, text: str, line: int, column: int) -> None:
    (here / "bad.toml").write_text(text)
    (problem,) = refusal(here / "bad.toml").problems
    assert problem.message.startswith("not valid TOML: ")
    assert (problem.origin.line, problem.origin.column) == (line, column)


def test_a_file_that_is_no_text(here: Path) -> None:
    (here / "bad.toml").write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8 text" in refusal(here / "bad.toml").problems[0].message


def test_there_is_no_such_recipe(base: Path) -> None:
    with pytest.raises(FwError, match=r"there is no recipe 'bace\.toml'") as caught:
        find_recipe("bace.toml")
    assert "did you mean 'base.toml'?" in caught.value.hints
    for name in ("", ".", "no/such/folder/x.toml"):
        with pytest.raises(FwError, match="there is no recipe"):
            find_recipe(name)


# ----------------------------------------------------------------------------------------------- overrides


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("3.0", 3.0), ("1e-3", 0.001), ("true", True), ('"3"', "3"), ("[1, 2]", [1, 2]),
        ("{ a = 1 }", {"a": 1}),
        ("inf", float("inf")), ("word", "word"), ("torch/SGD", "torch/SGD"), ("./photos", "./photos"), ("~/x", "~/x"),
        ("val.accuracy", "val.accuracy"), ("True", "True"), ('"two words"', "two words"), ("a=b", None), ("''", ""),
    ],
)  # fmt: skip
def test_a_value_is_toml_or_a_bare_word(base: Path, text: str, value: Any) -> None:
    if value is None:
        assert refusal(base, [f"data.root={text}"])
    else:
        assert repr(read_document(base, [f"data.root={text}"]).tables["data"]["root"]) == repr(value)


@pytest.mark.parametrize(
    ("argument", "column", "width"),
    [
        ("seed", 7, 4),
        ("=3", 7, 2),
        ("seed=", 12, 1),
        ("seed=two words", 12, 9),
        ("seed=[1", 12, 2),
        ("seed=1\nx=2", 12, 5),
        ("a b=3", 7, 3),
        ("a..b=3", 7, 4),
        ("scheduler.2.use=step", 7, 15),
        ("scheduler.use=step", 7, 13),
        ("extends=base", 7, 7),
    ],
)
def test_a_bad_argument_is_pointed_at(base: Path, argument: str, column: int, width: int) -> None:
    (problem,) = refusal(base, [argument]).problems
    assert problem.origin.source == "--set"
    assert problem.origin.text == f"--set {argument}"
    assert (problem.origin.column, problem.origin.width) == (column, width)


def test_an_override_has_its_own_place_and_leaves_that_of_the_others(base: Path) -> None:
    document = read_document(base, ["optimizer.lr=2", "train.epochs=3"])
    assert document.origin(("optimizer", "lr"), False).text == "--set optimizer.lr=2"
    assert document.origin(("optimizer",), True).source == str(base)
    assert document.origin(("train",), True).source == "--set"


def test_an_override_enters_an_array_by_number(base: Path) -> None:
    tables = read_document(base, ["scheduler.1.step_size=9", "data.subset.val=2"]).tables
    assert tables["scheduler"] == [{"use": "constant", "epochs": 2}, {"use": "step", "step_size": 9}]
    assert tables["data"]["subset"] == {"per_class": 5, "val": 2}


def test_an_override_of_use_drops_the_old_components_keys_in_any_order(base: Path) -> None:
    first = read_document(base, ["head.use=linear", "head.bias=false"]).tables
    second = read_document(base, ["head.bias=false", "head.use=linear"]).tables
    assert first == second
    assert first["head"] == {"use": "linear", "bias": False}
    phase = read_document(base, ["scheduler.0.use=step", "scheduler.0.step_size=3"]).tables["scheduler"][0]
    assert phase == {"use": "step", "epochs": 2, "step_size": 3}


def test_the_later_of_two_overrides_counts(base: Path) -> None:
    assert read_document(base, ["seed=5", "seed=6"]).tables["seed"] == 6
    assert read_document(base, ["seed.a=5", "seed=6"]).tables["seed"] == 6
    assert read_document(base, ["seed=6", "seed.a=5"]).tables["seed"] == {"a": 5}


def test_quoted_keys_and_keys_of_digits(base: Path) -> None:
    tables = read_document(base, ['data."a.b".3=1']).tables
    assert tables["data"]["a.b"] == {"3": 1}


def test_overrides_from_code(base: Path) -> None:
    document = read_document(base, {"data.root": Path("/photos"), "head": {"use": "linear"}, "scheduler.0.epochs": 4})
    assert document.tables["data"]["root"] == "/photos"
    assert document.tables["head"] == {"use": "linear"}
    assert document.tables["scheduler"][0]["epochs"] == 4
    assert document.origin(("data", "root"), False).text == "override data.root = '/photos'"


def test_the_base_document_is_left_as_it_was(base: Path) -> None:
    before = read_document(base)
    read_document(base, ["scheduler.0.epochs=5", "data.subset.per_class=1"])
    assert read_document(base) == before
