"""The index: read from plugins once, then from its cache, which never lies and is never needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from framework.errors import FwError
from framework.index import Index, PluginRecord, installed_index

PLUGIN = """\
import attrs
import framework as fw

print("loud at import")

@attrs.frozen(kw_only=True)
class Head:
    "{doc}"

    size: fw.PositiveInt = fw.key(3, "its size")

@fw.hookimpl
def fw_heads():
    return [fw.Component("acme_head", Head, choices={{"size": ("1", "2")}}, requires="{requires}")]

@fw.hookimpl
def fw_run_ended(facts):
    pass
"""


def plugin(doc: str = "A head.", requires: str = "") -> str:
    return PLUGIN.format(doc=doc, requires=requires)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own, and only throw-away plugins."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FW_CACHE_DIR", str(folder))
    from framework import index as module

    real = module.installed_plugins
    monkeypatch.setattr(module, "installed_plugins", lambda: [s for s in real() if s.name.startswith("acme")])
    return folder


class Session:
    """Reads the installed index and counts how often plugins had to be read."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def read(self) -> tuple[Index, int]:
        sys.modules.pop("acme_index", None)
        self.told.clear()
        index = installed_index(self.told.append)
        return index, int("acme_index" in sys.modules)

    def record(self) -> PluginRecord:
        return self.read()[0].plugins[0]


def files(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.json"))


def touch(file: Path, text: str) -> None:
    """Writes a file so that its time differs, on file systems with coarse clocks too."""
    before = file.stat().st_mtime_ns
    file.write_text(text)
    os.utime(file, ns=(before + 10**9, before + 10**9))


def test_it_is_built_once_with_a_line(cache: Path, site) -> None:
    site("acme_index", plugin())
    session = Session()
    first, loaded = session.read()
    assert (session.told, loaded) == (["indexing plugins (once per installed version) ..."], 1)
    second, loaded = session.read()
    assert (session.told, loaded) == ([], 0)
    assert second.plugins[0].cards == first.plugins[0].cards
    assert second.plugins[0].run_hooks == {"fw_run_ended"}
    card = second.find("heads", "acme_head")
    assert card is not None
    assert (card.doc, card.choices, card.plugin) == ("A head.", {"size": ("1", "2")}, "acme_index")
    assert card.place.endswith("acme_index.py:6")


def test_what_a_plugin_prints_does_not_mix_with_a_commands_output(cache: Path, site, capsys) -> None:
    site("acme_index", plugin())
    Session().read()
    assert capsys.readouterr() == ("", "loud at import\n")


def test_an_edited_plugin_is_read_again(cache: Path, site) -> None:
    file = site("acme_index", plugin())
    session = Session()
    session.read()
    touch(file, plugin(doc="Another head."))
    index, loaded = session.read()
    assert loaded == 1
    assert index.cards("heads")[0].doc == "Another head."
    assert len(files(cache)) == 1, "the entry of the old source is gone"


def test_a_module_inside_a_plugins_package_counts_too(cache: Path, site) -> None:
    file = site("acme_index", "")
    file.unlink()
    package = file.with_suffix("")
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("from acme_index.deep.heads import *\n")
    (package / "deep" / "__init__.py").write_text("")
    (package / "deep" / "heads.py").write_text(plugin())
    session = Session()
    assert session.read()[1] == 1
    assert session.read()[1] == 0
    touch(package / "deep" / "heads.py", plugin(doc="Another head."))
    for name in [name for name in sys.modules if name.startswith("acme_index")]:
        del sys.modules[name]
    index, loaded = session.read()
    assert (loaded, index.cards("heads")[0].doc) == (1, "Another head.")


def test_another_version_is_read_again(cache: Path, site) -> None:
    file = site("acme_index", plugin())
    before = file.stat().st_mtime_ns
    session = Session()
    session.read()
    site("acme_index", plugin(), version="1.1")
    os.utime(file, ns=(before, before))
    index, loaded = session.read()
    assert loaded == 1
    assert index.plugins[0].source.version == "1.1"


def test_a_plugin_that_goes_is_gone(cache: Path, site) -> None:
    file = site("acme_index", plugin())
    session = Session()
    session.read()
    for info in file.parent.glob("*.dist-info/entry_points.txt"):
        info.unlink()
    assert session.read()[0].plugins == ()


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"cards": []}', "half", "binary", "wrong shape"])
def test_a_damaged_cache_file_is_made_again(cache: Path, site, damage: str) -> None:
    site("acme_index", plugin())
    session = Session()
    session.read()
    (file,) = files(cache)
    whole = file.read_bytes()
    texts = {
        "half": whole[: len(whole) // 2],
        "binary": b"\xff\x00\xfe",
        "wrong shape": whole.replace(b'["acme_head", "heads"', b'["acme_head"'),
    }
    file.write_bytes(texts.get(damage, damage.encode()))
    index, loaded = session.read()
    assert loaded == 1
    assert index.names("heads") == ["acme_head"]
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_done_without(cache: Path, site) -> None:
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("a file where the folder should be")
    site("acme_index", plugin())
    session = Session()
    for _ in range(2):
        index, loaded = session.read()
        assert (index.names("heads"), loaded) == (["acme_head"], 1)
    assert cache.read_text() == "a file where the folder should be"


def test_a_broken_plugin_is_tried_again_each_time_without_a_word(cache: Path, site) -> None:
    file = site("acme_index", "import acme_needs_this")
    session = Session()
    assert "No module named 'acme_needs_this'" in session.record().fault
    assert len(session.told) == 1
    assert "acme_needs_this" in session.record().fault
    assert session.told == []
    (file.parent / "acme_needs_this.py").write_text("")
    assert session.record().fault == ""
    assert session.record().cards == ()


def test_a_plugin_whose_module_is_gone_is_broken_and_no_place_in_python_is_blamed(cache: Path, site) -> None:
    site("acme_index", "").unlink()
    assert Session().record().fault == "ModuleNotFoundError: No module named 'acme_index'"


def test_a_misspelt_hook_stays_an_error_though_it_is_cached(cache: Path, site) -> None:
    site("acme_index", "import framework as fw\n@fw.hookimpl\ndef fw_head():\n    return []\n")
    session = Session()
    for _ in range(2):
        with pytest.raises(FwError, match="'fw_head'"):
            session.read()[0].require_sound()


def test_two_environments_share_a_cache_folder(cache: Path, site, monkeypatch) -> None:
    site("acme_index", plugin())
    session = Session()
    session.read()
    monkeypatch.setattr(sys, "prefix", "/another/environment")
    assert session.read()[1] == 1
    monkeypatch.undo()
    monkeypatch.setenv("FW_CACHE_DIR", str(cache))
    assert len(files(cache)) == 2


def test_processes_at_once_all_succeed_and_leave_one_whole_entry(tmp_path: Path, site) -> None:
    file = site("acme_index", plugin())
    code = "from framework.index import installed_index as i; print(i().names('heads').count('acme_head'))"
    paths = os.pathsep.join([str(file.parent), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "FW_CACHE_DIR": str(tmp_path), "PYTHONPATH": paths}
    code = _ONLY_ACME + code
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    assert [process.communicate()[0].split() for process in processes] == [["1"]] * 4
    assert len(files(tmp_path)) == 1
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [files(tmp_path)[0].name], "no scratch file stays"


_ONLY_ACME = """\
import framework.index as m
real = m.installed_plugins
m.installed_plugins = lambda: [s for s in real() if s.name.startswith("acme")]
"""


def test_requirements_are_shown_and_refused(cache: Path, site, here: Path) -> None:
    site("acme_index", plugin(requires="install bricks"))
    card = Session().read()[0].find("heads", "acme_head")
    assert card is not None
    assert card.requires == "install bricks"
