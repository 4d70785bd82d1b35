"""The floors: imports point down or sideways, plugins see public names alone, light commands import nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import framework

REPO = Path(__file__).parents[2]
FLOORS = (
    "component contracts additions hooks errors task streams signatures",
    "tables shapes catalog index positions bind sources recipe display toml_text collector",
    "network layout freezing groups weights kinds tracing units files pictures capture captures splicing template costs"
    " marking cut division shared formats casting partition identity entries features lanes lean measure allocator",
    "assemble builder data schedule train checkpoint loader feed score splits mixing recalibrate running codec"
    " digests log paths signals watchers draws gradients filling decoded keeping stored selfcheck passed",
    "rundir runs explain bench report results models trained api",
    "cli testing schema doctor trials scaffold",
)
FLOOR_OF = {module: number for number, names in enumerate(FLOORS) for module in names.split()}
HEAVY = ("torch", "torchvision", "timm", "sklearn", "torchmetrics", "matplotlib", "jinja2")


def imports_of(file: Path) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """(module, names, line) of every import in a file, those for type checkers alone left out."""
    pending: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, (), node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}:{node.lineno}: a relative import"
            yield node.module or "", tuple(alias.name for alias in node.names), node.lineno
        else:
            pending += ast.iter_child_nodes(node)


def modules() -> dict[Path, str]:
    """Each file of the framework, and the part of it that stands on a floor."""
    package = REPO / "framework"
    files = sorted(file for file in package.rglob("*.py") if file != package / "__init__.py")
    return {file: file.relative_to(package).with_suffix("").parts[0] for file in files}


def imported_parts(file: Path) -> Iterator[tuple[str, int]]:
    """The parts of the framework that a file imports."""
    for module, names, line in imports_of(file):
        if module == "framework":
            yield from (
                (name, line) for name in names if (REPO / "framework" / f"{name}.py").is_file() or name in FLOOR_OF
            )
        elif module.startswith("framework."):
            yield module.split(".")[1], line


def test_every_module_stands_on_a_floor() -> None:
    assert sorted(set(modules().values()) - set(FLOOR_OF)) == []


def test_imports_point_down_or_sideways() -> None:
    checked, upward = 0, []
    for file, part in modules().items():
        for other, line in imported_parts(file):
            checked += 1
            if FLOOR_OF.get(other, 0) > FLOOR_OF.get(part, 0):
                upward.append(f"{file.relative_to(REPO)}:{line} imports {other}")
    print(f"{checked} imports in {len(modules())} files")
    assert checked > 50
    assert upward == []


def test_plugins_import_public_names_only() -> None:
    checked, private = 0, []
    for file in sorted((REPO / "plugins").rglob("*.py")):
        for module, names, line in imports_of(file):
            if module.split(".")[0] != "framework":
                continue
            checked += 1
            unknown = [name for name in names if name not in framework.__all__]
            if module != "framework" or unknown:
                private.append(f"{file.relative_to(REPO)}:{line} imports {module}: {unknown}")
    print(f"{checked} imports of the framework in plugins")
    assert checked > 5
    assert private == []


def test_public_names_that_plugins_use_exist() -> None:
    for file in sorted((REPO / "plugins").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "fw":
                assert node.attr in framework.__all__, f"{file.relative_to(REPO)}:{node.lineno} uses fw.{node.attr}"


def test_the_framework_never_names_a_plugin() -> None:
    plugins = [folder.name for folder in (REPO / "plugins").iterdir() if folder.name.startswith("fw_")]
    assert len(plugins) >= 6
    named = [
        f"{file.relative_to(REPO)}:{line}"
        for file in modules()
        for module, _, line in imports_of(file)
        if module.split(".")[0] in plugins
    ]
    assert named == []


def test_floors_0_and_1_import_no_heavy_library() -> None:
    heavy = [
        f"{file.relative_to(REPO)}:{line}"
        for file, part in modules().items()
        if FLOOR_OF.get(part, 9) <= 1
        for module, _, line in imports_of(file)
        if module.split(".")[0] in HEAVY
    ]
    assert heavy == []


def test_every_public_name_can_be_imported() -> None:
    for name in framework.__all__:
        assert getattr(framework, name) is not None
    assert set(framework.__all__) <= set(dir(framework))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        framework.nothing  # noqa: B018


LOADED = """
import sys
from framework.cli import main
code = main(sys.argv[2:])
open(sys.argv[1], "w").write(" ".join(sys.modules))
sys.exit(code)
"""

LIGHT = {
    "help": (["--help"], {"attr", "pluggy", "rich", "cattrs", "tomllib"}),
    "version": (["--version"], {"attr", "pluggy", "rich", "cattrs", "tomllib"}),
    "help of run": (["run", "--help"], {"rich", "cattrs"}),
    "list": (["list"], {"rich", "cattrs"}),
    "list of backbones": (["list", "backbones"], {"rich", "cattrs"}),
    "list of recipes": (["list", "recipes"], {"rich", "cattrs"}),
    "show of a component": (["show", "linear"], {"rich"}),
    "show of a recipe": (["show", "resnet18_frozen"], {"rich"}),
    "validate": (["validate", "resnet18_frozen"], {"rich"}),
    "plugins": (["plugins"], {"rich", "cattrs"}),
    "help of plugins new": (["plugins", "new", "--help"], {"rich", "cattrs"}),
    "schema": (["schema"], {"rich"}),
}


@pytest.mark.parametrize(("arguments", "not_even"), LIGHT.values(), ids=LIGHT)
def test_light_commands_import_nothing_heavy_and_no_plugin(
    index: object, tmp_path: Path, arguments: list[str], not_even: set[str]
) -> None:
    out = tmp_path / "modules"
    command = [sys.executable, "-c", LOADED, str(out), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    loaded = {name.split(".")[0] for name in out.read_text().split()}
    plugins = {folder.name for folder in (REPO / "plugins").iterdir()}
    assert loaded & {*HEAVY, "numpy", "PIL", *plugins, *not_even} == set()
