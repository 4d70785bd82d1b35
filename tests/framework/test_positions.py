"""Every path that tomllib yields is located, and what stands there is what tomllib read."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.positions import Path, locate
from framework.sources import recipes_folder

TRICKY = {
    "dotted keys": 'a.b.c = 1\na.b.d = "x"\n[t]\nx . y = 2\n',
    "quoted keys": '"a b" = 1\n\'c.d\' = 2\n"e\\u00e9".f = 3\n["g]".\'h#\']\ni = 4\n',
    "arrays of tables": "[[a]]\nx = 1\n[[a.b]]\ny = 1\n[[a.b]]\ny = 2\n[a.c]\nz = 0\n[[a]]\nx = 2\n[[a.b]]\ny = 3\n",
    "nested inline": 'a = { b = { c = [1, { d = "}" }, [2, [3]]] }, e.f = 1 }\n',
    "multi-line array": "a = [ # one\n  1, # ]\n  [2,\n 3],\n  { b = '#' },\n]\nc = 1\n",
    "multi-line strings": 'a = """\none "quoted" \\\n  two"""\nc = """a"""""\n',
    "literal multi-line strings": "b = '''\nraw \\ 'x' '''\nd = ''''e'''''\n",
    "empty strings": "a = \"\"\nb = ''\nc = \"\"\"\"\"\"\nd = ''''''\ne = 1\n",
    "escapes": 'a = "x\\"]} # no comment"\nb = ["\\\\", \'\\\']\nc = 1 # "comment\n',
    "numbers": "a = 0x1F\nb = 1_000\nc = -1e-3\nd = inf\ne = 1979-05-27 07:32:00\nf = [+1, nan]\n",
    "table out of order": "[a.b]\nx = 1\n[a]\ny = 2\n",
    "crlf": "a = 1\r\n[b]\r\nc = [1,\r\n  2]\r\nd = 'x'\r\n# e\r\n",
    "indented": "  a = 1\n  [b]\n\t c = 2\n",
    "no newline at the end": "a = 1",
    "empty": "",
    "comment only": "# nothing",
}


def paths_of(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield (*path, name), item
        yield from paths_of(item, (*path, name))


def read_at(text: str, line: int, column: int) -> Iterator[Any]:
    """Every value that TOML reads in a run of text from this place to where a value may end."""
    begin = sum(len(one) + 1 for one in text.split("\n")[: line - 1]) + column - 1
    for end in range(begin + 1, len(text) + 1):
        if text[end : end + 1] not in ("", " ", "\t", "\n", "\r", ",", "]", "}", "#"):
            continue
        try:
            yield tomllib.loads(f"value = {text[begin:end]}")["value"]
        except tomllib.TOMLDecodeError:
            continue


def same(left: Any, right: Any) -> bool:
    return repr(left) == repr(right)  # nan equals nan, 1 is not 1.0, and keys keep their order


def assert_located(text: str) -> int:
    found = locate(text)
    known = dict(paths_of(tomllib.loads(text)))
    assert set(found) == set(known)
    lines = text.split("\n")
    for path, entry in found.items():
        for place in (entry.key, entry.value):
            line = lines[place.line - 1]
            assert place.column - 1 + place.width <= len(line)
        assert_key(path, lines[entry.key.line - 1][entry.key.column - 1 :][: entry.key.width])
        opening = lines[entry.value.line - 1][entry.value.column - 1 :]
        if is_written_as_value(path, known[path], opening, entry):
            values = read_at(text, entry.value.line, entry.value.column)
            assert any(same(value, known[path]) for value in values), path
    return len(found)


def is_written_as_value(path: Path, value: Any, opening: str, entry: Any) -> bool:
    """Whether the value stands in one place, rather than below a header or spread over dotted keys."""
    if isinstance(value, dict):
        return opening.startswith("{")
    return not isinstance(value, list) or isinstance(path[-1], int) or entry.key != entry.value


def assert_key(path: Path, text: str) -> None:
    """The text at a key's place is that key, its header, or, for an array's item, the item itself."""
    if isinstance(path[-1], int):
        return
    if text.startswith("["):
        assert path[-1] in text or "\\" in text
        return
    assert path[-1] in tomllib.loads(f"{text} = 0"), (path, text)


@pytest.mark.parametrize("text", TRICKY.values(), ids=TRICKY)
def test_every_path_of_tricky_texts_is_located(text: str) -> None:
    assert_located(text)


def test_every_path_of_the_shipped_recipes_is_located() -> None:
    counts = {file.name: assert_located(file.read_text()) for file in recipes_folder().glob("*.toml")}
    print(f"{sum(counts.values())} paths in {len(counts)} recipes")
    assert len(counts) >= 5


def test_places_are_exact() -> None:
    text = 'seed = 3  # c\n[head]\n  use = "mlp" # c\nsizes = [10, 200]\n[[s]]\n[[s]]\nx.y = {z = 1}\n'
    found = {path: tuple(vars_of(place) for place in (entry.key, entry.value)) for path, entry in locate(text).items()}
    assert found[("seed",)] == ((1, 1, 4), (1, 8, 1))
    assert found[("head",)] == ((2, 1, 6), (2, 1, 6))
    assert found[("head", "use")] == ((3, 3, 3), (3, 9, 5))
    assert found[("head", "sizes", 1)] == ((4, 14, 3), (4, 14, 3))
    assert found[("s", 1)] == ((6, 1, 5), (6, 1, 5))
    assert found[("s", 1, "x", "y", "z")] == ((7, 8, 1), (7, 12, 1))


def vars_of(place: Any) -> tuple[int, int, int]:
    return place.line, place.column, place.width


# ------------------------------------------------------------------------------------------ any document

bare = st.from_regex(r"[A-Za-z0-9_-]{1,6}", fullmatch=True)
plain = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="\"'\\"), max_size=6)
keys = st.one_of(bare, plain.map(lambda s: f'"{s}"'), plain.map(lambda s: f"'{s}'"))
gaps = st.sampled_from(["", " ", "\t "])
breaks = st.sampled_from(["", " ", "\n", "\r\n", " # a ] comment }\n", "\n\n  "])
strings = st.one_of(
    plain.map(lambda s: f'"{s}\\" # ] }}"'),
    plain.map(lambda s: f"'{s}\\'"),
    plain.map(lambda s: f'"""\n{s} " ""\n\\"{s}\n"""'),
    plain.map(lambda s: f"'''{s}'' '\n#{s}'''"),
)
scalars = st.one_of(
    strings,
    st.integers(-999, 999).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["true", "false", "inf", "nan", "1_0", "0x1f", "1979-05-27T07:32:00Z", "07:32:00"]),
)


@st.composite
def arrays(draw: Any, inner: Any) -> str:
    items = draw(st.lists(inner, max_size=3))
    text = ",".join(f"{draw(breaks)}{item}{draw(breaks)}" for item in items)
    return f"[{text}{',' if items and draw(st.booleans()) else ''}{draw(breaks)}]"


@st.composite
def inline_tables(draw: Any, inner: Any) -> str:
    names = draw(st.lists(keys, max_size=3))
    parts = [f"{draw(gaps)}{name}{draw(gaps)}={draw(gaps)}{draw(inner)}{draw(gaps)}" for name in names]
    return "{" + ",".join(parts) + "}"


values = st.recursive(scalars, lambda inner: arrays(inner) | inline_tables(inner), max_leaves=6)


@st.composite
def documents(draw: Any) -> str:
    lines = []
    for _ in range(draw(st.integers(0, 8))):
        name = ".".join(f"{draw(gaps)}{key}{draw(gaps)}" for key in draw(st.lists(keys, min_size=1, max_size=3)))
        shape = draw(st.sampled_from(["{n} = {v}", "{n} = {v}", "[{n}]", "[[{n}]]", "# {n}"]))
        line = shape.replace("{n}", name).replace("{v}", draw(values) if "{v}" in shape else "")
        lines.append(line + draw(st.sampled_from(["", " # c", "  "])))
    return draw(st.sampled_from(["\n", "\r\n"])).join(lines)


def is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return False
    return True


@settings(max_examples=120, deadline=None)
@given(documents().filter(is_toml))
def test_every_path_of_any_document_is_located(text: str) -> None:
    assert_located(text)
