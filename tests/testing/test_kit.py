"""The kit itself: its ids, what it checks of a plugin, and how an author sees the outcomes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import attrs
import pytest
from torch import nn

import framework as fw
from framework.catalog import PluginSource
from framework.component import config_fields
from framework.testing import failures, kit, of_components, of_hooks, plugin_checks
from framework.testing.kit import source_of, subjects
from framework.testing.of_components import CHECKS
from framework.testing.samples import sample_of

REPO = Path(__file__).parents[2]


@attrs.frozen(kw_only=True)
class Head:
    """One linear layer."""

    bias: bool = fw.key(True, "add a bias")

    def build(self, feature_dim: int, task: fw.Task) -> nn.Module:
        return nn.Linear(feature_dim, task.num_classes, self.bias)


@attrs.frozen(kw_only=True)
class Needy(Head):
    """One linear layer, of a style that only its author knows."""

    style: str = fw.key(doc="of nothing")


@attrs.frozen(kw_only=True)
class Score:
    """The share of right predictions."""

    def build(self, task: fw.Task) -> Any:
        from torchmetrics.classification import MulticlassAccuracy

        return MulticlassAccuracy(task.num_classes, average="micro") if task.kind == "multiclass" else None


class Acme:
    """A plugin."""

    @fw.hookimpl
    def fw_heads(self) -> list[fw.Component | fw.Family]:
        return [
            fw.Component("acme", Head), fw.Component("acme_too", Head),
            fw.Family("family", lambda: ["one", "two", "three"], lambda name: fw.Component(f"family/{name}", Head)),
        ]  # fmt: skip


class Misspelt:
    @fw.hookimpl
    def fw_head(self) -> list[fw.Component]:
        return [fw.Component("acme", Head)]


class Failing:
    @fw.hookimpl
    def fw_heads(self) -> list[fw.Component]:
        raise OSError("the licence server is away")


class ListKey:
    @fw.hookimpl
    def fw_heads(self) -> list[fw.Component]:
        return [fw.Component("acme", attrs.make_class("Config", {"names": attrs.field(type=list[str], default=())}))]


class FailingMember:
    @fw.hookimpl
    def fw_heads(self) -> list[fw.Family]:
        return [fw.Family("acme", lambda: ["one"], sys.exit)]


class Offers:
    """A plugin that offers these heads and metrics."""

    def __init__(self, heads: list[Any], metrics: list[Any]) -> None:
        self.heads, self.metrics = heads, metrics

    @fw.hookimpl
    def fw_heads(self) -> list[Any]:
        return self.heads

    @fw.hookimpl
    def fw_metrics(self) -> list[Any]:
        return self.metrics


def ids(*arguments: Any, **keys: Any) -> list[str]:
    [mark] = plugin_checks(*arguments, **keys).pytestmark
    return [param.id for param in mark.args[1]]


def subjects_of(found: list[str]) -> list[str]:
    return list(dict.fromkeys(name.rpartition("-")[0] for name in found))


# ---------------------------------------------------------------------------------------------------- what is checked


def test_an_id_is_a_component_and_a_check() -> None:
    found = ids(Acme())
    assert len(set(found)) == len(found)
    assert subjects_of(found) == ["acme", "acme_too", "family/one"]
    for check in CHECKS:
        assert f"acme-{check.name}" in found
        assert f"family/one-{check.name}" in found


def test_of_a_family_the_first_member_is_checked_unless_others_are_named() -> None:
    assert [s.name for s in subjects(Acme())] == ["acme", "acme", "acme_too", "family/one"]
    assert [s.name for s in subjects(Acme(), ["family/three", "acme_too"])] == ["acme", "acme_too", "family/three"]
    assert [s.kind is None for s in subjects(Acme())] == [True, False, False, False], "the plugin itself comes first"


@pytest.mark.parametrize(("name", "hint"), [("acme_two", "did you mean 'acme_too'"), ("family/on", "'family/one'")])
def test_a_name_that_is_not_offered_is_refused_with_near_ones(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=f"^names: .*{name!r}.*{hint}"):
        plugin_checks(Acme(), names=["acme", name])


def test_components_of_one_name_are_told_apart_by_their_tables() -> None:
    plugin = Offers([fw.Component("same", Head), fw.Component("other", Head)], [fw.Component("same", Score)])
    assert [s.name for s in subjects(plugin)] == ["offers", "head.same", "other", "metric.same"]
    assert failures(plugin, names=["same"]) == {}


def test_what_must_be_installed_first_is_not_built() -> None:
    assert failures(Offers([fw.Component("acme", Head, requires="install acme")], [])) == {}


# --------------------------------------------------------------------------------------------------------- its keys


def test_a_key_that_cannot_be_guessed_says_what_to_write() -> None:
    plugin = Offers([fw.Component("needy", Needy)], [])
    said = failures(plugin)["needy-keys_survive_a_recipe"]
    assert "plugin_checks(..., keys={'needy': {'style': ...}})" in said
    assert failures(plugin, keys={"needy": {"style": "plain"}}) == {}


def test_keys_may_be_made_from_an_empty_folder() -> None:
    folders: list[Path] = []

    def keys(folder: Path) -> dict[str, Any]:
        folders.append(folder)
        return {"style": str(folder)}

    assert failures(Offers([fw.Component("needy", Needy)], []), keys={"needy": keys}) == {}
    assert folders
    assert not any(folder.exists() for folder in folders)


def test_keys_for_what_is_not_checked_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^keys: nothing that is checked is called 'acne'; did you mean 'acme'"):
        plugin_checks(Acme(), keys={"acne": {"bias": False}})


@attrs.frozen(kw_only=True)
class Samples:
    flag: bool
    number: int
    rate: float
    share: fw.Fraction
    count: fw.PositiveInt
    below: Annotated[float, fw.Bounds(lt=0)]
    word: Literal["b", "a"]
    maybe: float | None
    either: Annotated[int | float, fw.Bounds(ge=2)]
    pair: tuple[float, fw.Count]
    many: tuple[bool, ...]


def test_a_key_without_a_default_takes_a_sample_of_its_type() -> None:
    found = {field.name: sample_of(field, "acme") for field in config_fields(Samples)}
    assert found == {
        "flag": False, "number": 1, "rate": 0.1, "share": 0.1, "count": 1, "below": -0.1, "word": "b", "maybe": 0.1,
        "either": 2.0, "pair": [0.1, 1], "many": [False],
    }  # fmt: skip


@attrs.frozen(kw_only=True)
class NoSamples:
    word: str
    path: Path
    words: tuple[str, ...]
    table: dict[str, int]
    note: Annotated[str, "a note"]
    far: Annotated[float, fw.Bounds(gt=1e6)]


@pytest.mark.parametrize("field", config_fields(NoSamples), ids=lambda field: field.name)
def test_what_only_the_author_knows_is_not_guessed(field: Any) -> None:
    with pytest.raises(AssertionError, match=f"'acme' has a key '{field.name}' without a default"):
        sample_of(field, "acme")


# ---------------------------------------------------------------------------------------------- expected failures


def test_an_expected_failure_that_there_is_not_is_refused_with_near_ids() -> None:
    with pytest.raises(ValueError, match=r"^expected_failures: .*did you mean 'acme-says_what_it_is'"):
        plugin_checks(Acme(), expected_failures={"acme-says_what_it_iss": "it does not"})


def test_an_expected_failure_is_strict_and_gives_its_reason() -> None:
    [mark] = plugin_checks(Acme(), expected_failures={"acme-says_what_it_is": "no words"}).pytestmark
    marks = {param.id: param.marks for param in mark.args[1] if param.marks}
    [expected] = marks.pop("acme-says_what_it_is")
    assert (expected.name, expected.kwargs) == ("xfail", {"reason": "no words", "strict": True})
    assert marks == {}


# ------------------------------------------------------------------------------------------ plugins that do not load


@pytest.mark.parametrize(("plugin", "name", "reason"), [
    (Misspelt(), "misspelt", "did you mean 'fw_heads'"),
    (Failing(), "failing", "OSError: the licence server is away at "),
    (FailingMember(), "failingmember", "SystemExit: one"),
    (ListKey(), "listkey", "write tuple[..., ...]"),
    (attrs, "attrs", "attrs implements no hook"),
    ("no_such_module_at_all", "no_such_module_at_all", "No module named 'no_such_module_at_all'"),
], ids=["misspelt", "hook", "member", "key", "no hook", "import"])  # fmt: skip
def test_a_plugin_that_cannot_be_used_fails_in_one_check(plugin: object, name: str, reason: str) -> None:
    found = failures(plugin)
    assert found.keys() == {f"{name}-loads"}
    assert reason in found[f"{name}-loads"]
    assert ids(plugin, keys={"acme": {}}, expected_failures={"acme-exportable": "no graph"}) == [f"{name}-loads"]


# -------------------------------------------------------------------------------------------------- which plugin it is


def test_an_installed_plugin_is_known_by_its_module_and_by_its_name() -> None:
    import fw_heads

    assert source_of(fw_heads).distribution == "fw-transfer"
    assert source_of("fw_heads").label == source_of(fw_heads).label
    own = PluginSource.of(Acme(), "acme")
    assert source_of(own) is own
    assert source_of(Acme()).name == "acme"


def test_an_installed_object_is_known_too(site) -> None:
    file = site("acme", "class Plugin: pass\nplugin = Plugin()\n")
    points = next(file.parent.glob("acme_fw-*.dist-info")) / "entry_points.txt"
    points.write_text("[framework.plugins]\nacme_object = acme:plugin\n")
    import acme

    assert source_of(acme.plugin).name == "acme_object"
    assert source_of(acme.Plugin()).distribution == "local"


# ------------------------------------------------------------------------------------------------- as an author sees it

AUTHORS = '''
import attrs
from torch import nn

import framework as fw
from framework.testing import plugin_checks


@attrs.frozen(kw_only=True)
class Head:
    """One linear layer."""

    def build(self, feature_dim: int, task: fw.Task):
        return nn.Linear(feature_dim, task.num_classes)


@attrs.frozen(kw_only=True)
class Silent(Head):
    pass


class Good:
    @fw.hookimpl
    def fw_heads(self):
        return [fw.Component("good", Head)]


class Bad:
    @fw.hookimpl
    def fw_heads(self):
        return [fw.Component("bad", Silent)]


class Unmarked:
    def fw_heads(self):
        return []


WHY = {"bad-says_what_it_is": "it is shy"}
test_good = plugin_checks(Good())
test_bad = plugin_checks(Bad())
test_known = plugin_checks(Bad(), expected_failures=WHY)
test_strict = plugin_checks(Good(), expected_failures={"good-says_what_it_is": "was shy"})
test_unmarked = plugin_checks(Unmarked())
'''


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """Node -> outcome and reason, as pytest prints them for an author's file."""
    folder = tmp_path_factory.mktemp("author")
    (folder / "test_mine.py").write_text(AUTHORS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "0", "--noconftest", "-rA", "test_mine.py"],
        cwd=folder, capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(REPO), str(REPO / "plugins"))), "COLUMNS": "300"},
    )  # fmt: skip
    lines = re.findall(r"^(PASSED|FAILED|XFAIL|XPASS|ERROR) test_mine\.py::(\S+\])(?: - (.*))?$", done.stdout, re.M)
    assert lines, done.stdout + done.stderr
    return {node: (outcome, reason) for outcome, node, reason in lines}


def test_an_author_sees_one_outcome_for_each_component_and_check(outcomes: dict[str, tuple[str, str]]) -> None:
    good = [node for node in outcomes if node.startswith("test_good[")]
    assert {outcomes[node][0] for node in good} == {"PASSED"}
    without_keys = {f"test_good[good-{check.name}]" for check in CHECKS if check.name != "typo_in_a_key_is_answered"}
    assert without_keys <= {*good}
    bad = [node for node, (outcome, _) in outcomes.items() if outcome == "FAILED" and node.startswith("test_bad[")]
    assert bad == ["test_bad[bad-says_what_it_is]"]
    assert "Silent" in outcomes[bad[0]][1]
    assert "has no docstring" in outcomes[bad[0]][1]


def test_an_author_sees_what_is_expected_and_is_told_when_it_passes(outcomes: dict[str, tuple[str, str]]) -> None:
    assert outcomes["test_known[bad-says_what_it_is]"] == ("XFAIL", "it is shy")
    outcome, reason = outcomes["test_strict[good-says_what_it_is]"]
    assert outcome == "FAILED"
    assert "[XPASS(strict)] was shy" in reason


def test_an_author_sees_why_a_plugin_does_not_load(outcomes: dict[str, tuple[str, str]]) -> None:
    [(node, (outcome, reason))] = [item for item in outcomes.items() if item[0].startswith("test_unmarked[")]
    assert (node, outcome) == ("test_unmarked[unmarked-loads]", "FAILED")
    assert "defines 'fw_heads'" in reason
    assert "without @hookimpl" in reason


def test_every_check_is_one_of_a_kind_that_has_mutants(capsys) -> None:
    """Each module of mutants asserts that it has one for each check of its kind; here is how many that makes."""
    kinds = {"components": of_components.CHECKS, "hooks": of_hooks.CHECKS, **kit.CHECKS}
    names = {"freezing_policies": "policies"}
    here = Path(__file__).parent
    without = [kind for kind in kinds if not (here / f"test_mutants_of_{names.get(kind, kind)}.py").is_file()]
    assert without == []
    assert all(len({check.name for check in checks}) == len(checks) for checks in kinds.values())
    assert all(check.doc for checks in kinds.values() for check in checks)
    numbers = ", ".join(f"{len(checks)} of {kind}" for kind, checks in kinds.items())
    with capsys.disabled():
        print(f"\n{sum(map(len, kinds.values()))} checks: {numbers}")
