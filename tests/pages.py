"""Pages: what a browser makes of a report, and the names that a report must show as text."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import attrs
import pytest

HOSTILE = (
    "<script>document.documentElement.dataset.taken = 1</script>",
    '"></svg><img src=x onerror=document.documentElement.dataset.taken=1>',
    "$\\frac{a}{b}$",
    "_hidden & co",
)
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_a_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium is installed, which would open the report")


@attrs.frozen
class Element:
    """An element of a page: its tag and attributes, and the text of it and of all that is inside."""

    tag: str
    attributes: dict[str, str]
    texts: list[str]

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


class Page(HTMLParser):
    """The elements of an HTML text in the order in which they begin."""

    EMPTY = ("meta", "img", "br", "link", "input", "use", "path", "rect")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}, []))
        if tag not in self.EMPTY:
            self._open.append(self.elements[-1])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}, []))

    def handle_endtag(self, tag: str) -> None:
        while tag not in self.EMPTY and self._open and self._open.pop().tag != tag:
            pass

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.texts.append(data)

    def all(self, *tags: str) -> list[Element]:
        return [element for element in self.elements if element.tag in tags]

    def texts(self, *tags: str) -> list[str]:
        return [element.text for element in self.all(*tags)]

    def table(self, caption: str) -> list[list[str]]:
        """The cells of each row of the one table whose caption begins so."""
        rows: dict[str, list[list[str]]] = {}
        title = ""
        for element in self.elements:
            if element.tag == "table":
                title = ""
            elif element.tag == "caption":
                title = element.text
                rows[title] = []
            elif element.tag == "tr":
                rows[title].append([])
            elif element.tag in ("th", "td"):
                rows[title][-1].append(element.text)
        [found] = [table for name, table in rows.items() if name.startswith(caption)]
        return found


def opened_in(folder: Path, file: Path, *options: str) -> tuple[Page, list[str]]:
    """What a browser makes of a page, and what its console says; `folder` keeps what the browser keeps."""
    options = (f"--user-data-dir={folder}", "--enable-logging=stderr", "--virtual-time-budget=2000", *options)
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", *options, "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "<html" in done.stdout, done.stderr
    return Page(done.stdout), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def require_harmless(found: Page) -> None:
    """Nothing in it acts, and nothing of it lies elsewhere."""
    assert found.all("script", "iframe", "object", "link", "base", "form") == []
    for element in found.elements:
        assert [name for name in element.attributes if name.startswith("on")] == []
        assert "data-taken" not in element.attributes
        for name in ("src", "href"):
            assert element.attributes.get(name, "#").startswith(("#", "data:image/jpeg;base64,")), element
