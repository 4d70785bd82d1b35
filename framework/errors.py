"""Errors that a user can mend, and how they read: where, what, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from unicodedata import east_asian_width

import attrs

_CLEARLY = 0.15


class FwError(Exception):
    """Something the user can fix. Printed without a traceback; the process exits with `exit_code`.

    Args:
        message: what is wrong, in one sentence.
        hint: what to do about it; each of several stands on its own line.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str | Iterable[str] = "") -> None:
        super().__init__(message)
        self.message = message
        self.hints = tuple(text for text in ([hint] if isinstance(hint, str) else hint) if text)

    @property
    def hint(self) -> str:
        """All hints as one text."""
        return "; ".join(self.hints)

    def render(self) -> str:
        """The whole text as printed on standard error."""
        return "\n".join([f"error: {self.message}", *(f"  help: {hint}" for hint in self.hints)])

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
        """`file:line:column`, the source line, and a caret under the value; of an argument only the latter two."""
        place = f"{self.source}:{self.line}:{self.column}" if self.line else self.source
        if not self.text:
            return f"  --> {place}"
        head = "" if self.text.startswith(self.source) else f"  --> {place}\n"
        number = str(self.line or "")
        gutter = " " * len(number)
        caret = _blank(self.text[: self.column - 1]) + "^" * max(1, self.width)
        return f"{head} {gutter} |\n {number} | {self.text}\n {gutter} | {caret}"


def _blank(text: str) -> str:
    """Blanks as wide as `text` on a terminal, so that a caret below it stands where it should."""
    widths = ("\t" if char == "\t" else " " * (2 if east_asian_width(char) in "WF" else 1) for char in text)
    return "".join(widths)


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
    close = [lowered[hit] for hit in _closest(word.lower(), list(lowered), most)]
    containing = sorted((name for name in names if len(word) > 2 and word.lower() in name.lower()), key=len)
    return list(dict.fromkeys([*close, *containing]))[:most]


def _closest(word: str, names: Sequence[str], most: int) -> list[str]:
    """The most similar names, without those that are clearly less similar than the first."""
    hits = difflib.get_close_matches(word, names, n=most, cutoff=0.6)
    likeness = [difflib.SequenceMatcher(None, hit, word).ratio() for hit in hits]
    return [hit for hit, like in zip(hits, likeness, strict=True) if like > likeness[0] - _CLEARLY]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x', 'y' or 'z'?`, or nothing where no name is near."""
    *others, last = [repr(name) for name in near_names(word, known)] or [""]
    words = f"{', '.join(others)} or {last}" if others else last
    return f"did you mean {words}?" if words else ""


def name_hints(word: str, known: Sequence[str], what: str, most: int = 12) -> tuple[str, ...]:
    """The hints for an unknown name: near ones, then what there is."""
    near = did_you_mean(word, known)
    shown = ", ".join(known[:most]) + (f", ... ({len(known)} in all)" if len(known) > most else "")
    return tuple(hint for hint in (near, f"{what}: {shown or 'none'}") if hint)
