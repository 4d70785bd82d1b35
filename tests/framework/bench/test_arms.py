"""Arms: what a study compares, the recipe of each of its cells, and what it refuses. No torch is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
from additions import Additions
from toys import RECIPE

from framework.bench.arms import Arm, arms_of, differences, require_comparable
from framework.bench.bench import facts_of
from framework.bench.study import Study, read_study
from framework.catalog import PluginSource
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

    index = toys.including([PluginSource.of(Additions(), "additions", "acme-additions")])

    def of(*names: str, overrides: tuple[str, ...] = (), **chosen: Any) -> tuple[Study, tuple[Arm, ...]]:
        study = read_study(names or ("which.toml",), chosen)
        return study, arms_of(study, index, overrides)

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


# ------------------------------------------------------------------------------------- what is added to a policy

FROZEN, RANKED = {"use": "frozen"}, {"use": "low_rank", "rank": 4}


def additions_of(arm: Arm) -> dict[str, Any]:
    """The tables of an arm's recipe that say what is added."""
    return {name: of for name, of in arm.cell(4).resolved().items() if name in ("adapter", "regularizer", "finisher")}


def test_an_entry_may_carry_an_adapter_a_regularizer_and_a_finisher(arms) -> None:
    Path("which.toml").write_text("""\
[study]
base = "toy.toml"
policies = [
    { use = "frozen" },
    { use = "frozen", adapter = { use = "low_rank", rank = 4 } },
    { use = "last_stages", n = 2, regularizer = { use = "pull" }, finisher = "average" },
]
""")
    study, found = arms()
    assert [arm.name for arm in found] == [
        "frozen", "frozen + low_rank(rank=4)", "last_stages(n=2) + pull + average"
    ]  # fmt: skip
    assert [arm.slug for arm in found] == ["frozen", "frozen-low_rank-rank=4", "last_stages-n=2-pull-average"]
    assert [additions_of(arm) for arm in found] == [
        {}, {"adapter": RANKED},
        {"regularizer": {"use": "pull", "weight": 0.1}, "finisher": {"use": "average", "decay": 0.9}},
    ]  # fmt: skip
    assert [arm.cell(4).resolved()["freezing"]["use"] for arm in found] == ["frozen", "frozen", "last_stages"]
    require_comparable(found, study.keys)
    assert {"adapter.rank", "finisher.use", "regularizer.weight"} <= set(differences(found, 4))


def test_a_kind_that_is_compared_is_the_entrys_own_and_any_other_the_recipes(arms, toy: Path) -> None:
    own = '[adapter]\nuse = "low_rank"\nrank = 2\n\n[finisher]\nuse = "average"\n\n[loss]'
    variant(toy, "toy", {"[loss]": own})
    ranked, average = {"use": "low_rank", "rank": 2}, {"use": "average", "decay": 0.9}
    _, found = arms(policies=[FROZEN, {**FROZEN, "adapter": "low_rank"}, {**FROZEN, "adapter": "scales"}])
    assert [additions_of(arm) for arm in found] == [
        {"finisher": average},
        {"adapter": {"use": "low_rank", "rank": 8}, "finisher": average},
        {"adapter": {"use": "scales"}, "finisher": average},
    ]
    assert [arm.name for arm in found] == ["frozen", "frozen + low_rank", "frozen + scales"]
    _, found = arms()
    assert [additions_of(arm) for arm in found] == [{"adapter": ranked, "finisher": average}] * 2
    assert [arm.name for arm in found] == ["frozen", "last_stages(n=2)"]


def test_recipes_may_differ_in_what_is_added_and_are_named_by_it(arms, toy: Path) -> None:
    variant(toy, "adapted", {"[loss]": '[adapter]\nuse = "low_rank"\n\n[loss]'})
    study, found = arms("toy.toml", "adapted.toml")
    assert [(arm.name, arm.policy) for arm in found] == [
        ("toy", 'frozen(norm="batch")'), ("adapted", 'frozen(norm="batch") + low_rank')
    ]  # fmt: skip
    require_comparable(found, study.keys)
    assert list(differences(found, 0)) == ["adapter.rank", "adapter.use"]


def test_every_combination_meets_every_variant_which_may_change_it(arms) -> None:
    variants = {"as it is": {}, "wide": {"adapter.rank": 32}, "deep": {"freezing.n": 3}}
    policies = [{"use": "last_stages", "adapter": "low_rank"}, {"use": "last_stages", "n": 2, "adapter": RANKED}]
    study, found = arms(policies=policies, variants=variants)
    assert [arm.name for arm in found] == [
        f"{policy} / {how}"
        for policy in ("last_stages + low_rank", "last_stages(n=2) + low_rank(rank=4)") for how in variants
    ]  # fmt: skip
    tables = [arm.cell(4).resolved() for arm in found]
    assert [(of["freezing"]["n"], of["adapter"]["rank"]) for of in tables] == [
        (1, 8), (1, 32), (3, 8), (2, 4), (2, 32), (3, 4)
    ]  # fmt: skip
    require_comparable(found, study.keys)


def test_spaces_are_for_a_combination_before_they_are_for_its_policy(arms) -> None:
    policies = [FROZEN, {**FROZEN, "adapter": RANKED}, {**FROZEN, "adapter": "low_rank"}, {"use": "last_stages"}]

    def rates(tune_for: dict[str, int]) -> list[int]:
        spaces = {name: {"optimizer.lr": [rate]} for name, rate in tune_for.items()}
        _, found = arms(policies=policies, tune={"optimizer.lr": [9]}, tune_for=spaces)
        return [settings["optimizer.lr"] for arm in found for settings in arm.trials]

    assert rates({"frozen": 1}) == [1, 1, 1, 9]
    assert rates({"frozen": 1, "frozen + low_rank": 2}) == [1, 2, 2, 9]
    assert rates({"frozen": 1, "frozen + low_rank": 2, "frozen+low_rank(rank=4)": 3}) == [1, 3, 2, 9]


def test_keys_of_what_is_added_are_tuned(arms) -> None:
    ranks = {"frozen + low_rank": {"adapter.rank": [2, 4, 8]}, "last_stages": {"finisher.decay": [0.1, 0.2, 0.3]}}
    policies = [{**FROZEN, "adapter": "low_rank"}, {"use": "last_stages", "finisher": "average"}]
    _, found = arms(policies=policies, tune_for=ranks)
    assert [additions_of(arm) for arm in found] == [
        {"adapter": {"use": "low_rank", "rank": 8}},
        {"finisher": {"use": "average", "decay": 0.9}},
    ]
    tried = [arm.cell(4, "auto", settings).parts for arm in found for settings in arm.trials]
    assert [parts["adapter"].values["rank"] for parts in tried[:3]] == [2, 4, 8]
    assert [parts["finisher"].values["decay"] for parts in tried[3:]] == [0.1, 0.2, 0.3]


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
    assert auto.train.keep_model == "none"
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
    "an addition twice": (
        {"policies": [{"use": "frozen", "adapter": "scales"}, {"use": "frozen", "adapter": {"use": "scales"}}]},
        r"compares 'frozen \+ scales' with itself",
    ),
    "an unknown addition": (
        {"policies": [{"use": "frozen", "finisher": "averag"}]},
        r"no finisher is called 'averag'.*did you mean 'average'.*the recipe of 'frozen \+ averag'",
    ),
    "an addition of another kind": (
        {"policies": [{"use": "frozen", "finisher": "pull"}]},
        "no finisher is called 'pull'",
    ),
    "an unknown key of an addition": (
        {"policies": [{"use": "frozen", "adapter": {"use": "low_rank", "rnk": 2}}]},
        r"unknown key 'rnk' in \[adapter\]",
    ),
    "an addition that is no table": (
        {"policies": [{"use": "frozen", "adapter": 3}]},
        r"adapter is a table.*the recipe of 'frozen \+ \?'",
    ),
    "an addition without a name": (
        {"policies": [{"use": "frozen", "adapter": {"rank": 3}}]},
        r"\[adapter\] has no 'use'",
    ),
    "an addition without a policy": ({"policies": [{"adapter": "scales"}]}, r"\[freezing\] has no 'use'"),
    "spaces for an addition that is not compared": (
        {
            "tune_for": {"frozen + scale": {"optimizer.lr": [1, 2, 3]}},
            "policies": [{"use": "frozen", "adapter": "scales"}],
        },
        r"names 'frozen \+ scale', which is not compared.*did you mean 'frozen \+ scales'",
    ),
    "a tuned key of what one policy lacks": (
        {"tune": {"adapter.rank": [1, 2]}, "policies": [{"use": "frozen", "adapter": "low_rank"}, {"use": "frozen"}]},
        r"\[adapter\] has no 'use'.*the recipe of 'frozen', which",
    ),
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
