"""Splicing: a graph put together from those of both modes is the one that the network gives in the modes of a plan."""

from __future__ import annotations

import pytest
import torch
from sweeps import share
from test_partition_equality import FULL_BATCHES, NETWORKS
from torch import Tensor, fx, nn

import framework as fw
from framework import captures as captures_module
from framework.assemble import Assembly, assemble
from framework.capture import Capture, capture, does_nothing
from framework.captures import Captures
from framework.cut import structure
from framework.index import Index
from framework.recipe import load_recipe
from framework.splicing import NotSpliced, splice

IMAGES = (2, 3, 8, 8)


def operations(captured: Capture) -> list[str]:
    """All that a graph computes, in order, but for the moments at which it reads tensors."""
    return [words for node, words in structure(captured).items() if node.op != "get_attr" and not does_nothing(node)]


def assembled(index: Index, network: str, *more: str) -> Assembly:
    return assemble(load_recipe("smoke", index, [*FULL_BATCHES, *NETWORKS[network], *more]), index)


def plans(layout: fw.Layout) -> list[fw.Plan]:
    """Plans under which the later half of the stages trains, with either mode of the norms."""
    later = [name for stage in layout.stages[len(layout.stages) // 2 :] for name in stage.parameters]
    return [layout.plan(later, norm) for norm in ("fixed", "batch")]


def require_splices(index: Index, network: str) -> int:
    """Compares each plan's spliced graph with one that is captured under the plan."""
    run = assembled(index, network)
    images = torch.zeros(2, run.model.spec.channels, *run.model.spec.size)
    kept = Captures(run.network, several=True)
    found = plans(run.model.layout)
    for plan in found:
        run.frozen.apply(plan)
        run.frozen.train()
        spliced, fresh = kept.graph(images), capture(run.network, images)
        assert operations(spliced) == operations(fresh)
        assert {spliced.name_of(node) for node in reads(spliced)} == {fresh.name_of(node) for node in reads(fresh)}
    assert kept.several, "or it was captured under each plan"
    return len(found)


def reads(captured: Capture) -> list[fx.Node]:
    return [node for node in captured.nodes if node.op == "get_attr" and node.users]


def test_a_spliced_graph_is_the_captured_one(index: Index) -> None:
    """Batch norms that count, stochastic depth and dropout: each mode has operations that the other has not."""
    assert require_splices(index, "batch norm") == 2


@pytest.mark.sweep
def test_spliced_graphs_are_the_captured_ones_for_all_families(index: Index) -> None:
    taken = share(list(NETWORKS), 3)
    compared = {network: require_splices(index, network) for network in taken}
    print(f"{sum(compared.values())} graphs of {len(compared)} networks, all the same")
    assert len(NETWORKS) == 18


class Noisy(nn.Module):
    """Ends in what it computes in train mode alone, so that the modes have no tensor in common."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Conv2d(3, 3, 1)

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.weight(maps)
        return torch.sin(maps) if self.training else torch.cos(maps)


def three_stages(middle: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 3, 1), middle, nn.Conv2d(3, 3, 1), nn.Flatten(), nn.Linear(192, 2))


def test_what_the_modes_do_not_share_is_not_spliced(monkeypatch: pytest.MonkeyPatch) -> None:
    network = three_stages(Noisy())
    captured = {}
    for mode in (False, True):
        captured[mode] = capture(network.train(mode), torch.zeros(IMAGES))
    modes = {name: name in ("", "2", "3", "4") for name, _ in network.named_modules()}
    with pytest.raises(NotSpliced, match=r"2 needs aten\.sin\.default of 1 in the other mode"):
        splice(captured[False], captured[True], modes)
    for name, module in network.named_modules():
        module.training = modes[name]
    calls: list[nn.Module] = []
    honest = captures_module.capture
    monkeypatch.setattr(captures_module, "capture", lambda net, images: calls.append(net) or honest(net, images))
    kept = Captures(network, several=True)
    assert operations(kept.graph(torch.zeros(IMAGES))) == operations(honest(network, torch.zeros(IMAGES)))
    assert (len(calls), kept.spliced) == (3, False)
    kept.graph(torch.zeros(IMAGES))
    assert len(calls) == 4, "and is not tried again"


def test_graphs_over_tensors_that_are_gone_are_forgotten() -> None:
    network = three_stages(nn.BatchNorm2d(3)).eval()
    kept = Captures(network)
    first = kept.graph(torch.zeros(IMAGES))
    assert kept.graph(torch.zeros(IMAGES)) is first
    network[1].running_mean = torch.ones(3)
    assert id(network[1].running_mean) in kept.graph(torch.zeros(IMAGES)).names
