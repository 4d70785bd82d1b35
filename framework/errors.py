"""Errors that a user can mend, and how they read: where, what, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import attrs


class FwError(Exception):
    """Something the user can fix. Printed without a traceback; the process exits with `exit_code`.

    Args:
        message: what is wrong, in one sentence.
        hint: what to do about it.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def render(self) -> str:
        """The whole text as printed on standard error."""
        return f"error: {self.message}" + (f"\n  help: {self.hint}" if self.hint else "")

    def __str__(self) -> str:
        return self.render().removeprefix("error: ")


class AuditFailed(FwError):
    """A frozen tensor moved, or a self-check failed: the run's result cannot be trusted."""

    exit_code = 3


class Interrupted(FwError):
    """The run was stopped by a signal after its checkpoint was written.

    Args:
        signal_number: 2 (Ctrl-C) or 15 (SIGTERM); the process exits with 128 + this.
    """

    def __init__(self, message: str, hint: str, signal_number: int) -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + signal_number


@attrs.frozen
class Origin:
    """Where a value was written: a place in a recipe file, or a command-line argument.

    Attributes:
        source: the file's path as the user gave it, or `--set`.
        line: 1-based; 0 for an argument.
        column: 1-based, counted in characters.
        width: how many characters the caret underlines.
        text: the source line, or the argument.
        folder: what relative paths in the value are relative to.
    """

    source: str
    line: int = 0
    column: int = 1
    width: int = 1
    text: str = ""
    folder: str = "."

    def render(self) -> str:
        """`file:line:column`, the source line, and a caret under the value."""
        place = f"{self.source}:{self.line}:{self.column}" if self.line else self.source
        if not self.text:
            return f"  --> {place}"
        number = str(self.line or "")
        gutter = " " * len(number)
        caret = " " * (self.column - 1) + "^" * max(1, self.width)
        return f"  --> {place}\n {gutter} |\n {number} | {self.text}\n {gutter} | {caret}"


@attrs.frozen
class Problem:
    """One thing wrong with a recipe: what, where, and what would be accepted."""

    message: str
    origin: Origin | None = None
    hints: tuple[str, ...] = ()

    def render(self) -> str:
        """The problem as a paragraph."""
        lines = [f"error: {self.message}"]
        if self.origin is not None:
            lines.append(self.origin.render())
        lines += [f"  help: {hint}" for hint in self.hints]
        return "\n".join(lines)


class RecipeError(FwError):
    """Everything that is wrong with a recipe, at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = tuple(problems)

    def render(self) -> str:
        """All problems, in the order of the file, and their count."""
        count = len(self.problems)
        tail = f"{count} problem{'s' if count > 1 else ''} found; nothing was run."
        return "\n\n".join([*(problem.render() for problem in self.problems), tail])


def near_names(word: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Names close to `word`, best first: whole names by similarity, then those that contain it."""
    names = list(dict.fromkeys(known))
    lowered = {name.lower(): name for name in reversed(names)}
    close = [lowered[hit] for hit in difflib.get_close_matches(word.lower(), lowered, n=most, cutoff=0.6)]
    containing = sorted((name for name in names if word and word.lower() in name.lower()), key=len)
    return list(dict.fromkeys([*close, *containing]))[:most]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x' or 'y'?`, or nothing where no name is near."""
    near = near_names(word, known)
    return f"did you mean {' or '.join(repr(name) for name in near)}?" if near else ""


def name_hints(word: str, known: Sequence[str], what: str, most: int = 12) -> tuple[str, ...]:
    """The hints for an unknown name: near ones, then what there is."""
    near = did_you_mean(word, known)
    shown = ", ".join(known[:most]) + (f", ... ({len(known)} in all)" if len(known) > most else "")
    return tuple(hint for hint in (near, f"{what}: {shown or 'none'}") if hint)
