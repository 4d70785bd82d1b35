"""Charts: lines, points and bars as inline SVG that takes its ink from the page, in light and in dark.

Colours are those of Okabe and Ito (2008), which the colour-blind tell apart; markers, dashes and hatches say the same
again. Names are shown literally. matplotlib draws, by its SVG backend alone; its settings are put back.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

import attrs

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

INK = "#010203"
"""Stands for the colour of the page's text until the drawing is done."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (10, 3)))
HATCHES = ("", "///", "\\\\\\", "xxx", "---", "|||", "+++")
STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
    **{"grid.color": INK, "grid.alpha": 0.15, "axes.grid": True, "axes.axisbelow": True, "hatch.color": INK},
    **{"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "hatch.linewidth": 0.6},
    **dict.fromkeys(("font.size", "axes.labelsize", "legend.fontsize", "xtick.labelsize", "ytick.labelsize"), 9.0),
    **{"lines.linewidth": 1.6, "lines.markersize": 4.5, "svg.fonttype": "none", "text.parse_math": False},
    "font.family": "DejaVu Sans",
}
ALONE = (
    "</title><style>svg { color: #222; font-family: sans-serif } svg * { stroke-linejoin: round }"
    " @media (prefers-color-scheme: dark) { svg { color: #ddd } }</style>"
)
"""What a page would say of a chart."""
WIDTH, HEIGHT = 4.6, 2.9
"""Inches: small, so that text stays readable where a phone shows the chart in its whole width."""
LONGEST = 34
"""Characters of a name that are shown."""
LINE = 0.18
"""Inches that a line of a legend takes."""


@attrs.frozen
class Series:
    """Points under one name.

    Attributes:
        name: shown in the legend.
        x, y: of each point; what is no number leaves a gap.
        x_range, y_range: (low, high) of each point's error bar; empty: none.
        band: (low, high) at each point, shaded from point to point; empty: none.
        hollow: which points are drawn as outlines.
        look: which colour, marker and dash it has; None: those of its place among the series.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    x_range: Sequence[tuple[float, float]] = ()
    y_range: Sequence[tuple[float, float]] = ()
    band: Sequence[tuple[float, float]] = ()
    hollow: Sequence[int] = ()
    look: int | None = None


@attrs.frozen
class Axis:
    """What an axis says and how it counts; `whole` has ticks at whole numbers only."""

    label: str
    scale: Literal["linear", "log", "whole"] = "linear"


@attrs.frozen
class Marks:
    """Places along an axis that share a name, drawn as lines across."""

    name: str
    at: Sequence[float]
    axis: Literal["x", "y"] = "x"


def lines(title: str, series: Sequence[Series], x: Axis, y: Axis, marks: Marks | None = None) -> Markup:
    """Each series as a line with markers; a series of one point is a marker."""
    return _points(title, series, x, y, DASHES, marks)


def scatter(title: str, series: Sequence[Series], x: Axis, y: Axis) -> Markup:
    """Each series as points alone."""
    return _points(title, series, x, y, ("none",), None)


def stacked_bars(
    title: str, names: Sequence[str], parts: Mapping[str, Sequence[float]], x: Axis, sums: Sequence[str] = ()
) -> Markup:
    """A horizontal bar for each name, the first on top, made up of parts side by side.

    Args:
        title: for those who cannot see it.
        names: of the bars.
        parts: name of a part -> its length in each bar.
        x: what a length is.
        sums: what stands at the end of each bar.
    """

    def draw(axes: Axes) -> None:
        places, ends = range(len(names)), [0.0] * len(names)
        for number, lengths in enumerate(parts.values()):
            look: dict[str, Any] = {"color": _turn(COLOURS, number), "hatch": _turn(HATCHES, number), "height": 0.6}
            axes.barh(places, lengths, left=ends, edgecolor=INK, linewidth=0.5, **look)
            ends = [end + length for end, length in zip(ends, lengths, strict=True)]
        for place, end, words in zip(places, ends, sums, strict=False):
            axes.annotate(words, (end, place), (4, 0), textcoords="offset points", va="center")
        axes.set_yticks(places, labels=[literal(name) for name in names])
        axes.tick_params("y", length=0)
        axes.grid(visible=False, axis="y")
        axes.invert_yaxis()
        _scale(axes, x, Axis(""))
        _legend(axes, list(axes.containers), list(parts))

    return _drawn(title, draw, 0.8 + 0.3 * len(names) + _height_of_legend(list(parts)))


def _points(
    title: str, series: Sequence[Series], x: Axis, y: Axis, dashes: Sequence[Any], marks: Marks | None
) -> Markup:
    def draw(axes: Axes) -> None:
        names = [one.name for one in series]
        handles: list[Any] = [_draw_series(axes, one, number, dashes) for number, one in enumerate(series)]
        if marks is not None and marks.at:
            across = axes.axvline if marks.axis == "x" else axes.axhline
            drawn = [across(place, color=INK, linestyle=(0, (1, 2)), linewidth=1.2) for place in marks.at]
            names, handles = [*names, marks.name], [*handles, drawn[0]]
        _scale(axes, x, y)
        _legend(axes, handles, names)

    names = [one.name for one in series] + ([marks.name] if marks else [])
    return _drawn(title, draw, HEIGHT + max(0.0, _height_of_legend(names) - 2 * LINE))


def _draw_series(axes: Axes, one: Series, number: int, dashes: Sequence[Any]) -> Any:
    """Puts one series on the axes and gives what stands for it in the legend."""
    turn = number if one.look is None else one.look
    look: dict[str, Any] = {"color": _turn(COLOURS, turn), "marker": _turn(MARKERS, turn)}
    if one.band:
        low, high = zip(*one.band, strict=True)
        axes.fill_between(one.x, low, high, color=look["color"], alpha=0.14, linewidth=0)
    every = max(1, len(one.x) // 20)  # more markers than that hide the line
    solid = [at for at in range(0, len(one.x), every) if at not in one.hollow]
    down_up, left_right = _lengths(one.y, one.y_range), _lengths(one.x, one.x_range)
    handle: Any = axes.errorbar(one.x, one.y, down_up, left_right, capsize=2.5, elinewidth=1, markevery=solid,
                           linestyle=_turn(dashes, turn), **look)  # fmt: skip
    outlined = [[values[at] for at in one.hollow] for values in (one.x, one.y)]
    axes.plot(*outlined, linestyle="none", markerfacecolor="none", **look)
    return handle.lines[0]


def _turn(choices: Sequence[Any], number: int) -> Any:
    return choices[number % len(choices)]


def _lengths(values: Sequence[float], ranges: Sequence[tuple[float, float]]) -> list[list[float]] | None:
    """How far error bars reach down and up from their values."""
    if not ranges:
        return None
    pairs = list(zip(values, ranges, strict=True))
    return [[value - low for value, (low, _) in pairs], [high - value for value, (_, high) in pairs]]


def _scale(axes: Axes, x: Axis, y: Axis) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(literal(x.label))
    axes.set_ylabel(literal(y.label))
    for which, axis in (("x", x), ("y", y)):
        if axis.scale == "log":
            _scale_by_logarithm(axes, which)
        elif axis.scale == "whole":
            getattr(axes, f"{which}axis").set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))


def _scale_by_logarithm(axes: Axes, which: str) -> None:
    """Ticks in plain digits: matplotlib's own are formulas, which are shown literally here."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(**{f"{which}scale": "log"})
    low, high = getattr(axes, f"get_{which}lim")()
    side = getattr(axes, f"{which}axis")
    side.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 50 * low else (1.0,), numticks=7))
    side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    side.set_minor_formatter(NullFormatter())


def _legend(axes: Axes, handles: Sequence[Any], names: Sequence[str]) -> None:
    """Above the axes. Its names are set afterwards: one that begins with an underscore would be left out."""
    if len(names) < 2:
        return
    shown = [literal(name) for name in names]
    legend = axes.figure.legend(handles, [""] * len(shown), loc="outside upper left", ncols=_columns(shown))
    for text, name in zip(legend.get_texts(), shown, strict=True):
        text.set_text(name)


def _columns(shown: Sequence[str]) -> int:
    """Of a legend, by the points that a handle and the letters of the longest name take."""
    return max(1, min(len(shown), int(WIDTH * 72 / (40 + 5.3 * max(map(len, shown))))))


def _height_of_legend(names: Sequence[str]) -> float:
    """In inches; of a single name there is none."""
    shown = [literal(name) for name in names]
    return LINE * math.ceil(len(shown) / _columns(shown)) if len(shown) > 1 else 0.0


def literal(name: str) -> str:
    """A name in one short line, without the characters that no XML may hold.

    Of a long one the middle is left out: names of cells begin alike and differ at their ends.
    """
    line = _NO_XML.sub("\ufffd", " ".join(name.split()))
    half = LONGEST // 2
    return line if len(line) <= LONGEST else f"{line[: half - 1]}…{line[-half:]}"


_NO_XML = re.compile("[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _drawn(title: str, draw: Callable[[Axes], None], height: float) -> Markup:
    """What `draw` puts on the axes of a new figure; the same bytes every time."""
    from matplotlib import rc_context, rcdefaults, rcParams
    from matplotlib.figure import Figure

    file = io.StringIO()
    with rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter that matplotlib's font lacks is in the reader's
        rcdefaults()
        rcParams.update({**STYLE, "svg.hashsalt": title})
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(file, format="svg")
    return inline(file.getvalue(), title)


def inline(svg: str, title: str) -> Markup:
    """A drawing of matplotlib's as part of a page: no name spaces, no metadata, its ink the page's.

    Args:
        svg: the whole file.
        title: what the drawing is called where it is not seen.
    """
    from markupsafe import Markup

    root = ElementTree.fromstring(svg)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(name): _inked(value) for name, value in element.attrib.items()}
    for parent in list(root.iter()):
        for spent in [child for child in parent if child.tag in ("metadata", "style")]:
            parent.remove(spent)
    _drop_idle_ids(root)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "class": "chart"}
    name = ElementTree.Element("title")
    name.text = _NO_XML.sub("\ufffd", title)
    root.insert(0, name)
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # which has escaped what is in it


def standalone(chart: Markup) -> str:
    """A chart of a page as a file of its own, in ink that can be read on light and on dark ground."""
    return str(chart).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace("</title>", ALONE, 1)


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _inked(value: str) -> str:
    return value.replace(INK, "currentColor")


def _drop_idle_ids(root: ElementTree.Element) -> None:
    """Takes away the names that nothing refers to: two charts of a page would share them."""
    used = {name for element in root.iter() for value in element.attrib.values()
            for name in re.findall(r"#([\w-]+)", value)}  # fmt: skip
    for element in root.iter():
        if element.attrib.get("id") not in used:
            element.attrib.pop("id", None)
