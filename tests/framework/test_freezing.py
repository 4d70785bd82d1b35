"""Freezing: modes, the audit and plans that change, on networks with every kind of norm layer."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torchvision
from torch import nn

import framework as fw
from framework.errors import AuditFailed
from framework.freezing import FrozenNetwork, all_tensors, allowed_to_move, check_plan, module_modes
from framework.layout import derive_layout
from framework.network import Network

POLICIES = ["full", "frozen", "last_stages", "first_stages", "norm_only", "bias_only"]
NORMS = ["fixed", "batch"]


def resnet() -> Network:
    backbone = torchvision.models.resnet18()
    backbone.fc = nn.Identity()
    return Network(backbone, nn.Linear(512, 3))


def small(name: str) -> Network:
    backbone = timm.create_model(name, num_classes=0)
    return Network(backbone, nn.Linear(backbone.num_features, 3))


NETWORKS = {
    "batch norm": resnet,
    "layer norm": lambda: small("test_vit"),
    "group norm": lambda: small("test_efficientnet_gn"),
    "norm-act": lambda: small("test_efficientnet"),
}


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda name: name.replace(" ", "_"))
def built(request: pytest.FixtureRequest) -> tuple[Network, fw.Layout]:
    torch.manual_seed(0)
    network = NETWORKS[request.param]()
    size = _size(network)
    return network, derive_layout(network, None, (3, size, size))


def policy(index, name: str, **keys) -> fw.FreezingPolicy:
    from framework.builder import make_config

    return make_config(index.catalog().component("fw_freezing_policies", name), keys, "freezing").build()


def steps(network: nn.Module, size: int, count: int = 2) -> None:
    """Real optimizer steps, with somebody calling train() in between."""
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    for _ in range(count):
        network.train()
        loss = network(torch.randn(4, 3, size, size)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", POLICIES)
def test_nothing_frozen_moves_and_only_allowed_buffers_do(index, built, name: str, norm: str) -> None:
    original, layout = built
    network = copy.deepcopy(original)
    plan = policy(index, name, norm=norm).start(layout)
    check_plan(layout, plan, name)
    frozen = FrozenNetwork(network, layout)
    frozen.apply(plan)
    frozen.auditor.open(plan)
    before = {k: t.clone() for k, t in all_tensors(network).items()}

    steps(network, size=_size(network))

    report = frozen.audit()
    moved = {k for k, t in all_tensors(network).items() if not torch.equal(t, before[k])}
    assert report["frozen_moved"] == 0
    assert moved <= allowed_to_move(layout, plan)
    assert set(report["buffers_moved_by_plan"]) == {k for k in moved if k in layout.buffers}
    if name == "frozen":
        expected = (
            {k for k, owner in layout.buffers.items() if owner in layout.batch_norms} if norm == "batch" else set()
        )
        assert set(report["buffers_moved_by_plan"]) == expected
        assert report["frozen_tensors"] == len(before) - 2 - len(expected)


def _size(network: Network) -> int:
    config = getattr(network.backbone, "pretrained_cfg", {})
    return 160 if config.get("input_size", (3, 64, 64))[-1] == 160 else 64


def test_the_plain_loop_is_caught(index, built) -> None:
    """The audit can fail: train mode behind the plan's back moves statistics, or a frozen weight is written to."""
    network, layout = copy.deepcopy(built[0]), built[1]
    frozen = FrozenNetwork(network, layout)
    plan = policy(index, "frozen").start(layout)
    frozen.apply(plan)
    frozen.auditor.open(plan)
    frozen.release()
    network.train()
    network(torch.randn(2, 3, _size(network), _size(network)))
    with torch.no_grad():
        next(network.backbone.parameters()).mul_(1.0001)

    with pytest.raises(AuditFailed, match="frozen tensors moved"):
        frozen.auditor.require_clean()
    moved = frozen.audit()["frozen_moved_names"]
    statistics = [name for name, owner in layout.buffers.items() if owner in layout.batch_norms]
    assert set(statistics) <= set(moved)
    assert len(moved) == len(statistics) + 1


def test_modes_follow_the_first_moving_stage(index) -> None:
    network = resnet()
    layout = derive_layout(network, None, (3, 64, 64))
    plan = policy(index, "last_stages", n=1).start(layout)
    modes = module_modes(layout, plan)
    assert not modes["backbone.layer3"]
    assert not modes["backbone.bn1"]
    assert modes["backbone.layer4"]
    assert modes["backbone.layer4.0.bn1"]
    assert modes["head"]

    middle = policy(index, "stages", names=["layer2"]).start(layout)
    modes = module_modes(layout, middle)
    assert modes["backbone.layer2.0.bn1"]
    assert modes["backbone.layer4"], "after the first moving stage everything is in train mode"
    assert not modes["backbone.layer4.0.bn1"], "but for norms whose statistics the plan keeps"
    assert not modes["backbone.layer1"]


def test_modes_survive_train_calls_and_copies(index) -> None:
    network = resnet()
    layout = derive_layout(network, None, (3, 64, 64))
    frozen = FrozenNetwork(network, layout)
    frozen.apply(policy(index, "frozen").start(layout))
    copied = copy.deepcopy(network)
    for model in (network, copied):
        model.train()
        model.backbone.layer1.train()
        before = model.backbone.bn1.running_mean.clone()
        model(torch.randn(2, 3, 64, 64))
        assert torch.equal(model.backbone.bn1.running_mean, before)
    network.eval()
    network(torch.randn(2, 3, 64, 64))
    assert not any(module.training for module in network.modules())


def test_a_plan_twice_is_a_plan_once_and_plans_can_go_back(index) -> None:
    network = resnet()
    layout = derive_layout(network, None, (3, 64, 64))
    frozen = FrozenNetwork(network, layout)
    first, second = policy(index, "frozen").start(layout), policy(index, "full").start(layout)
    frozen.apply(first)
    assert frozen.apply(first).added == ()
    change = frozen.apply(second)
    assert len(change.added) == len(layout.parameters) - 2
    back = frozen.apply(first)
    assert back.removed == change.added
    assert len(network._forward_pre_hooks) == 1
    assert sum(p.requires_grad for p in network.parameters()) == 2


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (fw.Plan({}), "trains nothing"),
        (fw.Plan({"head.weigth": 1.0}), "head.weight"),
        (fw.Plan({"head.weight": 1.0}, frozenset({"backbone.bn2"})), "backbone.bn1"),
    ],
)
def test_a_plan_that_names_nothing_or_something_unknown_is_refused(plan: fw.Plan, said: str) -> None:
    network = resnet()
    with pytest.raises(fw.FwError, match=said):
        check_plan(derive_layout(network, None, (3, 64, 64)), plan, "mine")


def test_pattern_first_match_wins_and_unmatched_is_an_error(index) -> None:
    network = resnet()
    layout = derive_layout(network, None, (3, 64, 64))
    chosen = policy(index, "pattern", patterns=["!*.bn?.*", "backbone.layer4.1.*", "re:backbone\\.conv1\\..*"])
    names = set(chosen.start(layout).trainable)
    assert names == {"backbone.layer4.1.conv1.weight", "backbone.layer4.1.conv2.weight", "backbone.conv1.weight",
                     "head.weight", "head.bias"}  # fmt: skip
    with pytest.raises(fw.FwError, match=r"did you mean 'backbone\.layer4\.\*'"):
        policy(index, "pattern", patterns=["layer4.*"]).start(layout)
    with pytest.raises(fw.FwError, match="not a regular expression"):
        policy(index, "pattern", patterns=["re:("]).start(layout)


def test_stage_typos_and_counts_are_errors_with_what_there_is(index, snapshot) -> None:
    network = resnet()
    layout = derive_layout(network, None, (3, 64, 64))
    with pytest.raises(fw.FwError) as typo:
        policy(index, "stages", names=["layer5"]).start(layout)
    snapshot("stage_typo", typo.value.render())
    with pytest.raises(fw.FwError) as count:
        policy(index, "last_stages", n=9).start(layout)
    snapshot("too_many_stages", count.value.render())


def test_levit_keeps_its_gradients_after_an_evaluation(index) -> None:
    """LeViT caches attention biases in eval mode; modes are set by train(), so the cache never goes stale."""
    network = small("levit_128s")
    size = 224
    layout = derive_layout(network, None, (3, size, size))
    frozen = FrozenNetwork(network, layout)
    frozen.apply(policy(index, "full").start(layout))
    biases = [p for name, p in network.named_parameters() if name.endswith("attention_biases")]
    frozen.eval()
    with torch.no_grad():
        before = network(torch.ones(1, 3, size, size))
        for bias in biases:
            bias.add_(torch.randn_like(bias))
    frozen.eval()
    with torch.no_grad():
        after = network(torch.ones(1, 3, size, size))
    assert not torch.equal(before, after), "an evaluation after the weights changed must see the new ones"
    frozen.train()
    network(torch.randn(2, 3, size, size)).sum().backward()
    assert all(bias.grad is not None for bias in biases)
    assert len(biases) > 0


def test_what_a_library_keeps_from_training_no_policy_trains(index) -> None:
    """EfficientViM holds parameters that its code never uses and timm itself keeps fixed."""
    network = small("efficientvim_m1")
    layout = derive_layout(network, None, (3, 224, 224))
    assert layout.fixed == {"backbone.weights"}
    plan = policy(index, "full").start(layout)
    assert set(layout.parameters) - set(plan.trainable) == {"backbone.weights"}


def test_a_model_that_was_frozen_by_hand_can_be_thawed() -> None:
    model = torchvision.models.resnet18(num_classes=3).requires_grad_(False)
    frozen = fw.freeze(model, "full", image_size=64)
    assert len(frozen.parameters()) == 62
