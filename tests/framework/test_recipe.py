"""Recipes bound to components: everything that is wrong at once, every default filled in, and a way back to TOML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toys import RECIPE

from framework.errors import RecipeError
from framework.index import Index
from framework.recipe import Recipe, load_recipe, load_resolved
from framework.sources import shipped_recipes


@pytest.fixture
def toy(here: Path) -> Path:
    (here / "toy.toml").write_text(RECIPE)
    return here / "toy.toml"


def load(toys: Index, *overrides: str, **changes: Any) -> Recipe:
    return load_recipe("toy.toml", toys, overrides or changes.get("changes", ()))


def problems(toys: Index, *overrides: str) -> dict[str, tuple[str, ...]]:
    with pytest.raises(RecipeError) as caught:
        load(toys, *overrides)
    return {problem.message: problem.hints for problem in caught.value.problems}


def only_problem(toys: Index, *overrides: str) -> str:
    ((message, _),) = problems(toys, *overrides).items()
    return message


@pytest.mark.usefixtures("toy")
class TestBinding:
    def test_tables_are_bound(self, toys: Index, here: Path) -> None:
        recipe = load(toys)
        assert (recipe.name, recipe.seed, recipe.train.epochs, recipe.train.batch_size) == ("toy", 3, 20, 32)
        assert recipe.parts["head"].values == {"hidden": [32, 16], "dropout": 0.0, "activation": "relu"}
        assert recipe.parts["data"].values["root"] == str(here / "photos")
        assert recipe.parts["data"].core.subset.per_class == 5
        assert [table.use for table in recipe.schedulers] == ["constant", "step"]
        assert recipe.parts["transform.train"].use == recipe.parts["transform.eval"].use == "center_crop"
        assert [table.use for table in recipe.metrics] == ["accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece"]

    def test_the_name_is_the_files_where_none_is_stated(self, toys: Index, toy: Path) -> None:
        toy.with_name("other.toml").write_text(RECIPE.replace('name = "toy"\n', ""))
        assert load_recipe("other.toml", toys).name == "other"

    def test_one_scheduler_may_be_a_plain_table(self, toys: Index) -> None:
        assert [t.use for t in load(toys, 'scheduler={ use = "step", step_size = 3 }').schedulers] == ["step"]

    def test_everything_wrong_is_told_at_once_in_the_order_of_the_file(self, toys: Index, toy: Path) -> None:
        text = RECIPE.replace("seed = 3", "sed = 3").replace('"mlp"', '"mlpp"').replace("lr = 0.1", 'lr = "0.1"')
        toy.write_text(text.replace("step_size = 7", "gamma = 2").replace("epochs = 20", "epoch = 20"))
        with pytest.raises(RecipeError) as caught:
            load(toys)
        messages = [problem.message for problem in caught.value.problems]
        assert messages == [
            "unknown key 'sed'",
            "no head is called 'mlpp'",
            "optimizer.lr: the string '0.1' is not a number greater than 0",
            "[scheduler.1] has no 'step_size'",
            "scheduler.1.gamma: the integer 2 must be less than 1",
            "unknown key 'epoch' in [train]",
        ]
        assert caught.value.render().endswith("6 problems found; nothing was run.")

    def test_the_cores_keys_are_checked_though_the_component_is_unknown(self, toys: Index) -> None:
        found = problems(toys, "backbone.use=toy/net19", "backbone.in_channels=0")
        assert list(found) == ["no backbone is called 'toy/net19'",
                               "backbone.in_channels: the integer 0 must be greater than 0"]  # fmt: skip

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("head=3", "head is a table: write [head]"),
            ("train=3", "train is a table: write [train]"),
            ("adapter=low_rank", "adapter is a table: write [adapter]"),
            ("adapter={ rank = 2 }", "[adapter] has no 'use'"),
            ("adapter.use=to_start", "no adapter is called 'to_start'"),
            ("regularizer.use=to_start", "[regularizer] has no 'weight'"),
            ("finishers.use=average", "unknown table 'finishers'"),
            ("transform=3", "transform is a table: write [transform]"),
            ("transform.train=3", "transform.train is a table: write [transform.train]"),
            ('transform.test={use="center_crop"}', "unknown table 'transform.test'"),
            ("scheduler=3", "scheduler is a table: write [scheduler] or [[scheduler]]"),
            ("scheduler=[3]", "scheduler is a table: write [scheduler] or [[scheduler]]"),
            ("scheduler=[]", "scheduler is empty"),
            ("metric=accuracy", "metric is a table: write [metric] or [[metric]]"),
            ('metric=[{use="ece"}]', "train.monitor: there is no metric 'val.accuracy'"),
            ('metric=[{use="accuracy"}, {use="accuracy"}]', "the metric 'accuracy' is named twice"),
            ("head.use=3", "[head] has a 'use' that is no string"),
            ("scheduler.0={ }", "[scheduler.0] has no 'use'"),
            ("train.monitor=val.acuracy", "train.monitor: there is no metric 'val.acuracy'"),
            ("backbone.weights=[]", "backbone.weights names no source"),
            ("backbone.weights=[net50_in1k]", "this value is not valid TOML: invalid value"),
            ('backbone.weights=["net50_in1k"]', "toy/net18 has no weights called 'net50_in1k'"),
            ("backbone.use=toy/brick", "'toy/brick' cannot be used here"),
            ("seed=-1", "seed: the integer -1 must be at least 0"),
            ("seed=true", "seed: the boolean true is not an integer at least 0"),
            ("name=3", "name: the integer 3 is not a string"),
        ],
    )
    def test_one_problem(self, toys: Index, override: str, message: str) -> None:
        extra = ['backbone.weights=["random"]'] if "brick" in override else []
        if override == "scheduler.0={ }":
            extra, override = [], 'scheduler=[{ epochs = 1 }, { use = "constant" }]'
        assert only_problem(toys, override, *extra) == message

    def test_a_phase_that_another_follows_needs_its_length(self, toys: Index) -> None:
        override = 'scheduler=[{ use = "constant" }, { use = "constant" }]'
        assert only_problem(toys, override) == "a scheduler phase that another follows has no 'epochs'"

    def test_what_is_added_is_bound_where_it_is_named(self, toys: Index) -> None:
        recipe = load(toys, "adapter.use=low_rank", "regularizer={ use = 'to_start', weight = 1 }")
        assert recipe.parts["adapter"].values == {"rank": 4}
        assert recipe.parts["regularizer"].values == {"weight": 1.0}
        assert "finisher" not in recipe.parts
        assert not load(toys).parts.keys() & {"adapter", "regularizer", "finisher"}

    def test_a_missing_table_says_how_to_see_what_there_is(self, toys: Index, toy: Path) -> None:
        toy.write_text(RECIPE.replace('[loss]\nuse = "cross_entropy"\n', ""))
        (hints,) = problems(toys).values()
        assert hints == ('add [loss] with use = "..."; `fw list losses` shows what there is',)

    def test_a_key_above_its_table_is_told_where_it_belongs(self, toys: Index, toy: Path) -> None:
        toy.write_text("epochs = 3\nweights = ['random']\n" + RECIPE)
        found = problems(toys)
        assert found["unknown key 'epochs'"][0] == "'epochs' belongs in [train] or [scheduler]"
        assert found["unknown key 'weights'"][0] == "'weights' belongs in [backbone]"

    def test_weights_near_names_and_schemes(self, toys: Index, here: Path) -> None:
        (hints,) = problems(toys, 'backbone.weights=["net18_in1"]').values()
        assert hints[0] == "did you mean 'net18_in1k'?"
        recipe = load(toys, 'backbone.weights=["file:w.pth", "run:r", "package", "random"]')
        assert recipe.parts["backbone"].core.weights == (
            f"file:{here / 'w.pth'}",
            f"run:{here / 'r'}",
            "package",
            "random",
        )

    def test_nothing_in_a_recipe_is_imported_or_executed(self, toys: Index, here: Path) -> None:
        (here / "evil.py").write_text("raise SystemExit('executed')")
        for use in ("evil", "evil:x", "os:system", "__import__('evil')", "torch.nn.Linear"):
            assert only_problem(toys, f'head.use="{use}"') == f"no head is called {use!r}"


@pytest.mark.usefixtures("toy")
class TestResolved:
    def test_the_resolved_recipe_loads_to_an_equal_one(self, toys: Index, here: Path) -> None:
        recipe = load(toys, "doc='a \"quoted\" line'", "backbone.options={ a = [1, { b = 'x' }], c = 1e-3 }",
                      'data.names={ "a b" = 1, "" = 2 }', "train.clip_norm=inf", "finisher.use=average",
                      "adapter.use=low_rank")  # fmt: skip
        (here / "run").mkdir()
        (here / "run" / "resolved.toml").write_text(recipe.to_toml())
        again = load_resolved(here / "run" / "resolved.toml", toys)
        assert again == recipe
        assert again.digest() == recipe.digest()
        assert again.to_toml() == recipe.to_toml()

    def test_every_default_stands_in_it(self, toys: Index) -> None:
        resolved = load(toys).resolved()
        assert resolved["optimizer"] == {
            "use": "sgd",
            "no_decay": ["norm"],
            "lr": 0.1,
            "momentum": 0.0,
            "betas": [0.9, 0.999],
        }
        assert resolved["transform"]["eval"] == {"use": "center_crop", "views": 0, "resize": 0}
        assert resolved["train"]["batch_size"] == 32

    def test_what_is_added_stands_in_it_where_it_is_named(self, toys: Index) -> None:
        added = ["adapter.use=low_rank", "regularizer={ use = 'to_start', weight = 1 }", "finisher.use=average"]
        tables = list(load(toys, *added).resolved())
        assert tables[tables.index("backbone") : tables.index("scheduler")] == [
            "backbone", "adapter", "head", "freezing", "loss", "regularizer", "optimizer", "finisher"
        ]  # fmt: skip
        assert [name for name in tables if name in load(toys).resolved()] == list(load(toys).resolved())
        assert len({load(toys, *added[:count]).digest() for count in range(4)}) == 4

    def test_the_digest_changes_with_any_value(self, toys: Index) -> None:
        changes = ["seed=4", "head.dropout=0.5", "train.epochs=21", "scheduler.1.gamma=0.5", "data.subset.per_class=6"]
        assert len({load(toys, change).digest() for change in changes} | {load(toys).digest()}) == 6

    def test_a_date_among_free_options_has_a_digest(self, toys: Index) -> None:
        assert load(toys, "backbone.options={ when = 1979-05-27 }").digest()

    def test_it_reads_like_a_recipe(self, toys: Index) -> None:
        text = load(toys).to_toml()
        assert "[transform.train]\n" in text
        assert "[[scheduler]]\n" in text
        assert 'weights = ["net18_in1k", "random"]\n' in text
        assert "subset = { per_class = 5 }\n" in text


def test_every_shipped_recipe_is_valid_and_round_trips(index: Index, tmp_path: Path) -> None:
    names = [name for name in shipped_recipes() if not name.startswith("study_")]
    for name in names:
        recipe = load_recipe(name, index)
        (tmp_path / f"{name}.toml").write_text(recipe.to_toml())
        assert load_resolved(tmp_path / f"{name}.toml", index) == recipe
    print(f"{len(names)} shipped recipes")
    assert len(names) >= 5


def test_a_folder_that_is_no_run(toys: Index, tmp_path: Path) -> None:
    from framework.errors import FwError

    with pytest.raises(FwError, match=r"is no run directory: it has no resolved\.toml"):
        load_resolved(tmp_path / "resolved.toml", toys)
