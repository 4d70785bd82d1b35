"""`fw plugins new`: each kind is written whole, holds what the kit asks, and runs; what cannot be is refused first."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest
from sweeps import often

from framework.cli import main
from framework.hooks import KINDS, RUN_HOOKS
from framework.scaffold import KIND_OF_WORD, new_project

REPO = Path(__file__).parents[2]
TEMPLATES = REPO / "framework" / "scaffold" / "templates" / "kinds"
HEAVY = {"torch", "torchvision", "timm", "sklearn", "torchmetrics", "matplotlib", "numpy", "fw_heads", "fw_data"}
RULES = "E,F,W,I,B,C4,N,RET,SIM,UP"
each_kind = pytest.mark.parametrize("word", KIND_OF_WORD)


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A project of each kind, as the command writes it: kind -> folder."""
    folder = tmp_path_factory.mktemp("projects")
    for word in KIND_OF_WORD:
        assert main(["plugins", "new", f"my_{word}", "--kind", word, "--into", str(folder)]) == 0
    return {word: folder / f"my_{word}" for word in KIND_OF_WORD}


@pytest.fixture(scope="module")
def site(projects: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every project installed, as pip would do it."""
    folder = tmp_path_factory.mktemp("site")
    for project in projects.values():
        install(project, folder)
    return folder


def install(project: Path, site: Path) -> None:
    """What pip would put into a site folder."""
    facts = tomllib.loads((project / "pyproject.toml").read_text())
    [module] = facts["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    (site / module).write_text((project / module).read_text())
    [(group, points)] = facts["project"]["entry-points"].items()
    name, version = facts["project"]["name"], facts["project"]["version"]
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *(f"{k} = {v}" for k, v in points.items())]))


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The projects are installed in this process, too."""
    monkeypatch.syspath_prepend(str(site))
    yield
    for word in KIND_OF_WORD:
        sys.modules.pop(f"my_{word}", None)


# ------------------------------------------------------------------------------------------------- what is written


def test_every_registry_has_a_scaffold_and_run_hooks_have_one() -> None:
    assert [kind for kind in KIND_OF_WORD.values() if kind] == list(KINDS)
    assert [word for word, kind in KIND_OF_WORD.items() if kind is None] == ["run_hook"]
    assert {"freezing_policy", "loss", "dataset", "metric"} <= set(KIND_OF_WORD)
    assert sorted(file.name for file in TEMPLATES.iterdir()) == sorted(f"{word}.py.jinja" for word in KIND_OF_WORD)


@each_kind
def test_a_project_holds_five_small_files(projects: dict[str, Path], word: str) -> None:
    folder, name = projects[word], f"my_{word}"
    files = {file.name: file.read_text() for file in folder.iterdir()}
    assert set(files) == {"pyproject.toml", f"{name}.py", f"test_{name}.py", "recipe.toml", "README.md"}
    lines = [line for line in files[f"{name}.py"].splitlines() if line.strip()]
    print(f"{name}.py: {len(lines)} lines")
    assert 5 < len(lines) < 30
    assert files[f"test_{name}.py"].split("\n\n") == [
        "from framework.testing import plugin_checks", f"import {name}", f"test_plugin = plugin_checks({name})\n"
    ]  # fmt: skip
    facts = tomllib.loads(files["pyproject.toml"])
    assert facts["project"]["name"] == name
    assert facts["project"]["entry-points"] == {"framework.plugins": {name: name}}
    assert facts["project"]["dependencies"] == ["fw-transfer"]
    assert all(text.endswith("\n") and not text.endswith("\n\n") for text in files.values())
    assert not any("\n\n\n\n" in text or "{{" in text or "{%" in text for text in files.values())


@each_kind
def test_the_readme_has_the_commands_and_the_reference_of_the_hook(projects: dict[str, Path], word: str) -> None:
    text = (projects[word] / "README.md").read_text()
    kind = KIND_OF_WORD[word]
    commands = ("pip install -e .", "pytest", f"fw show my_{word}" if kind else "fw plugins", "fw run recipe.toml")
    for command in commands:
        assert f"\n{command} " in text
    for hook in (kind.hook,) if kind else RUN_HOOKS:
        assert f"\n`{hook}`: " in text


def test_what_is_written_is_clean(projects: dict[str, Path]) -> None:
    folder = str(next(iter(projects.values())).parent)
    modules = [str(project / f"{project.name}.py") for project in projects.values()]
    for command in (["check", "--select", RULES, *modules], ["check", folder], ["format", "--check", folder]):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache"]
        done = subprocess.run(ruff, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def test_a_hyphen_is_an_underscore_in_the_module(cli, here: Path) -> None:
    done = cli("plugins", "new", "my-own-head", "--kind", "head")
    assert done.code == 0
    assert sorted(file.name for file in (here / "my-own-head").iterdir()) == [
        "README.md", "my_own_head.py", "pyproject.toml", "recipe.toml", "test_my_own_head.py"
    ]  # fmt: skip
    facts = tomllib.loads((here / "my-own-head" / "pyproject.toml").read_text())["project"]
    assert facts["name"] == "my-own-head"
    assert facts["entry-points"]["framework.plugins"] == {"my_own_head": "my_own_head"}
    module = (here / "my-own-head" / "my_own_head.py").read_text()
    assert "class MyOwnHead:" in module
    assert 'fw.Component("my_own_head", MyOwnHead)' in module


def test_at_the_end_stands_what_to_type(cli, here: Path) -> None:
    (here / "a place").mkdir()
    lines = cli("plugins", "new", "my_head", "--kind", "head", "--into", "a place").out.splitlines()
    assert lines[0].startswith("wrote a place/my_head: pyproject.toml, my_head.py, ")
    typed = [line.partition("#")[0].strip() for line in lines[2:]]
    assert typed == ["cd 'a place/my_head'", "pip install -e .", "pytest", "fw show my_head", "fw run recipe.toml"]


# -------------------------------------------------------------------------------------------------- that it works


@pytest.fixture(scope="module")
def outcomes(projects: dict[str, Path], site: Path) -> Mapping[str, dict[str, str]]:
    """Project -> id -> what is wrong with it, or nothing, as pytest run on the projects' own tests finds."""
    folder = next(iter(projects.values())).parent
    report = folder / "report.xml"
    paths = [str(site), str(REPO), str(REPO / "plugins"), os.environ.get("PYTHONPATH", "")]
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", "."]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    env.pop("PYTEST_ADDOPTS", None)
    done = subprocess.run(pytest_, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert report.is_file(), done.stdout + done.stderr
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for case in ElementTree.parse(report).iter("testcase"):
        faults = [child.get("message", "") for tag in ("failure", "error") for child in case.findall(tag)]
        found[case.get("classname", "").partition(".")[0]][case.get("name", "")] = "; ".join(faults)
    return found


@pytest.mark.sweep
@each_kind
def test_it_passes_its_own_tests(outcomes: Mapping[str, dict[str, str]], word: str) -> None:
    found = outcomes[f"my_{word}"]
    print(f"my_{word}: {len(found)} checks")
    assert found
    assert {name: fault for name, fault in found.items() if fault} == {}


def test_pip_installs_it_so_that_changes_count_at_once(projects: dict[str, Path], tmp_path: Path) -> None:
    python, folder = tmp_path / "bin" / "python", projects["freezing_policy"]
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    load = "from importlib.metadata import entry_points as points; "
    load += "[point] = points(group='framework.plugins', name='my_freezing_policy'); print(point.load().__file__)"
    for command in (
        [sys.executable, "-m", "venv", "--without-pip", tmp_path],
        [sys.executable, "-m", "pip", "--python", python, "install", *options, "-e", folder],
        [python, "-c", load],
    ):
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    assert Path(done.stdout.strip()) == folder / "my_freezing_policy.py"


@pytest.mark.usefixtures("installed")
@each_kind
def test_its_recipe_is_valid_and_names_it(projects: dict[str, Path], cli, word: str) -> None:
    recipe = projects[word] / "recipe.toml"
    done = cli("validate", str(recipe))
    assert (done.code, done.out.partition(":")[0]) == (0, "ok"), done.err
    assert ('use = "my_' in recipe.read_text()) == (KIND_OF_WORD[word] is not None)


@pytest.mark.usefixtures("installed")
@each_kind
def test_it_is_found_under_its_name(cli, word: str) -> None:
    kind = KIND_OF_WORD[word]
    if kind is not None:
        assert cli("show", f"my_{word}").out.startswith(f"my_{word}: {kind.noun}\n")
    rows = {row["plugin"]: row for row in json.loads(cli("plugins", "--json").out)["plugins"]}
    assert rows[f"my_{word}"]["status"] == "ok"
    assert rows[f"my_{word}"]["distribution"].replace("-", "_") == f"my_{word}"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("word", often(
    ("backbone", "metric", "adapter", "regularizer", "finisher", "run_hook"), quick=("run_hook",)
))  # fmt: skip
def test_its_recipe_runs_as_it_is(projects: dict[str, Path], cli, here: Path, word: str) -> None:
    done = cli("run", str(projects[word] / "recipe.toml"))
    assert done.code == 0, done.err
    folder = here / "runs" / f"my_{word}"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "done"
    if word == "metric":
        assert 0 <= summary["metrics"]["final"]["val"]["my_metric"] <= 1
    if word == "adapter":
        assert (summary["adapter"]["use"], summary["adapter"]["merged"]) == ("my_adapter", True)
    if word == "regularizer":
        assert summary["metrics"]["final"]["train"]["regularizer"] > 0
    if word == "finisher":
        assert summary["metrics"]["raw"]["val"]["loss"] != summary["metrics"]["best"]["val"]["loss"]
    if word == "run_hook":
        lines = [json.loads(line) for line in (folder / "my_run_hook.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines] == [1, 2]
        assert all("val.accuracy" in line for line in lines)


# ------------------------------------------------------------------------------------------------- what is refused

REFUSED = {
    "new_unknown_kind": "my_policy --kind freezing",
    "new_kind_far_from_any": "my_policy --kind xyz",
    "new_without_kind": "my_policy",
    "new_no_identifier": "2nd.head --kind head",
    "new_word_of_python": "class --kind head",
    "new_class_that_is_a_word_of_python": "none --kind loss",
    "new_module_of_python": "random --kind head",
    "new_installed_module": "attrs --kind head",
    "new_installed_package": "scikit-learn --kind head",
    "new_installed_plugin": "fw_heads --kind run_hook",
    "new_component_that_exists": "linear --kind head",
    "new_folder_that_exists": "my_there --kind head",
    "new_into_no_folder": "my_head --kind head --into no/such",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_written(cli, here: Path, snapshot, name: str) -> None:
    (here / "my_there").mkdir()
    done = cli("plugins", "new", *REFUSED[name].split())
    assert (done.code, done.out) == (2, "")
    snapshot(name, f"$ fw plugins new {REFUSED[name]}\n{done.err}")
    assert list(here.rglob("*")) == [here / "my_there"]


@pytest.mark.parametrize("name", ["", "_head", "my_head_", "my head", "häed", "../head", "-head", "my/head", "true"])
def test_a_name_that_is_no_name_is_refused(cli, here: Path, name: str) -> None:
    done = cli("plugins", "new", "--kind", "head", "--", name)
    assert done.code == 2
    assert "a plugin cannot be called" in done.err
    assert list(here.iterdir()) == []


def test_a_component_of_another_registry_may_have_the_name(cli, here: Path) -> None:
    assert cli("plugins", "new", "linear", "--kind", "loss").code == 0


def test_a_disk_that_fills_up_leaves_nothing(cli, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    write = Path.write_text

    def fill(path: Path, *arguments: str, **options: str) -> int:
        written.append(path)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", fill)
    done = cli("plugins", "new", "my_head", "--kind", "head")
    assert (done.code, len(written)) == (2, 3)
    assert "cannot write my_head: No space left on device" in done.err
    assert list(here.iterdir()) == []


# ------------------------------------------------------------------------------------------------------- the command


def test_the_help_lists_every_kind(cli) -> None:
    text = cli("plugins", "new", "--help").out
    kinds = [line.split()[0] for line in text.partition("Kinds:")[2].splitlines() if line.strip()]
    assert kinds == list(KIND_OF_WORD)


@pytest.mark.parametrize("arguments", ["--help", "my_head --kind head"])
def test_it_imports_no_heavy_library_and_no_plugin(here: Path, arguments: str) -> None:
    code = f"import sys; from framework.cli import main; code = main({['plugins', 'new', *arguments.split()]}); "
    code += "sys.stderr.write(' '.join(sys.modules)); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert loaded & HEAVY == set()


def test_titles_are_names_of_classes() -> None:
    titles = {name: new_project(name, "head").title for name in ("my_policy", "my-own-head", "L2sp", "a__b", "x2")}
    assert titles == {"my_policy": "MyPolicy", "my-own-head": "MyOwnHead", "L2sp": "L2sp", "a__b": "AB", "x2": "X2"}
