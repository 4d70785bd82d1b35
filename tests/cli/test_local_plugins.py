"""Plugins in files of one's own: used when the user says so, never because a recipe does; known by what they hold."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path

import pytest

import framework as fw
from framework.errors import FwError
from framework.index import Index

POLICY = '''\
import attrs
import framework as fw

print("the plugin's code ran")

@attrs.frozen(kw_only=True)
class HeadOnly:
    """The head alone."""
    scale: fw.PositiveFloat = fw.key(1.0, "of its learning rate")

    def build(self):
        return Policy()

class Policy(fw.FreezingPolicy):
    def start(self, layout):
        return layout.plan(layout.head.parameters)

@fw.hookimpl
def fw_freezing_policies():
    yield fw.Component("head_only", HeadOnly)
'''
RECIPE = """\
extends = "smoke"
name = "mine"
plugins = ["./my_policy.py"]
data = { images = 40, classes = 2, size = 40 }
backbone.image_size = 32
freezing = { use = "head_only" }
train = { epochs = 1, batch_size = 8 }
"""
SMALL = [word for key in ("data.images=40", "data.size=40", "backbone.image_size=32", "train.epochs=1")
         for word in ("--set", key)]  # fmt: skip


@pytest.fixture
def mine(here: Path, index: Index) -> Path:
    """A folder with a plugin and a recipe that names it; gives the plugin."""
    (here / "mine.toml").write_text(RECIPE)
    plugin = here / "my_policy.py"
    plugin.write_text(POLICY)
    return plugin


def test_a_file_is_a_plugin_for_one_command(cli, mine: Path) -> None:
    shown = cli("show", "head_only", "--plugin", mine)
    assert shown.code == 0, shown.err
    assert "of its learning rate" in shown.out
    assert f"{mine}:" in shown.out
    assert "head_only" in cli("list", "freezing_policies", "--plugin", mine).out
    assert "head_only" not in cli("list", "freezing_policies").out
    result = cli("run", "smoke", "--plugin", "./my_policy.py", "--set", "freezing.use=head_only", *SMALL, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["params"]["trainable"] < 10_000


def test_a_recipe_alone_runs_no_code(cli, mine: Path) -> None:
    for command in ("validate", "run", "bench", "show"):
        result = cli(command, "mine.toml")
        assert result.code == 2
        assert "the plugin's code ran" not in result.out + result.err
        assert "names a plugin, whose code would be run" in result.err
        assert "mine.toml:3:12" in result.err
        assert "--allow-local-plugins" in result.err


def test_what_is_allowed_runs_and_is_recorded_by_its_content(cli, mine: Path, here: Path) -> None:
    result = cli("run", "mine.toml", "--allow-local-plugins", "--out", "run")
    assert result.code == 0, result.err
    environment = json.loads((here / "run" / "environment.json").read_text())
    assert environment["plugins"]["my_policy"] == f"local file {hashlib.sha256(mine.read_bytes()).hexdigest()}"
    assert tomllib.loads((here / "run" / "recipe.toml").read_text())["plugins"] == [str(mine)]


def test_the_file_itself_allows_as_much_as_the_option(cli, mine: Path) -> None:
    assert cli("validate", "mine.toml", "--plugin", mine).code == 0


def test_a_run_asks_again_before_its_plugin_is_used(cli, mine: Path, here: Path) -> None:
    assert cli("run", "mine.toml", "--allow-local-plugins", "--out", "run").code == 0
    refused = cli("eval", "run")
    assert refused.code == 2
    assert "--allow-local-plugins" in refused.err
    assert cli("eval", "run", "--allow-local-plugins").code == 0
    moved = here / "elsewhere" / "my_policy.py"
    moved.parent.mkdir()
    mine.rename(moved)
    assert "there is no plugin" in cli("eval", "run", "--allow-local-plugins").err
    assert cli("eval", "run", "--plugin", moved).code == 0


@pytest.mark.sweep
def test_a_study_starts_its_processes_with_the_plugin(cli, mine: Path, here: Path) -> None:
    sets = ["--set", "data.classes=2", "--engines", "plain", "--out", "study", "--json", "study.json"]
    result = cli("bench", "mine.toml", "--allow-local-plugins", *sets)
    assert result.code == 0, result.err
    found = json.loads((here / "study.json").read_text())
    assert [one["name"] for one in found["benchmarks"]] == ["mine"]


def test_from_python_the_files_are_named_too(mine: Path) -> None:
    with pytest.raises(FwError, match="names a plugin"):
        fw.run("mine.toml", out="run")
    result = fw.run("mine.toml", out="run", plugins=["my_policy.py"])
    assert result["status"] == "done"
    assert fw.load("run", plugins=["my_policy.py"]).classes == ("class_0", "class_1")


@pytest.mark.parametrize(("name", "text", "said"), [
    ("absent.py", None, "cannot read the plugin 'absent.py': No such file or directory"),
    ("policy.txt", POLICY, "the plugin 'policy.txt' is no Python file"),
    ("broken.py", "import of_no_module", "is broken: ModuleNotFoundError: No module named 'of_no_module'"),
    ("fw_heads.py", POLICY, "two plugins are called 'fw_heads'"),
    ("again.py", POLICY.replace("head_only", "frozen"), "two plugins offer the freezing policy 'frozen'"),
    ("newer.py", f"{POLICY}\n@fw.hookimpl\ndef fw_contract():\n    return 99\n", "written for version 99 of"),
])  # fmt: skip
def test_a_file_that_is_no_plugin_is_one_clear_error(cli, here: Path, index, name: str, text: str, said: str) -> None:
    if text is not None:
        (here / name).write_text(text)
    result = cli("run", "smoke", "--plugin", name)
    assert result.code == 2
    assert said in result.err
    assert result.err.count("error: ") == 1
    assert not (here / "runs").exists()


def test_an_edited_file_is_another_plugin(cli, mine: Path) -> None:
    assert "of its learning rate" in cli("show", "head_only", "--plugin", mine).out
    mine.write_text(POLICY.replace("of its learning rate", "of something else"))
    assert "of something else" in cli("show", "head_only", "--plugin", mine).out
