"""The light commands: what they print, in which stream, and with which exit code."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import click
import pytest
from toys import RECIPE

import framework
from framework.cli.app import COMMANDS, NAMES, app
from framework.cli.common import aligned
from framework.hooks import KINDS
from framework.index import Index
from framework.recipe import load_recipe
from framework.sources import shipped_recipes

# -------------------------------------------------------------------------------------------- help and usage


def test_help_names_every_command_in_its_group(cli) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        result = cli(*arguments)
        assert (result.code, result.err) == (0, "")
        for section, commands in COMMANDS.items():
            assert f"\n{section}:\n" in result.out
            assert all(f"  {name} " in result.out for name in commands)
    assert max(map(len, result.out.splitlines())) <= 80


@pytest.mark.parametrize("name", NAMES)
def test_each_command_has_a_short_help_with_an_example(cli, name: str) -> None:
    result = cli(name, "--help")
    assert (result.code, result.err) == (0, "")
    assert f"\n  Example:\n    fw {name}" in result.out
    assert len(result.out.splitlines()) < 28


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_arguments_are_those_of_the_command(name: str) -> None:
    """Each example is parsed by its own command: options that it shows exist."""
    import shlex

    command = app.get_command(click.Context(app), name)
    assert command is not None
    examples = [line.strip() for line in (command.help or "").splitlines() if line.strip().startswith("fw ")]
    assert examples
    for example in examples:
        words = shlex.split(example)
        assert words[1] == name
        command.make_context(name, words[2:])


def test_version(cli) -> None:
    assert cli("--version").out == f"fw-transfer {framework.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [["run"], ["run", "a", "b"], ["run", "a", "--oops"], ["--oops"], ["oops"], ["cp", "a"], ["predict", "x"]],
)
def test_wrong_usage_ends_with_2_and_one_message(cli, arguments: list[str]) -> None:
    result = cli(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: ")
    assert "help: " in result.err
    assert "Traceback" not in result.err


# ---------------------------------------------------------------------------------------------------- endings


def ending(cli, monkeypatch: pytest.MonkeyPatch, error: BaseException):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("framework.index.installed_plugins", fail)
    return cli("list")


def test_a_bug_has_its_traceback_and_ends_with_1(cli, monkeypatch) -> None:
    result = ending(cli, monkeypatch, ZeroDivisionError("oops"))
    assert result.code == 1
    assert "ZeroDivisionError: oops" in result.err
    assert result.err.splitlines()[-1].startswith("this is a bug in fw-transfer or in a plugin")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_an_interruption_ends_with_130_and_no_traceback(cli, monkeypatch, error: BaseException) -> None:
    result = ending(cli, monkeypatch, error)
    assert (result.code, result.err) == (130, "\ninterrupted\n")


def test_errors_end_with_their_own_code(cli, monkeypatch) -> None:
    from framework.errors import AuditFailed, Interrupted

    assert ending(cli, monkeypatch, AuditFailed("a frozen tensor moved")).code == 3
    assert ending(cli, monkeypatch, Interrupted("stopped", "fw resume x", 15)).code == 143


def test_a_closed_pipe_is_quiet(index, cli_process) -> None:
    import subprocess
    import sys

    code = "import sys; from framework.cli import main; sys.exit(main())"
    listing = subprocess.Popen([sys.executable, "-c", code, "list", "backbones"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    assert listing.stdout is not None
    listing.stdout.readline()
    listing.stdout.close()
    assert listing.stderr is not None
    assert listing.stderr.read() == ""
    assert listing.wait() in (0, 141)


@pytest.mark.parametrize("command", ["run", "resume"])
def test_a_distributed_launch_is_refused(cli, monkeypatch, command: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = cli(command, "smoke")
    assert result.code == 2
    assert "of a distributed launch" in result.err
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert "distributed" not in cli(command, "no_such_thing").err


# ------------------------------------------------------------------------------------------------------- list


@pytest.mark.usefixtures("only_toys")
class TestList:
    def test_registries_with_their_counts(self, cli) -> None:
        rows = json.loads(cli("list", "--json").out)
        counts = {row["name"]: row["components"] for row in rows}
        assert counts["backbones"] == 3
        assert counts["metrics"] == 5
        assert [counts[name] for name in ("adapters", "regularizers", "finishers")] == [1, 1, 1]
        assert counts["recipes"] == len(shipped_recipes())
        plain = cli("list").out.splitlines()
        assert [line.split()[:2] for line in plain] == [[name, str(count)] for name, count in counts.items()]

    def test_names_docs_and_what_is_missing(self, cli) -> None:
        assert cli("list", "backbones").out.splitlines() == [
            "toy/net18  A toy backbone.",
            "toy/net50  A toy backbone.",
            "toy/brick  A toy backbone. [install bricks to use it]",
        ]

    @pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.table)
    def test_a_registry_goes_by_its_tables_name_too(self, cli, kind) -> None:
        assert cli("list", kind.table) == cli("list", kind.registry)

    def test_a_filter_is_a_glob_over_whole_names(self, cli) -> None:
        assert [row["name"] for row in json.loads(cli("list", "backbones", "--filter", "*net*", "--json").out)] == [
            "toy/net18",
            "toy/net50",
        ]
        assert cli("list", "backbones", "--filter", "net*").code == 2

    def test_recipes(self, cli) -> None:
        rows = json.loads(cli("list", "recipes", "--json").out)
        assert [row["name"] for row in rows] == shipped_recipes()
        assert all(row["doc"] for row in rows)


def test_every_backbone_of_both_libraries_is_listed(index: Index, cli) -> None:
    names = [line.split()[0] for line in cli("list", "backbones").out.splitlines()]
    assert len(names) == len(set(names))
    assert sum(name.startswith("timm/") for name in names) >= 1000
    assert sum(name.startswith("torchvision/") for name in names) >= 80


# --------------------------------------------------------------------------------------------------- validate


def test_validate_says_what_a_recipe_does_in_one_line(index, cli) -> None:
    result = cli("validate", "resnet18_frozen", "--set", "train.epochs=1")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("ok: resnet18_frozen: backbone torchvision/resnet18, freezing frozen, head linear, ")
    assert ", 1 epoch, seed 0\n" in result.out


def test_validate_names_what_a_recipe_adds(index, cli) -> None:
    added = {"adapter": "lora", "regularizer": "l2_sp", "finisher": "ema"}
    overrides = [word for table, use in added.items() for word in ("--set", f"{table}.use={use}")]
    bare, told = (cli("validate", "resnet18_frozen", *more).out for more in ([], overrides))
    assert [f"{table} {use}" in bare for table, use in added.items()] == [False] * 3
    assert [f", {table} {use}," in told for table, use in added.items()] == [True] * 3


# ------------------------------------------------------------------------------------------------------- show


@pytest.mark.usefixtures("only_toys")
class TestShow:
    def test_a_component(self, cli) -> None:
        text = cli("show", "sgd").out
        assert text.splitlines()[:2] == ["sgd: optimizer", "  Stochastic gradient descent."]
        assert "  from toys (acme-toys 0)\n" in text
        assert "toys.py:" in text
        assert "  lr        required        learning rate (a number greater than 0)\n" in text
        assert "  betas     = [0.9, 0.999]  decay rates (an array of 2 numbers)\n" in text
        assert "keys of every [optimizer]\n  no_decay  = []  " in text

    def test_what_a_recipe_may_add(self, cli) -> None:
        assert cli("show", "low_rank").out.endswith('in a recipe\n  [adapter]\n  use = "low_rank"\n  rank = 4\n')
        assert cli("show", "to_start").out.endswith('[regularizer]\n  use = "to_start"\n  weight = 1.0\n')
        assert cli("show", "average").out.endswith('[finisher]\n  use = "average"\n')

    def test_known_choices(self, cli) -> None:
        assert "weights known\n  net18_in1k, DEFAULT\n" in cli("show", "toy/net18").out
        assert "install bricks to use it" in cli("show", "toy/brick").out

    def test_a_name_in_two_registries_is_shown_twice(self, cli, site) -> None:
        site("acme", "import framework as fw\nfrom toys import Crop\n@fw.hookimpl\ndef fw_losses():\n"
                     "    return [fw.Component('linear', Crop)]\n")  # fmt: skip
        text = cli("show", "linear").out
        assert "linear: head\n" in text
        assert "\n\nlinear: loss\n" in text

    def test_a_recipe_with_every_default_and_what_is_set(self, cli, here: Path) -> None:
        (here / "toy.toml").write_text(RECIPE)
        shown = tomllib.loads(cli("show", "toy.toml", "--set", "optimizer.lr=2").out)
        assert shown["optimizer"]["lr"] == 2.0
        assert shown["optimizer"]["betas"] == [0.9, 0.999]
        (here / "again.toml").write_text(cli("show", "toy.toml").out)
        assert cli("show", "again.toml") == cli("show", "toy.toml")


def test_every_components_snippet_makes_a_valid_recipe(index: Index, tmp_path: Path) -> None:
    """What `fw show` offers to paste is accepted, for a component of each config class of each registry."""
    from framework.cli.snippet import snippet
    from framework.errors import RecipeError

    base = tomllib.loads(load_recipe("resnet18_frozen", index).to_toml())
    seen, failed = set(), []
    for kind in KINDS:
        for card in index.cards(kind.registry):
            if card.requires or (kind.registry, json.dumps(card.fields)) in seen:
                continue
            seen.add((kind.registry, json.dumps(card.fields)))
            pasted = tomllib.loads("\n".join(snippet(card, kind.table)))
            from framework.toml_text import toml_text

            file = tmp_path / "pasted.toml"
            file.write_text(toml_text({**base, **pasted, "train": {"monitor": "val.loss"}}))
            try:
                load_recipe(file, index)
            except RecipeError as error:
                failed.append(f"{card.registry} {card.name}: {error}")
    print(f"{len(seen)} config classes")
    assert len(seen) > 20
    assert failed == []


# ----------------------------------------------------------------------------------------------- plugins and cp


def test_plugins(index: Index, cli) -> None:
    rows = json.loads(cli("plugins", "--json").out)["plugins"]
    by_name = {row["plugin"]: row for row in rows}
    assert {"fw_data", "fw_freezing", "fw_heads", "fw_timm", "fw_torchvision", "fw_training"} <= set(by_name)
    assert all(row["status"] == "ok" and row["distribution"] == "fw-transfer" for row in rows)
    assert all(Path(row["place"]).name == "__init__.py" for row in rows)
    assert sum(row["components"] for row in rows) == sum(len(index.names(kind.registry)) for kind in KINDS)


def test_a_warning_of_a_broken_plugin_is_one_line_on_standard_error(cli, site) -> None:
    site("acme", "raise ValueError('one\\ntwo')")
    for command in (["list"], ["validate", "resnet18_frozen"], ["show", "linear"]):
        warnings = [line for line in cli(*command).err.splitlines() if line.startswith("warning: ")]
        assert len(warnings) == 1
        assert "plugin acme (acme-fw 1.0) is broken and left out: ValueError: one two at " in warnings[0]


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if not name.startswith("study_")])
def test_a_copied_recipe_is_the_same_recipe(index: Index, cli, here: Path, name: str) -> None:
    (here / "folder").mkdir()
    assert cli("cp", name, "mine.toml").code == 0
    assert cli("cp", name, "folder").out.startswith(f"wrote folder/{name}.toml; ")
    assert load_recipe("mine.toml", index) == load_recipe(name, index)
    assert load_recipe(f"folder/{name}.toml", index).train == load_recipe(name, index).train


def test_cp_replaces_only_with_force(cli, here: Path) -> None:
    (here / "mine.toml").write_text("mine")
    assert cli("cp", "smoke", "mine.toml").code == 2
    assert (here / "mine.toml").read_text() == "mine"
    assert cli("cp", "smoke", "mine.toml", "--force").code == 0
    assert "smoke" in (here / "mine.toml").read_text()
    assert cli("cp", "smok", "x.toml").code == 2
    assert not (here / "x.toml").exists()


def test_aligned() -> None:
    assert aligned([("a", "bbb", "c"), ("aaa", "b", "")]) == ["a    bbb  c", "aaa  b"]
    assert aligned([]) == []
