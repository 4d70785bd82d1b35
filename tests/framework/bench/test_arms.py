"""Arms: what a study compares, the recipe of each of its cells, and what it refuses. No torch is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
from toys import RECIPE

from framework.bench.arms import Arm, arms_of, differences, require_comparable
from framework.bench.bench import facts_of
from framework.bench.study import Study, read_study
from framework.errors import FwError
from framework.index import Index

STUDY = """\
[study]
base = "toy.toml"
policies = [{ use = "frozen" }, { use = "last_stages", n = 2 }]
seeds = [4, 5]
tune = { "optimizer.lr" = { log = [1e-2, 1.0], trials = 3 } }
"""


@pytest.fixture(autouse=True)
def toy(here: Path) -> Path:
    """The recipe `toy.toml` and the study `which.toml`, in the working directory."""
    (here / "toy.toml").write_text(RECIPE)
    (here / "which.toml").write_text(STUDY)
    return here


@pytest.fixture
def arms(toys: Index):
    """`arms(seeds=[1])`: those of the study, with keys in place of its own."""

    def of(*names: str, overrides: tuple[str, ...] = (), **chosen: Any) -> tuple[Study, tuple[Arm, ...]]:
        study = read_study(names or ("which.toml",), chosen)
        return study, arms_of(study, toys, overrides)

    return of


def variant(folder: Path, name: str, changes: dict[str, str]) -> str:
    """The recipe with some of its text replaced, under another name."""
    text = RECIPE
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (folder / f"{name}.toml").write_text(text)
    return f"{name}.toml"


# --------------------------------------------------------------------------------------------- what is compared


def test_a_file_names_the_study_and_options_stand_in_its_place(arms) -> None:
    study, found = arms()
    assert (study.keys.name, study.keys.seeds, study.keys.seeds_of_trials) == ("which", (4, 5), (6,))
    assert [arm.name for arm in found] == ["frozen", "last_stages(n=2)"]
    assert [arm.slug for arm in found] == ["frozen", "last_stages-n=2"]
    assert found[1].trials == ({"optimizer.lr": 0.01}, {"optimizer.lr": 0.1}, {"optimizer.lr": 1.0})
    study, found = arms(seeds=[1], policies=[{"use": "frozen"}], tune={"train.epochs": [1, 2]}, tune_seeds=[8, 9])
    assert (study.keys.seeds, study.keys.seeds_of_trials) == ((1,), (8, 9))
    assert [arm.trials for arm in found] == [({"train.epochs": 1}, {"train.epochs": 2})]


def test_recipes_without_a_study_are_compared_as_they_are(arms, toy: Path) -> None:
    variant(toy, "other", {'name = "toy"': 'name = "b"', 'use = "frozen"\nnorm = "batch"': 'use = "last_stages"'})
    study, found = arms("toy.toml", "other.toml")
    assert study.keys.name == "toy-other"
    assert [(arm.name, arm.policy, arm.trials) for arm in found] == [
        ("toy", 'frozen(norm="batch")', ()),
        ("other", "last_stages", ()),
    ]
    assert list(differences(found, 0)) == ["freezing.n", "freezing.norm", "freezing.use", "name"]
    require_comparable(found, study.keys)


def test_a_policys_table_stands_as_it_is_written(arms) -> None:
    """The recipe's own says `norm = "batch"`, which is no part of what is compared."""
    _, found = arms()
    assert [arm.cell(4).resolved()["freezing"] for arm in found] == [
        {"use": "frozen", "norm": "fixed"},
        {"use": "last_stages", "n": 2},
    ]


def test_each_recipe_policy_and_variant_is_an_arm(arms, toy: Path) -> None:
    variant(toy, "deep", {"[32, 16]": "[32, 16, 8]"})
    variants = {"long": {"train.epochs": 40}, "short": {"train.epochs": 2}}
    _, found = arms(base=["toy.toml", "deep.toml"], variants=variants)
    assert [arm.name for arm in found] == [
        f"{recipe} / {policy} / {how}"
        for recipe in ("toy", "deep") for policy in ("frozen", "last_stages(n=2)") for how in ("long", "short")
    ]  # fmt: skip
    assert [arm.cell(4).train.epochs for arm in found] == [40, 2] * 4
    assert [len(arm.cell(4).resolved()["head"]["hidden"]) for arm in found] == [2] * 4 + [3] * 4


def test_spaces_for_a_policy_stand_in_place_of_the_others(arms) -> None:
    bare = {"last_stages": {"optimizer.lr": [3, 2, 1]}}
    _, found = arms(tune_for={**bare, "frozen": {"optimizer.momentum": [0.1, 0.2, 0.3]}})
    assert [[next(iter(settings.items())) for settings in arm.trials] for arm in found] == [
        [("optimizer.momentum", 0.1), ("optimizer.momentum", 0.2), ("optimizer.momentum", 0.3)],
        [("optimizer.lr", 3), ("optimizer.lr", 2), ("optimizer.lr", 1)],
    ]
    _, found = arms(tune_for={**bare, "last_stages(n=2)": {"optimizer.lr": [7, 8, 9]}})
    assert [settings["optimizer.lr"] for settings in found[1].trials] == [7, 8, 9], "its words go before its name"


# ---------------------------------------------------------------------------------------------------- each cell


@pytest.mark.parametrize(("stated", "expected"), [({}, 4), ({"[data]": "[data]\nsplit_seed = 77"}, 77)])
def test_all_seeds_and_trials_have_one_split(arms, toy: Path, stated: dict[str, str], expected: int) -> None:
    variant(toy, "toy", stated)
    _, found = arms()
    cells = [arm.cell(seed, engine, settings) for arm in found for seed in (4, 5, 6) for engine in ("plain", "auto")
             for settings in arm.trials]  # fmt: skip
    assert {cell.seed for cell in cells} == {4, 5, 6}
    assert {cell.parts["data"].core.split_seed for cell in cells} == {expected}


def test_a_cell_has_the_settings_and_engine_that_are_asked_for(arms) -> None:
    _, (frozen, _) = arms(overrides=("engine.partition=require",))
    auto, plain = frozen.cell(5, "auto", {"optimizer.lr": 0.25}), frozen.cell(5, "plain")
    assert (auto.parts["optimizer"].values["lr"], plain.parts["optimizer"].values["lr"]) == (0.25, 0.1)
    assert (auto.engine.partition, auto.engine.cache, auto.engine.memory_format) == ("require", "auto", "auto")
    assert (plain.engine.partition, plain.engine.cache, plain.engine.memory_format) == ("off", "off", "contiguous")
    assert not auto.train.keep_model
    assert attrs.evolve(auto, engine=plain.engine, parts=plain.parts) == plain, "nothing else differs"


def test_vtab1k_draws_its_own_numbers_and_keeps_what_the_recipe_says_of_the_test_split(arms, toy: Path) -> None:
    variant(toy, "toy", {"per_class = 5": "per_class = 5, val_per_class = 2, test = 30"})
    for arm in arms(protocol="vtab1k")[1]:
        subset = arm.cell(4).parts["data"].core.subset
        assert {name: value for name, value in attrs.asdict(subset).items() if value is not None} == {
            "train": 800,
            "val": 200,
            "test": 30,
        }


def test_a_study_is_another_study_where_a_cell_a_trial_or_an_engine_is_another(arms) -> None:
    def facts(**chosen: Any) -> dict[str, Any]:
        study, found = arms(**chosen)
        return facts_of(study.keys, found)

    same = facts()
    assert facts(rounds=9) == same == facts(target=0.5)
    others = [
        facts(seeds=[4]), facts(tune={"optimizer.lr": [1, 2]}), facts(tune_seeds=[9]), facts(timed="whole"),
        facts(overrides=("train.epochs=2",)), facts(protocol="vtab1k"), facts(policies=[{"use": "frozen"}]),
        facts(engines=["plain"]),
    ]  # fmt: skip
    assert same not in others


# ----------------------------------------------------------------------------------------------- what is refused

REFUSED = {
    "unknown policy": (
        {"policies": [{"use": "frozne"}]},
        "no freezing policy is called 'frozne'.*did you mean.*frozen",
    ),
    "unknown key of a policy": ({"policies": [{"use": "frozen", "n": 2}]}, "unknown key 'n'"),
    "unknown tuned key": ({"tune": {"optimizer.lrr": [0.1, 0.2]}}, "unknown key 'lrr'"),
    "a key that one policy lacks": ({"tune": {"freezing.n": [1, 2]}}, "unknown key 'n'"),
    "a value out of bounds": ({"tune": {"optimizer.lr": [0.1, 0.0]}}, "must be greater than 0"),
    "unequal trials": (
        {"tune_for": {"last_stages": {"optimizer.lr": [1, 2]}}},
        r"frozen has 3 trials and last_stages\(n=2\) 2.*as many",
    ),
    "spaces for nobody": ({"tune_for": {"last_stage": {"optimizer.lr": [1, 2, 3]}}}, "did you mean.*last_stages"),
    "an empty space": ({"tune": {"optimizer.lr": []}}, "tune.optimizer.lr: values is empty"),
    "a value twice": ({"tune_for": {"frozen": {"optimizer.lr": [1, 1]}}}, "tune.optimizer.lr: values holds"),
    "an arm twice": ({"policies": [{"use": "frozen"}, {"use": "frozen"}]}, "compares 'frozen' with itself"),
    "a seed twice": ({"seeds": [1, 1]}, "seeds holds something twice"),
    "no seed": ({"seeds": []}, "names no seed"),
    "no recipe": ({"base": []}, "names no recipe"),
    "no engine": ({"engines": []}, "names no engine"),
    "zero rounds": ({"rounds": 0}, "study.rounds: .* greater than 0"),
    "steps of a program": ({"others": {"script": ["python", "x.py"]}}, 'timed = "whole"'),
    "a base that is not there": ({"base": "toi.toml"}, "did you mean.*toy.toml"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_no_comparison_is_refused(arms, name: str) -> None:
    chosen, said = REFUSED[name]
    with pytest.raises(FwError, match=f"(?s){said}"):
        arms(**chosen)


def test_a_study_stands_alone_and_says_nothing_that_its_recipes_say(arms, toy: Path) -> None:
    with pytest.raises(FwError, match="is a study and stands alone"):
        read_study(["toy.toml", "which.toml"], {})
    (toy / "which.toml").write_text(STUDY + "[train]\nepochs = 3\n")
    with pytest.raises(FwError, match="a study has no 'train' beside"):
        arms()


def test_recipes_of_other_data_or_weights_are_not_compared_whoever_declares_it(arms, toy: Path) -> None:
    variant(toy, "data", {'root = "photos"': 'root = "pictures"'})
    variant(toy, "weights", {'["net18_in1k", "random"]': '["random"]'})
    for name, key in (("data", "data.root"), ("weights", "backbone.weights.0")):
        study, found = arms(base=["toy.toml", f"{name}.toml"], vary=[key])
        with pytest.raises(FwError, match=rf"(?s)the recipes differ in {key}: .* \(toy / frozen\), .*--force"):
            require_comparable(found, study.keys)


def test_what_else_differs_is_declared_or_refused(arms, toy: Path) -> None:
    variant(toy, "fast", {"lr = 0.1": "lr = 0.5"})
    bases = {"base": ["toy.toml", "fast.toml"], "policies": [{"use": "frozen"}]}
    study, found = arms(**bases)
    said = r"differ in optimizer.lr beside the policy: 0.1 \(toy / frozen\), 0.5 \(fast / frozen\)"
    with pytest.raises(FwError, match=rf"(?s){said}.*--vary optimizer.lr"):
        require_comparable(found, study.keys)
    for vary in (["optimizer.lr"], ["optimizer"]):
        study, found = arms(**bases, vary=vary)
        require_comparable(found, study.keys)
    study, found = arms(**bases, vary=["optimizer.rate"])
    with pytest.raises(FwError, match=r"study\.vary names 'optimizer\.rate', which no recipe has"):
        require_comparable(found, study.keys)
    study, found = arms(variants={"long": {"train.epochs": 40}, "short": {}})
    require_comparable(found, study.keys)
