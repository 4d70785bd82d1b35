"""Kit: which checks a plugin's components must pass, as a pytest test with one id for each component and check."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import pytest

from framework.catalog import (
    HOOK_NAMES,
    BrokenPlugin,
    LoadedPlugin,
    PluginSource,
    guarded,
    installed_plugins,
    load_plugin,
)
from framework.component import Component, Family
from framework.errors import FwError, name_hints
from framework.hooks import KINDS, Kind
from framework.index import PluginRecord
from framework.testing import (
    of_adapters,
    of_backbones,
    of_components,
    of_datasets,
    of_finishers,
    of_heads,
    of_hooks,
    of_losses,
    of_metrics,
    of_optimizers,
    of_policies,
    of_regularizers,
    of_schedulers,
    of_transforms,
)
from framework.testing.case import Case, Check, Keys, index_with

CHECKS: Mapping[str, tuple[Check, ...]] = {
    "backbones": of_backbones.CHECKS,
    "heads": of_heads.CHECKS,
    "freezing_policies": of_policies.CHECKS,
    "losses": of_losses.CHECKS,
    "optimizers": of_optimizers.CHECKS,
    "schedulers": of_schedulers.CHECKS,
    "datasets": of_datasets.CHECKS,
    "transforms": of_transforms.CHECKS,
    "metrics": of_metrics.CHECKS,
    "adapters": of_adapters.CHECKS,
    "regularizers": of_regularizers.CHECKS,
    "finishers": of_finishers.CHECKS,
}
"""Registry -> what its components must hold, beside what every component must."""


@attrs.frozen(eq=False)
class Subject:
    """What is checked: a component, or the plugin itself.

    Attributes:
        name: as ids begin.
        checks: what it must hold.
        plugin: that brings it; None where it cannot be used, which its one check says.
        kind, component: None for the plugin itself.
    """

    name: str
    checks: tuple[Check, ...]
    plugin: LoadedPlugin | None = None
    kind: Kind | None = None
    component: Component | None = None

    def run(self, check: Check, keys: Mapping[str, Keys], folder: Path) -> None:
        """One of its checks, with the keys that the author gives and an empty folder."""
        __tracebackhide__ = True
        plugin: Any = self.plugin
        check.run(Case(plugin, self.kind, self.component, keys.get(self.name, {}), folder))


def plugin_checks(
    plugin: object, *, names: Sequence[str] = (), keys: Mapping[str, Keys] | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> Callable[..., None]:  # fmt: skip
    """A test of everything that a plugin offers: `test_plugin = plugin_checks(my_plugin)`.

    Args:
        plugin: the module, or the object, that carries the hooks; or the name under which it is installed.
        names: the components to check; absent: each component, and the first member of each family.
        keys: component -> the keys to check it with, where they have no default; or a function that makes them from an
            empty folder, for a data set that needs files.
        expected_failures: id (`my_policy-resumes`) -> why it fails; the test fails where it passes.

    Returns:
        a test function for pytest, parametrized by ids `COMPONENT-CHECK`; where two kinds have a component of one name,
        `TABLE.COMPONENT-CHECK`.

    Raises:
        ValueError: a name that the plugin does not offer, or an id that there is not.
    """
    expected, given = dict(expected_failures or {}), dict(keys or {})
    found = subjects(plugin, names)
    ids = {f"{subject.name}-{check.name}": (subject, check) for subject in found for check in subject.checks}
    if found[0].plugin is not None:
        _refuse_unknown("expected_failures", expected, list(ids), "checks")
        _refuse_unknown("keys", given, [subject.name for subject in found[1:]], "components")
    params = [pytest.param(*pair, id=id_, marks=_marks(expected.get(id_))) for id_, pair in ids.items()]

    @pytest.mark.parametrize(("subject", "check"), params)
    def test_plugin(subject: Subject, check: Check, tmp_path: Path) -> None:
        __tracebackhide__ = True  # an author reads the check, not the kit
        subject.run(check, given, tmp_path)

    return test_plugin


def _marks(reason: str | None) -> list[pytest.MarkDecorator]:
    return [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True)]


def _refuse_unknown(argument: str, given: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    for name in given:
        if name not in known:
            hints = "; ".join(name_hints(name, known, what))
            raise ValueError(f"{argument}: nothing that is checked is called {name!r}; {hints}")


def failures(plugin: object, *, names: Sequence[str] = (), keys: Mapping[str, Keys] | None = None) -> dict[str, str]:
    """The ids that fail, with what they say, without pytest around it.

    Args:
        plugin, names, keys: as `plugin_checks` takes them.
    """
    found: dict[str, str] = {}
    for subject in subjects(plugin, names):
        for check in subject.checks:
            with tempfile.TemporaryDirectory() as folder:
                said = _said(partial(subject.run, check, keys or {}, Path(folder)))
            if said is not None:
                found[f"{subject.name}-{check.name}"] = said
    return found


def _said(run: Callable[[], None]) -> str | None:
    """Why a check fails; None where it passes or does not apply."""
    try:
        run()
    except pytest.skip.Exception:
        return None
    except (Exception, SystemExit, pytest.fail.Exception) as error:
        return f"{type(error).__name__}: {error}"
    return None


# --------------------------------------------------------------------------------------------------- subjects


def subjects(plugin: object, names: Sequence[str] = ()) -> list[Subject]:
    """What of a plugin is checked, the plugin itself first.

    Args:
        plugin, names: as `plugin_checks` takes them.

    Raises:
        ValueError: a name that the plugin does not offer.
    """
    source = source_of(plugin)
    try:
        record, loaded = _record_of(source), load_plugin(source)
        _require_hooks(loaded)
        found = list(_components(loaded, names))
    except (BrokenPlugin, FwError) as error:
        return [_unusable(source, str(error))]
    _refuse_unknown("names", dict.fromkeys(names), [card.name for card in record.cards], f"{source.name} offers")
    kinds_of = Counter(component.name for _, component in found)
    components = [
        Subject(
            f"{kind.table}.{component.name}" if kinds_of[component.name] > 1 else component.name,
            (*of_components.CHECKS, *CHECKS[kind.registry]), loaded, kind, component,
        )
        for kind, component in found
    ]  # fmt: skip
    watches = of_hooks.CHECKS if loaded.run_hooks() else ()
    return [Subject(source.name, watches, loaded), *components]


def source_of(plugin: object) -> PluginSource:
    """The installed plugin that this is, or names; or else one that is not installed."""
    if isinstance(plugin, PluginSource):
        return plugin
    installed = installed_plugins()
    if isinstance(plugin, str):
        named = (source for source in installed if plugin in (source.name, source.module))
        return next(named, None) or PluginSource(plugin, "local", "0", plugin, partial(import_module, plugin))
    same = next((source for source in installed if _is_at(source.module, plugin)), None)
    module = getattr(plugin, "__name__", "")
    return same or PluginSource.of(plugin, module.rpartition(".")[2] or type(plugin).__name__.lower())


def _is_at(place: str, plugin: object) -> bool:
    """Whether an entry point's `module` or `module:object` is this plugin, which is imported."""
    module, _, path = place.partition(":")
    found: object = sys.modules.get(module)
    for name in path.split(".") if path else ():
        found = getattr(found, name, None)
    return found is plugin


def _record_of(source: PluginSource) -> PluginRecord:
    """What the index knows of a plugin.

    Raises:
        BrokenPlugin: it cannot be used.
        MisspeltHook: it implements a hook that does not exist.
    """
    record = next(record for record in index_with(source).plugins if record.source.name == source.name)
    if record.fatal is not None:
        raise record.fatal
    if record.fault:
        raise BrokenPlugin(record.fault)
    return record


def _require_hooks(plugin: LoadedPlugin) -> None:
    """
    Raises:
        BrokenPlugin: it carries no hook, so that nothing of it would be checked.
    """
    if not any(getattr(plugin.manager.hook, hook).get_hookimpls() for hook in HOOK_NAMES):
        raise BrokenPlugin(f"{plugin.source.name} implements no hook: pass the module, or the object, whose functions "
                           "stand under @framework.hookimpl")  # fmt: skip


def _components(plugin: LoadedPlugin, names: Sequence[str]) -> Iterator[tuple[Kind, Component]]:
    for kind in KINDS:
        for item in plugin.offers(kind.hook):
            members = guarded(partial(_chosen, item, names)) if isinstance(item, Family) else [item]
            yield from ((kind, component) for component in members if not names or component.name in names)


def _chosen(family: Family, names: Sequence[str]) -> list[Component]:
    """The members of a family that are called by name, or its first."""
    if not names:
        return list(islice(family.members(), 1))
    prefix = f"{family.prefix}/"
    asked = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return [family.member(name) for name in family.names() if name in asked] if asked else []


def _unusable(source: PluginSource, fault: str) -> Subject:
    def loads(_: Case) -> None:
        raise AssertionError(fault)

    return Subject(source.name, (Check("loads", "It can be imported, and its hooks and components be read.", loads),))
