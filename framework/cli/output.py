"""Output: which display a command gets."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from framework.cli.display import PlainDisplay
from framework.display import Display


@contextmanager
def chosen_display(as_json: bool) -> Iterator[Display]:
    """A bar where standard output is a terminal, else plain lines; on standard error where JSON has the other."""
    stream = sys.stderr if as_json else sys.stdout
    if not stream.isatty():
        yield PlainDisplay(stream)
        return
    from framework.cli.bar import BarDisplay

    display = BarDisplay(stream)
    try:
        yield display
    finally:
        display.close()
