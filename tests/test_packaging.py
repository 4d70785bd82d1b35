"""The wheel: what is in it, what is not, and that it works alone, far from the checkout."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import attrs
import pytest

REPO = Path(__file__).parent.parent
PLUGINS = sorted(folder.name for folder in (REPO / "plugins").glob("fw_*") if (folder / "__init__.py").is_file())
RECIPES = sorted(file.name for file in (REPO / "recipes").glob("*.toml"))


@attrs.frozen
class Wheel:
    """The built wheel: its file, the names in it, its metadata folder."""

    file: Path
    names: tuple[str, ...]
    info: str

    def read(self, name: str) -> str:
        with zipfile.ZipFile(self.file) as archive:
            return archive.read(name).decode()


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    """Standard output of a command that must succeed."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    """The wheel of the tree as it would be committed: tracked files and new ones that are not ignored."""
    if not (REPO / ".git").exists():
        pytest.skip("no git checkout, so that the files of the tree are not known")
    tree, dist = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=REPO)
    for name in filter(None, listed.split("\0")):
        if (REPO / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPO / name, tree / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", dist, tree, cwd=tree)
    [file] = dist.iterdir()
    with zipfile.ZipFile(file) as archive:
        names = tuple(archive.namelist())
    [info] = {name.partition("/")[0] for name in names if ".dist-info/" in name}
    return Wheel(file, names, info)


@pytest.fixture(scope="module")
def target(wheel: Wheel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the installed wheel."""
    folder = tmp_path_factory.mktemp("site")
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-compile", "--quiet",
        "--disable-pip-version-check", "--target", folder, wheel.file, cwd=folder)  # fmt: skip
    return folder


def test_no_top_level_name_is_taken_but_framework_and_the_plugins(wheel: Wheel) -> None:
    top = {name.partition("/")[0] for name in wheel.names} - {wheel.info}
    print(f"\n{len(wheel.names)} files in {wheel.file.name}; top-level names: {', '.join(sorted(top))}")
    assert top == {"framework", *PLUGINS}


def test_nothing_is_missing_and_nothing_is_stowed_away(wheel: Wheel) -> None:
    sources = {str(file.relative_to(root)) for root, folder in
               [(REPO, REPO / "framework"), *((REPO / "plugins", REPO / "plugins" / name) for name in PLUGINS)]
               for file in folder.rglob("*.py")}  # fmt: skip
    assert {name for name in wheel.names if name.endswith(".py")} == sources
    templates = {str(file.relative_to(REPO)) for ending in ("html", "jinja")
                 for file in (REPO / "framework").rglob(f"*.{ending}")}  # fmt: skip
    assert len(templates) > 15
    assert {"framework/py.typed", *templates} <= set(wheel.names)
    assert [name for name in wheel.names if name.endswith((".pyc", ".so")) or "__pycache__" in name] == []


def test_recipes_are_shipped_under_framework(wheel: Wheel) -> None:
    shipped = sorted(name for name in wheel.names if name.endswith(".toml"))
    assert shipped == [f"framework/_recipes/{name}" for name in RECIPES]
    for name in RECIPES:
        assert wheel.read(f"framework/_recipes/{name}") == (REPO / "recipes" / name).read_text(encoding="utf-8")


def test_entry_points_and_metadata(wheel: Wheel) -> None:
    points = configparser.ConfigParser(delimiters=("=",))
    points.optionxform = str
    points.read_string(wheel.read(f"{wheel.info}/entry_points.txt"))
    assert {section: dict(points[section]) for section in points.sections()} == {
        "console_scripts": {"fw": "framework.cli:main"},
        "framework.plugins": {name: name for name in PLUGINS},
    }
    facts = Parser().parsestr(wheel.read(f"{wheel.info}/METADATA"))
    assert (facts["Name"], facts["Requires-Python"]) == ("fw-transfer", ">=3.11")
    assert facts["License-Expression"] == "Apache-2.0"
    assert set(facts.get_all("Provides-Extra", [])) == {"mlflow", "peers", "pretrained", "tensorboard", "test"}
    [licence] = [name for name in wheel.names if ".dist-info/" in name and name.endswith("LICENSE")]
    assert "Apache License" in wheel.read(licence)


def test_every_plugin_folder_is_declared_everywhere() -> None:
    """A new plugin must be named three times: in the wheel, as an entry point, and in its folder."""
    settings = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))
    assert sorted(settings["project"]["entry-points"]["framework.plugins"]) == PLUGINS
    packages = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(packages) == sorted(["framework", *(f"plugins/{name}" for name in PLUGINS)])


ALONE = """
import json, sys
import framework, fw_heads
from framework.cli import main
code = main(sys.argv[1:])
json.dump([code, framework.__file__, fw_heads.__file__], open("where.json", "w"))
"""


@pytest.fixture(scope="module")
def alone(target: Path, tmp_path_factory: pytest.TempPathFactory):
    """`alone("list", "recipes")`: `fw` of the installed wheel, from an empty folder; gives its standard output."""
    folder = tmp_path_factory.mktemp("elsewhere")

    def fw(*arguments: str) -> str:
        # The module path goes before what .pth files add, and an editable install is one of these.
        env = {"PYTHONPATH": str(target), "FW_CACHE_DIR": str(folder / "cache")}
        said = run(sys.executable, "-c", ALONE, *arguments, cwd=folder, **env)
        code, *files = json.loads((folder / "where.json").read_text())
        assert code == 0, said
        assert all(Path(file).is_relative_to(target) for file in files), files
        return said

    return fw


def test_the_wheel_works_far_from_the_checkout(alone) -> None:
    listed = alone("list", "recipes")
    assert all(name.removesuffix(".toml") in listed for name in RECIPES)
    assert alone("validate", "resnet18_frozen").startswith("ok: resnet18_frozen: ")
    plugins = alone("plugins").splitlines()[1:]
    rows = {line.split()[0]: line for line in plugins if line.startswith("fw_")}
    assert sorted(rows) == PLUGINS
    assert all(" ok " in line for line in rows.values())


def test_the_script_is_installed(target: Path, tmp_path: Path) -> None:
    env = {"PYTHONPATH": str(target), "FW_CACHE_DIR": str(tmp_path / "cache")}
    assert run(target / "bin" / "fw", "--version", cwd=tmp_path, **env).startswith("fw-transfer ")
