"""What all tests share: one index for the session, the command line, throw-away plugins, and text snapshots."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

REPO = Path(__file__).parent.parent
SNAPSHOTS = Path(__file__).parent / "errors"

# Tests run side by side, one process a core: threads within one would only get in the others' way.
os.environ["OMP_NUM_THREADS"] = "1"
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if not IS_WORKER:  # the workers share their controller's cache
    os.environ["FW_CACHE_DIR"] = tempfile.mkdtemp(prefix="fw-tests-")
os.environ["COLUMNS"] = "100"
for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
    os.environ.pop(name, None)


def pytest_configure() -> None:
    """Builds the index before the workers start, so that no two of them do, and no test sees it being built."""
    if not IS_WORKER:
        from framework.index import installed_index

        installed_index()


def pytest_collection_finish() -> None:
    """Before any test: some fork this process later on."""
    import torch

    torch.ones(1, requires_grad=True).sum().backward()  # a child cannot, where torch.export came first


def pytest_unconfigure() -> None:
    import shutil

    if IS_WORKER:
        return
    shutil.rmtree(os.environ["FW_CACHE_DIR"], ignore_errors=True)


@attrs.frozen
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def nothing_passed_a_self_check() -> None:
    """Each test as in a process of its own."""
    from framework.passed import PASSED

    PASSED.clear()


@pytest.fixture(scope="session")
def index():
    """The index of the installed plugins, built once."""
    from framework.index import installed_index

    return installed_index()


@pytest.fixture(scope="session")
def toys():
    """The index of the toy plugin alone."""
    from toys import Toys

    from framework.catalog import PluginSource
    from framework.index import build_index

    return build_index([PluginSource.of(Toys(), "toys", "acme-toys")])


@pytest.fixture
def cli() -> Callable[..., Result]:
    """`cli("list", "heads")`: runs `fw` in this process, and gives its exit code and texts."""
    from framework.cli import main

    def run(*arguments: str) -> Result:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(argument) for argument in arguments])
        return Result(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def cli_process() -> Callable[..., Result]:
    """The same in a process of its own; `env` adds to the environment, `site` to the module path."""

    def run(*arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None, site: str = "") -> Result:
        paths = [site, str(REPO), str(REPO / "plugins"), os.environ.get("PYTHONPATH", "")]
        code = "import sys; from framework.cli import main; sys.exit(main())"
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=cwd, capture_output=True, text=True, check=False, timeout=300,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **(env or {})},
        )  # fmt: skip
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def site(tmp_path_factory, monkeypatch) -> Iterator[Callable[..., Path]]:
    """`site("acme", source)`: installs a throw-away plugin `acme` of the distribution `acme-fw`; gives its file."""
    folder = tmp_path_factory.mktemp("site")
    monkeypatch.syspath_prepend(str(folder))
    known = set(sys.modules)

    def install(name: str, source: str, version: str = "1.0") -> Path:
        for old in folder.glob(f"{name}_fw-*.dist-info/*"):
            old.unlink()
        for old in folder.glob(f"{name}_fw-*.dist-info"):
            old.rmdir()
        info = folder / f"{name}_fw-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-fw\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[framework.plugins]\n{name} = {name}\n")
        file = folder / f"{name}.py"
        file.write_text(source)
        sys.modules.pop(name, None)
        return file

    yield install
    for module in set(sys.modules) - known:
        if str(getattr(sys.modules[module], "__file__", "") or "").startswith(str(folder)):
            del sys.modules[module]


@pytest.fixture
def snapshot(tmp_path) -> Callable[[str, str], None]:
    """`snapshot("typo_in_a_key", text)`: the text must be that of `tests/errors/typo_in_a_key.txt`, paths made neutral.

    `FW_UPDATE_SNAPSHOTS=1 pytest tests/framework/test_errors.py` rewrites them: read every change.
    """

    def compare(name: str, text: str) -> None:
        file = SNAPSHOTS / f"{name}.txt"
        found = neutral(text, tmp_path).rstrip() + "\n"
        if os.environ.get("FW_UPDATE_SNAPSHOTS"):
            file.write_text(found, encoding="utf-8")
        expected = file.read_text(encoding="utf-8") if file.is_file() else ""
        lines = difflib.unified_diff(expected.splitlines(), found.splitlines(), str(file), "now", lineterm="")
        assert found == expected, "\n".join(lines)

    return compare


def neutral(text: str, tmp_path: Path) -> str:
    """A text without what differs between machines."""
    from framework.sources import shipped_recipes

    text = text.replace(", ".join(shipped_recipes()), "SHIPPED")
    text = text.replace(str(tmp_path), "TMP").replace(str(REPO), "REPO")
    return re.sub(rf"{re.escape(str(tmp_path.parent))}/site\d+", "SITE", text)


@pytest.fixture
def only_toys(monkeypatch) -> None:
    """The toy plugin and those of `site` are all that is installed."""
    from toys import Toys

    from framework import index as module
    from framework.catalog import PluginSource

    installed = module.installed_plugins
    toys = PluginSource.of(Toys(), "toys", "acme-toys")
    monkeypatch.setattr(
        module, "installed_plugins", lambda: [toys, *(s for s in installed() if s.distribution != "fw-transfer")]
    )


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
