"""What the framework asks of a policy, and when a stage thaws."""

from __future__ import annotations

import fw_thaw
import pytest

import framework as fw
from framework.testing import plugin_checks

test_plugin = plugin_checks(fw_thaw)

LAYOUT = fw.Layout(
    stages=(
        *(fw.Stage(f"stage{number}", (f"stage{number}.weight",), (f"stage{number}",)) for number in range(3)),
        fw.Stage("neck", ("neck.weight",), ("neck",), "neck"),
        fw.Stage("head", ("head.weight",), ("head",), "head"),
    ),
    norms={}, batch_norms=frozenset(), buffers={}, biases=frozenset(),
)  # fmt: skip


def thawed(policy: fw.FreezingPolicy, values: list[float], metric: str = "val.accuracy") -> list[list[str] | None]:
    """What trains from each epoch on; None where nothing changes."""
    plans = [
        policy.next(LAYOUT, fw.Progress(epoch, epoch, 9, 9, {metric: value})) for epoch, value in enumerate(values, 1)
    ]
    return [None if plan is None else sorted(plan.trainable) for plan in plans]


def test_the_head_trains_alone_at_first() -> None:
    assert sorted(fw_thaw.Thaw().build().start(LAYOUT).trainable) == ["head.weight"]


def test_a_stage_thaws_after_so_many_epochs_without_a_better_value() -> None:
    found = thawed(fw_thaw.Thaw(patience=2).build(), [0.5, 0.5, 0.6, 0.6, 0.55, 0.6, 0.6])
    first = ["head.weight", "neck.weight", "stage2.weight"]
    assert found == [None, None, None, None, first, None, sorted([*first, "stage1.weight"])]


def test_lower_values_can_be_better() -> None:
    policy = fw_thaw.Thaw(metric="val.loss", better="lower", patience=1).build()
    assert [plan is not None for plan in thawed(policy, [1.0, 0.9, 0.95], "val.loss")] == [False, False, True]


def test_nothing_is_left_to_thaw_in_the_end() -> None:
    found = thawed(fw_thaw.Thaw(patience=1).build(), [0.5] * 6)
    assert [plan is not None for plan in found] == [False, True, True, True, False, False]


def test_a_value_that_is_no_number_is_not_better() -> None:
    found = thawed(fw_thaw.Thaw(patience=1).build(), [0.5, float("nan")])
    assert found[1] is not None


def test_a_metric_that_the_run_has_not_is_named() -> None:
    policy = fw_thaw.Thaw(metric="val.acuracy").build()
    with pytest.raises(fw.FwError, match=r"no such metric\n  help: did you mean 'val.accuracy'"):
        thawed(policy, [0.5])
