"""Adapters: against their definitions, against peft, and on real networks of every kind."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest
import torch
from sweeps import share
from timm.layers import BatchNormAct2d, Conv2dSame, LayerNorm2d, StdConv2d
from torch import Tensor, nn
from torch.nn import functional

import framework as fw
from framework.capture import capture
from framework.freezing import all_tensors
from framework.layout import derive_layout, extended
from framework.network import Network
from framework.testing.chance import seeded
from framework.testing.networks import sample
from framework.tracing import copied
from fw_adapters.lora import Lora, LowRank
from fw_adapters.side import Side, SideNetwork, channel_axis
from fw_adapters.ssf import ScaleShift, Ssf
from fw_timm import backbones as of_timm
from fw_torchvision import backbones as of_torchvision

FAMILIES = {"timm": of_timm.backbone_family, "torchvision": of_torchvision.backbone_family}
NETWORKS: dict[str, dict[str, Any]] = {
    "torchvision/resnet18": {},
    "torchvision/squeezenet1_1": {},
    "timm/vit_tiny_patch16_224": {"depth": 2},
    "timm/tf_efficientnet_lite0": {},
    "timm/convnext_atto": {"depths": (1, 1, 1, 1)},
    "timm/swin_tiny_patch4_window7_224": {"depths": (1, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 2, 4, 8)},
    "timm/mixer_s32_224": {},
    "timm/resnetv2_50d_gn": {"layers": (1, 1, 1, 1)},
}
"""Networks of every kind, and what makes them small."""
LARGE = (
    "torchvision/vit_b_32", "torchvision/swin_t", "torchvision/densenet121", "torchvision/googlenet",
    "timm/tf_efficientnet_b0", "timm/nf_resnet26", "timm/edgenext_xx_small",
    "timm/levit_128s", "timm/poolformer_s12", "timm/repvgg_a0", "timm/resmlp_12_224", "timm/eva02_tiny_patch14_224",
    "timm/xcit_nano_12_p16_224", "timm/test_convnext2", "timm/test_efficientnet_gn", "timm/test_mambaout",
)  # fmt: skip
ADAPTERS = {"lora": Lora(), "ssf": Ssf(), "side": Side(width=16)}


@cache
def _built(name: str) -> tuple[Network, fw.Layout, tuple[int, int]]:
    library, _, model = name.partition("/")
    component = FAMILIES[library]().member(model)
    small = name in NETWORKS and "mixer" not in name
    request = fw.BackboneRequest(image_size=(32, 32) if small else None, options=NETWORKS.get(name, {}))
    with seeded(0):
        backbone = component.config(**component.fixed).build(request)
        network = Network(backbone.module, nn.Linear(backbone.feature_dim, 3))
    return network, derive_layout(network, backbone.grouping, (3, *backbone.input.size)), backbone.input.size


def built(name: str) -> tuple[Network, fw.Layout, Tensor]:
    """A network of one's own in evaluation mode, its layout, and two images in double precision."""
    network, layout, size = _built(name)
    images = torch.randn(2, 3, *size, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    return copied(network).eval(), layout, images


def of_layers(*layers: nn.Module, size: int = 8) -> tuple[Network, fw.Layout]:
    """A network whose backbone is a chain of layers and a mean over places."""
    backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    width = fw.output_shape(backbone, (3, size, size))
    assert width is not None
    network = Network(backbone, nn.Linear(width[1], 2)).eval()
    return network, derive_layout(network, None, (3, size, size))


def added_to(network: nn.Module, own: Iterable[str]) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in network.named_parameters() if name not in {*own}}


def stir(parameters: Iterable[nn.Parameter], by: float = 0.1) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(by * torch.randn(parameter.shape, generator=generator))


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max())


# --------------------------------------------------------------------------------------------- on real networks


def require_equal_at_both_ends(name: str, made: fw.Adapter) -> None:
    """Inserts, moves what was added, and merges; a network computes the same before and after each."""
    network, layout, images = built(name)
    own, modules = all_tensors(network), dict(network.named_modules())
    values = {name: tensor.clone() for name, tensor in own.items()}
    hooks = {name: len(module._forward_hooks) for name, module in modules.items()}
    with torch.no_grad():
        before = network(images.float())
        made.insert(network, layout)
        assert torch.equal(network.eval()(images.float()), before)
        assert all(all_tensors(network)[name] is tensor for name, tensor in own.items())
        assert all(torch.equal(tensor, values[name]) for name, tensor in own.items())
        added = added_to(network, own)
        assert {*extended(layout, network).parameters} == {*layout.parameters, *added}
        begun = network.double()(images)
        stir(added.values())
        changed = network(images)
        effect = (changed - begun).abs().max()
        assert effect > 0
        if made.mergeable:
            merged = copied(network)
            made.merge(merged)
            assert (changed - merged(images)).abs().max() < 1e-8 * effect
            assert [*all_tensors(merged)] == [*own]
            assert {name: len(module._forward_hooks) for name, module in merged.named_modules()} == hooks
            assert torch.equal(network(images), changed)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_it_begins_as_the_network_and_ends_in_its_own_tensors(name: str, adapter: str) -> None:
    require_equal_at_both_ends(name, ADAPTERS[adapter].build())


@pytest.mark.sweep
@pytest.mark.parametrize("name", share(LARGE, 3))
def test_so_it_does_on_whole_networks(name: str) -> None:
    left_out = []
    for adapter, keys in ADAPTERS.items():
        try:
            require_equal_at_both_ends(name, keys.build())
        except fw.FwError:
            left_out.append(adapter)
    print(f"{name}: {len(ADAPTERS) - len(left_out)} adapters")
    assert left_out == (["lora", "ssf"] if name == "timm/nf_resnet26" else [])


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_it_is_captured_and_computes_the_same(adapter: str) -> None:
    network, layout, images = built("timm/convnext_atto")
    own = all_tensors(network)
    ADAPTERS[adapter].build().insert(network, layout)
    stir(added_to(network, own).values())
    images = images.float()
    captured = capture(network.eval(), images)
    more = torch.cat([images, images])
    with torch.no_grad():
        assert apart(network(more), captured.module(more)) < 1e-5


# ---------------------------------------------------------------------------------------------------------- LoRA


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 5),
        nn.Conv2d(6, 5, 3, stride=2, padding=1, dilation=2, padding_mode="reflect"),
        nn.Conv2d(6, 5, (1, 3), padding="same", bias=False),
        Conv2dSame(6, 5, 3, stride=2),
    ],
    ids=["linear", "conv", "bare", "same"],
)
def test_a_layer_computes_with_the_sum_of_its_weight_and_the_product(layer: nn.Module) -> None:
    given = torch.randn(2, 6, 9, 9) if isinstance(layer, nn.Conv2d) else torch.randn(2, 4, 6)
    update = LowRank(layer, rank=2, alpha=6.0, dropout=0.0)
    nn.init.normal_(update.up.weight)
    b, a = update.up.weight.flatten(1), update.down.weight.flatten(1)
    product = 6.0 / 2 * (b @ a).view_as(layer.weight)
    weights = {"weight": layer.weight + product}
    expected = torch.func.functional_call(layer, weights, given)
    assert apart(expected, layer(given) + update(given)) < 1e-5
    assert apart(product, update.product()) < 1e-5


@pytest.mark.sweep
def test_it_is_that_of_peft() -> None:
    peft = pytest.importorskip("peft")
    network, layout = of_layers(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 1), OnTokens(nn.Linear(8, 4)))
    names = ["backbone.0", "backbone.2", "backbone.3.inner"]
    theirs = peft.inject_adapter_in_model(
        peft.LoraConfig(r=4, lora_alpha=10, target_modules=names, bias="none"), copied(network)
    )
    Lora(rank=4, alpha=10.0).build().insert(network, layout)
    pairs = []
    for name in names:
        update, other = network.get_submodule(f"{name}.lora"), theirs.get_submodule(name)
        assert update.down.weight.shape == other.lora_A.default.weight.shape
        nn.init.normal_(update.up.weight)
        other.lora_A.default.weight.data.copy_(update.down.weight.data)
        other.lora_B.default.weight.data.copy_(update.up.weight.data)
        pairs += [(update.down, other.lora_A.default), (update.up, other.lora_B.default)]
    images = torch.randn(4, 3, 8, 8)
    assert apart(theirs(images), network(images)) < 1e-6
    for one in (network, theirs):
        one(images).square().sum().backward()
    assert all(apart(other.weight.grad, ours.weight.grad) < 1e-5 for ours, other in pairs)


def test_first_values_are_those_of_a_new_layer() -> None:
    with seeded(3):
        expected = nn.Conv2d(16, 8, 3, bias=False).weight
    layer = nn.Conv2d(16, 32, 3)
    with seeded(3):
        update = LowRank(layer, rank=8, alpha=1.0, dropout=0.0)
    assert torch.equal(update.down.weight, expected)
    assert not update.up.weight.any()


def test_only_factors_train_and_only_what_goes_into_them_is_dropped() -> None:
    network, layout = of_layers(nn.Conv2d(3, 6, 3))
    own = all_tensors(network)
    Lora(rank=2, dropout=0.5).build().insert(network, layout)
    added = added_to(network, own)
    assert {name: tuple(parameter.shape) for name, parameter in added.items()} == {
        "backbone.0.lora.down.weight": (2, 3, 3, 3), "backbone.0.lora.up.weight": (6, 2, 1, 1),
    }  # fmt: skip
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(network.train()(images), network.eval()(images))
        stir(added.values())
        assert not torch.equal(network.train()(images), network.train()(images))
        assert torch.equal(network.eval()(images), network(images))


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (("*",), {"project", "ask", "give", "widen", "narrow"}),
        (("blocks.*.mix.*",), {"ask", "give"}),
        (("*.widen", "embed.*"), {"widen", "project"}),
    ],
)
def test_targets_choose_layers_by_name(targets: tuple[str, ...], expected: set[str]) -> None:
    one = sample("layer_norm")
    Lora(targets=targets).build().insert(one.network, one.layout)
    assert {name.split(".")[-2] for name, _ in one.network.named_modules() if name.endswith(".lora")} == expected


def test_a_target_that_matches_nothing_is_an_error_with_near_names() -> None:
    one = sample("layer_norm")
    with pytest.raises(fw.FwError) as raised:
        Lora(targets=("*.give", "embed.projekt")).build().insert(one.network, one.layout)
    assert raised.value.render() == (
        "error: adapter.targets: 'embed.projekt' matches no layer that lora can adapt\n"
        "  help: it takes Linear and Conv2d layers without groups that are called and whose output is linear in their"
        " weight\n"
        "  help: did you mean 'embed.project'?\n"
        "  help: layers: embed.project, blocks.0.attend.mix.ask, blocks.0.attend.mix.give, blocks.0.think.widen,"
        " blocks.0.think.narrow, blocks.1.attend.mix.ask, blocks.1.attend.mix.give, blocks.1.think.widen,"
        " blocks.1.think.narrow, blocks.2.attend.mix.ask, blocks.2.attend.mix.give, blocks.2.think.widen, ..."
        " (13 in all)"
    )
    assert not [name for name, _ in one.network.named_modules() if name.endswith(".lora")]


def test_a_backbone_without_a_layer_is_an_error() -> None:
    network, layout = of_layers(StdConv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(fw.FwError) as raised:
        Lora().build().insert(network, layout)
    assert raised.value.render() == (
        "error: lora finds no layer in this backbone\n"
        "  help: it takes Linear and Conv2d layers without groups that are called and whose output is linear in their"
        " weight; take another adapter"
    )


# ----------------------------------------------------------------------------------------- what can be adapted


class OnTokens(nn.Module):
    """Applies a module to the places of an image as tokens."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        given = self.inner(images.permute(0, 2, 3, 1))
        return given.permute(0, 3, 1, 2)


class ReadsWeight(nn.Module):
    """Uses the weight of a layer without calling it, as timm's BEiT does."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return functional.linear(tokens, self.qkv.weight)


class Attention(nn.Module):
    """Torch's own, which reads the weight of its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.MultiheadAttention(4, 1, batch_first=True)

    def forward(self, given: Tensor) -> Tensor:
        tokens = given.flatten(1, 2)
        return self.mix(tokens, tokens, tokens)[0].view_as(given)


class Squared(nn.Linear):
    """A layer whose output is not linear in its weight."""

    def forward(self, given: Tensor) -> Tensor:
        return functional.linear(given, self.weight.square(), self.bias)


def adapted_by(keys: Lora | Ssf, *layers: nn.Module) -> set[str]:
    """Which layers of a chain get something."""
    network, layout = of_layers(*copy.deepcopy(layers))
    own = all_tensors(network)
    keys.build().insert(network, layout)
    child = "lora" if isinstance(keys, Lora) else "ssf"
    found = {name.partition(f".{child}.")[0] for name in added_to(network, own)}
    return {name.removeprefix("backbone.") for name in found}


def test_what_cannot_be_folded_is_left_as_it_is() -> None:
    layers = (
        Conv2dSame(3, 4, 3, 2), BatchNormAct2d(4), StdConv2d(4, 4, 3), BatchNormAct2d(4, apply_act=False),
        OnTokens(Squared(4, 4)), OnTokens(ReadsWeight()), LayerNorm2d(4), nn.Conv2d(4, 4, 1, groups=4),
        nn.GroupNorm(2, 4, affine=False),
    )  # fmt: skip
    assert adapted_by(Lora(), *layers) == {"0"}
    assert adapted_by(Ssf(), *layers) == {"0", "3", "6", "7"}


def test_a_weight_that_others_share_or_that_the_library_keeps_is_left_as_it_is() -> None:
    one, other, fixed, free = (nn.Conv2d(4, 4, 1) for _ in range(4))
    other.weight = one.weight
    fixed.weight.requires_grad_(False)
    layers = (nn.Conv2d(3, 4, 1), one, other, fixed, free, free)
    assert adapted_by(Lora(), *layers) == adapted_by(Ssf(), *layers) == {"0", "4"}


def test_the_projection_of_torchs_attention_is_left_as_it_is() -> None:
    layers = (nn.Conv2d(3, 4, 1), OnTokens(Attention()), OnTokens(nn.Linear(4, 4)))
    assert adapted_by(Lora(), *layers) == adapted_by(Ssf(), *layers) == {"0", "2.inner"}


# ----------------------------------------------------------------------------------------------------------- SSF


def test_each_channel_is_scaled_and_shifted() -> None:
    layers = {
        "0": (nn.Conv2d(3, 4, 3), 1), "1": (nn.BatchNorm2d(4), 1), "2": (LayerNorm2d(4), 1),
        "3.inner": (nn.LayerNorm(4), 3), "4.inner": (nn.Linear(4, 5), 3),
    }  # fmt: skip
    wrapped = [OnTokens(layer) if "inner" in name else layer for name, (layer, _) in layers.items()]
    network, layout = of_layers(*wrapped)
    own = all_tensors(network)
    Ssf().build().insert(network, layout)
    stir(added_to(network, own).values(), by=1.0)
    for name, (layer, axis) in layers.items():
        change = network.get_submodule(f"backbone.{name}.ssf")
        given = torch.randn(2, 4 if name != "0" else 3, 5, 6)
        given = given.permute(0, 2, 3, 1) if axis == 3 else given
        plain = type(layer).forward(layer, given)
        expected = change.scale * plain.movedim(axis, -1) + change.shift
        assert apart(expected, layer(given).movedim(axis, -1)) < 1e-6


def test_a_layer_without_a_bias_is_scaled_alone() -> None:
    network, layout = of_layers(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), OnTokens(nn.RMSNorm(4)))
    own = all_tensors(network)
    Ssf().build().insert(network, layout)
    assert [*added_to(network, own)] == [
        "backbone.0.ssf.scale", "backbone.1.ssf.scale", "backbone.1.ssf.shift", "backbone.2.inner.ssf.scale",
    ]  # fmt: skip


def test_numbers_keep_their_format() -> None:
    change = ScaleShift(4, 1, shifts=True)
    assert change(torch.ones(2, 4, 3, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_a_backbone_in_which_nothing_can_be_scaled_is_an_error() -> None:
    network, layout = of_layers(StdConv2d(3, 4, 3), BatchNormAct2d(4))
    with pytest.raises(fw.FwError, match="ssf finds no layer in this backbone"):
        Ssf().build().insert(network, layout)


# ---------------------------------------------------------------------------------------------------------- side


@pytest.mark.parametrize(
    ("shape", "lengths", "axis"),
    [
        ((1, 512), {512}, 1),
        ((1, 50, 192), {192}, 2),
        ((1, 768, 7, 7), {768}, 1),
        ((1, 7, 7, 768), {768}, 3),
        ((1, 96, 6, 8), {96}, 1),
        ((1, 6, 8, 96), {96, 384}, 3),
        ((1, 6, 8, 96), {6, 96}, 1),
        ((1, 8, 8, 8), {8}, 1),
    ],
)
def test_the_axis_of_the_channels(shape: tuple[int, ...], lengths: set[int], axis: int) -> None:
    assert channel_axis(shape, lengths) == axis


def test_stages_are_read_as_they_are_and_averaged_over_places() -> None:
    network, layout, images = built("timm/swin_tiny_patch4_window7_224")
    Side().build().insert(network, layout)
    side: Any = network.backbone.side
    seen: dict[str, Tensor] = {}
    for end in layout.ends.values():
        network.get_submodule(end).register_forward_hook(
            lambda _stage, _inputs, output, end=end: seen.setdefault(end, output)
        )
    read: list[Tensor] = []
    for number, down in enumerate(side.down):
        down.register_forward_pre_hook(lambda _down, given: read.append(given[0]))
        assert number == 0 or down[0].weight.shape == (layout.outputs[[*layout.ends.values()][number]][-1],)
    with torch.no_grad():
        network.eval()(images.float())
    for output, vector in zip(seen.values(), read, strict=True):
        assert apart(output.mean((1, 2)) if output.ndim == 4 else output, vector) < 1e-6


def test_the_side_network_is_its_definition() -> None:
    side = SideNetwork([5, 7], width=4, features=6)
    stir(side.parameters(), by=0.5)
    vectors, features = [torch.randn(3, 5), torch.randn(3, 7)], torch.randn(3, 6)
    side.taps.update(enumerate(vectors))
    state = torch.zeros(3, 4)
    for vector, down, gate, block in zip(vectors, side.down, side.gates, side.blocks, strict=True):
        share = torch.sigmoid(gate / 0.1)
        state = share * down(vector) + (1 - share) * state
        state = state + block.narrow(functional.gelu(block.widen(block.norm(state))))
    assert apart(features + side.up(side.norm(state)), side(features)) < 1e-6
    assert side.taps == {}


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/swin_tiny_patch4_window7_224"])
def test_no_gradient_goes_through_the_backbone(name: str) -> None:
    network, layout, images = built(name)
    own = all_tensors(network)
    Side().build().insert(network, layout)
    added = added_to(network, own)
    stir(added.values())
    network.backbone.side.register_forward_pre_hook(lambda _side, given: given[0].detach())
    network.backbone(images.float()).square().sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is not None] == [*added]


def test_copies_read_their_own_stages() -> None:
    one = sample("batch_norm")
    Side().build().insert(one.network, one.layout)
    stir(one.network.backbone.side.parameters())
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = one.network.eval()(images)
        twin = copied(one.network)
        for parameter in one.network.parameters():
            parameter.zero_()
        assert torch.equal(twin(images), expected)


def test_a_backbone_of_a_single_stage_is_an_error() -> None:
    network, layout = of_layers(nn.Conv2d(3, 4, 3))
    with pytest.raises(fw.FwError) as raised:
        Side().build().insert(network, layout)
    assert raised.value.render() == (
        "error: side finds no stage in this backbone that gives a single tensor\n  help: take another adapter"
    )
