"""Doctor: what is wrong with each plugin, why, and what to do about it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlparse

import attrs

from framework.catalog import DuplicateName, PluginSource, installed_plugins
from framework.errors import FwError, name_hints
from framework.index import Index, PluginRecord, build_index, installed_index, plugin_file
from framework.trials import SLOW, Trial, Trials, try_imports

PACKAGES = {"PIL": "pillow", "cv2": "opencv-python", "skimage": "scikit-image", "sklearn": "scikit-learn",
            "yaml": "PyYAML"}  # fmt: skip
"""Modules that come with a package of another name."""
_SHOWN = 3
"""Names of components, or of packages, in one sentence."""


@attrs.frozen
class Finding:
    """Something about a plugin that its user or author should know.

    Attributes:
        plugin: its name.
        what: in a few words.
        why: what was seen, with its place.
        mend: what to do about it, the likeliest first.
        grave: whether something is wrong; else the plugin works, as far as it can here.
    """

    plugin: str
    what: str
    why: str
    mend: tuple[str, ...]
    grave: bool = True


class Unwell(FwError):
    """Something is wrong with a plugin."""

    exit_code = 3


@attrs.frozen
class Checkup:
    """What was looked at, and what was found.

    Attributes:
        index: every plugin.
        trials: how their imports went.
        names: those that were asked for.
        findings: about these, in the order of the index.
    """

    index: Index
    trials: Trials
    names: tuple[str, ...]
    findings: tuple[Finding, ...]

    def records(self, name: str) -> list[PluginRecord]:
        """The plugin of a name; more than one where several distributions bring one."""
        return [record for record in self.index.plugins if record.source.name == name]

    def of(self, name: str) -> list[Finding]:
        """What was found about the plugin of a name."""
        return [finding for finding in self.findings if finding.plugin == name]


def examine(names: Sequence[str] = (), announce: Callable[[str], None] = lambda line: None) -> Checkup:
    """Imports the installed plugins, each in a process of its own, and says what is wrong with them.

    Args:
        names: the plugins to look at; absent: all.
        announce: told what takes a while.

    Raises:
        FwError: no plugin has one of the names; torch cannot be imported.
    """
    sources = installed_plugins()
    known = list(dict.fromkeys(source.name for source in sources))
    for name in names:
        if name not in known:
            raise FwError(f"no plugin is called {name!r}", name_hints(name, known, "plugins"))
    chosen = tuple(names) or tuple(known)
    announce("importing each plugin in a process of its own ...")
    trials = try_imports(sources)
    index = _index(sources, trials, announce)
    found = diagnose(index, trials)
    return Checkup(index, trials, chosen, tuple(finding for finding in found if finding.plugin in chosen))


def _index(sources: Sequence[PluginSource], trials: Trials, announce: Callable[[str], None]) -> Index:
    """The installed plugins without importing here what ended the process that did."""
    fatal = {label: trial.fault for label, trial in trials.of.items() if trial.fatal}
    if not fatal:
        return installed_index(announce)
    return Index(tuple(
        PluginRecord(source, fault=fatal[source.label]) if source.label in fatal else build_index([source]).plugins[0]
        for source in sources
    ))  # fmt: skip


def diagnose(index: Index, trials: Trials | None = None) -> list[Finding]:
    """Everything that is wrong with the plugins of an index, in their order.

    Args:
        index: what there is.
        trials: how their imports went; absent: nobody tried.
    """
    clashes = index.clashes()
    tried = trials or Trials()
    found: list[Finding] = []
    for record in index.plugins:
        trial = tried.of.get(record.source.label, Trial())
        found += _of_hooks(record)
        found += _of_loading(record, trial)
        found += _of_place(record.source)
        found += _of_name(record.source, index)
        found += _of_clashes(record.source, clashes)
        found += _of_speed(record.source, trial, tried.torch_s)
        found += _of_requirements(record)
    return found


def require_well(checkup: Checkup) -> None:
    """
    Raises:
        Unwell: something is wrong with a plugin that was asked for.
    """
    ill = dict.fromkeys(finding.plugin for finding in checkup.findings if finding.grave)
    if ill:
        raise Unwell(f"something is wrong with {len(ill)} of {len(checkup.names)} plugins: {', '.join(ill)}")


# --------------------------------------------------------------------------------------------------- loading


def _of_hooks(record: PluginRecord) -> Iterator[Finding]:
    if record.fatal is None:
        return
    name = record.source.name
    what = "a hook is not marked" if "@hookimpl" in record.fault else "a hook is misspelt"
    why = record.fault.removeprefix(f"plugin {record.source.label} ")
    yield Finding(name, what, f"it {why}", (*record.fatal.hints, "until then every command stops at it"))


def _of_loading(record: PluginRecord, trial: Trial) -> Iterator[Finding]:
    """Why a plugin cannot be loaded: as the index knows it, or else as a process of its own found out."""
    fault = record.fault or trial.fault
    if fault and record.fatal is None:
        what, mend = _judged(fault, trial.fatal, record.source)
        yield Finding(record.source.name, what, fault, mend)


def _judged(fault: str, fatal: bool, source: PluginSource) -> tuple[str, tuple[str, ...]]:
    """What a fault comes to, and what to do about it."""
    upgrade, leave = f"pip install --upgrade {source.distribution}", f"pip uninstall {source.distribution}"
    if fatal:
        return "it ends or holds up whoever imports it", (
            f"{leave}: until then every command may end so",
            f"{upgrade}, and what it requires: compiled parts of one version break those of another",
        )
    if missing := re.search(r"No module named '([\w.]+)'", fault):
        return "a module is missing", _to_install(missing[1], source)
    if "of the plugin contract" in fault:
        mend = "pip install --upgrade fw-transfer" if "upgrade fw-transfer" in fault else upgrade
        return "it was written for another version of the contract", (mend,)
    if re.search(r"cannot import name .* from 'framework|module 'framework' has no attribute", fault):
        mend = "pip install --upgrade fw-transfer, where the plugin is the newer one"
        return "it was written for another version of fw-transfer", (upgrade, mend)
    return "it cannot be loaded", (upgrade, "mend the place named above, if the plugin is yours", leave)


def _to_install(module: str, source: PluginSource) -> tuple[str, ...]:
    """What brings a missing module: the plugin's own distribution, or another package."""
    package = module.partition(".")[0]
    if package == source.package:
        return (f"pip install --force-reinstall {source.distribution}: its entry point names {source.module}",)
    if package == "framework":
        return (f"pip install --upgrade {source.distribution} fw-transfer: one is older than the other",)
    wanted = PACKAGES.get(package, package)
    stated = next((line for line in source.requires if re.match(_of_package(wanted), line, re.IGNORECASE)), "")
    if stated:
        return (f"pip install '{stated.partition(';')[0].strip()}', which {source.distribution} requires",)
    return (f"pip install {wanted}", f"{source.distribution} should list it under dependencies, if the plugin is yours")


def _of_package(name: str) -> str:
    """The pattern of a requirement of one package, however it spells the name."""
    return "[-_.]+".join(map(re.escape, re.split(r"[-_.]+", name))) + r"(?![-\w.])"


# --------------------------------------------------------------------------------------------- place and names


def _of_place(source: PluginSource) -> Iterator[Finding]:
    """Whether another file stands in the place of the plugin's own."""
    found = plugin_file(source)
    home = None if source.file else _home(source)
    if found is None or home is None or found.resolve().is_relative_to(home.resolve()):
        return
    yield Finding(
        source.name, "its module is shadowed",
        f"{source.distribution} has it at {home}, but `import {source.package}` finds {found}",
        (f"rename or remove {found}", "or leave its folder out of PYTHONPATH"),
    )  # fmt: skip


def _home(source: PluginSource) -> Path | None:
    """The file or folder in which the plugin's distribution has its module; None where that cannot be told."""
    try:
        installed = distribution(source.distribution)
    except PackageNotFoundError:
        return None
    beside = (Path(str(installed.locate_file(name))) for name in (source.package, f"{source.package}.py"))
    return next((path for path in beside if path.exists()), None) or _checkout(installed)


def _checkout(installed: Distribution) -> Path | None:
    """The folder that an editable installation stands for."""
    try:
        told = json.loads(installed.read_text("direct_url.json") or "{}")
    except ValueError:
        return None
    url = urlparse(told.get("url", ""))
    return Path(unquote(url.path)) if url.scheme == "file" and told.get("dir_info", {}).get("editable") else None


def _of_name(source: PluginSource, index: Index) -> Iterator[Finding]:
    """Whether two distributions bring plugins of one name: which of them is used is a matter of chance."""
    same = [record.source for record in index.plugins if record.source.name == source.name]
    if len(same) == 1 or same[0] is not source:
        return
    yield Finding(
        source.name, "two distributions bring a plugin of this name",
        " and ".join(f"{other.distribution} {other.version} ({other.module})" for other in same),
        (" or ".join(f"pip uninstall {other.distribution}" for other in same),
         "or rename the entry point of one, if it is yours"),
    )  # fmt: skip


def _of_clashes(source: PluginSource, clashes: Sequence[DuplicateName]) -> Iterator[Finding]:
    mine = [clash for clash in clashes if source.label in clash.message]
    if mine:
        more = f"; and {len(mine) - 1} more" if len(mine) > 1 else ""
        yield Finding(source.name, "another component has the same name", mine[0].message + more,
                      (*mine[0].hints, "until then every command stops at it"))  # fmt: skip


# ---------------------------------------------------------------------------------------- speed and requirements


def _of_speed(source: PluginSource, trial: Trial, torch_s: float) -> Iterator[Finding]:
    """Whether an import takes long beside torch's, and what takes it."""
    if trial.fault or trial.seconds <= SLOW * torch_s:
        return
    costs = [f"{package} {seconds:.2f} s" for package, seconds in list(trial.costs.items())[:_SHOWN]]
    dearest = next(iter(trial.costs), "")
    mend = (
        "do that work in build, or in the hook, and not as the module is imported"
        if dearest == source.package
        else f"import {dearest or 'what is large'} inside the functions that need it"
    )
    yield Finding(
        source.name, "it is slow to import",
        f"{trial.seconds:.2f} s, beside {torch_s:.2f} s for torch itself" + (f": {', '.join(costs)}" if costs else ""),
        (mend,),
    )  # fmt: skip


def _of_requirements(record: PluginRecord) -> Iterator[Finding]:
    """What must be installed before some of the components can be used."""
    names: dict[str, list[str]] = {}
    for card in record.cards:
        if card.requires:
            names.setdefault(card.requires, []).append(card.name)
    for requires, lacking in names.items():
        more = f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
        yield Finding(record.source.name, "a package is not installed", f"{', '.join(lacking[:_SHOWN])}{more} need it",
                      (f"{requires} to use {'it' if len(lacking) == 1 else 'them'}",), grave=False)  # fmt: skip
