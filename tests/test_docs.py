"""What the documents say is so: their commands, code blocks, error text, links, and lists of names."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

import framework as fw
from framework.catalog import HOOK_NAMES
from framework.cli.app import NAMES, app
from framework.hooks import ENTRY_POINTS, KINDS, PROJECT, RUN_HOOKS, ComponentHooks, PluginHooks, RunHooks

REPO = Path(__file__).parent.parent
README = (REPO / "README.md").read_text(encoding="utf-8")
GUIDE = (REPO / "plugins" / "README.md").read_text(encoding="utf-8")
FLOORS = (REPO / "framework" / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [file for folder in (".", "framework", "plugins", "benchmarks", "recipes", "tests")
             for file in sorted((REPO / folder).glob("*.md"))]  # fmt: skip

OF_PLUGINS = [name for name in vars(PluginHooks) if name.startswith("fw_")]
INSTALL = "pip install . && fw run recipes/resnet18_frozen.toml"
TEST = "pip install -e '.[test]' && pytest"


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language, or of none."""
    found: list[tuple[str, list[str]]] = []
    inside = False
    for line in text.splitlines(keepends=True):
        if line.startswith("```"):
            inside = not inside
            if inside:
                found.append((line[3:].strip(), []))
        elif inside:
            found[-1][1].append(line)
    return ["".join(lines) for name, lines in found if name == language]


def floors_of_the_page() -> dict[str, int]:
    """Module -> floor, as framework/README.md lists them."""
    [page] = blocks(FLOORS, "")
    floors: dict[str, int] = {}
    number = -1
    for line in re.sub(r"\([^)]*\)", "", page).splitlines():
        head = re.match(r"(\d) \w+ ", line)
        number = int(head[1]) if head else number
        floors |= dict.fromkeys(re.findall(r"\w+", line[head.end() if head else 0 :]), number)
    return floors


def test_the_two_commands_are_there_and_are_what_ci_runs() -> None:
    assert {f"{INSTALL}\n", f"{TEST}\n"} <= set(blocks(README, "sh"))
    script = (REPO / ".ci" / "run").read_text(encoding="utf-8")
    [extraction] = re.findall(r"tests=\$\((sed .*)\)$", script, re.MULTILINE)
    done = subprocess.run(extraction, shell=True, cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout == f"{TEST}\n"
    assert 'eval "$install"' in script
    assert 'eval "$run"' in script


def test_every_fw_command_in_the_readme_can_be_parsed() -> None:
    import click

    lines = [line for text in (README, GUIDE) for block in blocks(text, "sh") for line in block.splitlines()]
    spoken = re.findall(r"`(fw [^`]+)`", README + GUIDE)
    commands = [words[1:] for words in (shlex.split(line, comments=True) for line in [*lines, *spoken])
                if words[:1] == ["fw"]]  # fmt: skip
    assert len(commands) >= 8
    for name, *rest in commands:
        assert name in NAMES
        if rest:
            command = app.get_command(click.Context(app), name)
            assert command is not None
            command.make_context(name, rest)


def test_the_first_command_can_be_run_as_it_stands(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)
    assert cli("validate", INSTALL.rsplit(maxsplit=1)[-1]).code == 0


@pytest.mark.sweep
def test_the_readmes_python_runs(cli_process, here: Path) -> None:
    """All blocks in one program, in order, as a reader would paste them; on random weights where no hub is reached."""
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks(README, "python"))],
        cwd=here, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 0 <= float(done.stdout.split()[-1]) <= 1
    assert (here / "runs" / "two" / "summary.json").is_file()


@pytest.fixture
def my_plugin(site, index) -> str:
    """The guide's examples, one for each hook, as an installed module; the text of its test."""
    *examples, test = blocks(GUIDE, "python")
    [points] = blocks(GUIDE, "toml")
    assert tomllib.loads(points) == {"project": {"entry-points": {ENTRY_POINTS: {"my_plugin": "my_plugin"}}}}
    site("my_plugin", "\n".join(examples))
    return test


def test_the_guides_plugin_has_an_example_of_every_hook(my_plugin: str) -> None:
    import my_plugin as module

    hooks = {name for name, member in vars(module).items() if hasattr(member, f"{PROJECT}_impl")}
    assert sorted(hooks) == sorted(HOOK_NAMES)
    print(f"{len(hooks)} hooks")


@pytest.mark.sweep
def test_the_guides_plugin_passes_the_kit_as_the_guide_has_it(my_plugin: str, here: Path) -> None:
    (here / "test_my_plugin.py").write_text(my_plugin)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "test_my_plugin.py"]
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False, timeout=500,
                          env={**os.environ, "PYTHONPATH": paths})  # fmt: skip
    print(done.stdout[-3000:])
    assert done.returncode == 0
    [passed] = re.findall(r"(\d+) passed", done.stdout)
    assert int(passed) > 60


def test_the_guides_plugin_works_in_a_run(my_plugin: str, cli, here: Path) -> None:
    """Everything that it offers at once: it trains a network and passes the audit."""
    shown = cli("show", "two_layers")
    assert shown.code == 0, shown.err
    assert "width of the hidden layer" in shown.out
    uses = {
        "data": "stripes", "transform.train": "squash", "transform.eval": "squash", "backbone": "two_convs",
        "head": "two_layers", "freezing": "later", "loss": "brier", "optimizer": "sign_sgd", "scheduler": "to_zero",
        "adapter": "factors", "regularizer": "to_start", "finisher": "last_epochs",
    }  # fmt: skip
    lines = ['extends = "smoke"', 'name = "all"', "train.epochs = 2", "optimizer.lr = 0.001",
             'metric = [{ use = "accuracy" }, { use = "top_two" }]',
             *(f'{table}.use = "{use}"' for table, use in uses.items())]  # fmt: skip
    (here / "all.toml").write_text("\n".join(lines))
    result = cli("run", "all.toml", "--json", "--set", "backbone.image_size=32", "--out", "all")
    assert result.code == 0, result.err
    summary = json.loads(result.out)
    assert summary["audit"]["frozen_moved"] == 0
    assert (summary["adapter"]["use"], summary["adapter"]["merged"]) == ("factors", True)
    assert summary["metrics"]["raw"]["test"].keys() == summary["metrics"]["best"]["test"].keys()
    told = [line for line in result.err.splitlines() if line.startswith("epoch ")]
    assert all("  train.regularizer 0." in line and "  val.accuracy " in line for line in told)
    assert len(told) == 2
    diary = (here / "all" / "diary.txt").read_text().splitlines()
    assert diary[0] == "all begins: 2 epochs"
    assert diary[-1] == "the end: done"
    assert any("tensors more may change" in line for line in diary)
    typo = cli("validate", "smoke", "--set", "head.use=two_layers", "--set", "head.hiden=3")
    assert typo.code == 2
    assert "did you mean 'hidden'?" in typo.err


@pytest.fixture
def new_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment that sees what is installed here; `fw`, `pip` and `pytest` are its own."""
    import sysconfig
    import venv

    folder = tmp_path / "venv"
    venv.create(folder, symlinks=True)
    [packages] = folder.glob("lib/*/site-packages")
    paths = [sysconfig.get_path("purelib"), str(REPO), str(REPO / "plugins")]
    (packages / "here.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in paths))
    mains = {"fw": "framework.cli:main", "pip": "pip._internal.cli.main:main", "pytest": "pytest:main"}
    for name, main in mains.items():
        module, _, function = main.partition(":")
        script = folder / "bin" / name
        code = f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n"
        script.write_text(f"#!{folder}/bin/python\n{code}")
        script.chmod(0o755)
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_ROOT_USER_ACTION": "ignore"}
    for name, value in {"PATH": f"{folder}/bin:{os.environ['PATH']}", **offline}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return folder


def neutral(line: str) -> str:
    """A line without what differs from one time to the next."""
    return re.sub(r"[\d.]+", "N", re.sub(r" \([\d:]+\)$", "", line.strip()))  # pytest says a minute twice


@pytest.mark.sweep
def test_the_transcript_of_the_guide_is_what_happens(new_environment: Path, here: Path) -> None:
    """As a new user types it, from an empty folder: every command works, and prints what is shown, figures aside."""
    [shown] = blocks(GUIDE, "console")
    told = [part.splitlines() for part in re.split(r"^\$ ", shown, flags=re.MULTILINE) if part]
    script = "\n".join(f"echo {shlex.quote('$ ' + command)}\n{command}" for command, *_ in told)
    began = time.monotonic()
    done = subprocess.run(["bash", "-ec", script], cwd=here, text=True, check=False, timeout=500,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    print(f"{len(told)} commands, {time.monotonic() - began:.0f} s\n{done.stdout}")
    assert done.returncode == 0
    printed = [part.splitlines() for part in re.split(r"^\$ ", done.stdout, flags=re.MULTILINE) if part]
    for (command, *lines), (_, *found) in zip(told, printed, strict=True):
        known = {neutral(line) for line in found}
        missing = [line for line in lines if line.strip() != "..." and neutral(line) not in known]
        assert missing == [], command


@pytest.mark.sweep
def test_the_guides_commands_work_as_they_stand(my_plugin: str, cli, here: Path) -> None:
    """With the guide's plugin installed, and a policy in a file beside the reader."""
    assert cli("plugins", "new", "my_policy", "--kind", "freezing_policy").code == 0
    (here / "my_policy.py").write_text((here / "my_policy" / "my_policy.py").read_text())
    lines = [shlex.split(line, comments=True) for block in blocks(GUIDE, "sh") for line in block.splitlines()]
    assert len(lines) >= 6
    for command, *arguments in lines:
        assert command == "fw"
        result = cli(*arguments)
        assert result.code == 0, f"fw {shlex.join(arguments)}\n{result.err}"
    assert json.loads((here / "fw.schema.json").read_text())["$schema"]
    print(f"{len(lines)} commands")


def test_the_error_in_the_readme_is_what_fw_prints(cli, here: Path, index) -> None:
    [shown] = [block for block in blocks(README, "") if block.startswith("error: ")]
    assert cli("cp", "lite0_frozen", "mine.toml").code == 0
    mine = here / "mine.toml"
    mine.write_text(mine.read_text(encoding="utf-8").replace("momentum =", "momentun ="), encoding="utf-8")
    result = cli("validate", "mine.toml")
    assert (result.code, result.err) == (2, shown)


def test_every_hook_stands_in_the_guide_with_its_arguments() -> None:
    """The first argument list of each hook's docstring is the row of the guide, names in the same order."""
    rows = {name: cells for cells in re.findall(r"^\| (`fw_.*?) \| (.*?) \| (.*?) \|$", GUIDE, re.MULTILINE)
            for name in re.findall(r"`(fw_\w+)`", cells[0])}  # fmt: skip
    hooks = [name for name in vars(ComponentHooks) if name.startswith("fw_")]
    assert sorted(rows) == sorted(HOOK_NAMES) == sorted([*hooks, *RUN_HOOKS, *OF_PLUGINS])
    assert sorted(hooks) == sorted(kind.hook for kind in KINDS)
    assert sorted(RUN_HOOKS) == sorted(name for name in vars(RunHooks) if name.startswith("fw_"))
    for name in hooks:
        doc = inspect.getdoc(getattr(ComponentHooks, name)) or ""
        [arguments] = re.findall(r"config\.build\((.*?)\) ->", doc)
        names = re.findall(r"(\w+)(?::|,|$)", re.sub(r"\[[^\]]*\]", "", arguments))
        wanted = [word for word in names if word[0].islower() and word not in ("list", "dict", "int")]
        told = re.findall(r"\b([a-z_]+)\b", re.sub(r"fw\.\w+", "", rows[name][1]))
        assert [word for word in told if word != "nothing"] == wanted, name
    for name in RUN_HOOKS:
        assert list(inspect.signature(getattr(RunHooks, name)).parameters)[1:] == ["facts"]
        assert "`facts`" in rows[name][1]


def test_every_public_name_in_the_guide_is_public() -> None:
    used = set(re.findall(r"\bfw\.([A-Za-z]\w*)", README + GUIDE)) - {"schema"}
    assert used <= set(fw.__all__)
    assert len(used) > 10


def test_the_guide_lists_the_public_names() -> None:
    listed = re.findall(r"`fw\.(\w+)`", GUIDE.partition("## Public names")[2])
    print(f"{len(listed)} names")
    assert sorted(listed) == sorted(fw.__all__)


@pytest.mark.parametrize("name", fw.__all__)
def test_each_public_name_is_documented_and_typed(name: str) -> None:
    thing = getattr(fw, name)
    if not (inspect.isclass(thing) or inspect.isfunction(thing)):
        return  # types of numbers, markers
    assert inspect.getdoc(thing)
    if inspect.isfunction(thing):
        hints = inspect.signature(thing)
        assert hints.return_annotation is not inspect.Signature.empty
        assert all(of.annotation is not inspect.Parameter.empty for of in hints.parameters.values())


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(REPO)))
def test_every_relative_link_points_at_something(file: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", file.read_text(encoding="utf-8"))
    own = [link.partition("#")[0] for link in links if "://" not in link and not link.startswith("#")]
    missing = [link for link in own if not (file.parent / link).exists()]
    assert missing == []


def test_the_architecture_page_lists_every_module() -> None:
    folder = REPO / "framework"
    modules = {file.stem for file in folder.glob("*.py")} - {"__init__"}
    packages = {file.parent.name for file in folder.glob("*/__init__.py")}
    told = floors_of_the_page()
    print(f"\n{len(told)} modules on {len(set(told.values()))} floors")
    assert sorted(told) == sorted(modules | packages)


def test_the_floors_of_the_page_are_those_that_the_import_test_keeps() -> None:
    tree = ast.parse((REPO / "tests" / "framework" / "test_imports.py").read_text(encoding="utf-8"))
    [kept] = [ast.literal_eval(node.value) for node in tree.body
              if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FLOORS"]  # fmt: skip
    floor_of = {name: number for number, names in enumerate(kept) for name in names.split()}
    told = floors_of_the_page()
    assert {name: floor for name, floor in told.items() if floor != floor_of.get(name)} == {}
