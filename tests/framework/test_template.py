"""Templates: a graph that was captured of one network, over the tensors of another that was made alike."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sweeps import often
from test_splicing import assembled
from torch import Tensor, nn

from framework import captures as captures_module
from framework.capture import Capture, capture
from framework.captures import Captures
from framework.cut import structure
from framework.index import Index
from framework.shared import Shared
from framework.template import Template


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The networks that are captured."""
    found: list[nn.Module] = []
    monkeypatch.setattr(captures_module, "capture", lambda *given: found.append(given[0]) or capture(*given))
    return found


@pytest.mark.parametrize("network", often(("layer norm", "batch norm", "cached biases"), quick=("layer norm",)))
def test_it_is_what_would_be_captured_and_holds_nothing_of_the_first_network(index: Index, network: str) -> None:
    first, second = assembled(index, network, "seed=0"), assembled(index, network, "seed=1")
    images = torch.zeros(2, second.model.spec.channels, *second.model.spec.size)
    for run in (first, second):
        run.frozen.train()
    template = Template.of(capture(first.network, images))
    gone = weakref.ref(next(first.network.parameters()))
    del first, run
    gc.collect()
    assert gone() is None
    laid, fresh = template.over(second.network), capture(second.network, images)
    assert [*structure(laid).values()] == [*structure(fresh).values()]
    more = torch.randn(5, *images.shape[1:])
    found, expected = (logits(graph, more) for graph in (laid, fresh))
    assert torch.equal(found, expected)
    assert expected.std() > 0


def logits(graph: Capture, images: Tensor) -> Tensor:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        given: Tensor = graph.module(images)
        return given


class Scaled(nn.Module):
    """Multiplies by a number, or a tensor that is neither parameter nor buffer."""

    def __init__(self, scale: float | Tensor) -> None:
        super().__init__()
        self.weight = nn.Conv2d(3, 3, 1)
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        return self.weight(images).flatten(1) * self.scale


@pytest.mark.parametrize(("scale", "made_from", "count"), [(2.0, "one", 1), (3.0, "one", 2), (2.0, "other", 2)])
@pytest.mark.parametrize("kept_as", [float, torch.tensor])
def test_it_is_shared_by_networks_alike_alone(
    calls: list[nn.Module], kept_as: Callable[[float], Any], scale: float, made_from: str, count: int
) -> None:
    shared, images = Shared(), torch.randn(2, 3, 4, 4)
    for network, name in ((Scaled(kept_as(2.0)).eval(), "one"), (Scaled(kept_as(scale)).eval(), made_from)):
        graph = Captures(network, shared=shared, made_from=lambda name=name: name).graph(images)
        assert torch.equal(graph.module(images), network(images))
    assert len(calls) == count


def test_modes_and_shapes_have_graphs_of_their_own(calls: list[nn.Module]) -> None:
    shared, network = Shared(), nn.Sequential(nn.BatchNorm2d(3), nn.Flatten())
    for training, size in ((False, 4), (True, 4), (False, 8), (False, 4), (True, 4)):
        network.train(training)
        images = torch.randn(2, 3, size, size)
        expected = nn.functional.batch_norm(images, torch.zeros(3), torch.ones(3), training=training).flatten(1)
        assert torch.allclose(Captures(network, shared=shared).graph(images).module(images), expected, atol=1e-5)
        network[0].reset_running_stats()
    assert len(calls) == 3
