"""Page: templates to one HTML file that asks nothing of a network; whatever a template is given is shown as text.

A template extends `base.html`, which brings the style. Of what it is given, only `Markup` is not escaped, which
`framework.report.charts` alone makes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

NOTHING = "-"
_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")
_THOUSANDS = ("", "k", "M", "G", "T", "P")


def render(template: str, **facts: Any) -> str:
    """The page that a template of this package makes of some facts.

    Half a surrogate pair, as in the name of a file that is not UTF-8, becomes a question mark.

    Raises:
        jinja2.UndefinedError: the template asks for a fact that is not there.
    """
    page = environment().get_template(template).render(facts)
    return page.encode("utf-8", "replace").decode("utf-8")


@cache
def environment() -> Environment:
    """Where templates come from, and the filters they may use."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(loader=PackageLoader("framework.report"), autoescape=True, undefined=StrictUndefined,
                       trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    made.filters.update({filter.__name__: filter for filter in FILTERS})
    return made


def number(value: float | None, digits: int = 4) -> str:
    """A number with so many decimals; whole numbers by thousands: 0.9333, 12,345."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def percent(share: float | None) -> str:
    """A share of one in percent: 12.5 %; a small one with two digits: 0.018 %."""
    if share is None or math.isnan(share):
        return NOTHING
    return f"{share * 100:.2g} %" if 0 < share < 0.01 else f"{share * 100:.1f} %"


def in_bytes(size: float) -> str:
    """A number of bytes in the unit that suits it: 1.5 MiB."""
    power = min(int(math.log(size, 1024)), len(_BYTES) - 1) if size >= 1 else 0
    return f"{size / 1024**power:,.{1 if power else 0}f} {_BYTES[power]}"


def seconds(value: float | None) -> str:
    """A time: 4.25 ms, 1.31 s, 12.3 s, 5 min 02 s."""
    if value is None or math.isnan(value):
        return NOTHING
    if 0 < value < 0.9995:
        return f"{1000 * value:.3g} ms"
    if value < 120:
        return f"{value:.{2 if value < 10 else 1}f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def operations(count: float | None) -> str:
    """Floating-point operations in the unit that suits them: 1.82 GFLOP."""
    if count is None or math.isnan(count):
        return NOTHING
    shown = float(f"{count:.3g}")  # 999.7 million are a thousand of them
    power = min(int(math.log10(shown)) // 3, len(_THOUSANDS) - 1) if shown >= 1 else 0
    return f"{shown / 1000**power:g} {_THOUSANDS[power]}FLOP" if count else "0"


def ratio(value: float) -> str:
    """What something takes beside another: 0.52x; a small one with two digits: 0.0043x."""
    return f"{value:.2g}x" if 0 < value < 0.1 else f"{value:.2f}x"


def p_value(value: float | None) -> str:
    """A p-value: 0.031; one that three decimals would make nothing of: < 0.001."""
    return "< 0.001" if value is not None and value < 0.001 else number(value, 3)


def setting(value: object) -> str:
    """A chosen value: 0.01, true, adamw."""
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def words(names: Iterable[str]) -> str:
    """Names in a row, or a dash where there are none."""
    return ", ".join(names) or NOTHING


FILTERS: tuple[Callable[..., str], ...] = (
    number,
    percent,
    in_bytes,
    seconds,
    operations,
    ratio,
    p_value,
    setting,
    words,
)
