"""Error texts as a user sees them, each under snapshot in tests/errors; and the classes that render them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest
from toys import RECIPE

from framework.errors import FwError, Origin, Problem, RecipeError, did_you_mean, name_hints, near_names


@attrs.frozen
class Case:
    """A command that fails: its arguments, what changes in the recipe `toy.toml`, and a plugin beside the toys."""

    arguments: str
    changes: Mapping[str, str] = attrs.field(factory=dict)
    plugin: str = ""
    files: Mapping[str, str] = attrs.field(factory=dict)
    env: Mapping[str, str] = attrs.field(factory=dict)
    code: int = 2


HEAD = '''\
import attrs
import framework as fw

@attrs.frozen
class Linear:
    """A head."""

@fw.hookimpl
def {}():
    return [fw.Component("linear", Linear)]
'''
FREEZING = '[freezing]\nuse = "frozen"\nnorm = "batch"\n'
EXTENDING = {"b.toml": 'extends = "toy.toml"'}
CIRCLE = {"a.toml": 'extends = "b.toml"', "b.toml": 'extends = "a.toml"'}
VALIDATE = "validate toy.toml"

CASES = {
    "typo_in_a_key": Case(VALIDATE, {"hidden": "hiden"}),
    "typo_in_a_top_key": Case(VALIDATE, {"seed": "sead"}),
    "key_above_its_table": Case(VALIDATE, {"seed = 3": "epochs = 3"}),
    "typo_in_a_table": Case(VALIDATE, {"[train]": "[trian]"}),
    "typo_in_a_component": Case(VALIDATE, {'"toy/net18"': '"toy/net81"'}),
    "typo_in_a_registry": Case("list hedas"),
    "typo_in_a_command": Case("vaildate toy.toml"),
    "typo_in_a_choice": Case(VALIDATE, {'"batch"': '"bach"'}),
    "typo_in_a_shown_name": Case("show linera"),
    "typo_in_a_metric": Case(VALIDATE, {"epochs = 20": 'monitor = "val.acuracy"'}),
    "wrong_type": Case(VALIDATE, {"epochs = 20": 'epochs = "20"'}),
    "out_of_bounds": Case(VALIDATE, {"lr = 0.1": "lr = 0"}),
    "wrong_type_in_an_array": Case(VALIDATE, {"[32, 16]": "[32, 16.5]"}),
    "missing_key": Case(VALIDATE, {"lr = 0.1\n": ""}),
    "missing_table": Case(VALIDATE, {'[head]\nuse = "mlp"\nhidden = [32, 16]\n': ""}),
    "missing_use": Case(VALIDATE, {'use = "mlp"\n': ""}),
    "typo_in_an_adapter": Case(VALIDATE, {FREEZING: '[adapter]\nuse = "low_rnk"\n' + FREEZING}),
    "typo_in_a_key_of_an_adapter": Case(VALIDATE, {FREEZING: '[adapter]\nuse = "low_rank"\nrnk = 2\n' + FREEZING}),
    "missing_use_of_a_finisher": Case(VALIDATE, {FREEZING: "[finisher]\n" + FREEZING}),
    "missing_key_of_a_regularizer": Case(VALIDATE, {FREEZING: '[regularizer]\nuse = "to_start"\n' + FREEZING}),
    "two_adapters": Case(VALIDATE, {FREEZING: '[[adapter]]\nuse = "low_rank"\n' + FREEZING}),
    "registry_as_a_table": Case(VALIDATE, {FREEZING: '[adapters]\nuse = "low_rank"\n' + FREEZING}),
    "component_as_a_table": Case(VALIDATE, {FREEZING: "[low_rank]\nrank = 2\n" + FREEZING}),
    "adapter_as_a_policy": Case(VALIDATE, {'"frozen"\nnorm = "batch"': '"low_rank"'}),
    "override_of_an_unknown_adapter": Case("validate toy.toml --set adapter.use=lora"),
    "override_of_a_table_that_names_nothing": Case("validate toy.toml --set adapter.rank=2"),
    "many_problems": Case(VALIDATE, {"seed = 3": "sede = 3", '"mlp"': '"mpl"', "lr = 0.1": "lr = true", "= 7": "= 0"}),
    "missing_recipe": Case("run toi.toml"),
    "missing_argument": Case("run"),
    "toml_syntax": Case(VALIDATE, {"lr = 0.1": "lr = 0.1.2"}),
    "toml_cut_short": Case(VALIDATE, {"epochs = 20\n": 'monitor = "val'}),
    "override_without_value": Case("validate toy.toml --set optimizer.lr"),
    "override_that_is_no_toml": Case("validate toy.toml --set optimizer.lr=0.1.2"),
    "override_of_a_wrong_type": Case("validate toy.toml --set optimizer.lr=fast"),
    "override_of_an_unknown_key": Case("validate toy.toml --set optimiser.lr=1"),
    "override_into_an_array": Case("validate toy.toml --set scheduler.2.gamma=0.5"),
    "unknown_weights": Case(VALIDATE, {'"net18_in1k"': '"net18_in12k"'}),
    "uninstalled_requirement": Case(VALIDATE, {"toy/net18": "toy/brick", '"net18_in1k", ': ""}),
    "extends_nothing": Case(VALIDATE, {"seed = 3": 'extends = "tiy.toml"'}),
    "extends_circle": Case("validate a.toml", files=CIRCLE),
    "problem_in_an_extended_file": Case("validate b.toml", {"lr = 0.1": "lr = 0"}, files=EXTENDING),
    "broken_plugin": Case("validate toy.toml", {'"mlp"': '"lora"'}, "import not_installed_here\n"),
    "broken_plugin_elsewhere": Case("validate toy.toml", plugin="raise RuntimeError('no licence\\nfound')\n", code=0),
    "broken_plugin_shown": Case("plugins", plugin="import not_installed_here\n", code=0),
    "two_plugins_with_one_name": Case(VALIDATE, plugin=HEAD.format("fw_heads")),
    "two_plugins_with_one_name_shown": Case("plugins", plugin=HEAD.format("fw_heads"), code=0),
    "misspelt_hook": Case(VALIDATE, plugin=HEAD.format("fw_haeds")),
    "misspelt_hook_shown": Case("plugins", plugin=HEAD.format("fw_haeds"), code=0),
    "unmarked_hook": Case(VALIDATE, plugin=HEAD.replace("@fw.hookimpl\n", "").format("fw_heads")),
    "cp_onto_a_file": Case("cp resnet18_frozen toy.toml"),
    "cp_into_no_folder": Case("cp resnet18_frozen no/such/mine.toml"),
    "list_filter_without_match": Case("list backbones --filter *vit*"),
    "distributed_launch": Case("run toy.toml", env={"WORLD_SIZE": "4", "RANK": "1"}),
    "eval_of_another_network": Case("eval runs/toy --set head.use=linear"),
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(request, site, here: Path, monkeypatch) -> Case:
    """One case, its files written and its plugin installed."""
    case = CASES[request.param]
    text = RECIPE
    for old, new in case.changes.items():
        assert old in text
        text = text.replace(old, new, 1)
    for file, content in {"toy.toml": text, **case.files}.items():
        (here / file).write_text(content)
    for variable, value in case.env.items():
        monkeypatch.setenv(variable, value)
    if case.plugin:
        site("acme", case.plugin)
    return case


@pytest.mark.usefixtures("only_toys")
def test_text(case: Case, request, cli, snapshot) -> None:
    result = cli(*case.arguments.split(" "))
    assert result.code == case.code
    said = result.err.replace("indexing plugins (once per installed version) ...\n", "")
    assert "Traceback" not in said
    snapshot(request.node.callspec.id, f"$ fw {case.arguments}\n{said}{result.out}")


def test_every_snapshot_has_a_case_somewhere() -> None:
    """A text that no test makes any more would rot."""
    tests = Path(__file__).parents[1]
    sources = "\n".join(file.read_text() for file in tests.rglob("test_*.py"))
    orphans = [file.name for file in (tests / "errors").glob("*.txt") if f'"{file.stem}"' not in sources]
    assert orphans == []


# ------------------------------------------------------------------------------------------------ classes


def test_an_error_shows_each_hint_on_its_own_line() -> None:
    assert FwError("no").render() == "error: no"
    assert FwError("no", "do").render() == "error: no\n  help: do"
    error = FwError("no", ("do", "", "or do"))
    assert error.render() == "error: no\n  help: do\n  help: or do"
    assert (error.hint, str(error)) == ("do; or do", "no\n  help: do\n  help: or do")


def test_a_caret_stands_below_tabs_and_wide_characters() -> None:
    text = '\tname = "日本", x = 1'
    rendered = Origin("f.toml", 12, text.index("x") + 1, 1, text).render().splitlines()
    assert rendered[0] == f"  --> f.toml:12:{text.index('x') + 1}"
    assert rendered[3] == "    | \t               ^"
    assert len(rendered[3].replace("\t", "")) == len("    | ") + len('name = "') + 4 + len('", ') + 1


def test_problems_are_counted() -> None:
    assert RecipeError([Problem("a")]).render() == "error: a\n\n1 problem found; nothing was run."
    assert RecipeError([Problem("a"), Problem("b")]).render().endswith("2 problems found; nothing was run.")


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("resnet18", ["resnet_18", "torchvision/resnet18"]),
        ("SGD", ["torch/SGD"]),
        ("torch/sgd", ["torch/SGD"]),
        ("a", []),
        ("", []),
        ("zzzzz", []),
    ],
)
def test_near_names(word: str, near: list[str]) -> None:
    known = ["torchvision/resnet18", "resnet_18", "torch/SGD", "adam", "linear"]
    assert near_names(word, known) == near


def test_hints_are_short_even_of_many_names() -> None:
    hints = name_hints("name7", [f"name{i}" for i in range(1000)], "things")
    assert hints[0].startswith("did you mean 'name7'")
    assert hints[1].endswith(", ... (1000 in all)")
    assert did_you_mean("x", []) == ""
    assert name_hints("x", [], "things") == ("things: none",)
