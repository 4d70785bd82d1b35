"""Finishers: against their closed forms over recorded trajectories, with plans that change and runs that stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

import framework as fw
from framework.catalog import PluginSource
from framework.codec import pack, unpack
from framework.index import Index
from framework.testing.networks import backbone_table
from framework.testing.whole_runs import Left, differences, run, run_in_pieces
from fw_finishers.average import Average
from fw_finishers.ema import Ema, decay_of
from fw_finishers.swa import Swa, counts
from fw_finishers.wise_ft import WiseFt, between

ROUNDING = 1e-6

# ------------------------------------------------------------------------------------------------------ recording


def copies_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


class Recorder(fw.Finisher):
    """Writes down every tensor that has ever moved, at first, after every step and every epoch; it changes nothing."""

    needs_initial = True

    def __init__(self) -> None:
        self.live: dict[str, Tensor] = {}
        self.first: dict[str, Tensor] = {}
        self.steps: list[dict[str, Tensor]] = []
        self.epochs: list[dict[str, Tensor]] = []
        self.initial: Mapping[str, Tensor] = {}
        self.selected: Mapping[str, Tensor] = {}

    def follow(self, moving: Mapping[str, Tensor]) -> None:
        self.live.update(moving)
        self.first = copies_of(moving) | self.first

    def after_step(self, moving: Mapping[str, Tensor], progress: fw.Progress) -> None:
        self.steps.append(copies_of(self.live))

    def after_epoch(self, moving: Mapping[str, Tensor], progress: fw.Progress) -> None:
        self.epochs.append(copies_of(self.live))

    def finish(self, selected: Mapping[str, Tensor], initial: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        self.initial, self.selected = copies_of(initial), copies_of(selected)
        return {}


RECORDS: list[Recorder] = []


@attrs.frozen(kw_only=True)
class Records:
    """Writes down what moves."""

    def build(self) -> fw.Finisher:
        """The finisher, which the test finds among the records."""
        RECORDS.append(Recorder())
        return RECORDS[-1]


class Plugin:
    @fw.hookimpl
    def fw_finishers(self) -> list[fw.Component]:
        return [fw.Component("records", Records)]


PHASES: Mapping[str, Any] = {
    "use": "phases",
    "phases": [
        {"train": "head"}, {"step": 2, "unfreeze": "last:2"}, {"epoch": 1, "train": "all"},
        {"step": 5, "freeze": "first:2"}, {"step": 8, "train": "all"}, {"step": 10, "train": "head"},
    ],
}  # fmt: skip
"""Of twelve steps in four epochs: the head alone, then more, everything, less, everything again, and the head alone."""
POLICIES: Mapping[str, Mapping[str, Any]] = {
    "phases": PHASES,
    "fine_tune": {"use": "fine_tune", "norm": "recalibrate"},
}


def tables_of(policy: str, network: str, finisher: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {
        "backbone": backbone_table(network), "freezing": POLICIES[policy], "train": {"epochs": 4},
        "optimizer": {"use": "torch/SGD", "lr": 0.02, "momentum": 0.9}, "engine": {"partition": "off"},
        **({"finisher": finisher} if finisher else {}),
    }  # fmt: skip


@pytest.fixture(scope="module")
def recorded(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Recorder]:
    """What every tensor goes through in a run under a policy, on a network; each run is made once."""
    known = index.including([PluginSource.of(Plugin(), "recording")])

    @cache
    def record(policy: str, network: str) -> Recorder:
        run(known, tables_of(policy, network, {"use": "records"}), tmp_path_factory.mktemp("runs") / "record")
        return RECORDS.pop()

    return record


def path_of(name: str, record: Recorder, seen: Sequence[Mapping[str, Tensor]]) -> list[Tensor]:
    """The values of a tensor at each of the moments seen; before it could move it was as it was then."""
    return [moment.get(name, record.first[name]) for moment in seen]


def require_means(found: Left, expected: Mapping[str, Tensor]) -> None:
    """Each floating tensor is the mean that was worked out; the others are as they were last."""
    assert expected
    for name, tensor in expected.items():
        scale = float(tensor.double().abs().max()) or 1.0
        assert float((found.tensors[name].double() - tensor.double()).abs().max()) <= ROUNDING * scale, name


# ------------------------------------------------------------------------------------------------------------ ema


def closed_form(keys: Ema, first: Tensor, path: Sequence[Tensor]) -> Tensor:
    """d_1 ... d_n first + the sum over t of (1 - d_t) d_(t+1) ... d_n w_t, in float64."""
    decays = [min(keys.decay, (1 + t) / (10 + t)) if keys.warm_up else keys.decay for t in range(1, len(path) + 1)]
    total = first.double() * torch.tensor(decays, dtype=torch.float64).prod()
    for t, weights in enumerate(path):
        total += weights.double() * (1 - decays[t]) * torch.tensor(decays[t + 1 :], dtype=torch.float64).prod()
    return total


@pytest.mark.parametrize(("policy", "network", "warm_up"), [
    ("phases", "batch_norm", True), ("phases", "layer_norm", False), ("fine_tune", "batch_norm", False),
])  # fmt: skip
def test_ema_is_its_closed_form_over_the_steps(
    index: Index, tmp_path: Path, recorded: Callable[[str, str], Recorder], policy: str, network: str, warm_up: bool
) -> None:
    keys = Ema(decay=0.8, warm_up=warm_up)
    record = recorded(policy, network)
    found = run(index, tables_of(policy, network, {"use": "ema", **attrs.asdict(keys)}), tmp_path / "ema")
    assert len(record.steps) == 12
    floating = [name for name, tensor in record.live.items() if tensor.is_floating_point()]
    paths = {name: path_of(name, record, record.steps) for name in floating}
    require_means(found, {name: closed_form(keys, record.first[name], path) for name, path in paths.items()})
    whole = {name for name, tensor in record.live.items() if not tensor.is_floating_point()}
    assert all(torch.equal(found.tensors[name], record.steps[-1][name]) for name in whole)
    assert bool(whole) is (network == "batch_norm")


def test_the_decay_warms_up_as_in_tensorflow() -> None:
    keys = Ema(decay=0.9)
    assert [decay_of(keys, step) for step in (1, 2, 80, 81)] == [2 / 11, 3 / 12, 0.9, 0.9]
    assert decay_of(Ema(decay=0.9, warm_up=False), 1) == 0.9


def test_without_decay_the_finished_weights_are_the_last(
    index: Index, tmp_path: Path, recorded: Callable[[str, str], Recorder]
) -> None:
    found = run(index, tables_of("phases", "batch_norm", {"use": "ema", "decay": 0.0}), tmp_path / "ema")
    last = recorded("phases", "batch_norm").steps[-1]
    assert [name for name, tensor in last.items() if not torch.equal(found.tensors[name], tensor)] == []


# ------------------------------------------------------------------------------------------------------------ swa


@pytest.mark.parametrize(("keys", "epochs", "expected"), [
    ({}, 4, [3, 4]), ({}, 20, [15, 16, 17, 18, 19, 20]), ({}, 1, [1]), ({"start": 1.0}, 7, [7]),
    ({"start": 0.0}, 3, [1, 2, 3]), ({"start": 0.3}, 10, [3, 4, 5, 6, 7, 8, 9, 10]),
    ({"start": 0.5, "every": 2}, 9, [5, 7, 9]), ({"start": 0.5, "every": 50}, 9, [9]),
])  # fmt: skip
def test_the_last_epochs_count_back_from_the_last(keys: dict[str, Any], epochs: int, expected: list[int]) -> None:
    assert [epoch for epoch in range(1, epochs + 1) if counts(Swa(**keys), epoch, epochs)] == expected


@pytest.mark.parametrize(
    ("policy", "network"), [("phases", "batch_norm"), ("phases", "layer_norm"), ("fine_tune", "batch_norm")]
)
def test_swa_is_the_mean_of_the_ends_of_epochs(
    index: Index, tmp_path: Path, recorded: Callable[[str, str], Recorder], policy: str, network: str
) -> None:
    record = recorded(policy, network)
    found = run(index, tables_of(policy, network, {"use": "swa", "start": 0.5}), tmp_path / "swa")
    statistics = {name for name in record.live if name.rpartition(".")[2].startswith(("running_", "num_batches"))}
    paths = {name: path_of(name, record, record.epochs)[1:] for name in record.live if name not in statistics}
    require_means(found, {name: torch.stack(path).double().mean(0) for name, path in paths.items()})
    if network == "batch_norm":
        moved = [name for name in statistics if name.endswith("running_mean")]
        means = {name: torch.stack(path_of(name, record, record.epochs)[1:]).mean(0) for name in moved}
        assert moved
        assert all(not torch.allclose(found.tensors[name], mean) for name, mean in means.items()), "estimated anew"


def test_one_epoch_alone_is_its_own_mean(
    index: Index, tmp_path: Path, recorded: Callable[[str, str], Recorder]
) -> None:
    found = run(index, tables_of("phases", "layer_norm", {"use": "swa", "start": 1.0}), tmp_path / "swa")
    last = recorded("phases", "layer_norm").epochs[-1]
    assert [name for name, tensor in last.items() if not torch.equal(found.tensors[name], tensor)] == []


def test_where_no_epoch_has_counted_the_selected_weights_stay() -> None:
    finisher = Swa().build()
    network = nn.Linear(2, 2)
    finisher.follow(dict(network.named_parameters()))
    finisher.after_epoch(dict(network.named_parameters()), fw.Progress(1, 3, 20, 60))
    assert finisher.finish(dict(network.named_parameters()), {}) == {}


# -------------------------------------------------------------------------------------------------------- wise_ft


@pytest.mark.parametrize(("policy", "network", "alpha"), [
    ("phases", "batch_norm", 0.0), ("phases", "batch_norm", 0.25), ("phases", "batch_norm", 1.0),
    ("phases", "layer_norm", 0.5), ("fine_tune", "batch_norm", 0.0),
])  # fmt: skip
def test_wise_ft_lies_between_the_beginning_and_the_selected_network(
    index: Index, tmp_path: Path, recorded: Callable[[str, str], Recorder], policy: str, network: str, alpha: float
) -> None:
    record = recorded(policy, network)
    found = run(index, tables_of(policy, network, {"use": "wise_ft", "alpha": alpha}), tmp_path / "wise_ft")
    moved = 0
    for name, tensor in found.tensors.items():
        start, end = record.initial[name], record.selected[name]
        is_between = name.startswith("backbone.") and tensor.is_floating_point()
        moved += is_between and not torch.equal(start, end)
        ends = {0.0: start, 1.0: end} if is_between else {alpha: end}
        if alpha in ends:
            assert torch.equal(tensor, ends[alpha]), name
        else:
            expected = (1 - alpha) * start.double() + alpha * end.double()
            assert torch.allclose(tensor.double(), expected, rtol=1e-6, atol=1e-7), name
    assert moved >= 10


def test_at_its_ends_not_even_the_sign_of_a_zero_changes() -> None:
    start, end = torch.tensor([-0.0, 0.0, -0.0, torch.inf]), torch.tensor([1.0, -1.0, 0.0, 2.0])
    for share, one in ((0.0, start), (1.0, end)):
        assert torch.equal(between(start, end, share).view(torch.int32), one.view(torch.int32))
    assert between(start, end, 0.0).data_ptr() != start.data_ptr()


def test_the_keys_default_is_half_way() -> None:
    finisher = WiseFt().build()
    one, other = {"backbone.weight": torch.zeros(2), "head.weight": torch.zeros(2)}, torch.ones(2)
    finished = finisher.finish(dict.fromkeys(one, other), one)
    assert {name: tensor.tolist() for name, tensor in finished.items()} == {"backbone.weight": [0.5, 0.5]}


# ------------------------------------------------------------------------------------------ what they have in common

FINISHERS: Mapping[str, Mapping[str, Any]] = {
    "ema": {"decay": 0.9}, "swa": {"start": 0.5}, "wise_ft": {"alpha": 0.6},
}  # fmt: skip


@pytest.fixture(scope="module")
def without(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Left:
    """What the run leaves that has no finisher."""
    return run(index, tables_of("phases", "batch_norm"), tmp_path_factory.mktemp("runs") / "without")


@pytest.mark.parametrize("use", ["ema", "swa"])
def test_a_run_that_stops_at_every_step_ends_as_one_that_does_not(index: Index, tmp_path: Path, use: str) -> None:
    tables = tables_of("phases", "batch_norm", {"use": use, **FINISHERS[use]})
    whole = run(index, tables, tmp_path / "whole")
    pieces = run_in_pieces(index, tables, tmp_path / "pieces")
    assert [change["step"] for change in whole.summary["plan_changes"]] == [2, 3, 5, 8, 10]
    assert differences(whole, pieces) == []
    assert whole.summary["metrics"] == pieces.summary["metrics"]


@pytest.mark.parametrize("use", FINISHERS)
def test_training_and_the_raw_scores_are_those_without_a_finisher(
    index: Index, tmp_path: Path, without: Left, use: str
) -> None:
    finished = run(index, tables_of("phases", "batch_norm", {"use": use, **FINISHERS[use]}), tmp_path / "finished")
    assert finished.epochs == without.epochs
    best, raw = (one.summary["metrics"][which] for one, which in ((without, "best"), (finished, "raw")))
    assert all(raw[split] == best[split] for split in ("val", "test"))
    assert "backbone.layer3.first.conv.weight" in differences(without, finished)


class Steps:
    """Live tensors that move at random under plans by name."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.tensors = {
            name: nn.Parameter(torch.randn(6, 3, 4, 5, generator=self.generator).to(memory_format=torch.channels_last))
            for name in ("a", "b", "c")
        }
        self.tensors["count"] = torch.tensor(0)
        self.done = 0

    def moving(self, names: str) -> dict[str, Tensor]:
        return {name: self.tensors[name] for name in names.split()}

    def step(self, finisher: fw.Finisher, names: str) -> None:
        for tensor in self.moving(names).values():
            with torch.no_grad():
                moved = torch.randn(tensor.shape, generator=self.generator) if tensor.is_floating_point() else 1
                tensor.add_(moved)
        self.done += 1
        finisher.after_step(self.moving(names), fw.Progress(0, self.done, 1, 99))


COURSE = ("a count", "a b count", "b c", "a c count", "a", "a b c count")


@pytest.mark.parametrize("stop", range(1, 6))
def test_the_state_goes_through_a_checkpoint_to_the_bit_wherever_tensors_rest(stop: int) -> None:
    """What lies in memory one way before comes back another way."""
    finishers = []
    for stops in (False, True):
        steps, finisher = Steps(), Ema(decay=0.7).build()
        for number, names in enumerate(COURSE):
            if stops and number == stop:
                packed, tensors = pack(finisher.state(), "finisher")
                finisher = Ema(decay=0.7).build()
                finisher.restore(unpack(packed, tensors))
                finisher.follow(steps.moving(COURSE[number - 1]))
            finisher.follow(steps.moving(names))
            steps.step(finisher, names)
            steps.step(finisher, names)
        assert finisher.state()["resting"] == {}, "in the end all of them move"
        finishers.append(finisher.finish(steps.tensors, {}))
    assert finishers[0].keys() == {"a", "b", "c", "count"}
    assert all(torch.equal(tensor, finishers[1][name]) for name, tensor in finishers[0].items())


def test_a_state_is_no_window_on_what_goes_on() -> None:
    steps, finisher = Steps(), Ema(decay=0.5).build()
    for names in ("a b", "a"):
        finisher.follow(steps.moving(names))
        steps.step(finisher, names)
    state = finisher.state()
    before = copies_of(state["means"])
    steps.step(finisher, "a")
    other = Ema(decay=0.5).build()
    other.restore(state)
    other.follow(steps.moving("a"))
    steps.step(other, "a")
    assert [name for name, mean in before.items() if not torch.equal(state["means"][name], mean)] == []
    assert state["resting"].keys() == {"b"}


def test_halves_are_averaged_in_float32_and_given_as_halves() -> None:
    live = {"a": torch.ones(3, dtype=torch.bfloat16)}
    finisher = Average()
    finisher.follow(live)
    live["a"].fill_(2.0)
    for _ in range(3):
        finisher.take(live, 0.999)
    assert finisher.means["a"].dtype == torch.float32
    assert finisher.means["a"][0] == pytest.approx(1 + (1 - 0.999**3), rel=1e-6)
    assert finisher.finish(live, {})["a"].dtype == torch.bfloat16
