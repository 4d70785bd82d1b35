"""Policies with rates and steps: against their definitions, against timm and `frozen`, and through interruptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from sweeps import share
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

import framework as fw
from framework import train
from framework.catalog import PluginSource
from framework.index import Index
from framework.layout import derive_layout
from framework.network import Network
from framework.running import Run
from framework.testing.networks import BACKBONES, backbone_table, sample
from framework.testing.whole_runs import TABLES, differences, run, run_in_pieces
from fw_freezing.head_first import FineTune, GradualUnfreeze, LpFt
from fw_freezing.layer_decay import LayerDecay
from fw_timm import backbones as of_timm
from fw_timm.grouping import fine_layers
from fw_torchvision import backbones as of_torchvision

LR: float = TABLES["optimizer"]["lr"]


def plans_of(keys: Any, layout: fw.Layout, epochs: int, steps_per_epoch: int) -> list[fw.Plan]:
    """The plan in force at each step of a run in which no network takes part, asked for when the engine would."""
    policy, steps = keys.build(), epochs * steps_per_epoch
    found = [policy.start(layout)]
    for step in range(steps):
        now = fw.Progress(step // steps_per_epoch, step, epochs, steps)
        due = train.is_due(policy.moments(), now.epoch, now.step, now.steps, begins=step % steps_per_epoch == 0)
        found.append((policy.next(layout, now) if due else None) or found[-1])
    stated = policy.scales() | {*found[0].trainable.values()}
    assert {scale for plan in found for scale in plan.trainable.values()} <= stated
    return found[1:]


def thawed(layout: fw.Layout, stages: int, factor: float) -> dict[str, float]:
    """By the definition: the head, the last stages, each at a rate lower by a factor, and the neck with the last."""
    scales = dict.fromkeys(layout.head.parameters, 1.0)
    for depth, stage in enumerate(layout.body[::-1][:stages], start=1):
        scales.update(dict.fromkeys(stage.parameters, factor**-depth))
        scales.update({name: 1 / factor for neck in layout.tail for name in neck.parameters})
    return scales


def scales_by_stage(layout: fw.Layout, plan: fw.Plan) -> list[float]:
    """The one scale that each stage of the body, and the head, has; the neck has the last stage's."""
    found = [{plan.trainable[name] for name in stage.parameters} for stage in (*layout.body, *layout.tail, layout.head)]
    assert all(len(scales) == 1 for scales in found)
    if layout.tail:
        assert found.pop(-2) == found[-2]
    return [scale for (scale,) in found]


# ------------------------------------------------------------------------------------------- gradual unfreezing


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("network", BACKBONES)
def test_a_further_stage_joins_every_so_many_epochs_at_a_lower_rate(network: str, every: int) -> None:
    layout = sample(network).layout
    for step, plan in enumerate(plans_of(GradualUnfreeze(every=every), layout, epochs=12, steps_per_epoch=3)):
        joined = min(len(layout.body), step // 3 // every)
        assert plan.trainable == pytest.approx(thawed(layout, joined, 2.6)), step
        assert plan.schedule == "continue"


@pytest.mark.parametrize(("epochs", "steps_per_epoch"), [(1, 5), (1, 9), (3, 3), (4, 5), (2, 50)])
@pytest.mark.parametrize("network", BACKBONES)
def test_in_a_run_too_short_for_all_stages_they_join_evenly(network: str, epochs: int, steps_per_epoch: int) -> None:
    layout = sample(network).layout
    plans = plans_of(GradualUnfreeze(every=3), layout, epochs, steps_per_epoch)
    lengths = [len(list(same)) for _, same in groupby(len(plan.trainable) for plan in plans)]
    assert len(lengths) == 1 + len(layout.body)
    assert max(lengths) - min(lengths) <= 1
    assert plans[-1].trainable.keys() == {*layout.parameters}


# ---------------------------------------------------------------------------------------------------- fine_tune


@pytest.mark.parametrize("network", BACKBONES)
def test_rates_are_geometric_from_the_first_stage_to_the_head(network: str) -> None:
    layout = sample(network).layout
    first, *_, last = plans_of(FineTune(lr_mult=64.0, scale=0.25), layout, epochs=3, steps_per_epoch=4)
    assert dict(first.trainable) == dict.fromkeys(layout.head.parameters, 1.0)
    scales = scales_by_stage(layout, last)
    assert scales == pytest.approx([0.25 * 64 ** (at / len(layout.body) - 1) for at in range(len(layout.body) + 1)])
    assert len({round(high / low, 9) for low, high in pairwise(scales)}) == 1


def test_defaults_are_fastais() -> None:
    """`fine_tune(epochs, base_lr)`: one frozen epoch at base_lr, then slice(base_lr / 2 / 100, base_lr / 2)."""
    layout = sample("batch_norm").layout
    scales = scales_by_stage(layout, plans_of(FineTune(), layout, epochs=2, steps_per_epoch=1)[-1])
    assert (scales[0], scales[-1]) == pytest.approx((0.005, 0.5))


@pytest.mark.parametrize(
    ("epochs", "freeze_epochs", "switch"), [(4, 1, 5), (4, 3, 15), (3, 3, 8), (3, 9, 8), (1, 1, 3)]
)
def test_the_head_is_alone_for_so_many_epochs_or_half_the_run(epochs: int, freeze_epochs: int, switch: int) -> None:
    layout = sample("layer_norm").layout
    plans = plans_of(FineTune(freeze_epochs=freeze_epochs), layout, epochs, steps_per_epoch=5)
    alone = [plan.trainable.keys() == {*layout.head.parameters} for plan in plans]
    assert alone == [step < switch for step in range(5 * epochs)]
    assert [plan.schedule for plan in plans] == ["continue" if head else "restart" for head in alone]


# ------------------------------------------------------------------------------------------------------- LP-FT


@pytest.mark.parametrize(("probe", "switch"), [(0.0, 0), (0.1, 1), (0.5, 5), (0.55, 6), (1.0, 10)])
def test_the_head_is_probed_for_a_share_of_the_steps(probe: float, switch: int) -> None:
    layout = sample("batch_norm").layout
    plans = plans_of(LpFt(probe=probe, scale=0.1), layout, epochs=2, steps_per_epoch=5)
    head, everything = dict.fromkeys(layout.head.parameters, 1.0), dict.fromkeys(layout.parameters, 0.1)
    assert [dict(plan.trainable) for plan in plans] == [head] * switch + [everything] * (10 - switch)


class Watch:
    """Keeps the metrics, the rate and the tensors of each epoch."""

    def __init__(self) -> None:
        self.epochs: list[tuple[dict[str, float], float, dict[str, Tensor]]] = []

    @fw.hookimpl
    def fw_epoch_ended(self, facts: Mapping[str, Any]) -> None:
        self.epochs.append((facts["metrics"], facts["lr"], copy_of(facts["network"])))


def copy_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def unequal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    return [name for name, tensor in one.items() if not torch.equal(tensor, other[name])]


HALVED = {"use": "torch/StepLR", "step_size": 1, "gamma": 0.5}


@pytest.mark.parametrize("norm", ["fixed", "batch", "recalibrate"])
def test_up_to_the_switch_a_run_is_that_of_frozen_to_the_bit(index: Index, tmp_path: Path, norm: str) -> None:
    watches = {"frozen": Watch(), "lp_ft": Watch()}
    keys: dict[str, dict[str, Any]] = {"frozen": {"norm": norm}, "lp_ft": {"norm": norm, "probe": 2 / 3}}
    for name, watch in watches.items():
        watched = index.including([PluginSource.of(watch, "watch", "acme-watch")])
        run(watched, {"freezing": {"use": name, **keys[name]}, "scheduler": HALVED}, tmp_path / name)
    frozen, probed = (watches[name].epochs for name in ("frozen", "lp_ft"))
    for epoch in (0, 1):
        assert probed[epoch][:2] == frozen[epoch][:2]
        assert unequal(probed[epoch][2], frozen[epoch][2]) == []
    assert {"backbone.stem.conv.weight", "head.weight"} <= {*unequal(probed[2][2], frozen[2][2])}
    assert [rate for _, rate, _ in frozen] == pytest.approx([LR / 2, LR / 4, LR / 8])
    assert [rate for _, rate, _ in probed] == pytest.approx([LR / 2, LR / 4, LR / 2]), "the scheduler starts over"


@pytest.mark.parametrize(("probe", "same"), [(0.0, "full"), (1.0, "frozen")])
def test_a_share_of_nothing_is_full_and_of_everything_frozen(
    index: Index, tmp_path: Path, probe: float, same: str
) -> None:
    tables = [{"freezing": {"use": "lp_ft", "probe": probe}}, {"freezing": {"use": same}}]
    one, other = (run(index, keys, tmp_path / str(number)) for number, keys in enumerate(tables))
    assert set(differences(one, other)) <= {"changes of plan"}


def test_the_head_keeps_what_it_learnt_and_everything_begins_at_the_scale(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[dict[str, Tensor], dict[str, Tensor], list[Any], dict[str, float]]] = []
    change_plan = train.change_plan

    def momenta(run: Run) -> list[Tensor]:
        state = run.parts.optimizer.state
        return [state[parameter]["momentum_buffer"].clone() for parameter in run.parts.network.head.parameters()]

    def watched(run: Run, plan: fw.Plan) -> None:
        before, kept = copy_of(run.parts.network), momenta(run)
        change_plan(run, plan)
        pairs = [*zip(kept, momenta(run), strict=True)]
        seen.append((before, copy_of(run.parts.network), pairs, run.parts.groups.rates()))

    monkeypatch.setattr(train, "change_plan", watched)
    run(index, {"freezing": {"use": "lp_ft", "scale": 0.1}, "scheduler": HALVED}, tmp_path / "run")
    [(before, after, pairs, rates)] = seen
    assert unequal(before, after) == []
    assert all(torch.equal(one, other) and one.abs().sum() > 0 for one, other in pairs)
    assert [*rates.values()] == pytest.approx([LR / 10] * len(rates)), "the halvings of the first phase are over"


# -------------------------------------------------------------------------------------------------- layer_decay


def built(component: fw.Component) -> fw.Layout:
    """The layout of a library's model under a linear head, without data."""
    with torch.device("meta"):
        backbone = component.config(**component.fixed).build(fw.BackboneRequest())
        network = Network(backbone.module, nn.Linear(backbone.feature_dim, 3))
    return derive_layout(network, backbone.grouping, (backbone.input.channels, *backbone.input.size))


def both(name: str) -> tuple[nn.Module, fw.Layout]:
    """A model with timm's own classifier, and the layout of the same as a backbone."""
    with torch.device("meta"):
        model: nn.Module = timm.create_model(name, num_classes=3)
    return model, built(of_timm.backbone_family().member(name))


def in_timms_names(model: Any, scales: Mapping[str, float]) -> dict[str, float]:
    """Scales by timm's names of parameters."""
    head = model.pretrained_cfg["classifier"]
    return {
        f"{head}.{name.removeprefix('head.')}" if name.startswith("head.") else name.removeprefix("backbone."): scale
        for name, scale in scales.items()
    }


def timms_scales(model: Any, decay: float, min_scale: float = 0.0) -> dict[str, float]:
    """What timm's optimizer factory would scale each parameter's rate by."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = param_groups_layer_decay(model, layer_decay=decay, min_scale=min_scale)
    return {names[id(parameter)]: group["lr_scale"] for group in groups for parameter in group["params"]}


@pytest.mark.parametrize("name", [
    "test_vit", "vit_tiny_patch16_224", "deit_tiny_patch16_224", "beit_base_patch16_224", "resnet18", "convnext_atto",
    "swin_tiny_patch4_window7_224", "tf_efficientnet_lite0", "mixer_s32_224", "test_resnet",
])  # fmt: skip
def test_scales_are_those_of_timms_layer_decay(name: str) -> None:
    model, layout = both(name)
    for decay, min_scale in ((0.75, 0.0), (0.5, 0.1)):
        plan = LayerDecay(decay=decay, min_scale=min_scale).build().start(layout)
        assert in_timms_names(model, plan.trainable) == timms_scales(model, decay, min_scale)


def test_without_a_finer_division_the_stages_are_the_layers() -> None:
    layout = built(of_torchvision.backbone_family().member("resnet18"))
    scales = LayerDecay(decay=0.5).build().start(layout).trainable
    assert layout.layers == ()
    assert [{scales[name] for name in stage.parameters} for stage in layout.stages] == [
        {0.5**depth} for depth in reversed(range(6))
    ]


@pytest.mark.sweep
def test_layers_are_timms_for_a_model_of_each_of_its_modules() -> None:
    """By name and depth; the classifier, which a backbone has no more, is of the last layer."""
    models = [timm.list_models(module=module)[0] for module in share(timm.list_modules(), 3)]
    without, other = [], []
    for name in models:
        with torch.device("meta"):
            model, bare = timm.create_model(name, num_classes=3), timm.create_model(name, num_classes=0)
        layers = fine_layers(bare)
        if not layers:
            without.append(name)
            continue
        theirs = timms_scales(model, 0.75)
        ours = {name: 0.75**depth for depth, layer in enumerate(reversed(layers)) for name in layer}
        heads = {scale for parameter, scale in theirs.items() if parameter not in ours}
        if heads != {1.0} or any(theirs.get(parameter, scale) != scale for parameter, scale in ours.items()):
            other.append(name)
    print(f"\n{len(models) - len(without)} of {len(models)} modules have layers; without: {', '.join(without)}")
    assert other == []
    assert len(without) <= 5


def test_a_real_run_has_the_scaled_rates(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[dict[str, float]] = []
    take_step = train.take_step
    monkeypatch.setattr(train, "take_step", lambda run: rates.append(run.parts.groups.rates()) or take_step(run))
    tables = {"freezing": {"use": "layer_decay", "decay": 0.5}, "backbone": backbone_table("layer_norm")}
    run(index, {**tables, "train": {"epochs": 1}}, tmp_path / "run")
    layout = sample("layer_norm").layout
    expected = {name: LR * scale for name, scale in thawed(layout, len(layout.body), 2.0).items()}
    assert all(found == pytest.approx(expected) for found in rates)
    assert len(rates) == 3


# ------------------------------------------------------------------------------------------- what they have in common


@pytest.mark.parametrize("policy", [LpFt, FineTune, GradualUnfreeze])
def test_batch_norms_that_wait_do_what_norm_says_and_all_train_in_the_end(policy: type[Any]) -> None:
    layout = sample("batch_norm").layout
    for norm in ("fixed", "batch", "recalibrate"):
        plans = plans_of(policy(norm=norm), layout, epochs=6, steps_per_epoch=2)
        for plan in plans:
            trained = layout.trained_batch_norms(plan.trainable)
            assert plan.batch_stats == (layout.batch_norms if norm == "batch" else trained)
            assert plan.recalibrate == (layout.batch_norms - trained if norm == "recalibrate" else set())
        assert (plans[0].trainable.keys(), plans[-1].trainable.keys()) == (
            {*layout.head.parameters},
            {*layout.parameters},
        )


# ---------------------------------------------------------------------------------------------------- real runs

CASES: dict[str, tuple[str, dict[str, Any], list[int]]] = {
    "lp_ft": ("batch_norm", {"probe": 0.4, "scale": 0.1, "norm": "recalibrate"}, [4]),
    "fine_tune": ("batch_norm", {"lr_mult": 10.0, "norm": "batch"}, [3]),
    "gradual_unfreeze": ("layer_norm", {"factor": 2.0}, [2, 4, 6, 8]),
    "layer_decay": ("layer_norm", {"decay": 0.5}, []),
}
"""Network, keys, and the steps of nine before which the plan changes: at the beginning of an epoch and within one."""
OPTIMIZERS = {
    "batch_norm": {"use": "torch/SGD", "lr": 0.01, "momentum": 0.9},
    "layer_norm": {"use": "torch/AdamW", "lr": 0.01},
}


def tables_of(policy: str) -> dict[str, Any]:
    network, keys, _ = CASES[policy]
    return {
        "freezing": {"use": policy, **keys}, "backbone": backbone_table(network), "optimizer": OPTIMIZERS[network],
        "scheduler": {"use": "torch/CosineAnnealingLR"},
    }  # fmt: skip


@pytest.mark.parametrize("policy", CASES)
def test_a_run_that_stops_at_every_step_ends_as_one_that_does_not(index: Index, tmp_path: Path, policy: str) -> None:
    tables = {**tables_of(policy), "engine": {"partition": "off"}}
    whole = run(index, tables, tmp_path / "whole")
    assert [change["step"] for change in whole.summary["plan_changes"]] == CASES[policy][2]
    assert differences(whole, run_in_pieces(index, tables, tmp_path / "pieces")) == []


@pytest.mark.parametrize("policy", CASES)
def test_a_divided_network_ends_as_a_whole_one(index: Index, tmp_path: Path, policy: str) -> None:
    tables = tables_of(policy)
    off, auto = (run(index, {**tables, "engine": {"partition": how}}, tmp_path / how) for how in ("off", "auto"))
    assert differences(off, auto, 1e-4) == []
    assert auto.summary["audit"]["frozen_moved"] == 0


# ------------------------------------------------------------------------------------------- every kind of network

TORCHVISION = ("alexnet", "densenet121", "efficientnet_b0", "maxvit_t", "mobilenet_v3_small", "resnet18",
               "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vgg11_bn", "vit_b_16")  # fmt: skip


def every_layout() -> dict[str, fw.Layout]:
    """The smallest models of timm, and one of each family of torchvision."""
    timms, torchvisions = of_timm.backbone_family(), of_torchvision.backbone_family()
    members = [*map(timms.member, timm.list_models("test_*")), *map(torchvisions.member, TORCHVISION)]
    return {component.name: built(component) for component in members}


@pytest.mark.sweep
def test_the_definitions_hold_on_every_kind_of_network() -> None:
    layouts = every_layout()
    for name, layout in layouts.items():
        moving = {*layout.parameters} - layout.fixed
        for keys in (LpFt(), FineTune(), GradualUnfreeze(), LayerDecay()):
            plans = plans_of(keys, layout, epochs=3, steps_per_epoch=20)
            assert plans[-1].trainable.keys() == moving, name
            counts = [len(plan.trainable) for plan in plans]
            assert counts == sorted(counts), name
            require_falling(layout, plans[-1].trainable)
    print(f"\n{len(layouts)} networks under 4 policies")
    assert len(layouts) > 20


def require_falling(layout: fw.Layout, scales: Mapping[str, float]) -> None:
    """No stage has a higher rate than one nearer to the output."""
    bounds: Sequence[tuple[float, float]] = [
        (min(found), max(found)) for stage in layout.stages
        if (found := [scales[name] for name in stage.parameters if name in scales])
    ]  # fmt: skip
    assert all(low[1] <= high[0] for low, high in pairwise(bounds))
