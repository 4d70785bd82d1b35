"""Charts: names are literal, colours are never alone, drawings repeat, matplotlib's settings stay."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

import pytest

from framework.report import charts
from framework.report.charts import Axis, Marks, Series

NAMES = [
    "_hidden",
    "$\\frac{a}{b}$",
    "</svg><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    charts.INK,
    "&amp;",
]
X, Y = Axis("epoch", "whole"), Axis("loss")
KINDS: dict[str, Callable[[list[str]], str]] = {
    "lines": lambda names: charts.lines("title", [Series(name, [1, 2, 3], [3, 2, 1]) for name in names], X, Y),
    "scatter": lambda names: charts.scatter("title", [Series(name, [1], [2]) for name in names], Axis("s", "log"), Y),
    "bars": lambda names: charts.stacked_bars("title", ["one"], {name: [1.0] for name in names}, X),
    "names of bars": lambda names: charts.stacked_bars("title", names, {"part": [1.0] * len(names)}, X),
}


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


def tags(svg: str) -> set[str]:
    return {element.tag for element in ElementTree.fromstring(svg).iter()}


@pytest.mark.parametrize("draw", KINDS.values(), ids=KINDS)
def test_names_are_shown_as_they_are(draw: Callable[[list[str]], str]) -> None:
    svg = draw(NAMES)
    assert [name for name in NAMES if name not in texts(svg)] == []
    assert tags(svg) <= {"svg", "title", "g", "path", "text", "defs", "use", "clipPath", "rect", "pattern"}
    assert "http" not in svg


def test_a_title_is_text_and_names_the_drawing() -> None:
    root = ElementTree.fromstring(charts.lines("<b>&</b>\x00", [Series("a", [1], [1])], X, Y))
    assert (root[0].tag, root[0].text) == ("title", "<b>&</b>\ufffd")
    assert root.attrib["role"] == "img"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb\t c", "a b c"),
        ("\x00\x1b[31m", "\ufffd\ufffd[31m"),
        ("\udcff", "\ufffd"),
        ("x" * 30 + "y" * 30, "x" * 16 + "…" + "y" * 17),
    ],
)
def test_names_that_no_line_of_xml_holds_are_made_to_fit(name: str, shown: str) -> None:
    assert shown in texts(charts.lines("title", [Series(name, [1], [1]), Series("b", [1], [2])], X, Y))


def test_ink_is_the_pages_and_the_ground_is_left_alone() -> None:
    svg = charts.lines("title", [Series("a", [1, 2], [1, 2])], X, Y, Marks("change", [1.5]))
    assert charts.INK not in svg
    colours = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg))
    assert colours == {"none", "currentColor", charts.COLOURS[0]}


def test_series_differ_in_more_than_colour() -> None:
    svg = charts.lines("title", [Series(str(n), [1, 2], [n, n]) for n in range(5)], X, Y)
    dashes = re.findall(r'clip-path="[^"]+" style="fill: none;( stroke-dasharray: [^;]+;)?[^"]*stroke: #', svg)
    assert len(set(dashes)) == 5
    bars = charts.stacked_bars("title", ["one"], {str(n): [1.0] for n in range(4)}, X)
    assert len(ElementTree.fromstring(bars).findall(".//pattern")) == 3


def test_the_same_drawing_is_the_same_bytes_whatever_the_users_settings() -> None:
    import matplotlib

    first = KINDS["lines"](["a", "b"])
    with matplotlib.rc_context({"font.size": 30, "text.usetex": True, "axes.grid": False}):
        before = dict(matplotlib.rcParams)
        assert KINDS["lines"](["a", "b"]) == first
        assert dict(matplotlib.rcParams) == before


def test_two_charts_of_a_page_share_no_name() -> None:
    ids = [set(re.findall(r' id="([^"]+)"', charts.lines(title, [Series("a", [1, 2], [1, 2])], X, Y)))
           for title in ("one", "other")]  # fmt: skip
    assert ids[0]
    assert ids[0].isdisjoint(ids[1])


def points(svg: str, colour: str) -> list[tuple[float, float]]:
    """The corners of the one line of a colour that lies on the axes."""
    [path] = re.findall(rf'<path d="([^"]+)" clip-path="[^"]+" style="fill: none;[^"]*stroke: {colour}', svg)
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", path)]


def test_points_stand_where_they_belong() -> None:
    whole = points(charts.lines("title", [Series("a", [0, 1, 4], [0.0, 2.0, 8.0])], X, Y), charts.COLOURS[0])
    assert (whole[1][0] - whole[0][0]) / (whole[2][0] - whole[0][0]) == pytest.approx(1 / 4, rel=1e-4)
    assert (whole[1][1] - whole[0][1]) / (whole[2][1] - whole[0][1]) == pytest.approx(1 / 4, rel=1e-4)
    logarithmic = points(charts.lines("title", [Series("a", [1, 10, 1000], [1, 2, 3])], Axis("n", "log"), Y),
                         charts.COLOURS[0])  # fmt: skip
    share = (logarithmic[1][0] - logarithmic[0][0]) / (logarithmic[2][0] - logarithmic[0][0])
    assert share == pytest.approx(1 / 3, rel=1e-4)


def test_error_bars_reach_from_low_to_high() -> None:
    series = Series("a", [1, 2], [2.0, 3.0], y_range=[(1.0, 4.0), (3.0, 3.5)])
    svg = charts.lines("title", [series], X, Y)
    bars = re.findall(r'd="M (\S+) (\S+)  L (\S+) (\S+)  " clip-path="[^"]+" style="fill: none; stroke: #0072b2', svg)
    one, other = [float(low) - float(high) for x, low, x_too, high in bars if x == x_too]
    assert one / other == pytest.approx(3 / 0.5, rel=1e-4)


def test_what_is_no_number_leaves_a_gap() -> None:
    svg = charts.lines("title", [Series("a", [1, 2, 3, 4, 5], [1, 2, float("nan"), 2, 1])], X, Y)
    [path] = re.findall(r'<path d="([^"]+)" clip-path="[^"]+" style="fill: none;[^"]*stroke: #0072b2', svg)
    assert path.count("M") == 2
    assert charts.lines("title", [Series("a", [1], [float("nan")])], X, Y)


def test_a_logarithmic_axis_has_ticks_in_plain_digits() -> None:
    decades = texts(charts.lines("title", [Series("a", [1e-4, 1.0], [1, 2])], Axis("rate", "log"), Y))
    assert [name for name in ("0.0001", "0.001", "0.01", "0.1", "1") if name not in decades] == []
    assert not any("$" in name for name in decades)
    near = texts(charts.lines("title", [Series("a", [3, 30], [1, 2])], Axis("n", "log"), Y))
    assert [name for name in ("5", "10", "20") if name not in near] == []


def uses(svg: str, style: str) -> list[str]:
    """The styles of what is drawn at places, such as markers, that hold a word."""
    return [found for found in re.findall(r'<use [^>]*style="([^"]+)"', svg) if style in found]


def test_outlined_points_have_no_fill() -> None:
    drawn = [charts.lines("title", [Series("a", [1, 2, 3], [1, 2, 3], hollow=at)], X, Y) for at in ([], [0, 2])]
    assert [len(uses(svg, "fill-opacity: 0;")) for svg in drawn] == [0, 2]
    assert [len(uses(svg, f"fill: {charts.COLOURS[0]}")) for svg in drawn] == [3, 1]


def test_a_band_is_shaded_in_the_colour_of_its_line() -> None:
    svg = charts.lines("title", [Series("a", [1, 2], [1, 2], band=[(0, 2), (1, 3)])], X, Y)
    assert uses(svg, "fill-opacity") == [f"fill: {charts.COLOURS[0]}; fill-opacity: 0.14"]


def test_a_series_may_say_how_it_looks() -> None:
    svg = charts.lines("title", [Series("a", [1, 2], [1, 2], look=3)], X, Y)
    assert charts.COLOURS[3] in svg
    assert charts.COLOURS[0] not in svg


@pytest.mark.parametrize(("axis", "vertical"), [("x", True), ("y", False)])
def test_marks_lie_across_their_axis(axis: str, vertical: bool) -> None:
    svg = charts.lines("title", [Series("a", [1, 2], [1, 2])], X, Y, Marks("mark", [1.5], axis))  # type: ignore[arg-type]
    [(x, x_too)] = re.findall(r'd="M (\S+) \S+  L (\S+) \S+  "[^>]*stroke-dasharray: 1.2,2.4', svg)
    assert (x == x_too) == vertical


def test_sums_stand_at_the_ends_of_bars() -> None:
    svg = charts.stacked_bars("title", ["one", "two"], {"part": [1.0, 3.0]}, X, ["1 s", "3 s"])
    places = {e.text: float(e.attrib["x"]) for e in ElementTree.fromstring(svg).iter("text") if "x" in e.attrib}
    assert places["1 s"] < places["3 s"]


def height(svg: str) -> float:
    return float(ElementTree.fromstring(svg).attrib["viewBox"].split()[3])


def test_a_long_legend_takes_no_room_from_the_axes() -> None:
    few, many = (charts.lines("title", [Series("long name " * 3 + str(n), [1], [n]) for n in range(count)], X, Y)
                 for count in (2, 12))  # fmt: skip
    assert height(many) - height(few) == pytest.approx(10 * charts.LINE * 72, rel=0.01)
