"""`fw plugins doctor`: each way in which a plugin can be ill is named, with its place and what to do; none stops it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
from toys import Toys

from framework import doctor
from framework.catalog import PluginSource, installed_plugins
from framework.doctor import Finding, diagnose
from framework.hooks import KINDS, Kind
from framework.index import Index, build_index
from framework.trials import SLOW, Trial, Trials, try_imports

HEAD = '''\
import attrs
import framework as fw

@attrs.frozen
class Linear:
    """A head."""

@fw.hookimpl
def {}():
    return [fw.Component("{}", Linear)]
'''
GOOD = HEAD.format("fw_heads", "acme_head")
CONTRACT = "import framework as fw\n@fw.hookimpl\ndef fw_contract():\n    return {}\n"
TOYS = PluginSource.of(Toys(), "toys", "acme-toys")


def acmes() -> list[PluginSource]:
    """The throw-away plugins that are installed."""
    return [source for source in installed_plugins() if source.distribution.startswith("acme")]


def findings(trials: Trials | None = None) -> list[Finding]:
    return diagnose(build_index(acmes()), trials)


def only() -> Finding:
    [finding] = findings()
    return finding


# ------------------------------------------------------------------------------------------------ what is found


@attrs.frozen
class Illness:
    """A plugin with one fault, and what the doctor says of it."""

    source: str
    what: str
    why: str
    mend: str


ILLNESSES = {
    "missing module": Illness(
        "import bricks_of_nobody", "a module is missing", "'bricks_of_nobody' at ", "pip install bricks_of_nobody"),
    "missing module of a package of another name": Illness(
        "raise ImportError(\"No module named 'cv2.dnn'\")", "a module is missing", "cv2", "pip install opencv-python"),
    "a name that the framework has not": Illness(
        "from framework import Nothing", "it was written for another version of fw-transfer", "'Nothing'",
        "pip install --upgrade acme-fw"),
    "an attribute that the framework has not": Illness(
        "import framework as fw\nfw.Nothing", "it was written for another version of fw-transfer", "'Nothing'",
        "pip install --upgrade acme-fw"),
    "a module that the framework has not": Illness(
        "import framework.nothing", "a module is missing", "framework.nothing",
        "pip install --upgrade acme-fw fw-transfer: one is older than the other"),
    "newer contract": Illness(
        CONTRACT.format(99), "it was written for another version of the contract", "99",
        "pip install --upgrade fw-transfer"),
    "older contract": Illness(
        CONTRACT.format(0), "it was written for another version of the contract", "0",
        "pip install --upgrade acme-fw"),
    "syntax error": Illness("def fw_heads(:", "it cannot be loaded", "SyntaxError", "pip install --upgrade acme-fw"),
    "failing hook": Illness(
        GOOD.replace("return [", "return 1 / 0, ["), "it cannot be loaded", "ZeroDivisionError",
        "pip install --upgrade acme-fw"),
    "misspelt hook": Illness(
        HEAD.format("fw_haeds", "acme_head"), "a hook is misspelt", "it implements 'fw_haeds' at ",
        "did you mean 'fw_heads'?"),
    "misspelt hook of an adapter": Illness(
        HEAD.format("fw_adaptors", "acme_adapter"), "a hook is misspelt", "it implements 'fw_adaptors' at ",
        "did you mean 'fw_adapters'?"),
    "unmarked hook": Illness(
        GOOD.replace("@fw.hookimpl\n", ""), "a hook is not marked", "it defines 'fw_heads' at ",
        "put @framework.hookimpl above it"),
    "a name that it offers twice": Illness(
        GOOD.replace("return [", "return [fw.Component('acme_head', Linear), "), "another component has the same name",
        "offers the head 'acme_head' twice", "rename one of them"),
}  # fmt: skip


@pytest.mark.parametrize("illness", ILLNESSES.values(), ids=ILLNESSES)
def test_an_illness_is_named_with_what_to_do(site, illness: Illness) -> None:
    site("acme", illness.source)
    found = only()
    assert (found.plugin, found.what, found.grave) == ("acme", illness.what, True)
    assert illness.why in found.why
    assert found.mend[0] == illness.mend


def test_nothing_is_found_with_a_plugin_that_is_well(site) -> None:
    site("acme", GOOD)
    label = acmes()[0].label
    assert findings() == findings(Trials(2.0, {label: Trial(0.1)})) == []


def test_a_missing_module_is_installed_as_the_distribution_requires_it(site) -> None:
    file = site("acme", "import bricks_of_nobody")
    with (file.parent / "acme_fw-1.0.dist-info" / "METADATA").open("a") as metadata:
        metadata.write("Requires-Dist: bricks-of-nobody-else\n")
        metadata.write("Requires-Dist: Bricks.of-nobody[all]>=2; python_version > '3'\n")
    assert only().mend == ("pip install 'Bricks.of-nobody[all]>=2', which acme-fw requires",)


def test_a_plugin_whose_own_module_is_gone_is_installed_again(site) -> None:
    site("acme", "").unlink()
    assert only().mend == ("pip install --force-reinstall acme-fw: its entry point names acme",)


def test_a_clash_is_found_with_each_of_the_two_plugins_and_with_both_places(site) -> None:
    file = site("acme", HEAD.format("fw_heads", "linear").replace(
        "return [", "return [fw.Component('mlp', Linear), "))  # fmt: skip
    found = [finding for finding in diagnose(build_index([TOYS, *acmes()])) if finding.grave]
    assert [finding.plugin for finding in found] == ["toys", "acme"]
    for finding in found:
        assert f"{file}:" in finding.why
        assert "toys.py:" in finding.why
        assert finding.why.endswith("; and 1 more")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.table)
def test_a_clash_is_found_in_each_registry(site, toys: Index, kind: Kind) -> None:
    name = toys.names(kind.registry)[0]
    site("acme", HEAD.format(kind.hook, name))
    found = [finding for finding in diagnose(build_index([TOYS, *acmes()])) if finding.grave]
    assert [finding.plugin for finding in found] == ["toys", "acme"]
    assert all(finding.why.startswith(f"two plugins offer the {kind.noun} {name!r}: ") for finding in found)


def test_two_distributions_with_a_plugin_of_one_name(site) -> None:
    file = site("acme", GOOD)
    (file.parent / "acme_other.py").write_text("")
    info = file.parent / "acme_other-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-other\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text("[framework.plugins]\nacme = acme_other\n")
    found = only()
    assert found.what == "two distributions bring a plugin of this name"
    assert "acme-fw 1.0 (acme)" in found.why
    assert "acme-other 2.0 (acme_other)" in found.why
    assert "pip uninstall acme-" in found.mend[0]


@pytest.mark.parametrize("shape", ["file", "package", "checkout"])
def test_a_module_that_another_file_shadows(site, tmp_path: Path, monkeypatch, shape: str) -> None:
    own = site("acme", GOOD)
    home = {"file": own, "package": own.with_suffix(""), "checkout": tmp_path / "check out"}[shape]
    if shape != "file":
        own.unlink()
        home.mkdir()
    if shape == "package":
        (home / "__init__.py").write_text(GOOD)
    if shape == "checkout":
        (home / "acme.py").write_text(GOOD)
        monkeypatch.syspath_prepend(str(home))
        told = {"url": home.as_uri(), "dir_info": {"editable": True}}
        (own.parent / "acme_fw-1.0.dist-info" / "direct_url.json").write_text(json.dumps(told))
    assert findings() == []
    sys.modules.pop("acme", None)
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / "acme.py").write_text(GOOD)
    monkeypatch.syspath_prepend(str(tmp_path / "earlier"))
    found = only()
    assert found.what == "its module is shadowed"
    assert found.why == f"acme-fw has it at {home}, but `import acme` finds {tmp_path / 'earlier' / 'acme.py'}"
    assert found.mend[0] == f"rename or remove {tmp_path / 'earlier' / 'acme.py'}"
    del sys.modules["acme"]


def test_components_that_lack_a_package_are_a_note_and_no_fault() -> None:
    [found] = diagnose(build_index([TOYS]))
    assert (found.grave, found.why, found.mend) == (False, "toy/brick need it", ("install bricks to use it",))


@pytest.mark.parametrize(("share", "is_slow"), [(SLOW * 0.9, False), (SLOW * 1.1, True)])
def test_a_plugin_is_slow_beside_torch_and_not_by_the_clock(site, share: float, is_slow: bool) -> None:
    site("acme", GOOD)
    label = acmes()[0].label
    for torch_s in (0.5, 50.0):
        found = findings(Trials(torch_s, {label: Trial(share * torch_s, {"pandas": 0.4, "acme": 0.1})}))
        assert [finding.what for finding in found] == ["it is slow to import"] * is_slow


def test_what_makes_an_import_slow_decides_what_to_do(site) -> None:
    site("acme", GOOD)
    label = acmes()[0].label
    costs = {"pandas": 3.0, "scipy": 1.0, "acme": 0.5, "six": 0.1}
    [found] = findings(Trials(2.0, {label: Trial(4.6, costs)}))
    assert found.why == "4.60 s, beside 2.00 s for torch itself: pandas 3.00 s, scipy 1.00 s, acme 0.50 s"
    assert found.mend == ("import pandas inside the functions that need it",)
    [found] = findings(Trials(2.0, {label: Trial(4.6, {"acme": 4.5})}))
    assert found.mend == ("do that work in build, or in the hook, and not as the module is imported",)


def test_what_only_a_process_of_its_own_shows_is_found_too(site) -> None:
    site("acme", GOOD)
    trials = Trials(2.0, {acmes()[0].label: Trial(fault="ModuleNotFoundError: No module named 'bricks' at x.py:1")})
    [found] = findings(trials)
    assert (found.what, found.mend[0]) == ("a module is missing", "pip install bricks")


# ------------------------------------------------------------------------------------------------------- trials

TRIED = {
    "acme_well": "import framework as fw\n@fw.hookimpl\ndef fw_heads():\n    return []\n",
    "acme_loud": "import os, sys\nprint('{')\nprint('import time: 9 | 9 | no', file=sys.stderr)\nos.write(1, b'{')\n",
    "acme_slow": "import acme_part\n",
    "acme_ill": "import bricks_of_nobody\n",
    "acme_leaves": "import os\nos._exit(7)\n",
    "acme_crashes": "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n",
    "acme_hangs": "import time\nwhile True:\n    time.sleep(1)\n",
}


@pytest.fixture(scope="module")
def trials(tmp_path_factory) -> dict[str, Trial]:
    """How the imports of a few plugins went, by name; all were tried at once."""
    folder = tmp_path_factory.mktemp("tried")
    (folder / "acme_part.py").write_text("import time\ntime.sleep(0.4)\n")
    for name, text in TRIED.items():
        (folder / f"{name}.py").write_text(text)
    sys.path.insert(0, str(folder))
    sources = [PluginSource(name, "acme-fw", "1.0", name, lambda: None) for name in TRIED]
    found = try_imports(sources, limit_s=2)
    sys.path.remove(str(folder))
    print(f"torch {found.torch_s:.2f} s", *(f"{label} {trial.seconds:.3f} s" for label, trial in found.of.items()))
    assert found.torch_s > 0.1
    return {source.name: found.of[source.label] for source in sources}


@pytest.mark.parametrize("name", ["acme_well", "acme_loud"])
def test_an_import_that_goes_well(trials: dict[str, Trial], name: str) -> None:
    assert (trials[name].fault, trials[name].fatal) == ("", False)
    assert 0 < trials[name].seconds < 0.4


def test_the_costs_of_an_import_are_by_package(trials: dict[str, Trial]) -> None:
    slow = trials["acme_slow"]
    assert next(iter(slow.costs)) == "acme_part"
    assert 0.4 <= slow.costs["acme_part"] <= slow.seconds
    assert slow.costs["acme_slow"] < 0.1
    assert "torch" not in slow.costs, "torch is there before"


def test_an_import_that_fails(trials: dict[str, Trial]) -> None:
    assert "No module named 'bricks_of_nobody' at " in trials["acme_ill"].fault
    assert not trials["acme_ill"].fatal


@pytest.mark.parametrize(
    ("name", "how"),
    [("acme_leaves", "ends the process, with exit code 7"), ("acme_crashes", "ends the process: signal 11"),
     ("acme_hangs", "did not end within 2 seconds")],
)  # fmt: skip
def test_an_import_that_ends_the_process_or_never_ends(trials: dict[str, Trial], name: str, how: str) -> None:
    assert trials[name].fatal
    assert how in trials[name].fault


# ------------------------------------------------------------------------------------------------------ command


@pytest.fixture
def tried(monkeypatch) -> Callable[..., None]:
    """`tried(acme=Trial(...))`: toys and throw-away plugins are all there is; their imports go so, or take 0.01 s."""

    def give(**of: Trial) -> None:
        everyone = [TOYS, *acmes()]
        found = {source.label: of.get(source.name, Trial(0.01)) for source in everyone}
        monkeypatch.setattr(doctor, "try_imports", lambda sources: Trials(2.0, found))
        for module in ("framework.index", "framework.doctor"):
            monkeypatch.setattr(f"{module}.installed_plugins", lambda: everyone)

    return give


def test_plugins_that_are_well_end_with_0(cli, site, tried) -> None:
    site("acme", GOOD)
    tried()
    result = cli("plugins", "doctor")
    assert result.code == 0
    assert "acme (acme-fw 1.0): well, imported in 0.01 s\nimport torch: 2.00 s\n" in result.out
    assert "  note: a package is not installed\n" in result.out


def test_the_doctors_words(cli, site, tried, snapshot) -> None:
    site("acme", "import bricks_of_nobody\n")
    site("acme_head", HEAD.format("fw_heads", "linear"))
    site("acme_hooks", HEAD.format("fw_haeds", "acme_hook"))
    tried(acme=Trial(fault="ModuleNotFoundError"), acme_hooks=Trial(fault="MisspeltHook"),
          acme_head=Trial(1.5, {"pandas": 1.1, "acme_head": 0.3}))  # fmt: skip
    result = cli("plugins", "doctor")
    assert result.code == 3
    said = result.err.replace("indexing plugins (once per installed version) ...\n", "")
    snapshot("doctor", f"$ fw plugins doctor\n{result.out}{said}")


def test_only_the_plugins_that_are_named_count(cli, site, tried) -> None:
    site("acme", "import bricks_of_nobody\n")
    site("acme_head", GOOD)
    tried()
    assert cli("plugins", "doctor", "acme_head").code == 0
    assert "acme (" not in cli("plugins", "doctor", "acme_head").out
    assert cli("plugins", "doctor", "acme", "acme_head").code == 3


def test_a_plugin_that_is_not_there(cli, site, tried, snapshot) -> None:
    site("acme", GOOD)
    tried()
    result = cli("plugins", "doctor", "acmee")
    assert result.code == 2
    snapshot("doctor_of_nobody", f"$ fw plugins doctor acmee\n{result.err}")


def test_json_holds_the_findings_and_nothing_else(cli, site, tried) -> None:
    site("acme", "import bricks_of_nobody\n")
    tried(acme=Trial(0.2, fault="ModuleNotFoundError"))
    result = cli("plugins", "doctor", "--json")
    told = json.loads(result.out)
    assert result.code == 3
    assert told["torch_s"] == 2.0
    assert {row["plugin"]: row["import_s"] for row in told["plugins"]} == {"toys": 0.01, "acme": None}
    [fault] = [finding for finding in told["findings"] if finding["grave"]]
    assert fault.keys() == {"plugin", "what", "why", "mend", "grave"}
    assert (fault["plugin"], fault["mend"][0]) == ("acme", "pip install bricks_of_nobody")


def test_a_plugin_that_ends_the_process_is_not_imported_into_the_doctors(cli, site, monkeypatch) -> None:
    site("acme", "import os\nos._exit(9)\n")
    everyone = [TOYS, *acmes()]
    for module in ("framework.index", "framework.doctor"):
        monkeypatch.setattr(f"{module}.installed_plugins", lambda: everyone)
    result = cli("plugins", "doctor", "acme")
    assert result.code == 3
    assert "  fault: it ends or holds up whoever imports it\n" in result.out
    assert "    its import ends the process, with exit code 9\n" in result.out
    assert "    help: pip uninstall acme-fw: until then every command may end so\n" in result.out


# --------------------------------------------------------------------------------------------------------- list


@pytest.mark.usefixtures("only_toys")
class TestList:
    def status(self, cli) -> dict[str, str]:
        rows = json.loads(cli("plugins", "--json").out)["plugins"]
        return {row["plugin"]: row["status"] for row in rows}

    def test_one_line_holds_what_there_is_to_know(self, cli, site) -> None:
        file = site("acme", GOOD)
        header, _, line = cli("plugins").out.splitlines()
        assert header.split() == ["plugin", "distribution", "version", "components", "status", "place"]
        assert line.split() == ["acme", "acme-fw", "1.0", "1", "ok", str(file)]

    def test_a_broken_plugin_is_left_out_and_others_work(self, cli, site) -> None:
        site("acme", "import bricks_of_nobody\n")
        assert self.status(cli) == {"toys": "ok", "acme": "broken"}
        assert cli("plugins").out.splitlines()[-1] == "fw plugins doctor says what to do"
        assert cli("list").code == 0

    @pytest.mark.parametrize(("hook", "toys"), [("fw_haeds", "ok"), ("fw_heads", "stops all")])
    def test_a_misspelt_hook_and_a_clash_stop_every_command(self, cli, site, hook: str, toys: str) -> None:
        site("acme", HEAD.format(hook, "linear"))
        assert self.status(cli) == {"toys": toys, "acme": "stops all"}
        assert cli("list").code == 2
