"""Project: the files of a plugin that is not there yet, from templates, and the folder that they are written to."""

from __future__ import annotations

import inspect
import keyword
import re
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from framework.errors import FwError, name_hints
from framework.hooks import KINDS, RUN_HOOKS, ComponentHooks, Kind, RunHooks

if TYPE_CHECKING:
    from jinja2 import Environment

RUN_HOOK = "run_hook"
_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9_-]*[A-Za-z0-9])?")
_ENDINGS = (("ies", "y"), ("sses", "ss"), ("s", ""))


def singular(registry: str) -> str:
    """What a registry holds many of, in its own spelling: `freezing_policies` -> `freezing_policy`."""
    ending, instead = next(pair for pair in _ENDINGS if registry.endswith(pair[0]))
    return registry.removesuffix(ending) + instead


KIND_OF_WORD: Mapping[str, Kind | None] = {**{singular(kind.registry): kind for kind in KINDS}, RUN_HOOK: None}
"""What `--kind` may say -> the registry that the plugin adds to; None: it watches runs."""


@attrs.frozen
class Project:
    """A plugin that is not there yet.

    Attributes:
        distribution: what pip calls it, and its folder.
        word: what it is, a key of `KIND_OF_WORD`.
    """

    distribution: str
    word: str

    @property
    def kind(self) -> Kind | None:
        """The registry that it adds to; None: it watches runs."""
        return KIND_OF_WORD[self.word]

    @property
    def noun(self) -> str:
        """What messages call it."""
        return self.kind.noun if self.kind else "run hook"

    @property
    def name(self) -> str:
        """Its module, its entry point, and its component."""
        return self.distribution.replace("-", "_")

    @property
    def title(self) -> str:
        """The name of its class: `my_policy` -> `MyPolicy`."""
        return "".join(part[:1].upper() + part[1:] for part in self.name.split("_"))

    @property
    def commands(self) -> tuple[tuple[str, str], ...]:
        """What to type in its folder, and what for."""
        shown = ("fw show " + self.name, "its keys, and a table to paste into a recipe")
        return (
            ("pip install -e .", "once: the module is used where it lies"),
            ("pytest", f"what every {self.noun} must hold"),
            shown if self.kind else ("fw plugins", "whether it was found, and works"),
            ("fw run recipe.toml", "on random images, a few seconds"),
        )

    @property
    def contract(self) -> str:
        """The reference of the hooks that such a plugin may implement, as Markdown."""
        hooks, names = (ComponentHooks, (self.kind.hook,)) if self.kind else (RunHooks, RUN_HOOKS)
        told = (f"`{name}`: {inspect.getdoc(getattr(hooks, name))}" for name in names)
        return "\n\n".join([inspect.getdoc(hooks) or "", *told])

    def files(self) -> dict[str, str]:
        """Its files by name."""
        templates = {
            "pyproject.toml": "pyproject.toml",
            f"{self.name}.py": f"kinds/{self.word}.py",
            f"test_{self.name}.py": "test.py",
            "recipe.toml": "recipe.toml",
            "README.md": "README.md",
        }
        return {file: self._render(template) for file, template in templates.items()}

    def _render(self, template: str) -> str:
        header = self.kind.header if self.kind else ""
        return _environment().get_template(f"{template}.jinja").render(project=self, header=header)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(loader=PackageLoader("framework.scaffold"), undefined=StrictUndefined, trim_blocks=True,
                       lstrip_blocks=True, keep_trailing_newline=True)  # fmt: skip


def new_project(name: str, word: str) -> Project:
    """A plugin by its name and kind.

    Args:
        name: a hyphen in it is an underscore in its module.
        word: a key of `KIND_OF_WORD`.

    Raises:
        FwError: there is no such kind; no module, class or distribution could be called so.
    """
    if word not in KIND_OF_WORD:
        words = list(KIND_OF_WORD)
        raise FwError(f"there is no kind {word!r}", name_hints(word, words, "kinds", len(words)))
    project = Project(name, word)
    if not _NAME.fullmatch(name):
        raise FwError(f"a plugin cannot be called {name!r}",
                      f"letters, digits, hyphens and underscores, a letter first: my_{word}")  # fmt: skip
    if keyword.iskeyword(project.name) or keyword.iskeyword(project.title):
        raise FwError(f"a plugin cannot be called {name!r}: it is a word of Python", f"for instance: my_{name}")
    return project


def write_project(folder: Path, files: Mapping[str, str]) -> None:
    """Writes a new folder with these files, whole or not at all.

    Raises:
        FwError: it cannot be written.
    """
    try:
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            for name, text in files.items():
                (scratch / name).write_text(text, encoding="utf-8")
            scratch.chmod(0o755)
            scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise FwError(f"cannot write {folder}: {error.strerror or error}", "nothing was written") from error
