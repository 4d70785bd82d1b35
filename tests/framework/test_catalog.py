"""Plugins: a broken one is remembered, a misspelt or unmarked hook and a clash of names are errors."""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from toys import RECIPE, Linear, Toys

import framework as fw
from framework.catalog import BrokenPlugin, DuplicateName, MisspeltHook, PluginSource, load_plugin
from framework.errors import FwError
from framework.hooks import CONTRACT, KINDS, RUN_HOOKS, ComponentHooks, RunHooks
from framework.index import Index, build_index
from framework.recipe import load_recipe


def module(**members: Any) -> types.ModuleType:
    made = types.ModuleType("acme")
    vars(made).update(members)
    return made


def hook(name: str, function: Callable[..., Any], marked: bool = True) -> types.ModuleType:
    function.__name__ = name
    return module(**{name: fw.hookimpl(function) if marked else function})


def source(plugin: object, name: str = "acme") -> PluginSource:
    return PluginSource.of(plugin, name, f"{name}-fw")


def failing(error: BaseException) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def broken(load: Callable[[], object]) -> PluginSource:
    return PluginSource("acme", "acme-fw", "2.0", "acme", load)


def both(plugin: PluginSource) -> Index:
    return build_index([plugin, source(Toys(), "toys")])


# ------------------------------------------------------------------------------------------------- broken


@attrs.frozen
class ListKey:
    names: list[str] = fw.key(())


@attrs.frozen
class CoreKey:
    use: str = fw.key("")


@attrs.frozen
class Unresolvable:
    x: Nothing = fw.key(1)  # noqa: F821


class NoAttrs:
    x = 1


FAULTS = {
    "import error": (broken(failing(ImportError("No module named 'x'"))), "ImportError: No module named 'x'"),
    "leaves the process": (broken(failing(SystemExit(3))), "SystemExit: 3"),
    "its own error": (broken(failing(FwError("needs a licence"))), "needs a licence"),
    "hook fails": (source(hook("fw_heads", failing(ValueError("no heads")))), "ValueError: no heads"),
    "hook gives no list": (source(hook("fw_heads", lambda: 3)), "TypeError: 'int' object is not iterable"),
    "hook gives something else": (source(hook("fw_heads", lambda: [3])), "neither a Component nor a Family"),
    "hook takes arguments": (source(hook("fw_heads", lambda oops: [])), "PluginValidationError"),
    "family fails": (
        source(hook("fw_heads", lambda: [fw.Family("a", failing(OSError("no list")), Linear)])), "OSError: no list"),
    "no attrs class": (source(hook("fw_heads", lambda: [fw.Component("a", NoAttrs)])), "its config is no attrs class"),
    "a list key": (source(hook("fw_heads", lambda: [fw.Component("a", ListKey)])), "write tuple"),
    "the core's key": (source(hook("fw_heads", lambda: [fw.Component("a", CoreKey)])), "the key 'use' is the core's"),
    "unresolvable type": (source(hook("fw_heads", lambda: [fw.Component("a", Unresolvable)])), "NameError"),
}  # fmt: skip


@pytest.mark.parametrize(("plugin", "reason"), FAULTS.values(), ids=FAULTS)
def test_a_broken_plugin_is_remembered_and_unrelated_recipes_are_valid(
    plugin: PluginSource, reason: str, here: Path
) -> None:
    index = both(plugin)
    (record,) = index.broken
    assert record.source.label.startswith("acme (acme-fw ")
    assert reason in record.fault
    assert record.cards == ()
    (here / "toy.toml").write_text(RECIPE)
    assert load_recipe("toy.toml", index).name == "toy"


def test_an_unknown_name_may_have_been_the_broken_plugins(here: Path) -> None:
    (here / "toy.toml").write_text(RECIPE)
    with pytest.raises(fw.FwError) as caught:
        load_recipe("toy.toml", both(broken(failing(ImportError("no torch")))), ["head.use=lora"])
    assert "plugin acme (acme-fw 2.0) is broken and may have offered it: ImportError: no torch" in caught.value.render()


def test_the_place_of_a_fault_is_the_plugins_line(site, tmp_path: Path) -> None:
    file = site("acme_place", "x = 1\n\nimport not_there_at_all\n")
    import importlib

    with pytest.raises(BrokenPlugin) as caught:
        load_plugin(broken(lambda: importlib.import_module("acme_place")))
    assert str(caught.value) == f"ModuleNotFoundError: No module named 'not_there_at_all' at {file}:3"


def test_an_interruption_while_a_plugin_loads_is_no_fault() -> None:
    with pytest.raises(KeyboardInterrupt):
        build_index([broken(failing(KeyboardInterrupt()))])


# -------------------------------------------------------------------------------------------------- hooks


def test_a_misspelt_hook_is_an_error(here: Path) -> None:
    index = both(source(hook("fw_backbone", lambda: [])))
    (here / "toy.toml").write_text(RECIPE)
    with pytest.raises(MisspeltHook, match=r"acme-fw 0.*implements 'fw_backbone' at .*test_catalog.py:") as caught:
        load_recipe("toy.toml", index)
    assert caught.value.hint == "did you mean 'fw_backbones'?"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["fw_heads", "fw_run_started"])
def test_an_unmarked_hook_is_an_error(name: str) -> None:
    with pytest.raises(MisspeltHook, match=f"defines '{name}' at .* without @hookimpl"):
        load_plugin(source(hook(name, lambda: [], marked=False)))


def test_other_functions_classes_and_values_are_no_hooks() -> None:
    plugin = module(fw_helper=lambda: 3, fw_heads_count=2, Fw_heads=type("Fw_heads", (), {}), helper=print)
    assert load_plugin(source(plugin)).run_hooks() == frozenset()


def test_every_hook_is_specified_once_and_documented() -> None:
    specified = [name for spec in (ComponentHooks, RunHooks) for name in vars(spec) if name.startswith("fw_")]
    assert sorted(specified) == sorted([*(kind.hook for kind in KINDS), *RUN_HOOKS])
    assert all((getattr(ComponentHooks, kind.hook).__doc__ or "").strip() for kind in KINDS)


def test_run_hooks_are_found_and_called() -> None:
    seen: list[Any] = []

    def fw_run_started(facts: Any) -> None:
        seen.append(facts)

    index = build_index([source(hook("fw_run_started", fw_run_started)), source(Toys(), "toys")])
    assert index.watching("fw_run_started") == ["acme"]
    assert index.watching("fw_run_ended") == []
    index.catalog().tell("acme", "fw_run_started", {"name": "x"})
    assert seen == [{"name": "x"}]


# ------------------------------------------------------------------------------------------------ clashes


def test_two_plugins_with_one_name_are_an_error_that_names_both(here: Path) -> None:
    index = both(source(hook("fw_heads", lambda: [fw.Component("linear", ListFree)])))
    (here / "toy.toml").write_text(RECIPE)
    with pytest.raises(DuplicateName) as caught:
        load_recipe("toy.toml", index)
    form = r"two plugins offer the head 'linear': acme \(acme-fw 0\) at (.*):(\d+) and toys \(toys-fw 0\) at (.*):(\d+)"
    file, line, other_file, other_line = re.fullmatch(form, caught.value.message).groups()
    for path, number, name in ((file, line, "ListFree"), (other_file, other_line, "Linear")):
        around = Path(path).read_text().splitlines()[int(number) - 1 : int(number) + 1]
        assert any(text.startswith(f"class {name}") for text in around)


@attrs.frozen
class ListFree:
    """Another head of the same name."""


def test_one_plugin_that_offers_a_name_twice_is_a_clash_too() -> None:
    index = build_index([source(hook("fw_heads", lambda: [fw.Component("a", Linear), fw.Component("a", Linear)]))])
    assert len(index.clashes()) == 1


def test_one_name_in_two_registries_is_no_clash() -> None:
    plugin = module()
    for name in ("fw_heads", "fw_losses"):
        vars(plugin).update(vars(hook(name, lambda: [fw.Component("same", Linear)])))
    assert build_index([source(plugin)]).clashes() == []


# ------------------------------------------------------------------------------------------------- lookup


def test_a_family_member_is_made_alone(toys: Index) -> None:
    made: list[str] = []

    def member(name: str) -> fw.Component:
        made.append(name)
        return fw.Component(f"fam/{name}", Linear)

    index = build_index([source(hook("fw_heads", lambda: [fw.Family("fam", lambda: ["a", "b/c"], member)]))])
    assert index.names("heads") == ["fam/a", "fam/b/c"]
    made.clear()
    assert index.catalog().component("fw_heads", "fam/b/c").config is Linear
    assert made == ["b/c"]


def test_every_name_of_the_index_can_be_looked_up(toys: Index) -> None:
    catalog = toys.catalog()
    names = [(kind.hook, name) for kind in KINDS for name in toys.names(kind.registry)]
    assert len(names) == 21
    for hook_name, name in names:
        assert catalog.component(hook_name, name).name == name


@pytest.mark.parametrize("name", ["nothing", "toy/", "toy/net51", "toy", ""])
def test_a_name_that_nothing_offers(toys: Index, name: str) -> None:
    with pytest.raises(FwError, match="no plugin offers"):
        toys.catalog().component("fw_backbones", name)


def test_only_the_plugin_that_owns_a_name_is_loaded() -> None:
    loads: list[str] = []

    def plugin(name: str) -> PluginSource:
        def load() -> object:
            loads.append(name)
            return hook("fw_heads", lambda: [fw.Component(f"{name}_head", Linear)])

        return PluginSource(name, name, "1", name, load)

    index = build_index([plugin("a"), plugin("b")])
    loads.clear()
    index.catalog().component("fw_heads", "b_head")
    assert loads == ["b"]


def test_a_family_that_fails_at_the_last_moment_is_one_clear_error(toys: Index) -> None:
    calls = iter([Linear, None])

    def member(name: str) -> fw.Component:
        config = next(calls)
        if config is None:
            raise RuntimeError("the library changed")
        return fw.Component(f"fam/{name}", config)

    index = build_index([source(hook("fw_heads", lambda: [fw.Family("fam", lambda: ["a"], member)]))])
    with pytest.raises(
        FwError, match=r"plugin acme \(acme-fw 0\) cannot make 'fam/a': RuntimeError: the library changed"
    ):
        index.catalog().component("fw_heads", "fam/a")


# ----------------------------------------------------------------------------------------------- contract


def of_contract(version: object) -> PluginSource:
    return source(module(fw_contract=fw.hookimpl(lambda: version), fw_of_tomorrow=fw.hookimpl(lambda: ())))


@pytest.mark.parametrize(
    ("version", "mend"), [(0, "upgrade the plugin"), (2, "upgrade fw-transfer"), ("one", "upgrade fw-transfer")]
)
def test_a_plugin_for_another_contract_is_broken_and_told_which_side_to_upgrade(version: object, mend: str) -> None:
    """Before anything else: its hooks may be those of another version."""
    with pytest.raises(BrokenPlugin, match=f"version {version!r} of the plugin contract, .* has 1: {mend}"):
        load_plugin(of_contract(version))
    index = both(of_contract(version))
    index.require_sound()
    assert [record.source.name for record in index.broken] == ["acme"]


def test_a_plugin_for_this_contract_or_without_a_word_is_taken() -> None:
    said = source(module(fw_contract=fw.hookimpl(lambda: CONTRACT)))
    assert load_plugin(said).run_hooks() == frozenset()
    assert load_plugin(source(module())).run_hooks() == frozenset()
