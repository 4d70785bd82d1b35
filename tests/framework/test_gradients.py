"""Gradients: what a policy wants to know, against a second way of computing it; and nothing where nobody asks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

import framework as fw
from framework import gradients, train
from framework.catalog import PluginSource
from framework.gradients import Gradients, Tally
from framework.running import Best, Run, Standing
from framework.testing.networks import sample
from framework.testing.whole_runs import differences, run, run_in_pieces

BOTH = frozenset({"grad_norm", "weight_norm"})
Signals = Mapping[str, Mapping[str, float]]


class Asking(fw.FreezingPolicy):
    """Writes down what it is told; the first stage is frozen, and from step 4 on the second one too."""

    told: list[tuple[int, Signals]] = []  # noqa: RUF012 - the engine builds the policies, and a test reads it

    def __init__(self, signals: tuple[str, ...]) -> None:
        self.signals = signals

    def start(self, layout: fw.Layout) -> fw.Plan:
        return layout.plan([name for stage in layout.stages[1:] for name in stage.parameters])

    def moments(self) -> fw.Moments:
        return fw.Moments(steps=frozenset({2, 4}), every_epoch=True)

    def wants(self) -> frozenset[str]:
        return frozenset(self.signals)

    def next(self, layout: fw.Layout, progress: fw.Progress) -> fw.Plan | None:
        self.told.append((progress.step, progress.signals))
        if progress.step < 4:
            return None
        return layout.plan([name for stage in layout.stages[2:] for name in stage.parameters])


@attrs.frozen(kw_only=True)
class AskingKeys:
    """A policy that writes down what it is told."""

    signals: tuple[str, ...] = fw.key(tuple(sorted(BOTH)), "what it wants")

    def build(self) -> fw.FreezingPolicy:
        return Asking(self.signals)


class Plugin:
    @fw.hookimpl
    def fw_freezing_policies(self):
        return [fw.Component("asking", AskingKeys)]


@pytest.fixture
def asking(index):
    """The installed plugins and the toy, to which nothing has been told."""
    Asking.told.clear()
    return index.including([PluginSource.of(Plugin(), "asking", "acme-asking")])


@pytest.fixture
def by_hand(monkeypatch) -> list[Signals]:
    """The norms of each step's whole gradient, before it is clipped."""
    steps: list[Signals] = []
    make_up = train.make_up_for_skipped

    def noted(run: Run, parameters: list[torch.nn.Parameter]) -> None:
        make_up(run, parameters)
        steps.append(norms(run))

    monkeypatch.setattr(train, "make_up_for_skipped", noted)
    return steps


def norms(run: Run) -> Signals:
    named, found = dict(run.parts.network.named_parameters()), {name: {} for name in BOTH}
    for stage in run.parts.model.layout.stages:
        members = [named[name] for name in stage.parameters if name in run.parts.frozen.plan.trainable]
        if members:
            found["grad_norm"][stage.name] = length([p.grad for p in members])
            found["weight_norm"][stage.name] = length(members)
    return found


def length(tensors) -> float:
    return float(torch.cat([tensor.detach().flatten().double() for tensor in tensors]).norm())


def mean(steps: list[Signals], signal: str) -> dict[str, float]:
    return {stage: sum(step[signal][stage] for step in steps) / len(steps) for stage in steps[0][signal]}


@pytest.mark.parametrize("train_table", [{}, {"accumulate": 2, "clip_norm": 0.01, "epochs": 4}], ids=["plain", "more"])
def test_a_policy_is_told_the_mean_of_the_steps_since_it_was_last_asked(
    asking, tmp_path: Path, by_hand: list[Signals], train_table: dict[str, Any]
) -> None:
    left = run(asking, {"freezing": {"use": "asking"}, "train": train_table}, tmp_path / "run")
    asked = [step for step, _ in Asking.told]
    assert asked == ([2, 4, 6] if train_table else [2, 3, 4, 6])
    for begin, (end, told) in zip([0, *asked], Asking.told, strict=False):
        for signal in BOTH:
            assert told[signal] == pytest.approx(mean(by_hand[begin:end], signal), rel=1e-5)
    stages = [len(told["grad_norm"]) for _, told in Asking.told]
    assert stages == [*[4] * (len(stages) - 1), 3], "of five stages those that trained"
    assert [change["step"] for change in left.summary["plan_changes"]] == [4]


def test_one_signal_alone_is_gathered_where_one_is_wanted(asking, tmp_path: Path) -> None:
    run(asking, {"freezing": {"use": "asking", "signals": ["grad_norm"]}}, tmp_path / "run")
    assert {frozenset(told) for _, told in Asking.told} == {frozenset({"grad_norm"})}


def test_nothing_is_computed_where_nobody_asks(asking, tmp_path: Path, monkeypatch) -> None:
    counted: list[int] = []
    honest = gradients.get_total_norm
    monkeypatch.setattr(gradients, "get_total_norm", lambda tensors: counted.append(1) or honest(tensors))
    for table in ({"use": "full"}, {"use": "asking", "signals": []}):
        run(asking, {"freezing": table}, tmp_path / table["use"])
        assert counted == []
    assert [told for _, told in Asking.told] == [{}] * 4
    run(asking, {"freezing": {"use": "asking"}}, tmp_path / "counted")
    assert len(counted) == 2 * (4 * 4 + 5 * 3), "two signals; four stages, and from the fifth of nine steps on three"


def test_a_signal_that_there_is_not_is_an_error_before_training(asking, tmp_path: Path) -> None:
    tables = {"freezing": {"use": "asking", "signals": ["grad_norms"]}}
    with pytest.raises(fw.FwError, match="'asking' wants the signal 'grad_norms'") as error:
        run(asking, tables, tmp_path / "run")
    assert "did you mean 'grad_norm'?" in error.value.render()
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_tells_the_same_to_the_bit(asking, tmp_path: Path) -> None:
    """It is stopped in every step, and so in the middle of what the policy is told of."""
    tables = {"freezing": {"use": "asking"}, "engine": {"partition": "off"}}
    whole = run(asking, tables, tmp_path / "whole")
    expected = dict(Asking.told)
    Asking.told.clear()
    pieces = run_in_pieces(asking, tables, tmp_path / "pieces")
    assert {step for step, _ in Asking.told} == set(expected)
    assert [step for step, told in Asking.told if told != expected[step]] == []
    assert differences(whole, pieces) == []


def test_when_somebody_looks_makes_no_difference(asking, tmp_path: Path, monkeypatch) -> None:
    told = []
    for every in (1, 4):
        Asking.told.clear()
        monkeypatch.setattr(train, "SETTLE_EVERY", {True: every, False: every})
        run(asking, {"freezing": {"use": "asking"}}, tmp_path / str(every))
        told.append(list(Asking.told))
    assert told[0] == told[1]


def test_a_step_of_which_no_image_could_be_read_counts_for_nothing() -> None:
    given = sample("batch_norm")
    looked, tally = Gradients(("grad_norm",), given.network, given.layout), Tally()
    looked.note()
    looked.settle(tally)
    assert (tally.steps, tally.take()) == (0, {})
    given.network(torch.randn(4, 3, 16, 16)).square().mean().backward()
    looked.note()
    looked.settle(tally)
    assert (tally.steps, tally.take()["grad_norm"].keys()) == (1, {stage.name for stage in given.layout.stages})
    assert tally == Tally()


def test_a_run_from_before_there_were_signals_can_go_on() -> None:
    standing = Standing(epoch=2, step=7, best=Best(1, 0.5))
    values = standing.to_json()
    del values["tally"]
    assert Standing.from_json(values) == standing
