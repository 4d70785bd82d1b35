"""Trials: each plugin imported in a process of its own: how long it takes beside torch, and whether it ends well."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint
from typing import IO, NoReturn

import attrs

from framework.catalog import BrokenPlugin, MisspeltHook, PluginSource, load_plugin
from framework.errors import FwError
from framework.hooks import ENTRY_POINTS

SLOW = 0.5
"""A plugin is slow where its import takes more than this share of torch's."""
LIMIT_S = 60
"""Whole seconds; an import that takes longer is ended."""
_IMPORTED = re.compile(r"^import time:\s*(\d+) \|\s*\d+ \|\s*(\w+)", re.MULTILINE)


@attrs.frozen
class Trial:
    """How the import of one plugin went.

    Attributes:
        seconds: it took beside what torch and the framework take.
        costs: package -> seconds spent in its own modules, the largest first.
        fault: why the plugin cannot be loaded, or nothing.
        fatal: whether it ends whoever imports it.
    """

    seconds: float = 0.0
    costs: Mapping[str, float] = attrs.field(factory=dict)
    fault: str = ""
    fatal: bool = False


@attrs.frozen
class Trials:
    """How the imports of several plugins went.

    Attributes:
        torch_s: seconds that `import torch` takes here.
        of: label of the plugin -> its trial.
    """

    torch_s: float = 0.0
    of: Mapping[str, Trial] = attrs.field(factory=dict)


def try_imports(sources: Iterable[PluginSource], limit_s: int = LIMIT_S) -> Trials:
    """Imports each plugin in a process of its own that has torch already, and nothing of the others.

    Args:
        sources: the plugins; those that are files are left out.
        limit_s: an import that takes longer is ended.

    Raises:
        FwError: torch itself cannot be imported.
    """
    from framework.bench.processes import run_process

    given = [attrs.asdict(source, filter=lambda field, _: field.name in _TOLD) for source in sources if not source.file]
    # The other process must find what this one does: the same module path, and not the working directory before it.
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    command = [sys.executable, "-P", "-X", "importtime", "-m", "framework.trials", str(limit_s), json.dumps(given)]
    ended = run_process(command, {"PYTHONPATH": path})
    if ended.code:
        raise FwError(f"import torch fails: {ended.reason}", "pip install --force-reinstall torch")
    data = json.loads(ended.out.splitlines()[-1])
    return Trials(data["torch_s"], {label: Trial(**trial) for label, trial in data["of"].items()})


# ------------------------------------------------------------------------------------------ in the other process

_TOLD = ("name", "distribution", "version", "module")
"""What the other process is told of a plugin."""


def main(limit_s: int, given: str) -> None:
    """Imports torch, then each plugin in a child, and prints how that went.

    Args:
        limit_s: an import that takes longer is ended.
        given: JSON of the plugins.
    """
    began = time.perf_counter()
    import_module("torch")
    torch_s = time.perf_counter() - began
    sources = [PluginSource(**told, load=EntryPoint(told["name"], told["module"], ENTRY_POINTS).load)
               for told in json.loads(given)]  # fmt: skip
    trials = {source.label: _trial_of(source, limit_s, SLOW * torch_s) for source in sources}
    print(json.dumps({"torch_s": torch_s, "of": {label: attrs.asdict(trial) for label, trial in trials.items()}}))


def _trial_of(source: PluginSource, limit_s: int, slow_s: float) -> Trial:
    """The quicker of two trials where the first was slow: a disk is slower the first time."""
    first = _in_a_child(source, limit_s)
    if first.fault or first.seconds <= slow_s:
        return first
    second = _in_a_child(source, limit_s)
    return second if not second.fault and second.seconds < first.seconds else first


def _in_a_child(source: PluginSource, limit_s: int) -> Trial:
    with tempfile.TemporaryFile("w+") as answer:
        child = os.fork()
        if not child:
            _answer(source, limit_s, answer)
        _, status = os.waitpid(child, 0)
        answer.seek(0)
        text = answer.read()
    if text:
        return Trial(**json.loads(text))
    return Trial(fault=_end(os.waitstatus_to_exitcode(status), limit_s), fatal=True)


def _answer(source: PluginSource, limit_s: int, answer: IO[str]) -> NoReturn:
    """Writes down how an import goes, and leaves the process, whatever happens."""
    try:
        signal.alarm(limit_s)
        trial = _try(source)
        signal.alarm(0)
        answer.write(json.dumps(attrs.asdict(trial)))
        answer.flush()
    finally:
        os._exit(0)


def _end(code: int, limit_s: int) -> str:
    """How a process ended that gave no answer, in words."""
    if code == -signal.SIGALRM:
        return f"its import did not end within {limit_s} seconds"
    if code < 0:
        return f"its import ends the process: signal {-code} ({signal.strsignal(-code)})"
    return f"its import ends the process, with exit code {code}"


def _try(source: PluginSource) -> Trial:
    fault = ""
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        for stream in (1, 2):  # the interpreter writes the times to the second, beside what the plugin prints
            os.dup2(said.fileno(), stream)
        began = time.perf_counter()
        try:
            load_plugin(source)
        except BrokenPlugin as error:
            fault = str(error)
        except MisspeltHook as error:
            fault = error.message
        seconds = time.perf_counter() - began
        sys.stderr.flush()
        said.seek(0)
        return Trial(seconds, _costs(said.read(), seconds, source.package), fault)


def _costs(text: str, whole: float, package: str) -> dict[str, float]:
    """Package -> seconds, the largest first, from what `-X importtime` prints.

    It does not print the first module of the plugin, which `import_module` imports: that one took what is left.
    """
    costs: dict[str, float] = {}
    for microseconds, imported in _IMPORTED.findall(text):
        costs[imported] = costs.get(imported, 0.0) + int(microseconds) / 1e6
    costs[package] = costs.get(package, 0.0) + max(0.0, whole - sum(costs.values()))
    return dict(sorted(costs.items(), key=lambda item: -item[1]))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
