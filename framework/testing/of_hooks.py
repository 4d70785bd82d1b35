"""Checks of run hooks: what comes of them in a small run that is stopped after an epoch and resumed."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import attrs

from framework.catalog import LoadedPlugin, PluginSource
from framework.component import Component
from framework.contracts import FreezingPolicy, Layout, Moments, Plan, Progress
from framework.display import NullDisplay
from framework.errors import Interrupted
from framework.files import tensors_digest
from framework.hooks import Facts, hookimpl
from framework.index import Index, installed_index
from framework.runs import resume_run, start_run
from framework.testing import chance
from framework.testing.case import Case, Check, check
from framework.testing.networks import NETWORKS
from framework.testing.surroundings import settings_put_back
from framework.testing.whole_runs import recipe_of

THAWING = "kit.thawing"
TABLES: Mapping[str, Any] = {
    "freezing": {"use": THAWING},
    "train": {"epochs": 2, "checkpoint_every": 1000},
    "engine": {"partition": "off"},
}
"""The kit's recipe with every event of which a hook can be told."""
RUN = "run"
"""The run directory, beside the folder in which the run is started."""
_SEED = 1804  # not one that a hook would choose, which would show as nothing drawn


@check
def hooks_raise_nothing(case: Case) -> None:
    """No run hook raises, whatever a run tells it."""
    failed = [told for told in _watched(case).told if told.raised and not told.again]
    assert not failed, f"{failed[0].hook} raises {failed[0].raised}: the run goes on, but without what it was to do"


@check
def a_resumed_run_is_followed(case: Case) -> None:
    """A run that was stopped and goes on is told like any other, and what is in its folder is in nobody's way."""
    watched = _watched(case)
    failed = [told for told in watched.told if told.raised and told.again]
    assert not failed, f"when a run is resumed, {failed[0].hook} raises {failed[0].raised}, as it did not before"


@check
def a_run_computes_the_same(case: Case) -> None:
    """A run ends the same with the hooks as without them, bit for bit."""
    watched, alone = _watched(case), _alone()
    assert not watched.failed, f"with the plugin's run hooks a run fails: {watched.failed}"
    assert watched.networks == alone.networks, (
        f"after {_first_difference(watched.networks, alone.networks)} the network is another than it is without the "
        "plugin's run hooks: a hook may read facts['network'], but must leave it, its modes and torch's settings alone"
    )


@check
def facts_are_only_read(case: Case) -> None:
    """A hook leaves the facts as they are, for the run and other plugins read them too."""
    changed = [told.hook for told in _watched(case).told if told.changed]
    assert not changed, f"{changed[0]} changes the facts that it is given: copy what is to be changed"


@check
def files_stay_in_the_run_directory(case: Case) -> None:
    """A hook writes into the run directory alone, and leaves the run's own files there as they are."""
    told, runs_own = _watched(case).told, _alone().files
    wrote = [(one.hook, name) for one in told for name in one.wrote if name in runs_own or not _is_in_run(name)]
    assert not wrote, (
        f"{wrote[0][0]} writes {wrote[0][1]!r} (the run directory is {RUN!r}): write files of your own, into the "
        "folder facts['run_dir']"
    )


@check
def nothing_is_drawn(case: Case) -> None:
    """A hook leaves the random generators of torch, numpy and Python alone, on which others depend."""
    drew = [(told.hook, told.drew) for told in _watched(case).told if told.drew]
    assert not drew, f"{drew[0][0]} draws from {drew[0][1]}: use a generator of its own, such as random.Random()"


def _is_in_run(name: str) -> bool:
    return name.startswith(f"{RUN}/")


def _first_difference(ours: tuple[str, ...], others: tuple[str, ...]) -> str:
    pairs = zip(ours, others, strict=False)
    return f"epoch {1 + next((at for at, (one, other) in enumerate(pairs) if one != other), 0)}"


# ------------------------------------------------------------------------------------------------- a watched run


@attrs.frozen
class Told:
    """One call of a run hook.

    Attributes:
        hook: its name.
        again: whether the run had been resumed, and the hook called before that without an error.
        raised: the error, or nothing.
        changed: whether the facts were others afterwards.
        wrote: the files and folders that appeared, changed or went.
        drew: the random generators that moved, or nothing.
    """

    hook: str
    again: bool
    raised: str
    changed: bool
    wrote: tuple[str, ...]
    drew: str


@attrs.frozen
class Watched:
    """A run, as its hooks were told of it.

    Attributes:
        told: every call.
        networks: a hash of the network's tensors after each epoch.
        files: what there was, whenever a hook was told of something.
        failed: why the run ended early, or nothing.
    """

    told: tuple[Told, ...]
    networks: tuple[str, ...]
    files: frozenset[str]
    failed: str


def _watched(case: Case) -> Watched:
    """The run of this plugin's hooks, the same for all checks."""
    return _run(case.plugin)


def _alone() -> Watched:
    """The same run without a plugin that watches it."""
    return _run(None)


@lru_cache(maxsize=2)
def _run(plugin: LoadedPlugin | None) -> Watched:
    with tempfile.TemporaryDirectory() as folder, _as_it_was(Path(folder)):
        listener = Listener(plugin, Path(folder))
        index = _index_with(listener)
        recipe, out = recipe_of(index, TABLES), Path(folder) / RUN
        failed = ""
        try:
            with contextlib.suppress(Interrupted):
                start_run(recipe, index, out, False, _StoppedAfterAnEpoch())
            listener.is_resumed = True
            resume_run(out, index, NullDisplay())
        except Exception as error:
            failed = f"{type(error).__name__}: {error}"
    return Watched(tuple(listener.told), tuple(listener.networks), frozenset(listener.files), failed)


@contextlib.contextmanager
def _as_it_was(folder: Path) -> Iterator[None]:
    """Works in a folder inside this one, and puts back what a run, or a careless hook, sets for the whole process."""
    here = folder / "here"
    here.mkdir()
    with contextlib.chdir(here), chance.seeded(0), settings_put_back():
        yield


def _index_with(listener: Listener) -> Index:
    """What is installed, where nobody but the listener is told of runs."""
    installed = installed_index()
    silent = tuple(attrs.evolve(record, run_hooks=frozenset()) for record in installed.plugins)
    return attrs.evolve(installed, plugins=silent).including([NETWORKS, PluginSource.of(listener, "framework.testing")])


class _StoppedAfterAnEpoch(NullDisplay):
    """Stops a run when its first epoch is over and its checkpoint written, as a signal would."""

    def epoch(self, facts: Facts) -> None:
        """Stops it."""
        raise Interrupted("stopped, to be resumed", "", 2)


class Listener:
    """A plugin that passes on to another one what a run tells, and notes what comes of it.

    Attributes:
        told: every call of the other's hooks.
        networks: a hash of the network's tensors after each epoch.
        files: what there was in the folder, whenever a hook was told of something.
        is_resumed: set when the run goes on after it was stopped.

    Args:
        plugin: the other one; None: there is nobody to pass anything on to.
        folder: holds the run directory and whatever is written beside it.
    """

    def __init__(self, plugin: LoadedPlugin | None, folder: Path) -> None:
        self.told: list[Told] = []
        self.networks: list[str] = []
        self.files: set[str] = set()
        self.is_resumed = False
        self._plugin = plugin
        self._folder = folder
        self._well: set[str] = set()

    @hookimpl
    def fw_freezing_policies(self) -> list[Component]:
        """The policy of the run."""
        return [Component(THAWING, Thawing)]

    @hookimpl
    def fw_run_started(self, facts: Facts) -> None:
        """Passes it on."""
        self._pass_on("fw_run_started", facts)

    @hookimpl
    def fw_epoch_ended(self, facts: Facts) -> None:
        """Passes it on, and looks at the network after that."""
        self._pass_on("fw_epoch_ended", facts)
        self.networks.append(tensors_digest(facts["network"].state_dict()))

    @hookimpl
    def fw_plan_changed(self, facts: Facts) -> None:
        """Passes it on."""
        self._pass_on("fw_plan_changed", facts)

    @hookimpl
    def fw_checkpoint_written(self, facts: Facts) -> None:
        """Passes it on."""
        self._pass_on("fw_checkpoint_written", facts)

    @hookimpl
    def fw_run_ended(self, facts: Facts) -> None:
        """Passes it on."""
        self._pass_on("fw_run_ended", facts)

    def _pass_on(self, hook: str, facts: Facts) -> None:
        files, said, raised = self._files(), _text(facts), ""
        self.files |= files.keys()
        if self._plugin is None or hook not in self._plugin.run_hooks():
            return
        with chance.seeded(_SEED):
            states = chance.states()
            try:
                getattr(self._plugin.manager.hook, hook)(facts=facts)
            except (Exception, SystemExit) as error:
                raised = f"{type(error).__name__}: {error}"
            drew = chance.moved(states)
        again = self.is_resumed and hook in self._well
        self.told.append(Told(hook, again, raised, _text(facts) != said, _changed(files, self._files()), drew))
        if not raised and not self.is_resumed:
            self._well.add(hook)

    def _files(self) -> dict[str, tuple[int, ...]]:
        """Everything in the folder: for a file, what changes when it is written or replaced."""
        found: dict[str, tuple[int, ...]] = {}
        for path in self._folder.rglob("*"):
            stat = path.stat()
            signs = (stat.st_ino, stat.st_size, stat.st_mtime_ns) if path.is_file() else ()
            found[path.relative_to(self._folder).as_posix()] = signs
        return found


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)))


def _text(facts: Facts) -> str:
    return repr({name: value for name, value in facts.items() if name != "network"})


@attrs.frozen(kw_only=True)
class Thawing:
    """The head trains, and after one step everything."""

    def build(self) -> FreezingPolicy:
        """The policy."""
        return _Thawing()


class _Thawing(FreezingPolicy):
    def start(self, layout: Layout) -> Plan:
        return layout.plan(layout.head.parameters)

    def moments(self) -> Moments:
        return Moments(steps=frozenset({1}))

    def next(self, layout: Layout, progress: Progress) -> Plan | None:
        return layout.plan(layout.parameters)


CHECKS: tuple[Check, ...] = (
    hooks_raise_nothing,
    a_resumed_run_is_followed,
    a_run_computes_the_same,
    facts_are_only_read,
    files_stay_in_the_run_directory,
    nothing_is_drawn,
)
