"""`fw schema`: the schema and `fw validate` give one verdict, on every shipped file and on every kind of mistake."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from jsonschema import Draft202012Validator

from framework.bind import bind
from framework.cli.snippet import snippet
from framework.hooks import KINDS
from framework.index import Card, Index
from framework.schema import schema_of
from framework.sources import read_document, recipes_folder
from framework.tables import core_keys

RECIPE = """\
name = "mine"

[data]
use = "digits"
subset = { per_class = 10 }

[transform.train]
use = "augment"

[backbone]
use = "torchvision/resnet18"
weights = ["IMAGENET1K_V1", "random"]
image_size = 36

[head]
use = "mlp"
hidden = 32

[freezing]
use = "last_stages"
n = 1

[loss]
use = "torch/CrossEntropyLoss"

[optimizer]
use = "torch/SGD"
lr = 0.1
no_decay = ["norm"]

[[scheduler]]
use = "constant"
epochs = 2

[[scheduler]]
use = "torch/StepLR"
step_size = 7

[train]
epochs = 20
"""
SCHEDULERS = RECIPE[RECIPE.index("[[scheduler]]") : RECIPE.index("[train]")]
STUDY = """\
[study]
base = "resnet18_frozen"
policies = [{ use = "frozen" }, { use = "last_stages", n = 1 }]
seeds = [0, 1]

[study.tune]
"optimizer.lr" = { log = [1e-4, 1e-1], trials = 3 }
"""
ADDITIONS = """\
[adapter]
use = "lora"
rank = 2

[regularizer]
use = "l2_sp"

[finisher]
use = "ema"

"""
ADDING = RECIPE.replace("[train]", f"{ADDITIONS}[train]")
ADDING_STUDY = STUDY.replace(
    '{ use = "frozen" }',
    '{ use = "frozen", adapter = { use = "lora", rank = 2 }, regularizer = "l2_sp", finisher = "ema" }',
)
EXTENDING = 'extends = "resnet18_frozen"\n[optimizer]\nlr = 0.01\n'
EXTENDING_STUDY = 'extends = "study.toml"\n[study]\nrounds = 2\n'


@pytest.fixture(scope="module")
def schema(index: Index) -> dict[str, Any]:
    """The schema of what is installed."""
    began = time.perf_counter()
    found = schema_of(index)
    print(f"schema: {time.perf_counter() - began:.2f} s, {len(json.dumps(found)) / 1000:.0f} KB")
    return found


@pytest.fixture(scope="module")
def accepts(schema: dict[str, Any]) -> Callable[[Any], bool]:
    """`accepts(tables)`: the schema's verdict."""
    return Draft202012Validator(schema).is_valid


@pytest.fixture
def verdicts(accepts, cli, here: Path) -> Callable[[str], tuple[bool, bool]]:
    """`verdicts(text)`: whether the schema accepts a recipe or study, and whether `fw validate` does."""
    (here / "study.toml").write_text(STUDY)

    def both(text: str) -> tuple[bool, bool]:
        (here / "mine.toml").write_text(text)
        return accepts(tomllib.loads(text)), cli("validate", "mine.toml").code == 0

    return both


def changed(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


# ------------------------------------------------------------------------------------------------- the schema


def test_it_is_a_schema_of_moderate_size_in_plain_json(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    text = json.dumps(schema, allow_nan=False)
    print(f"{len(text) / 1000:.0f} KB")
    assert len(text) < 400_000
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Each object inside a schema."""
    if isinstance(schema, dict):
        yield schema
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from nodes(inner)


def test_editors_see_every_table_and_key(schema: dict[str, Any]) -> None:
    """taplo 0.9 leaves out a schema with an `allOf`, what stands beside a `$ref`, and what a `then` alone says."""
    tables = [node for node in nodes(schema) if node.get("additionalProperties") is False]
    assert len(tables) > 20
    assert [table for table in tables if "allOf" in table] == []
    assert [node for node in nodes(schema) if isinstance(node.get("$ref"), str) and len(node) > 1] == []
    for kind in KINDS:
        told = schema["$defs"][kind.table]["properties"]
        assert {"use", *attrs.fields_dict(core_keys(kind.table))} <= told.keys()


def test_every_component_is_a_choice_with_its_keys(index: Index, schema: dict[str, Any]) -> None:
    for kind in KINDS:
        cards = [card for card in index.cards(kind.registry) if not card.requires]
        lists = [node for name, node in schema["$defs"].items() if name.startswith(f"{kind.table}-names-")]
        assert sorted(name for names in lists for name in names["enum"]) == sorted(card.name for card in cards)
        told = schema["$defs"][kind.table]["properties"]
        assert {name for card in cards for name, *_ in card.fields} <= told.keys()


def test_a_component_that_lacks_a_package_is_no_choice(toys: Index) -> None:
    names = json.dumps(schema_of(toys)["$defs"]["backbone-names-1"])
    assert "toy/net18" in names
    assert "toy/brick" not in names


def test_keys_are_told_with_doc_default_and_bounds(toys: Index) -> None:
    schema = schema_of(toys)
    assert schema["properties"]["train"]["properties"]["epochs"] == {
        "description": "passes over the training images", "type": "integer", "exclusiveMinimum": 0, "default": 10,
    }  # fmt: skip
    keys = schema["$defs"]["scheduler"]["properties"]
    assert keys["gamma"] == {
        "description": "the factor", "type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1, "default": 0.1,
    }  # fmt: skip
    assert schema["$defs"]["optimizer"]["properties"]["limit"] == {"description": "largest step", "type": "number"}
    assert schema["$defs"]["head"]["properties"]["activation"]["enum"] == ["relu", "gelu"]
    assert schema["properties"]["scheduler"]["type"] == ["object", "array"]


# ------------------------------------------------------------------------------------------------ one verdict


def test_every_shipped_recipe_and_study_is_valid(accepts) -> None:
    files = sorted(recipes_folder().glob("*.toml"))
    refused = [file.name for file in files if not accepts(tomllib.loads(file.read_text(encoding="utf-8")))]
    print(f"{len(files)} shipped recipes and studies")
    assert len(files) >= 10
    assert refused == []


def test_every_shipped_recipe_is_valid_with_all_that_it_inherits(accepts) -> None:
    refused = [file.name for file in recipes_folder().glob("*.toml") if not accepts(read_document(file).tables)]
    assert refused == []


SOUND = {
    "as it is": RECIPE,
    "integer for a number": changed(RECIPE, "lr = 0.1", "lr = 1"),
    "one scheduler": changed(RECIPE, SCHEDULERS, "[scheduler]\nuse = 'constant'\n"),
    "no scheduler": changed(RECIPE, SCHEDULERS, ""),
    "one metric": RECIPE + "[metric]\nuse = 'accuracy'\n",
    "no metric": "metric = []\n" + RECIPE + "monitor = 'val.loss'\n",
    "weights from a place": changed(RECIPE, '"IMAGENET1K_V1"', '"file:x.pth", "run:runs/x", "package"'),
    "a pair of sizes": changed(RECIPE, "image_size = 36", "image_size = [36, 40]"),
    "free options": changed(RECIPE, "image_size = 36", "options = { a = [1, { b = 'x' }], when = 1979-05-27 }"),
    "both transforms": changed(RECIPE, "[backbone]", "[transform.eval]\nuse = 'center_crop'\nviews = 2\n\n[backbone]"),
    "another component with core keys": changed(RECIPE, '"torch/SGD"', '"torch/AdamW"'),
    "an adapter, a regularizer and a finisher": ADDING,
    "a recipe that extends another": EXTENDING,
    "a recipe that extends another and adds an adapter": 'extends = "resnet18_frozen"\nadapter.use = "lora"\n',
    "a recipe that extends another and names another component": 'extends = "resnet18_frozen"\nfreezing.use = "full"\n',
    "a study": STUDY,
    "a study that extends another": EXTENDING_STUDY,
    "a study of what is added": ADDING_STUDY,
    "a study without policies": changed(STUDY, "policies", "# policies"),
}  # fmt: skip

MISTAKES = {
    "typo in a key": changed(RECIPE, "hidden", "hiden"),
    "typo in a core key": changed(RECIPE, "image_size", "imagesize"),
    "typo in a key of train": changed(RECIPE, "epochs = 20", "epoch = 20"),
    "typo in an inner key": changed(RECIPE, "per_class", "per_clas"),
    "key of another component": changed(RECIPE, "lr = 0.1", "lr = 0.1\nbetas = [0.9, 0.999]"),
    "key above its table": "epochs = 3\n" + RECIPE,
    "unknown key at the top": "sed = 3\n" + RECIPE,
    "unknown table": changed(RECIPE, "[train]", "[trian]"),
    "unknown transform": changed(RECIPE, "[transform.train]", "[transform.test]"),
    "missing table": changed(RECIPE, '[loss]\nuse = "torch/CrossEntropyLoss"\n', ""),
    "missing use": changed(RECIPE, 'use = "mlp"\n', ""),
    "missing use of a phase": changed(RECIPE, 'use = "constant"\n', ""),
    "missing use of a transform": changed(RECIPE, 'use = "augment"', "views = 1"),
    "missing key": changed(RECIPE, "step_size = 7\n", ""),
    "missing weights": changed(RECIPE, 'weights = ["IMAGENET1K_V1", "random"]\n', ""),
    "no weights": changed(RECIPE, '["IMAGENET1K_V1", "random"]', "[]"),
    "unknown weights": changed(RECIPE, "IMAGENET1K_V1", "IMAGENET1K_V7"),
    "weights of another model": changed(RECIPE, '"IMAGENET1K_V1", "random"', '"IMAGENET1K_SWAG_E2E_V1"'),
    "one string for an array": changed(RECIPE, '["IMAGENET1K_V1", "random"]', '"random"'),
    "unknown use": changed(RECIPE, "torch/SGD", "torch/SDG"),
    "use of another registry": changed(RECIPE, '"mlp"', '"frozen"'),
    "use that is no string": changed(RECIPE, '"torch/SGD"', "3"),
    "a string for a number": changed(RECIPE, "lr = 0.1", 'lr = "0.1"'),
    "a number for an integer": changed(RECIPE, "epochs = 20", "epochs = 2.5"),
    "a boolean for an integer": changed(RECIPE, "epochs = 20", "epochs = true"),
    "an integer for a boolean": RECIPE + "drop_last = 1\n",
    "out of bounds": changed(RECIPE, "epochs = 20", "epochs = 0"),
    "out of bounds in an array": changed(RECIPE, "image_size = 36", "image_size = [36, 0]"),
    "out of bounds in an inner table": changed(RECIPE, "per_class = 10", "per_class = 0"),
    "no choice": RECIPE + "precision = 'fp16'\n",
    "no choice in an array": changed(RECIPE, '["norm"]', '["norms"]'),
    "an array of three sizes": changed(RECIPE, "image_size = 36", "image_size = [1, 2, 3]"),
    "a table that is none": "head = 3\n" + changed(RECIPE, '[head]\nuse = "mlp"\nhidden = 32\n', ""),
    "phases that are none": "scheduler = []\n" + changed(RECIPE, SCHEDULERS, ""),
    "unknown adapter": changed(ADDING, '"lora"', '"lorra"'),
    "adapter of another registry": changed(ADDING, '"lora"', '"ema"'),
    "unknown key of an adapter": changed(ADDING, "rank = 2", "rnk = 2"),
    "out of bounds in an adapter": changed(ADDING, "rank = 2", "rank = 0"),
    "finisher without use": changed(ADDING, 'use = "ema"\n', ""),
    "a regularizer that is no table": changed(ADDING, '[regularizer]\nuse = "l2_sp"\n\n', "")
    .replace("name =", 'regularizer = "l2_sp"\nname ='),
    "two adapters": changed(ADDING, "[adapter]", "[[adapter]]"),
    "a registry for a table": changed(ADDING, "[adapter]", "[adapters]"),
    "a study beside a recipe": RECIPE + "[study]\nbase = 'smoke'\n",
    "typo in a recipe that extends another": changed(EXTENDING, "lr", "lrr"),
    "bounds in a recipe that extends another": changed(EXTENDING, "[optimizer]\nlr = 0.01", "[train]\nepochs = 0"),
    "a whole array in a recipe that extends another": EXTENDING + "[[scheduler]]\nstep_size = 7\n",
    "extends that is no string": changed(EXTENDING, '"resnet18_frozen"', "['resnet18_frozen']"),
    "typo in a study": changed(STUDY, "seeds", "seds"),
    "missing base": changed(STUDY, 'base = "resnet18_frozen"\n', ""),
    "unknown policy": changed(STUDY, '"frozen" }', '"frosen" }'),
    "unknown key of a policy": changed(STUDY, "n = 1", "m = 1"),
    "policy without use": changed(STUDY, '{ use = "frozen" }', "{ }"),
    "unknown adapter of a policy": changed(ADDING_STUDY, '"lora"', '"lorra"'),
    "unknown finisher of a policy": changed(ADDING_STUDY, '"ema"', '"emma"'),
    "unknown key of a policy's adapter": changed(ADDING_STUDY, "rank = 2", "rnk = 2"),
    "out of bounds in a policy's adapter": changed(ADDING_STUDY, "rank = 2", "rank = 0"),
    "adapter of a policy without use": changed(ADDING_STUDY, 'use = "lora", ', ""),
    "adapter of a policy that is a number": changed(ADDING_STUDY, '{ use = "lora", rank = 2 }', "2"),
    "adapter of a policy by the registry's name": changed(ADDING_STUDY, "adapter =", "adapters ="),
    "adapters in [freezing]": changed(RECIPE, 'n = 1', 'n = 1\nadapter = "lora"'),
    "out of bounds in a study": changed(STUDY, "seeds = [0, 1]", "rounds = 0"),
    "no choice of a study": changed(STUDY, "seeds = [0, 1]", "engines = ['fast']"),
    "typo in a space": changed(STUDY, "trials", "trial"),
    "typo in a study that extends another": changed(EXTENDING_STUDY, "rounds", "rouns"),
}  # fmt: skip


@pytest.mark.parametrize("text", SOUND.values(), ids=SOUND)
def test_what_is_sound_is_accepted_by_both(verdicts, text: str) -> None:
    assert verdicts(text) == (True, True)


@pytest.mark.parametrize("text", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_refused_by_both(verdicts, text: str) -> None:
    assert verdicts(text) == (False, False)


def test_a_component_that_lacks_a_package_is_refused_by_both(index: Index, verdicts) -> None:
    lacking = [card.name for card in index.cards("optimizers") if card.requires]
    assert lacking
    assert verdicts(changed(RECIPE, "torch/SGD", lacking[0])) == (False, False)


@pytest.fixture(scope="module")
def accepts_table(schema: dict[str, Any]) -> Callable[[str, dict[str, Any]], bool]:
    """`accepts_table("head", values)`: the schema's verdict on one table of a recipe that extends none."""
    whole = {
        kind.table: {"allOf": [{"$ref": f"#/$defs/{kind.table}{part}"} for part in ("", "-whole")],
                     "$defs": schema["$defs"]}
        for kind in KINDS
    }  # fmt: skip
    validators = {table: Draft202012Validator(of) for table, of in whole.items()}
    return lambda table, values: validators[table].is_valid(values)


def pasted(card: Card, table: str) -> dict[str, Any]:
    """The table that `fw show` offers to paste."""
    found = tomllib.loads("\n".join(snippet(card, table)))[table]
    return {"transform": lambda: found["train"], "metric": lambda: found[0]}.get(table, lambda: found)()


def test_what_fw_show_offers_to_paste_is_accepted(index: Index, accepts_table) -> None:
    """One component for each set of keys."""
    seen: dict[tuple[str, str], Card] = {}
    for kind in KINDS:
        for card in index.cards(kind.registry):
            if not card.requires:
                seen.setdefault((kind.table, json.dumps(card.fields)), card)
    refused = [card.name for (table, _), card in seen.items() if not accepts_table(table, pasted(card, table))]
    print(f"{len(seen)} components")
    assert len(seen) > 20
    assert refused == []


PROBES = (True, -1, 0, 3, 10**9, -0.5, 0.5, 1.5, "", "x", [], [1], [0.5, 0.5], ["x"], [[1]], [{}], {}, {"x": 1})


def test_values_are_judged_as_the_binder_judges_them(index: Index, accepts_table) -> None:
    """Every type of key that any component has, with values of every kind; the first component that has it."""
    keys: dict[tuple[str, str], tuple[Card, str]] = {}
    for kind in KINDS:
        for card in index.cards(kind.registry):
            if not card.requires:
                for name, code, *_ in card.fields:
                    keys.setdefault((kind.table, json.dumps(code)), (card, name))
    differing = []
    for (table, _), (card, name) in keys.items():
        written = pasted(card, table)
        own = {key: value for key, value in written.items() if key in attrs.fields_dict(card.shape)}
        for probe in PROBES:
            _, problems = bind(card.shape, {**own, name: probe}, (table,), lambda path, of_key: None)
            if accepts_table(table, {**written, name: probe}) == bool(problems):
                differing.append(f"{card.name}: {name} = {probe!r}: {[problem.message for problem in problems]}")
    print(f"{len(keys)} types of keys, {len(PROBES)} values each")
    assert len(keys) > 30
    assert differing == []


# ------------------------------------------------------------------------------------------------------ command


def test_it_is_written_where_it_is_wanted(index: Index, cli, here: Path, schema: dict[str, Any]) -> None:
    result = cli("schema", "--out", "fw.schema.json")
    assert (result.code, result.err) == (0, "")
    assert result.out == "wrote fw.schema.json; the first line of a recipe beside it: #:schema ./fw.schema.json\n"
    assert json.loads((here / "fw.schema.json").read_text()) == schema
    assert json.loads(cli("schema").out) == schema


def test_a_plugin_in_a_file_is_known(index: Index, cli, here: Path) -> None:
    (here / "mine.py").write_text(
        "import attrs\nimport framework as fw\n@attrs.frozen(kw_only=True)\nclass Mine:\n    size: int = fw.key(3)\n"
        "@fw.hookimpl\ndef fw_heads():\n    return [fw.Component('mine', Mine)]\n"
    )
    told = json.loads(cli("schema", "--plugin", "mine.py").out)
    is_valid = Draft202012Validator(told).is_valid
    for size, verdict in (("3", True), ("'x'", False)):
        text = changed(RECIPE, 'use = "mlp"\nhidden = 32\n', f'use = "mine"\nsize = {size}\n')
        assert is_valid(tomllib.loads(text)) is verdict


def test_neither_torch_nor_a_plugin_is_imported(index: Index) -> None:
    code = "import sys; from framework.cli import main; code = main(['schema']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", f"{code}; sys.exit(code)"], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stderr.split()}
    assert json.loads(done.stdout)["title"]
    assert loaded & {"torch", "torchvision", "timm", "numpy", "rich", "fw_timm", "fw_training"} == set()
