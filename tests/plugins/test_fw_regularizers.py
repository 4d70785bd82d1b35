"""Regularizers: against their definitions on real networks, and in whole runs with plans that change."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

import framework as fw
from framework.index import Index
from framework.layout import extended
from framework.testing.networks import BACKBONES, SIDE, Sample, backbone_table, sample
from framework.testing.whole_runs import differences, run, run_in_pieces
from fw_adapters.lora import Lora
from fw_adapters.side import Side
from fw_adapters.ssf import Ssf
from fw_regularizers.delta import Delta, FeatureMaps
from fw_regularizers.l2_sp import L2SP

WEIGHT, HEAD_WEIGHT = 0.3, 0.07


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def copies_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors_of(network).items()}


def images_of(seed: int, count: int = 4) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def displace(network: nn.Module, size: float = 0.05) -> None:
    """Moves every parameter somewhat, each time the same way."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def training(network: nn.Module, names: Iterator[str] | tuple[str, ...]) -> dict[str, nn.Parameter]:
    """What is to train, where all else is frozen."""
    wanted = {*names}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in wanted)
    return {name: parameter for name, parameter in network.named_parameters() if name in wanted}


def from_stage(layout: fw.Layout, first: int) -> tuple[str, ...]:
    """The parameters of a stage and of all that follow it."""
    return tuple(name for stage in layout.stages[first:] for name in stage.parameters)


# ---------------------------------------------------------------------------------------------------------- l2_sp


@pytest.mark.parametrize("first", [0, 2, 4])
@pytest.mark.parametrize("network", BACKBONES)
def test_l2_sp_pulls_each_weight_back_in_proportion_to_its_distance(network: str, first: int) -> None:
    it = sample(network)
    initial = copies_of(it.network)
    regularizer = L2SP(weight=WEIGHT, head_weight=HEAD_WEIGHT).build()
    regularizer.start(it.network, it.layout, initial)
    displace(it.network)
    trainable = training(it.network, from_stage(it.layout, first))
    term = regularizer.term(trainable, None)
    term.backward()
    expected = 0.0
    for name, parameter in it.network.named_parameters():
        is_head = name in it.layout.head.parameters
        move = parameter.detach().double() - (0 if is_head else initial[name].double())
        factor = HEAD_WEIGHT if is_head else WEIGHT
        if name not in trainable:
            assert parameter.grad is None
            continue
        expected += factor / 2 * float(move.square().sum())
        assert torch.allclose(parameter.grad.double(), factor * move, rtol=1e-5, atol=1e-7), name
    assert float(term) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("adapter", [Lora(), Ssf(), Side()], ids=lambda keys: type(keys).__name__)
def test_what_an_adapter_added_is_held_to_where_it_changes_nothing(adapter: Any) -> None:
    """Scales of 1 are not decayed to 0, which would take the network that was pretrained with them."""
    it = sample("group_norm")
    before = {*it.layout.parameters}
    adapter.build().insert(it.network, it.layout)
    layout = extended(it.layout, it.network)
    regularizer = L2SP(weight=WEIGHT, head_weight=0.0).build()
    initial = copies_of(it.network)
    regularizer.start(it.network, layout, initial)
    trainable = training(it.network, tuple(name for name, _ in it.network.named_parameters() if name not in before))
    assert trainable
    assert float(regularizer.term(trainable, None)) == 0.0
    displace(it.network)
    regularizer.term(trainable, None).backward()
    for name, parameter in trainable.items():
        assert torch.allclose(parameter.grad, WEIGHT * (parameter.detach() - initial[name]), atol=1e-7), name


def test_deltas_decay_is_the_heads_alone() -> None:
    it = sample("group_norm")
    Ssf().build().insert(it.network, it.layout)
    regularizer = Delta(weight=0.0, head_weight=HEAD_WEIGHT).build()
    regularizer.start(it.network, extended(it.layout, it.network), copies_of(it.network))
    trainable = dict(it.network.named_parameters())
    regularizer.term(trainable, None).backward()
    assert {name for name, one in trainable.items() if one.grad is not None} == {*it.layout.head.parameters}


def test_l2_sp_goes_back_to_the_start_of_the_run_not_of_the_plan() -> None:
    """As after a resume: the network has moved when the regularizer starts."""
    it = sample("layer_norm")
    initial = copies_of(it.network)
    displace(it.network)
    regularizer = L2SP(weight=1.0, head_weight=0.0).build()
    regularizer.start(it.network, it.layout, initial)
    name = it.layout.body[0].parameters[0]
    trainable = training(it.network, (name,))
    regularizer.term(trainable, None).backward()
    assert torch.equal(trainable[name].grad, trainable[name].detach() - initial[name])
    assert trainable[name].grad.abs().sum() > 0


def test_the_heads_decay_is_an_optimizers_weight_decay(index: Index, tmp_path: Path) -> None:
    """Where only the head trains, plain SGD with weight decay takes the same steps."""
    decayed = {"use": "torch/SGD", "lr": 0.05, "weight_decay": HEAD_WEIGHT}
    plain = {"use": "torch/SGD", "lr": 0.05}
    held = {"use": "l2_sp", "weight": 5.0, "head_weight": HEAD_WEIGHT}
    frozen = {"freezing": {"use": "frozen"}}
    one = run(index, {**frozen, "optimizer": decayed}, tmp_path / "decay")
    other = run(index, {**frozen, "optimizer": plain, "regularizer": held}, tmp_path / "term")
    neither = run(index, {**frozen, "optimizer": plain}, tmp_path / "neither")
    assert differences(one, other, 1e-5) == []
    assert "head.weight" in differences(one, neither, 1e-4)


# ---------------------------------------------------------------------------------------------------------- delta


def started(network: str, keys: Delta, first: int = 0) -> tuple[Sample, FeatureMaps, dict[str, nn.Parameter]]:
    """A network in evaluation mode, so that nothing is drawn, and a regularizer that looks on."""
    it = sample(network)
    it.network.eval()
    regularizer = keys.build()
    assert isinstance(regularizer, FeatureMaps)
    regularizer.start(it.network, it.layout, copies_of(it.network))
    return it, regularizer, training(it.network, from_stage(it.layout, first))


def maps_of(network: nn.Module, images: Tensor) -> list[Tensor]:
    """What the four stages of a network of convolutions give, worked out child by child."""
    backbone: Any = network.backbone
    maps = [backbone.stem(images)]
    maps.append(backbone.layer1(maps[0]))
    maps.append(backbone.layer2(maps[1]))
    maps.append(backbone.flatten(backbone.pool(backbone.layer3(maps[2]))))
    return maps


@pytest.mark.parametrize("network", BACKBONES)
def test_delta_is_nothing_at_the_start(network: str) -> None:
    it, regularizer, trainable = started(network, Delta(weight=WEIGHT, head_weight=0.0))
    images = images_of(0)
    it.network(images)
    assert float(regularizer.term(trainable, images)) == 0.0


@pytest.mark.parametrize("first", [0, 1, 3, 4])
@pytest.mark.parametrize("network", ["batch_norm", "group_norm", "no_norm"])
def test_delta_is_the_mean_squared_difference_of_each_stage_that_may_differ(network: str, first: int) -> None:
    it, regularizer, trainable = started(network, Delta(weight=WEIGHT, head_weight=HEAD_WEIGHT), first)
    before = copy.deepcopy(it.network)
    images = images_of(0)
    displace(it.network)
    it.network(images)
    found = regularizer.term(trainable, images)
    pairs = [*zip(maps_of(it.network, images), maps_of(before, images), strict=True)][first:]
    expected = WEIGHT / 2 * sum((one - other).square().mean() for one, other in pairs)
    expected += HEAD_WEIGHT / 2 * sum(tensor.square().sum() for tensor in it.network.head.parameters())
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    assert len(pairs) == 4 - first


@pytest.mark.parametrize("network", BACKBONES)
def test_deltas_gradient_brings_the_feature_maps_back(network: str) -> None:
    it, regularizer, trainable = started(network, Delta(weight=1.0, head_weight=0.0))
    frozen = {name: tensor.clone() for name, tensor in tensors_of(regularizer.reference).items()}
    images = images_of(0)
    displace(it.network, 0.02)
    optimizer = torch.optim.Adam(trainable.values(), 0.002)
    terms = []
    for _ in range(40):
        optimizer.zero_grad()
        it.network(images)
        terms.append(regularizer.term(trainable, images))
        terms[-1].backward()
        optimizer.step()
    assert float(terms[-1]) < 0.2 * float(terms[0])
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in tensors_of(regularizer.reference).items())
    assert all(tensor.grad is None for tensor in regularizer.reference.parameters())


def test_where_only_the_head_trains_the_starting_network_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    it, regularizer, trainable = started("batch_norm", Delta(head_weight=HEAD_WEIGHT), first=4)
    displace(it.network)
    monkeypatch.setattr(regularizer, "reference", None)
    images = images_of(0)
    it.network(images)
    squares = sum(float(tensor.detach().square().sum()) for tensor in it.network.head.parameters())
    assert float(regularizer.term(trainable, images)) == pytest.approx(HEAD_WEIGHT / 2 * squares)


def test_the_starting_network_is_as_the_run_began_not_as_it_goes_on() -> None:
    it = sample("batch_norm")
    initial = copies_of(it.network)
    it.network.train()
    it.network(images_of(0))  # moves statistics
    displace(it.network)
    regularizer = Delta().build()
    regularizer.start(it.network, it.layout, initial)
    found = tensors_of(regularizer.reference)
    assert {name for name, tensor in found.items() if not torch.equal(tensor, initial[name])} == set()
    assert not any(module.training for module in regularizer.reference.modules())


def test_delta_keeps_nothing_of_validation_nor_of_copies() -> None:
    it, regularizer, trainable = started("no_norm", Delta(weight=1.0))
    displace(it.network)
    images, others = images_of(0), images_of(1)
    it.network(images)
    alone = float(regularizer.term(trainable, images))
    it.network(images)
    copied = copy.deepcopy(it.network)
    copied(others)
    with torch.no_grad():
        it.network(others)
    assert float(regularizer.term(trainable, images)) == alone
    with torch.no_grad():
        it.network(images)
    with pytest.raises(fw.FwError, match="the network did not compute it"):
        regularizer.term(trainable, images)


def test_under_autocast_differences_are_float32() -> None:
    it, regularizer, trainable = started("layer_norm", Delta(weight=1.0))
    displace(it.network)
    images = images_of(0)
    with torch.autocast("cpu", torch.bfloat16):
        it.network(images)
        term = regularizer.term(trainable, images)
    assert (term.dtype, bool(term.isfinite())) == (torch.float32, True)
    it.network(images)
    assert float(term) == pytest.approx(float(regularizer.term(trainable, images)), rel=0.05)


def test_a_network_whose_stages_give_no_tensor_is_refused() -> None:
    it = sample("batch_norm")
    blind = attrs.evolve(it.layout, outputs=dict.fromkeys(it.layout.outputs, ()))
    with pytest.raises(fw.FwError, match="none of stem, layer1, layer2, layer3 ends with a module that gives a tensor"):
        Delta().build().start(it.network, blind, copies_of(it.network))


# ---------------------------------------------------------------------------------------------------------- whole runs

PHASES: Mapping[str, Any] = {
    "use": "phases",
    "phases": [
        {"train": "head"}, {"step": 2, "unfreeze": "last:2"}, {"epoch": 1, "train": "all"},
        {"step": 7, "freeze": "first:1"},
    ],
}  # fmt: skip
"""Of nine steps: the head alone, then more, everything, and less."""
SMALL = {"use": "torch/SGD", "lr": 0.01, "momentum": 0.9}
HELD = {"l2_sp": {"weight": 2.0, "head_weight": 0.5}, "delta": {"weight": 5.0, "head_weight": 0.5}}
NOTHING = {"weight": 0.0, "head_weight": 0.0}


def tables_of(network: str, **more: Any) -> dict[str, Any]:
    return {"backbone": backbone_table(network), "freezing": PHASES, "optimizer": SMALL, **more}


@pytest.mark.parametrize(("use", "partition"), [("l2_sp", "auto"), ("delta", "off")])
def test_with_no_weight_a_run_is_one_without_a_regularizer(
    index: Index, tmp_path: Path, use: str, partition: str
) -> None:
    tables = tables_of("batch_norm", engine={"partition": partition})
    without = run(index, tables, tmp_path / "without")
    weightless = run(index, {**tables, "regularizer": {"use": use, **NOTHING}}, tmp_path / "weightless")
    held = run(index, {**tables, "regularizer": {"use": use, **HELD[use]}}, tmp_path / "held")
    assert differences(without, weightless) == []
    assert [epoch["train.regularizer"] for epoch in weightless.epochs] == [0.0, 0.0, 0.0]
    assert {"head.weight", "backbone.layer3.first.conv.weight"} <= {*differences(without, held)}
    assert all(epoch["train.regularizer"] > 0 for epoch in held.epochs)


@pytest.mark.parametrize(("use", "network"), [("l2_sp", "layer_norm"), ("delta", "batch_norm")])
def test_a_run_that_stops_at_every_step_ends_as_one_that_does_not(
    index: Index, tmp_path: Path, use: str, network: str
) -> None:
    tables = tables_of(network, regularizer={"use": use, **HELD[use]}, engine={"partition": "off"})
    whole = run(index, tables, tmp_path / "whole")
    pieces = run_in_pieces(index, tables, tmp_path / "pieces")
    assert [change["step"] for change in whole.summary["plan_changes"]] == [2, 3, 7]
    assert differences(whole, pieces) == []
    assert [e["train.regularizer"] for e in whole.epochs] == [e["train.regularizer"] for e in pieces.epochs]


def test_l2_sp_leaves_the_network_divided_and_delta_does_not(index: Index, tmp_path: Path) -> None:
    tables = tables_of("layer_norm")
    tables |= {"regularizer": {"use": "l2_sp", **HELD["l2_sp"]}}
    off, auto = (run(index, {**tables, "engine": {"partition": how}}, tmp_path / how) for how in ("off", "auto"))
    assert differences(off, auto, 1e-4) == []
    assert auto.summary["partition"]["reason"] is None
    looks_on = run(index, {**tables, "regularizer": {"use": "delta", **HELD["delta"]}}, tmp_path / "delta")
    assert "looks on" in looks_on.summary["partition"]["reason"]


@pytest.mark.parametrize("use", HELD)
def test_the_more_weight_the_less_the_backbone_moves(index: Index, tmp_path: Path, use: str) -> None:
    """From the same start, with the same data, under plain SGD, in an epoch, on a network that drops nothing."""
    tables = {"freezing": {"use": "full"}, "optimizer": {"use": "torch/SGD", "lr": 0.02}, "train": {"epochs": 1}}
    tables |= {"backbone": {"use": "timm/test_vit", "weights": ["random"], "image_size": 64}}
    tables |= {"engine": {"partition": "off"}}
    began = run(index, {**tables, "freezing": {"use": "frozen"}}, tmp_path / "start").tensors
    moved = []
    for weight in (0.0, 1.0, 10.0):
        keys = {"use": use, "weight": weight, "head_weight": 0.0}
        tensors = run(index, {**tables, "regularizer": keys}, tmp_path / str(weight)).tensors
        moved.append(sum(float((tensors[name] - one).square().sum()) for name, one in began.items()
                         if name.startswith("backbone.")))  # fmt: skip
    assert moved[0] > moved[1] > moved[2] > 0
