"""Mistakes, thumbnails and the filters of pages, on cases small enough to be worked out by hand."""

from __future__ import annotations

import base64
import io
import math

import pytest
import torch
from PIL import Image

import framework as fw
from framework.contracts import Split
from framework.report import mistakes, page, thumbnails
from framework.report.mistakes import Answers, Pair
from framework.score import Scores
from framework.task import Task


def answers(task: Task, targets: list, probabilities: list, unread: int = 0) -> Answers:
    """Answers about images called a, b, c, ..., of which the first `unread` could not be read."""
    names = tuple("abcdefgh"[: len(targets) + unread])
    dtype = torch.int64 if task.kind == "multiclass" else torch.float32
    first = [targets[0]] * unread
    split = Split(None, tuple(range(len(names))), names, torch.tensor([*first, *targets], dtype=dtype))  # type: ignore[arg-type]
    positions = torch.arange(unread, len(names))
    return Answers.of(split, Scores({}, positions, torch.tensor(probabilities), ()), task)


THREE = Task("multiclass", ("cat", "dog", "owl"))
SURE, UNSURE, RIGHT = [0.05, 0.9, 0.05], [0.3, 0.4, 0.3], [0.8, 0.1, 0.1]


def test_a_confusion_matrix_counts_rows_by_target() -> None:
    rows = mistakes.confusion(answers(THREE, [0, 0, 0, 1], [RIGHT, SURE, UNSURE, SURE]))
    assert [row.counts for row in rows] == [(1, 2, 0), (0, 1, 0), (0, 0, 0)]
    assert [row.images for row in rows] == [3, 1, 0]
    assert rows[0].shares == pytest.approx([1 / 3, 2 / 3, 0])
    assert rows[0].right == pytest.approx(1 / 3)
    assert math.isnan(rows[2].right)


def test_pairs_are_those_confused_most_often() -> None:
    found = mistakes.confused_pairs(answers(THREE, [0, 0, 0, 2], [RIGHT, SURE, UNSURE, SURE]), most=2)
    assert found == [Pair("cat", "dog", 2, pytest.approx(2 / 3)), Pair("owl", "dog", 1, 1.0)]
    assert mistakes.confused_pairs(answers(THREE, [0], [RIGHT])) == []


def test_the_worst_are_wrong_and_sure_by_their_names_though_some_could_not_be_read() -> None:
    found = mistakes.worst(answers(THREE, [0, 0, 0, 1], [RIGHT, UNSURE, SURE, SURE], unread=2))
    assert [(m.image, m.position, m.target, m.predicted, m.about) for m in found] == [
        ("e", 4, "cat", "dog", "dog"),
        ("d", 3, "cat", "dog", "dog"),
    ]
    assert [m.probability for m in found] == pytest.approx([0.9, 0.4])
    assert [m.image for m in mistakes.worst(answers(THREE, [0, 0], [UNSURE, SURE]), most=1)] == ["b"]
    assert mistakes.worst(answers(THREE, [0], [RIGHT])) == []


def test_a_class_of_several_is_wrongly_given_or_wrongly_missing() -> None:
    task = Task("multilabel", ("a|b", "c"))
    asked = answers(task, [[1, 0], [0, 1], [1, 1]], [[0.9, 0.7], [0.2, 0.05], [0.8, 0.6]])
    assert [(m.image, m.target, m.predicted, m.about) for m in mistakes.worst(asked)] == [
        ("b", "c", "", "c"),
        ("a", "a|b", "a|b|c", "c"),
    ]
    one, other = mistakes.label_rows(asked)
    assert (one.name, one.shown, one.given, one.both, one.f1) == ("a|b", 2, 2, 2, 1.0)
    assert (other.precision, other.recall, other.f1) == (0.5, 0.5, 0.5)


def test_a_split_of_which_nothing_could_be_read_has_no_mistakes() -> None:
    nothing = Answers.of(Split(None, (0,), ("a",), torch.tensor([0])),  # type: ignore[arg-type]
                         Scores({}, torch.empty(0, dtype=torch.long), torch.empty(0, 3), ()), THREE)  # fmt: skip
    assert mistakes.worst(nothing) == []
    assert [row.images for row in mistakes.confusion(nothing)] == [0, 0, 0]


def decoded(address: str) -> Image.Image:
    kind, _, data = address.partition(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "L"), (3, "RGB"), (5, "RGB")])
def test_a_tensor_of_any_channels_has_a_thumbnail(channels: int, mode: str) -> None:
    image = torch.zeros(channels, 320, 640, dtype=torch.uint8)
    image[0] = 200
    small = decoded(thumbnails.thumbnail(image))
    assert (small.size, small.mode) == ((160, 80), mode)
    pixel = small.getpixel((9, 9))
    assert (pixel if mode == "L" else pixel[0]) == pytest.approx(200, abs=6)


def test_a_picture_of_any_mode_has_a_thumbnail_and_a_tiny_one_is_enlarged() -> None:
    for mode in ("1", "L", "P", "RGBA", "CMYK", "I;16"):
        assert decoded(thumbnails.thumbnail(Image.new(mode, (8, 4)))).size == (160, 80)
    with pytest.raises(fw.UnreadableImage):
        thumbnails.thumbnail(Image.new("F", (8, 4)))
    whole = Image.new("RGB", (300, 300))
    thumbnails.thumbnail(whole)
    assert whole.size == (300, 300), "the data set's own is left as it is"


def test_filters() -> None:
    assert [page.number(value) for value in (0.93333, 12345, None, math.nan)] == ["0.9333", "12,345", "-", "-"]
    assert [page.percent(value) for value in (0.125, 0.00018, 0.0, 1.0, math.nan)] == [
        *("12.5 %", "0.018 %", "0.0 %", "100.0 %", "-"),
    ]
    assert [page.in_bytes(size) for size in (0, 999, 2048, 1.5 * 2**20)] == ["0 B", "999 B", "2.0 KiB", "1.5 MiB"]
    assert [page.seconds(value) for value in (None, 0.0, 0.000424, 0.314, 0.9996, 12.34, 302, 7260)] == [
        "-",
        "0.00 s",
        "0.424 ms",
        "314 ms",
        "1.00 s",
        "12.3 s",
        "5 min 02 s",
        "2 h 01 min",
    ]
    assert [page.operations(count) for count in (None, 0, 12.0, 4.5e6, 9.997e8, 1.824e9)] == [
        *("-", "0", "12 FLOP", "4.5 MFLOP", "1 GFLOP", "1.82 GFLOP"),
    ]
    assert [page.ratio(value) for value in (0.00432, 0.095, 0.52, 1.0, 12.345)] == [
        *("0.0043x", "0.095x", "0.52x", "1.00x", "12.35x"),
    ]
    assert [page.p_value(p) for p in (0.0312, 1e-6, 0.0, 1.0, None)] == ["0.031", "< 0.001", "< 0.001", "1.000", "-"]
    assert [page.setting(value) for value in (0.1, 1e-05, True, "adamw", 3)] == ["0.1", "1e-05", "true", "adamw", "3"]
    assert [page.words(names) for names in (["a", "b"], [])] == ["a, b", "-"]


def test_half_a_surrogate_pair_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands for a byte of a file's name that is not UTF-8."""
    from jinja2 import DictLoader, Environment

    templates = Environment(loader=DictLoader({"name.html": "{{ name }}"}), autoescape=True)
    monkeypatch.setattr(page, "environment", lambda: templates)
    assert page.render("name.html", name="\udcff<") == "?&lt;"


def test_what_a_template_is_given_is_text_and_what_it_lacks_is_an_error() -> None:
    import jinja2

    template = page.environment().from_string('<p title="{{ name }}">{{ name }}</p>')
    hostile = '"><script>'
    assert template.render(name=hostile).count("<") == 2
    with pytest.raises(jinja2.UndefinedError):
        template.render()
