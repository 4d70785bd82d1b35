"""Positions: where each key and value of a TOML text stands, which tomllib does not tell."""

from __future__ import annotations

import re

import attrs

Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:\\.|[^"\\\n])*"|'[^'\n]*'""")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''(?:[^'])*(?:'{1,2}[^']+)*'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\n]+")


@attrs.frozen
class Place:
    """Where one key or value stands: 1-based line and column, and how wide it is on its line."""

    line: int
    column: int
    width: int


@attrs.frozen
class Entry:
    """The places of one key (or array item, or table header) and of its value."""

    key: Place
    value: Place


def locate(text: str) -> dict[Path, Entry]:
    """The place of every key, table and array item of a TOML text that tomllib accepts.

    Returns:
        path of keys and array indices -> places; dotted keys and headers are entered for each of their parts.
    """
    return _Scanner(text).scan()


class _Scanner:
    """One pass over a valid TOML text; `at` is the offset of the next character to read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: dict[Path, Entry] = {}
        self.array_sizes: dict[Path, int] = {}
        self.starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def scan(self) -> dict[Path, Entry]:
        table: Path = ()
        while True:
            self._skip(_BLANK)
            if self.at >= len(self.text):
                return self.found
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._assignment(table)

    def _header(self) -> Path:
        start = self.at
        is_array = self.text.startswith("[[", start)
        self.at += 2 if is_array else 1
        names = [name for name, _ in self._dotted()]
        self.at = self.text.index("]", self.at) + (2 if is_array else 1)
        place = self._place(start, self.at)
        path = self._through_arrays(tuple(names[:-1]))
        self._enter_parts(path, place)
        path += (names[-1],)
        if is_array:
            self.found.setdefault(path, Entry(place, place))
            index = self.array_sizes.get(path, 0)
            self.array_sizes[path] = index + 1
            path += (index,)
        self.found[path] = Entry(place, place)
        return path

    def _through_arrays(self, names: Path) -> Path:
        """The path that a header means: each array of tables on the way stands for its newest item."""
        path: Path = ()
        for name in names:
            path += (name,)
            if path in self.array_sizes:
                path += (self.array_sizes[path] - 1,)
        return path

    def _enter_parts(self, path: Path, place: Place) -> None:
        for end in range(1, len(path) + 1):
            self.found.setdefault(path[:end], Entry(place, place))

    def _assignment(self, table: Path) -> None:
        parts = self._dotted()
        self._skip(_SPACE)
        self.at += 1  # the equals sign
        self._skip(_SPACE)
        path = table
        for name, place in parts[:-1]:
            path += (name,)
            self.found.setdefault(path, Entry(place, place))
        name, place = parts[-1]
        self._value((*path, name), place)

    def _dotted(self) -> list[tuple[str, Place]]:
        parts = []
        while True:
            self._skip(_SPACE)
            match = _KEY.match(self.text, self.at)
            assert match is not None, f"no key at offset {self.at}"
            self.at = match.end()
            parts.append((_unquote(match.group()), self._place(match.start(), match.end())))
            self._skip(_SPACE)
            if not self.text.startswith(".", self.at):
                return parts
            self.at += 1

    def _value(self, path: Path, key: Place | None) -> None:
        start = self.at
        opening = self.text[start]
        if opening == "[":
            self._array(path)
        elif opening == "{":
            self._inline_table(path)
        elif opening in "\"'":
            self._skip(_STRING)
        else:
            match = _SCALAR.match(self.text, start)
            assert match is not None, f"no value at offset {start}"
            self.at = start + len(match.group().rstrip())
        value = self._place(start, self.at)
        self.found[path] = Entry(key or value, value)

    def _array(self, path: Path) -> None:
        self.at += 1
        index = 0
        while True:
            self._skip(_BLANK)
            if self.text[self.at] == "]":
                break
            self._value((*path, index), None)
            index += 1
            self._skip(_BLANK)
            if self.text[self.at] == ",":
                self.at += 1
        self.at += 1

    def _inline_table(self, path: Path) -> None:
        self.at += 1
        while True:
            self._skip(_BLANK)
            if self.text[self.at] == "}":
                break
            self._assignment(path)
            self._skip(_BLANK)
            if self.text[self.at] == ",":
                self.at += 1
        self.at += 1

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.at)
        if match is not None:
            self.at = match.end()

    def _place(self, start: int, end: int) -> Place:
        line = self._line_of(start)
        begin = self.starts[line]
        stop = self.text.find("\n", start)
        stop = len(self.text) if stop < 0 else stop
        return Place(line + 1, start - begin + 1, max(1, min(end, stop) - start))

    def _line_of(self, offset: int) -> int:
        low, high = 0, len(self.starts)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.starts[middle] <= offset else (low, middle)
        return low


def _unquote(name: str) -> str:
    if name[0] == "'":
        return name[1:-1]
    if name[0] != '"':
        return name
    import tomllib

    value: str = next(iter(tomllib.loads(f"{name} = 0")))
    return value
