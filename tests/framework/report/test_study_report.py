"""The report of a study: its figures are the outcome's, whatever is missing, whatever it is called, on any window."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
from pages import HOSTILE, Page, in_a_browser, opened_in, require_harmless

from framework.bench.costs import TIME_PARTS, Costs, medians
from framework.bench.laps import Cell, Lap
from framework.bench.outcome import SHARED_SETTINGS, Outcome, Scores
from framework.bench.rows import Row
from framework.bench.statistics import Estimate, accuracy_difference, cost_ratio
from framework.report import charts, estimates, study_charts, study_report
from framework.report.study_report import write_study_report

RATES = (0.001, 0.01, 0.1, 1.0)
METHOD = {"scores": "each policy trained with seeds 0, 1", "noise": "the first cell is timed twice <in each round>"}
MACHINE = {"processor": "Z80 & co", "cpus": 2, "load_average": 1.47, "python_version": "3.11", "system": "Linux",
           "libraries": {"torch": "2.14.1"}}  # fmt: skip


# --------------------------------------------------------------------------------------------- outcomes by hand


def scored(arm: str, number: int = 0, seeds: int = 5, tuned: bool = True, **changes: Any) -> Scores:
    """An arm whose scores go up with its number, tuned over `RATES`, the one of its number chosen."""
    test = {seed: 0.8 + 0.03 * number + 0.001 * (seed * 7 % 5) * (1 + number) for seed in range(seeds)}
    first = scored("first", 0, seeds).each["test"] if number else {}
    made = Scores(
        arm, {"optimizer.lr": RATES[number % 4]} if tuned else {}, {},
        [({"optimizer.lr": rate}, 0.7 - 0.01 * abs(at - number % 4)) for at, rate in enumerate(RATES)] if tuned else [],
        {"test": test, "val": {seed: score + 0.01 for seed, score in test.items()}},
        accuracy_difference(list(test.values()), list(first.values())) if number else None,
        curves={seed: [0.3 + 0.05 * number, 0.5, 0.7 + 0.01 * seed] for seed in range(seeds)}, epoch_of_target=2.0,
    )  # fmt: skip
    return attrs.evolve(made, **changes)


def timed(arm: str, engine: str, number: int = 0, rounds: int = 6, **changes: Any) -> Row:
    """A cell whose costs go up with its number."""
    step = 0.1 * (1 + number) * (1.0 if engine == "plain" else 0.3)
    costs = [
        Costs(10 + 50 * step * noise, 100.0 + 11 * number, 8.0, 1.5, step * 10 * noise, step * noise,
              dict.fromkeys(TIME_PARTS, step / 4), 32 / step, 3.25)
        for noise in (1.0, 1.1, 0.9, 1.05, 0.95, 1.2)[:rounds]
    ]  # fmt: skip
    name = f"{arm} / {engine}"
    facts = {"params": {"total": 1000, "trainable": 125}}
    parts = {
        "memory_mb": {**dict.fromkeys(study_charts.MEMORY_PARTS, 10.0 + number), "peak": 900.0},
        "flops": {"fixed": 1.82e9, "forward": 4.5e6, "backward": 9e6},
    }
    ratio = cost_ratio([cost.total_s for cost in costs], [20.0] * len(costs)) if costs else None
    made = Row(
        Cell(name, arm, engine, recipe=object()), [Lap(name, at, facts=facts) for at in range(rounds)], costs,  # type: ignore[arg-type]
        medians(costs) if costs else None, ratio, ratio and Estimate(1.25, (1.2, 1.25, 1.3)),
        ratio and Estimate(0.3, (0.3,)) if engine == "auto" else None, 2, 12.5, parts, 0, "",
    )  # fmt: skip
    return attrs.evolve(made, **changes)


def study(arms: Sequence[str], seeds: int = 5, rounds: int = 6, tuned: bool = True, **changes: Any) -> Outcome:
    """An outcome of so many arms, each with a cell under either engine."""
    made = Outcome(
        [scored(arm, number, seeds, tuned) for number, arm in enumerate(arms)],
        [timed(arm, engine, number, rounds) for number, arm in enumerate(arms) for engine in ("plain", "auto")],
        {"total_s": Estimate(1.02, (0.97, 1.02, 1.04)), "peak_mb": Estimate(1.0, (1.0,))} if rounds else {},
        "accuracy", True, "test", tuned, 0.65,
    )  # fmt: skip
    return attrs.evolve(made, **changes)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "report.html"


class Kit:
    """Stands in for the kit of charts and keeps what it is to draw."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.drawn: dict[str, Any] = {}
        monkeypatch.setattr(charts, "lines", self._draw)
        monkeypatch.setattr(charts, "stacked_bars", self._draw)

    def _draw(self, title: str, *given: Any) -> str:
        self.drawn[title] = given
        return ""


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> Kit:
    return Kit(monkeypatch)


def page_of(file: Path, outcome: Outcome) -> Page:
    """The report of an outcome, as it is written."""
    write_study_report(file, "a study", outcome, METHOD, MACHINE)
    return Page(file.read_text(encoding="utf-8"))


@pytest.fixture
def written(file: Path, kit: Kit) -> Callable[[Outcome], Page]:
    """`written(outcome)`: its report without its charts, which take their time."""
    return partial(page_of, file)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Page, list[str]]]:
    """`opened(file)`: what a browser makes of a page, and what its console says."""
    return partial(opened_in, tmp_path_factory.mktemp("browser"))


def lines(found: Page, caption: str) -> dict[str, dict[str, str]]:
    """A table: name of a row -> heading -> text."""
    head, *body = found.table(caption)
    return {row[0]: dict(zip(head, row, strict=True)) for row in body}


TWO = ("frozen", "full")
VERDICT = {"p_value": 0.031, "p_of_images": 0.0123, "verdict": "no difference detected"}


# ------------------------------------------------------------------------------------------------- what it says


def test_scores_are_the_outcomes(written) -> None:
    one, other = study(TWO).scores
    found = written(study(TWO, scores=[one, attrs.evolve(other, **VERDICT, edges={"optimizer.lr": "lowest"})]))
    table = lines(found, "Test accuracy of each policy")
    difference = other.difference
    assert difference is not None
    assert difference.low is not None
    row = table["full"]
    assert row["optimizer.lr"] == "0.01 lowest tried"
    assert row["difference"].startswith(f"{difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}], n=5")
    assert row["difference"].endswith(", ".join(f"{each:+.4f}" for each in difference.each))
    assert row["test accuracy"].startswith("0.8340 0.8300 to 0.8380, n=5")
    assert [row[name] for name in ("p over seeds", "p over images", "verdict")] == [
        *("0.031", "0.012", "no difference detected")
    ]
    assert table["frozen"]["verdict"] == "baseline"
    assert "full: optimizer.lr = 0.01 is the lowest that was tried; a better one may lie beyond it" in found.texts("li")
    seeds = lines(found, "Test accuracy of each seed")
    assert [seeds["full"][f"seed {seed}"] for seed in range(5)] == [f"{s:.4f}" for s in other.each["test"].values()]


@pytest.mark.parametrize(("verdict", "shown"), [("higher", "▲ higher"), ("lower", "▼ lower")])
def test_a_verdict_has_a_sign_and_a_word(written, verdict: str, shown: str) -> None:
    outcome = study(TWO)
    changed = attrs.evolve(outcome.scores[1], verdict=verdict)
    found = written(attrs.evolve(outcome, scores=[outcome.scores[0], changed]))
    assert lines(found, "Test accuracy of each policy")["full"]["verdict"] == shown


def test_costs_are_the_outcomes(written) -> None:
    outcome = study(TWO)
    row = outcome.rows[1]
    assert row.policy_ratio is not None
    found = written(outcome)
    time, space = lines(found, "Time of each cell"), lines(found, "Memory and computation of each cell")
    cell = time["frozen / auto"]
    assert cell["step"] == f"{1000 * row.median.step_s:.3g} ms" == "30.8 ms"
    assert (cell["the pass, 1,000 images"], cell["later epoch"]) == ("3.25 s", "308 ms")
    assert (cell["pass repaid in"], cell["to the end"]) == ("epoch 2", "11.5 s")
    low, high, value = row.policy_ratio.low, row.policy_ratio.high, row.policy_ratio.value
    assert cell["policy"].startswith(f"{value:.2f}x [{low:.2f}x, {high:.2f}x], n=6")
    assert cell["policy"].endswith(", ".join(f"{each:.2f}x" for each in row.policy_ratio.each))
    assert cell["engine"] == "0.30x n=1"
    assert cell["to accuracy 0.6500"] == "12.5 s epoch 2"
    assert time["frozen / plain"]["engine"] == "-"
    assert space["full / plain"] == {
        "cell": "full / plain", "trains": "12.5 %", "peak memory": "111 MiB", "policy": "1.25x n=3 1.20x, 1.25x, 1.30x",
        "images/s": "160.0", "once": "1.82 GFLOP", "forward": "4.5 MFLOP", "backward": "9 MFLOP",
    }  # fmt: skip


def test_the_machines_noise_its_method_and_what_reads_the_figures_are_said(written) -> None:
    found = written(study(TWO))
    [noise] = [text for text in found.texts("p") if "timed twice" in text]
    assert noise.startswith("frozen / plain was timed twice in each round.")
    assert "time to the end 1.02x (n=3; 0.97x, 1.02x, 1.04x); peak memory 1.00x (n=1; 1.00x)" in noise
    assert found.table("How the figures were taken") == [[name, words] for name, words in METHOD.items()]
    assert ["processor", "Z80 & co"] in found.table("On what")
    assert ["load average", "1.47"] in found.table("On what")
    assert found.table("Libraries") == [["torch", "2.14.1"]]
    assert "bench.json" in found.texts("footer")[0]
    assert "pytest-benchmark compare" in found.texts("footer")[0]


def test_where_nothing_was_tuned_nothing_is_judged(written, file: Path) -> None:
    outcome = study(TWO, tuned=False)
    found = written(
        attrs.evolve(outcome, scores=[one and attrs.evolve(one, p_value=0.04321) for one in outcome.scores])
    )
    assert [e.text for e in found.all("p") if e.attributes.get("class") == "banner"] == [SHARED_SETTINGS]
    assert list(lines(found, "Test accuracy of each policy")["full"]) == ["policy", "test accuracy", "difference"]
    assert not any(word in file.read_text() for word in ("verdict</th>", "0.043", "▲"))
    assert SHARED_SETTINGS not in written(study(TWO)).texts("p")


def test_validation_is_called_what_it_is(file: Path) -> None:
    found = page_of(file, study(TWO, split="val"))
    assert lines(found, "Validation accuracy of each policy")["frozen"]["validation accuracy"].startswith("0.8120")
    assert any("validation, also used for selection" in text for text in found.texts("p"))
    assert "validation accuracy" in found.texts("text")
    assert "also used" not in " ".join(page_of(file, study(TWO)).texts("p"))


# ------------------------------------------------------------------------------------------------- what may be missing


def test_one_seed_and_one_round_have_no_interval_and_no_dots(written) -> None:
    found = written(study(TWO, seeds=1, rounds=1))
    row = lines(found, "Test accuracy of each policy")["full"]
    assert row["test accuracy"] == "0.8300 n=1"
    assert row["difference"] == "+0.0300 n=1"
    assert row["verdict"] == "none: 1 of 5 seeds that it takes"
    assert lines(found, "Time of each cell")["full / plain"]["policy"].endswith("x n=1")
    assert [e for e in found.all("rect") if e.attributes.get("height") == "3"] == []


def test_an_arm_and_a_cell_without_a_result_keep_their_place_and_say_why(written) -> None:
    outcome = study(("frozen", "full", "broken"))
    broken = Scores("broken", {}, {}, [({"optimizer.lr": 0.1}, None)], {}, failed=5, reason="out of <memory>")
    nothing = timed("broken", "auto", rounds=0, failed=6, reason="killed", parts={})
    unknown = attrs.evolve(outcome.rows[0], parts={"reason": "no graph"})
    found = written(attrs.evolve(outcome, scores=[*outcome.scores[:2], broken],
                                 rows=[unknown, *outcome.rows[1:4], nothing]))  # fmt: skip
    scores, cell = lines(found, "Test accuracy of each policy"), lines(found, "Time of each cell")
    assert scores["broken 5 failed"]["test accuracy"] == "failed"
    assert scores["broken 5 failed"]["verdict"] == "none: no seed in common"
    assert cell["broken / auto 6 failed"]["step"] == "failed"
    assert set(cell["broken / auto 6 failed"].values()) == {"broken / auto 6 failed", "failed", "-"}
    assert found.texts("li")[4:] == [
        "broken: 5 failed: out of <memory>",
        "broken: 1 of 1 settings have no score: a trial failed",
        "frozen / plain: operations and memory are not known: no graph",
        "broken / auto: 6 of 6 measurements failed: killed",
    ]


def test_every_arm_may_have_failed(file: Path) -> None:
    broken = [Scores(arm, {}, {}, [], {}, failed=1, reason="no data") for arm in TWO]
    rows = [timed(arm, "plain", rounds=0, failed=1, reason="no data", parts={}) for arm in TWO]
    found = page_of(file, Outcome(broken, rows, {}, "score", True, "val", False, None))
    assert found.all("svg") == []
    assert found.texts("li").count("full: 1 failed: no data") == 1


def test_a_program_of_others_has_a_time_and_a_memory_alone(written, kit: Kit) -> None:
    program = Row(Cell("script.py", "script.py", "", command=("python",), whole=True), [Lap("script.py", 0)],
                  [Costs(99.0, 512.0)], Costs(99.0, 512.0), None, None, None, None, None, {}, 0, "")  # fmt: skip
    outcome = study(TWO)
    found = written(attrs.evolve(outcome, rows=[*outcome.rows, program]))
    time = lines(found, "Time of each cell")["script.py"]
    assert (time["to the end"], time["step"], time["later epoch"], time["policy"]) == ("99.0 s", "-", "-", "-")
    assert lines(found, "Memory and computation")["script.py"]["peak memory"] == "512 MiB"
    bars = ("Time of a step", "Memory at a step's peak", "Time to the end of training")
    assert ["script.py" in kit.drawn[title][0] for title in bars] == [False, False, True]
    assert kit.drawn[bars[-1]][1]["program of others"] == [0.0, 0.0, 0.0, 0.0, 99.0]


def test_what_is_no_number_is_a_dash(file: Path) -> None:
    outcome = study(TWO)
    one, other = outcome.scores
    lost = attrs.evolve(other, each={"test": {0: math.nan, 1: 0.8, 2: 0.9}}, curves={0: [math.nan, 0.5], 1: [math.nan]},
                        difference=Estimate(math.nan, (math.nan, 0.1)))  # fmt: skip
    found = page_of(file, attrs.evolve(outcome, scores=[one, lost]))
    row = lines(found, "Test accuracy of each policy")["full"]
    assert row["test accuracy"].startswith("- 0.8000 to 0.9000, n=3, 1 not a number")
    assert row["difference"].startswith("- n=2")
    assert re.findall(r'"[^"]*\bnan\b[^"]*"', file.read_text()) == []


# ------------------------------------------------------------------------------------------------------- charts


def titles(drawn: Sequence[study_charts.Chart]) -> list[str]:
    return [chart.title for chart in drawn]


def test_there_is_a_chart_for_each_question(file: Path) -> None:
    outcome = study(TWO)
    assert titles(study_charts.trade_offs(outcome)) == ["Score against time", "Score against memory"]
    assert titles(study_charts.breakdowns(outcome)) == [
        *("Time of a step", "Memory at a step's peak", "Time to the end of training"),
    ]
    assert titles(study_charts.learning_curves(outcome)) == ["Validation accuracy by epoch"]
    assert titles(study_charts.tuning(outcome)) == ["Trials by optimizer.lr"]
    assert len([e for e in page_of(file, outcome).all("svg") if e.attributes["class"] == "chart"]) == 7


def test_scores_stand_against_costs_with_their_intervals(kit: Kit) -> None:
    outcome = study(TWO)
    study_charts.trade_offs(outcome)
    (one, other), x, y = kit.drawn["Score against time"]
    plain, auto = outcome.rows[2:]
    assert (other.name, list(other.hollow)) == ("full", [0])
    assert list(other.x) == [plain.median.total_s, auto.median.total_s]
    assert list(other.y) == pytest.approx([0.834, 0.834])
    half = outcome.scores[1].difference.half_width
    assert other.y_range[0] == pytest.approx((0.834 - half, 0.834 + half))
    ratio = plain.policy_ratio
    assert other.x_range[0] == pytest.approx(tuple(other.x[0] * end / ratio.value for end in (ratio.low, ratio.high)))
    assert one.y_range == []
    assert (x.label, y.label) == ("seconds to the end of training", "test accuracy")
    memory = kit.drawn["Score against memory"][0][1]
    assert list(memory.x) == [111.0, 111.0]
    assert all(map(math.isnan, memory.x_range[0])), "three rounds have no interval"
    [time, _] = study_charts.trade_offs(attrs.evolve(outcome, rows=outcome.rows[:2]))
    assert time.caption.startswith("frozen alone"), "a legend of one name is left out"


def test_bars_add_up(kit: Kit) -> None:
    outcome = study(TWO)
    study_charts.breakdowns(outcome)
    for title, wanted in {
        "Time of a step": [1000 * sum(row.median.parts_s.values()) for row in outcome.rows],
        "Memory at a step's peak": [60.0, 60.0, 66.0, 66.0],
        "Time to the end of training": [row.median.total_s for row in outcome.rows],
    }.items():
        names, parts, _, _ = kit.drawn[title]
        assert names == [row.cell.name for row in outcome.rows]
        assert [sum(at) for at in zip(*parts.values(), strict=True)] == pytest.approx(wanted)
    assert list(kit.drawn["Time to the end of training"][1]) == ["start-up", "the pass", "epochs"]


@pytest.mark.parametrize(
    ("values", "scale"), [(RATES, "log"), ((1.0, 2.0, 4.0), "linear"), ((0.0, 1e-4, 1.0), "linear")]
)
def test_a_tuned_key_counts_as_its_values_do(kit: Kit, values: Sequence[float], scale: str) -> None:
    trials = [({"a.b": value}, 0.5 + value) for value in values]
    outcome = study(TWO)
    study_charts.tuning(attrs.evolve(
        outcome, scores=[attrs.evolve(one, settings={"a.b": values[1]}, trials=trials) for one in outcome.scores]
    ))  # fmt: skip
    (first, _), x, _ = kit.drawn["Trials by a.b"]
    assert (list(first.x), list(first.y)) == (sorted(values), [0.5 + value for value in sorted(values)])
    assert [at for at in range(len(values)) if at not in first.hollow] == [1]
    assert x.scale == scale


def test_of_several_keys_the_best_of_the_others_is_shown_and_words_are_left_out(kit: Kit) -> None:
    grid = [({"lr": lr, "use": use}, score) for lr, use, score in
            [(0.1, "sgd", 0.5), (0.1, "adamw", 0.6), (0.2, "sgd", None), (0.2, "adamw", None)]]  # fmt: skip
    outcome = study(("one",))
    for higher, best in ((True, 0.6), (False, 0.5)):
        scores = [attrs.evolve(outcome.scores[0], trials=grid, settings={"lr": 0.1, "use": "sgd"})]
        [chart] = study_charts.tuning(attrs.evolve(outcome, scores=scores, higher_is_better=higher))
        assert "the best is shown" in chart.caption
        (series,), _, _ = kit.drawn["Trials by lr"]
        assert series.y[0] == best
        assert math.isnan(series.y[1])


def test_learning_curves_are_medians_over_seeds(kit: Kit) -> None:
    outcome = study(TWO, seeds=3)
    stopped = attrs.evolve(outcome.scores[1], curves={0: [0.1], 1: [0.3, 0.4], 2: [0.2, 0.8]})
    study_charts.learning_curves(attrs.evolve(outcome, scores=[outcome.scores[0], stopped]))
    (_, series), _, _, marks = kit.drawn["Validation accuracy by epoch"]
    assert (list(series.x), list(series.y)) == ([1, 2], pytest.approx([0.2, 0.6]))
    assert list(series.band) == [(0.1, 0.3), (0.4, 0.8)]
    assert (marks.axis, list(marks.at)) == ("y", [0.65])
    study_charts.learning_curves(study([str(number) for number in range(5)]))
    assert all(not one.band for one in kit.drawn["Validation accuracy by epoch"][0]), "bands would hide each other"


def test_an_arm_looks_the_same_in_every_chart(kit: Kit) -> None:
    outcome = study(("frozen", "broken", "full"))
    broken = Scores("broken", {}, {}, [], {}, failed=1, reason="no data")
    changed = attrs.evolve(outcome, scores=[outcome.scores[0], broken, outcome.scores[2]])
    for draw in (study_charts.trade_offs, study_charts.learning_curves, study_charts.tuning):
        draw(changed)
    looks: list[Mapping[str, int]] = [{one.name: one.look for one in given[0]} for given in kit.drawn.values()]
    assert looks == [{"frozen": 0, "full": 2}] * 4


def test_the_parts_of_memory_are_those_that_are_measured() -> None:
    from framework.bench.memory import PARTS

    assert study_charts.MEMORY_PARTS == PARTS
    assert set(study_report.NOISE) == {"total_s", "step_s", "peak_mb"}


def test_strips_share_a_scale_and_stand_where_they_belong() -> None:
    twice, half = (Estimate(value, (value, value * 2), value, value * 2) for value in (2.0, 0.5))
    one, other, none = estimates.shown_ratios([twice, half, None])
    assert none is None
    assert one is not None
    assert other is not None
    assert one.strip is not None
    assert other.strip is not None
    assert (one.strip.line, *one.strip.dots) == pytest.approx((1 / 3, 2 / 3, 1.0))
    assert one.strip.bar == pytest.approx((2 / 3, 1.0))
    assert other.strip.dots == pytest.approx((0.0, 1 / 3)), "half is as far from one as twice"
    [above] = estimates.shown_differences([Estimate(3.0, (2.0, 4.0))])
    assert above is not None
    assert above.strip is not None
    assert (above.strip.line, above.strip.dots) == (0.0, (0.5, 1.0)), "no difference is always on the scale"
    [same] = estimates.shown_scores([[0.5, 0.5]])
    assert same.strip is not None
    assert same.strip.dots == (0.5, 0.5)


# --------------------------------------------------------------------------------------------------- in a browser


def hostile() -> Outcome:
    """A study whose every word is hostile."""
    outcome = study(HOSTILE)
    scores = [attrs.evolve(one, **VERDICT, reason=HOSTILE[1], failed=1, edges={"optimizer.lr": HOSTILE[0]},
                           settings={"optimizer.lr": 0.1, HOSTILE[1]: HOSTILE[0]},
                           trials=[*one.trials, ({HOSTILE[1]: 1}, 0.5), ({HOSTILE[1]: 2}, 0.6)])
              for one in outcome.scores]  # fmt: skip
    rows = [attrs.evolve(row, reason=HOSTILE[0], failed=1) for row in outcome.rows]
    return attrs.evolve(outcome, scores=scores, rows=rows, metric=HOSTILE[1])


@in_a_browser
def test_a_browser_takes_every_name_for_text(file: Path, opened) -> None:
    write_study_report(file, HOSTILE[0], hostile(), {name: name for name in HOSTILE},
                       {"processor": HOSTILE[1], "libraries": {name: name for name in HOSTILE}})  # fmt: skip
    found, console = opened(file)
    assert console == []
    require_harmless(found)
    assert found.all("img") == []
    assert found.texts("h1") == [HOSTILE[0]]
    assert found.table("Libraries") == [[name, name] for name in HOSTILE]
    cells = lines(found, "Time of each cell")
    assert list(cells) == [f"{name} / {engine} 1 failed" for name in HOSTILE for engine in ("plain", "auto")]
    assert cells[f"{HOSTILE[2]} / auto 1 failed"]["to the end"] == "14.6 s"
    assert [charts.literal(name) in found.texts("text") for name in HOSTILE] == [True] * 4


def test_the_file_holds_all_that_it_shows(file: Path) -> None:
    write_study_report(file, "a study", hostile(), METHOD, MACHINE)
    text = file.read_text(encoding="utf-8")
    assert re.findall(r"https?:|//[a-z]|@import|url\((?!#)", text) == []
    found = Page(text)
    require_harmless(found)
    assert len(found.all("caption")) == len(found.all("table"))
    assert all(head.attributes["scope"] in ("col", "row") for head in found.all("th"))
    assert all(drawing.attributes["role"] == "img" for drawing in found.all("svg"))
    ids = re.findall(r'<[^>]* id="([^"]+)"', text)
    assert len(ids) == len(set(ids))


MEASURE = """<!doctype html><html><body><iframe src="{}" style="width:{}px;height:900px;border:0"></iframe><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement
  document.body.dataset.width = root.clientWidth
  document.body.dataset.wide = [...page.body.querySelectorAll("*")].filter(
    one => !one.closest(".scroll, svg, pre") && one.getBoundingClientRect().right > root.clientWidth + 0.5
  ).map(one => one.tagName).join(" ") + (root.scrollWidth > root.clientWidth ? " PAGE" : "")
}}
</script></body></html>"""


def too_wide(file: Path, width: int, opened) -> str:
    """What of a page does not fit into a window of some pixels, beside what scrolls."""
    frame = file.with_name("frame.html")
    frame.write_text(MEASURE.format(file.name, width))
    found, console = opened(frame, "--allow-file-access-from-files", "--hide-scrollbars")
    assert console == []
    [body] = [element for element in found.all("body") if "data-wide" in element.attributes]
    assert body.attributes["data-width"] == str(width)
    return body.attributes["data-wide"]


LONG = [f"resnet18_finetune_with_a_name_without_a_gap_in_it_and_optimizer.lr={number}" for number in range(12)]


@in_a_browser
@pytest.mark.parametrize(
    "outcome", [study(TWO), study(LONG, seeds=3, rounds=2), hostile()], ids=["two", "long", "hostile"]
)
def test_a_page_fits_a_phone(file: Path, opened, outcome: Outcome) -> None:
    write_study_report(file, "a_study_of_" + "many_words_" * 20, outcome, METHOD, MACHINE)
    assert too_wide(file, 390, opened) == ""


@in_a_browser
def test_a_page_that_does_not_fit_would_be_noticed(file: Path, opened) -> None:
    file.write_text("<!doctype html><html><body><table><tr><td><nobr>" + "wide " * 200)
    assert too_wide(file, 390, opened) == "TABLE TBODY TR TD NOBR PAGE"


def test_many_arms_with_long_names_can_be_told_apart() -> None:
    drawing = str(study_charts.trade_offs(study(LONG))[0].drawing)
    assert len(set(re.findall(r"resnet18_finetun…[^<]+", drawing))) == 12
