"""Plugins of other people: installed from their own projects, removed again, checked by the kit, and broken ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path

import pytest

from framework.sources import shipped_recipes

REPO = Path(__file__).parents[2]
PROJECTS = Path(__file__).parent / "third_party"
OFFERS = {
    "fw-mono-net": ("backbones", "mono_net"),
    "fw-thaw": ("freezing_policies", "thaw"),
    "fw-shapes": ("datasets", "shapes"),
}
"""Project -> the registry and the name that it brings."""

RECIPE = """
name = "three"

[data]
use = "shapes"
images = 60
size = 32

[backbone]
use = "mono_net"
weights = ["random"]
image_size = 32
width = 8
depth = 3

[head]
use = "linear"

[freezing]
use = "thaw"
patience = 1

[loss]
use = "torch/CrossEntropyLoss"

[optimizer]
use = "torch/SGD"
lr = 1e-9  # so that the accuracy stands still

[train]
epochs = 4
batch_size = 12
report = false
"""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the three distributions, built by their own backend and installed by pip, without a network."""
    sources, target = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("target")
    for project in OFFERS:
        shutil.copytree(PROJECTS / project, sources / project)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--no-compile",
         "--quiet", "--disable-pip-version-check", "--target", target, *(sources / project for project in OFFERS)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def home(built: Path, tmp_path: Path) -> Path:
    """A module path of one's own with the three installed."""
    return Path(shutil.copytree(built, tmp_path / "home"))


def remove(home: Path, project: str) -> None:
    """Removes the files that a distribution says are its own, as pip does."""
    [found] = distributions(name=project, path=[str(home)])
    files = [Path(str(file.locate())) for file in found.files or ()]
    assert len(files) >= 5
    for file in files:
        file.unlink()
    for folder in {file.parent for file in files} - {home}:
        shutil.rmtree(folder)


# ---------------------------------------------------------------------------------------------- installed


def test_each_is_a_distribution_of_its_own(built: Path) -> None:
    found = {found.name: found for found in distributions(path=[str(built)])}
    assert sorted(found) == sorted(OFFERS)
    for name, project in found.items():
        [point] = project.entry_points
        module = name.replace("-", "_")
        assert (point.group, point.name, point.value) == ("framework.plugins", module, module)
        top = {str(file).partition("/")[0] for file in project.files or ()}
        assert top == {f"{module}.py", f"{module}-{project.version}.dist-info"}
        assert any(line.startswith("fw-transfer") for line in project.requires or ())


@pytest.mark.parametrize("project", OFFERS)
def test_installing_and_removing_one_shows_at_once(cli_process, home: Path, built: Path, project: str) -> None:
    registry, name = OFFERS[project]

    def listed() -> set[str]:
        result = cli_process("list", registry, "--json", site=str(home))
        assert result.code == 0, result.err
        return {row["name"] for row in json.loads(result.out)}

    before = listed()
    assert name in before
    remove(home, project)
    assert listed() == before - {name}
    for file in built.glob(f"{project.replace('-', '_')}*"):
        (shutil.copytree if file.is_dir() else shutil.copy)(file, home / file.name)
    assert listed() == before


def test_a_recipe_of_all_three_trains_and_its_stages_thaw(cli_process, home: Path, here: Path) -> None:
    (here / "three.toml").write_text(RECIPE)
    result = cli_process("run", "three.toml", "--json", cwd=here, site=str(home))
    assert result.code == 0, result.err
    assert "warning" not in result.err
    summary = json.loads(result.out)
    assert summary["status"] == "done"
    assert summary["audit"]["frozen_moved"] == 0
    assert [change["epoch"] for change in summary["plan_changes"]] == [2, 3]
    assert summary["task"]["classes"] == ["circle", "square", "triangle"]
    assert {"fw_mono_net": "fw-mono-net 0.1.0", "fw_thaw": "fw-thaw 0.1.0"}.items() <= (
        summary["environment"]["plugins"].items()
    )


def test_a_recipe_that_wants_what_was_removed_says_so(cli_process, home: Path, here: Path) -> None:
    (here / "three.toml").write_text(RECIPE)
    remove(home, "fw-thaw")
    result = cli_process("validate", "three.toml", cwd=here, site=str(home))
    assert result.code == 2
    assert "no freezing policy is called 'thaw'" in result.err


@pytest.mark.sweep
@pytest.mark.parametrize("project", OFFERS)
def test_its_own_tests_pass_where_it_is_installed(built: Path, tmp_path: Path, project: str) -> None:
    shutil.copytree(PROJECTS / project, tmp_path / project)
    (tmp_path / project / f"{project.replace('-', '_')}.py").unlink()  # the installed one is what is tested
    paths = [str(built), str(REPO), str(REPO / "plugins"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "."],
        cwd=tmp_path / project, capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = int(re.findall(r"(\d+) passed", done.stdout)[0])
    assert passed > 10


# ------------------------------------------------------------------------------------------------- broken

HOOK = """
import framework as fw

@fw.hookimpl
def {}({}):
    {}
"""
BROKEN = {
    "cannot_import": ("import not_there_at_all\n", "ModuleNotFoundError: No module named 'not_there_at_all'"),
    "leaves": ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
    "raises": (HOOK.format("fw_heads", "", "raise ValueError('no heads today')"), "ValueError: no heads today"),
    "yields_anything": (HOOK.format("fw_losses", "", "return [3]"), "neither a Component nor a Family"),
}
"""Plugin -> its source, and what is said of it when the index is read."""
FAILING = {
    "fails_at_the_start": HOOK.format("fw_run_started", "facts", "raise OSError('no server')"),
    "fails_at_the_end": HOOK.format("fw_run_ended", "facts", "facts['summary']['nothing']"),
    "writes_to_facts": HOOK.format("fw_epoch_ended", "facts", "facts['metrics'] = {}"),
    "leaves_in_a_hook": HOOK.format("fw_epoch_ended", "facts", "raise SystemExit(3)"),
}
"""Plugin -> its source; each has a run hook that fails."""


@pytest.fixture
def faulty(site) -> Callable[..., Path]:
    """`faulty(name=source, ...)` installs plugins and gives the folder that they are in."""

    def install(**sources: str) -> Path:
        return [site(name, source) for name, source in sources.items()][-1].parent

    return install


def test_every_shipped_recipe_is_valid_beside_broken_plugins(cli, faulty) -> None:
    faulty(**{name: source for name, (source, _) in BROKEN.items()})
    names = shipped_recipes()
    for recipe in names:
        result = cli("validate", recipe)
        assert result.code == 0, result.err
        for name, (_, said) in BROKEN.items():
            [line] = [line for line in result.err.splitlines() if f"plugin {name} ({name}-fw 1.0)" in line]
            assert line.startswith("warning: ")
            assert said in line
    print(f"{len(names)} recipes beside {len(BROKEN)} broken plugins")
    assert len(names) > 5


def test_a_run_goes_on_beside_broken_plugins_and_failing_hooks(cli_process, faulty, home: Path, here: Path) -> None:
    sick = faulty(**{name: source for name, (source, _) in BROKEN.items()}, **FAILING)
    (here / "three.toml").write_text(RECIPE)
    result = cli_process("run", "three.toml", "--json", cwd=here, site=os.pathsep.join([str(home), str(sick)]))
    assert result.code == 0, result.err
    assert json.loads(result.out)["status"] == "done"
    warnings = [line for line in result.err.splitlines() if line.startswith("warning: ")]
    for name in BROKEN:
        assert any(f"plugin {name} ({name}-fw 1.0) is broken and left out" in line for line in warnings), result.err
    for name in FAILING:
        assert any(f"plugin {name} failed in fw_" in line for line in warnings), result.err


def test_a_misspelt_hook_stops_everything_until_it_is_mended(cli_process, faulty, here: Path) -> None:
    """By design: a hook that is never called would be missed long after."""
    sick = faulty(misspelt=HOOK.format("fw_haeds", "", "return []"))
    for arguments in (["validate", "resnet18_frozen"], ["list", "heads"]):
        result = cli_process(*arguments, cwd=here, site=str(sick))
        assert result.code == 2
        assert "error: plugin misspelt (misspelt-fw 1.0) implements 'fw_haeds'" in result.err
        assert "did you mean 'fw_heads'?" in result.err
    shown = cli_process("plugins", "--json", cwd=here, site=str(sick))
    assert shown.code == 0
    assert {row["plugin"]: row["status"] for row in json.loads(shown.out)["plugins"]}["misspelt"] == "stops all"
    (sick / "misspelt.py").write_text(HOOK.format("fw_heads", "", "return []"))
    assert cli_process("validate", "resnet18_frozen", cwd=here, site=str(sick)).code == 0
