"""Names: whether a new plugin may be called so, here and now."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from framework.errors import FwError
from framework.index import Index
from framework.scaffold.project import Project


def require_free(project: Project, folder: Path, index: Index) -> None:
    """
    Args:
        project: the new plugin.
        folder: where it is to be written.
        index: the installed plugins.

    Raises:
        FwError: the folder is there, or cannot be; a module, package, plugin or component of that name is.
    """
    if folder.exists():
        raise FwError(f"{folder} is there already", "choose another name, or another place with --into")
    if not folder.parent.is_dir():
        raise FwError(f"there is no folder {folder.parent}")
    for bearer in _bearers(project, index):
        raise FwError(f"the name {project.distribution!r} is taken: {bearer}",
                      f"choose another, for instance: my_{project.name}")  # fmt: skip


def _bearers(project: Project, index: Index) -> Iterator[str]:
    """Whatever bears the name already: what is imported or installed under it would be another thing."""
    name = project.name
    if name in sys.stdlib_module_names:
        yield f"{name} is a module of Python itself"
    yield from (f"plugin {record.source.label} is installed" for record in index.plugins if record.source.name == name)
    card = index.find(project.kind.registry, name) if project.kind else None
    if card is not None:
        yield f"plugin {card.plugin} offers the {project.noun} {name!r}"
    if find_spec(name) is not None:
        yield f"a module {name} is installed"
    if _is_installed(project.distribution):
        yield f"a package {project.distribution} is installed"


def _is_installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True
