"""Broken captures: a graph that computes, learns, counts or draws something else than its network is never used."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import cycle
from operator import attrgetter

import attrs
import pytest
import torch
from torch import fx, nn

import framework as fw
from framework import lean, partition
from framework.capture import arguments_written, capture, schema_of
from framework.catalog import PluginSource
from framework.cut import choose_cut, structure
from framework.display import NullDisplay
from framework.division import fixed_part, trainable_part
from framework.errors import AuditFailed
from framework.files import load_tensors
from framework.index import Index, build_index
from framework.marking import mark
from framework.recipe import load_recipe
from framework.runs import start_run

aten = torch.ops.aten
SMALL = [
    *("data.images=40", "data.classes=2", "data.size=16", "backbone.use=tiny", "train.batch_size=8", "train.epochs=1"),
    *("engine.threads=1", "engine.device=cpu", "engine.chunk=8", "head.use=mlp", "head.dropout=0.2"),
    *("freezing.use=last_stages", "freezing.norm=batch", "train.report=false"),
]


def stage(before: int, after: int) -> nn.Module:
    """A convolution and a batch norm."""
    convolution = nn.Conv2d(before, after, 3, stride=2, padding=1)
    return nn.Sequential(OrderedDict(conv=convolution, norm=nn.BatchNorm2d(after), act=nn.ReLU()))


@attrs.frozen(kw_only=True)
class Tiny:
    """Three stages, each a convolution and a batch norm: exported in a moment."""

    def build(self, request: fw.BackboneRequest) -> fw.Backbone:
        parts = OrderedDict(one=stage(3, 8), two=stage(8, 8), three=stage(8, 8))
        spec = fw.InputSpec((16, 16), (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0, 3)
        pool = OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten())
        return fw.Backbone(nn.Sequential(parts | pool), 8, spec)


class Plugin:
    """The toy plugin."""

    @fw.hookimpl
    def fw_backbones(self):
        return [fw.Component("tiny", Tiny)]


@pytest.fixture(scope="module")
def plugged(index) -> Index:
    """The installed plugins and the toy."""
    return Index((*index.plugins, *build_index([PluginSource.of(Plugin(), "tiny", "acme-tiny")]).plugins))


def reads_of(part: fx.GraphModule, wanted: Callable[[torch.Tensor], bool]) -> list[fx.Node]:
    """The nodes that read such tensors of the network."""
    read = [node for node in part.graph.nodes if node.op == "get_attr"]
    return [node for node in read if wanted(attrgetter(node.target)(part))]


def named(part: fx.GraphModule, name: str) -> list[fx.Node]:
    """The nodes of one operation."""
    return [node for node in part.graph.nodes if (schema := schema_of(node)) is not None and schema.name == name]


def bake(part: fx.GraphModule, ndim: int) -> None:
    """The value that a trainable parameter has now becomes a constant of the graph."""
    node = reads_of(part, lambda tensor: tensor.requires_grad and tensor.ndim == ndim)[0]
    part.register_buffer("baked", attrgetter(node.target)(part).detach().clone())
    with part.graph.inserting_before(node):
        node.replace_all_uses_with(part.graph.get_attr("baked"))


def lose_gradient(part: fx.GraphModule) -> None:
    """What comes out of the first trainable operation no longer leads back to it."""
    node = next(iter(reads_of(part, lambda tensor: tensor.requires_grad)[0].users))
    with part.graph.inserting_after(node):
        detached = part.graph.call_function(aten.detach.default, (node,))
    node.replace_all_uses_with(detached, delete_user_cb=lambda user: user is not detached)


def lose_gradient_of_bias(part: fx.GraphModule) -> None:
    """One bias of the head is read, but no longer learns."""
    node = reads_of(part, lambda tensor: tensor.requires_grad and tensor.ndim == 1)[-1]
    with part.graph.inserting_after(node):
        detached = part.graph.call_function(aten.detach.default, (node,))
    node.replace_all_uses_with(detached, delete_user_cb=lambda user: user is not detached)


def skip_counter(part: fx.GraphModule) -> None:
    """One norm no longer counts its batches."""
    counts = [
        node for node in named(part, "aten::add_") if any(one.op == "get_attr" for one in arguments_written(node))
    ]
    if counts:  # there are none in evaluation mode
        counts[0].replace_all_uses_with(counts[0].args[0])
        part.graph.erase_node(counts[0])


def skip_statistics(part: fx.GraphModule) -> None:
    """One norm updates a copy of its running mean."""
    norm = next((node for node in part.graph.nodes if node.target is lean.batch_norm and node.args[5]), None)
    if norm is not None:  # there is none in evaluation mode
        with part.graph.inserting_before(norm):
            copied = part.graph.call_function(aten.clone.default, (norm.args[3],))
        norm.replace_input_with(norm.args[3], copied)


def skip_draw(part: fx.GraphModule) -> None:
    """A dropout of train mode is left out."""
    for node in named(part, "aten::dropout"):
        node.replace_all_uses_with(node.args[0])
        part.graph.erase_node(node)


def draw_twice(part: fx.GraphModule) -> None:
    """A dropout draws once more than the network's, and nothing comes of it."""
    for node in named(part, "aten::dropout"):
        with part.graph.inserting_after(node):
            part.graph.call_function(aten.dropout.default, node.args)


@attrs.frozen
class Break:
    """One way to break a trainable part, and the words in which it is to be found.

    Attributes:
        modes: whose part is broken.
    """

    edit: Callable[[fx.GraphModule], None]
    found: str
    modes: tuple[str, ...] = ("train", "evaluation")


BREAKS = {
    "a weight is a constant": Break(lambda part: bake(part, 4), "the logits in "),
    "a weight is a constant in evaluation": Break(
        lambda part: bake(part, 4), "the logits in evaluation mode differs", ("evaluation",)
    ),
    "a bias is a constant": Break(lambda part: bake(part, 1), "backbone.three.conv.bias is there one way", ("train",)),
    "a bias is a constant in evaluation": Break(
        lambda part: bake(part, 1), "the logits in evaluation mode differs", ("evaluation",)
    ),
    "no gradient arrives": Break(lose_gradient, "the gradient of backbone.three.conv.bias is there one way"),
    "a bias does not learn": Break(
        lose_gradient_of_bias, "the gradient of head.3.bias is there one way and not the other"
    ),
    "a counter is skipped": Break(skip_counter, "num_batches_tracked differs by 1"),
    "statistics are skipped": Break(skip_statistics, "running_mean differs"),
    "a draw is skipped": Break(skip_draw, "the logits in train mode differs"),
    "a draw is made twice": Break(draw_twice, "another number of random numbers is drawn"),
}


Go = Callable[..., tuple[dict, dict]]


@pytest.fixture(scope="module")
def go(plugged: Index, tmp_path_factory: pytest.TempPathFactory) -> Go:
    """Runs `smoke` with an override; gives the summary and the tensors that are left."""

    def run(*overrides: str) -> tuple[dict, dict]:
        folder = tmp_path_factory.mktemp("run") / "run"
        summary = start_run(load_recipe("smoke", plugged, [*SMALL, *overrides]), plugged, folder, False, NullDisplay())
        return summary, load_tensors(folder / "model.safetensors")[0]

    return run


@pytest.fixture(scope="module")
def plain(go: Go) -> tuple[dict, dict]:
    """The run of the whole network."""
    return go("engine.partition=off")


def edited(monkeypatch: pytest.MonkeyPatch, broken: Break) -> None:
    """Has trainable parts edited as they are made: that of train mode first, then that of evaluation mode."""
    honest = partition.trainable_part
    modes = cycle(("train", "evaluation"))

    def made(captured, cut) -> fx.GraphModule:
        part = honest(captured, cut)
        if next(modes) in broken.modes:
            broken.edit(part)
            part.graph.lint()
            part.recompile()
        return part

    monkeypatch.setattr(partition, "trainable_part", made)


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_capture_is_named_and_the_network_trains_whole(go: Go, plain, monkeypatch, name: str) -> None:
    whole, expected = plain
    edited(monkeypatch, BREAKS[name])
    summary, found = go("engine.partition=auto")
    assert summary["partition"]["boundary"] is None
    assert summary["partition"]["reason"].startswith("the self-check failed: ")
    assert BREAKS[name].found in summary["partition"]["reason"]
    assert summary["metrics"] == whole["metrics"]
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_where_a_partition_is_required_a_broken_capture_ends_the_run(go: Go, monkeypatch) -> None:
    broken = BREAKS["no gradient arrives"]
    edited(monkeypatch, broken)
    with pytest.raises(AuditFailed, match=broken.found):
        go("engine.partition=require")


def test_a_capture_that_is_only_written_anew_is_used(go: Go, monkeypatch) -> None:
    """What is found above is the break, and not that there was an edit."""

    def copy_of_logits(part: fx.GraphModule) -> None:
        output = part.graph.find_nodes(op="output")[0]
        with part.graph.inserting_before(output):
            output.args = (part.graph.call_function(aten.clone.default, (output.args[0],)),)

    edited(monkeypatch, Break(copy_of_logits, ""))
    summary, _ = go("engine.partition=require")
    assert summary["partition"]["boundary"]


class Masked(nn.Module):
    """Masks channels by a tensor of its own making, to a part of which it writes, as torchvision's Swin does."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.one(images)
        mask = features.new_zeros(4)
        mask[1:3] = 1.0
        return self.three((self.two(features) * mask.view(1, 4, 1, 1)).mean((2, 3)))


def test_a_write_through_a_view_is_kept() -> None:
    network, images = Masked().eval(), torch.rand(2, 3, 8, 8)
    moving = {name for name, _ in network.named_parameters() if not name.startswith("one")}
    captured = capture(network, images)
    cut = choose_cut(captured, mark(captured, moving), 2**20)
    boundary = fixed_part(captured, cut)(images)
    assert torch.equal(trainable_part(captured, cut)(*boundary), network(images))


class Joined(nn.Module):
    """Joins maps that were written to in place twice, as DLA does: the first write shows in no argument."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Conv2d(3, 2, 3) for _ in range(8))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([part(images).add_(1.0).relu_() for part in self.parts], 1).mean((2, 3))


def test_a_network_is_hashed_alike_each_time() -> None:
    network, images = Joined(), torch.rand(2, 3, 8, 8)
    one, other = (list(structure(capture(network, images)).values()) for _ in range(2))
    assert one == other
