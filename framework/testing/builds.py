"""Builds: backbones as the checks of them need them; what another check complains of already is skipped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from torch import nn

from framework.contracts import Backbone, BackboneRequest, InputSpec, Layout
from framework.errors import FwError
from framework.layout import derive_layout
from framework.network import Network
from framework.testing.case import Case
from framework.testing.chance import seeded
from framework.testing.probes import Probe, said
from framework.testing.surroundings import closed_network, settings_put_back
from framework.tracing import SampleSize, Trace, trace

CHANNELS = BackboneRequest().in_channels


@attrs.frozen(eq=False)
class Attempt:
    """A call of `build`, while no network can be reached.

    Attributes:
        outcome: what it gave, or the error that it raised.
        reached: what it asked the network for.
        changed: settings of torch that were others afterwards; they are put back.
    """

    outcome: Any
    reached: list[str]
    changed: list[str]

    @property
    def failed(self) -> bool:
        """Whether it raised."""
        return isinstance(self.outcome, Exception)


def attempt(case: Case, asked: Mapping[str, Any], seed: int = 0, others: int | None = None) -> Attempt:
    """Builds a backbone, whatever comes of it.

    Args:
        case: which backbone.
        asked: of the request; nothing asks for the architecture alone.
        seed: of torch's generator.
        others: of those of numpy and random; absent: the same.
    """
    if case.the.requires:
        pytest.skip(f"{case.the.requires} to check it")
    config = case.config()
    with closed_network() as reached, settings_put_back() as changed, seeded(seed, others):
        try:
            outcome = config.build(BackboneRequest(**asked))
        except Exception as error:  # a plugin may raise anything
            outcome = error
    return Attempt(outcome, reached, changed)


def complaint(backbone: Any) -> str | None:
    """What is wrong with the fields of what was built; None where nothing is."""
    if not isinstance(backbone, Backbone):
        return f"build(request) gives a {type(backbone).__name__}, and no fw.Backbone"
    kinds: dict[str, Any] = {"module": nn.Module, "feature_dim": int, "input": InputSpec}
    for name, kind in kinds.items():
        value = getattr(backbone, name)
        if not isinstance(value, kind):
            return f"Backbone.{name} is {value!r}, and no {kind.__name__}"
    size: Any = backbone.input.size
    if not (isinstance(size, tuple) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)):
        return f"Backbone.input.size is {size!r}, and not (height, width) in pixels"
    return None


def built(case: Case, seed: int = 0, others: int | None = None) -> Backbone:
    """The backbone without pretrained weights.

    Args:
        case, seed, others: as `attempt` takes them.
    """
    outcome = attempt(case, {}, seed, others).outcome
    if complaint(outcome):
        pytest.skip("see builds_without_weights")
    backbone: Backbone = outcome
    return backbone


def probe_of(backbone: Backbone, channels: int = CHANNELS) -> Probe:
    """A probe of a backbone's module, for images of the size that it states."""
    return Probe(backbone.module, (channels, *backbone.input.size), backbone.feature_dim)


def working(case: Case, seed: int = 0, training: bool = False) -> Backbone:
    """The same, where it gives feature vectors.

    Args:
        case: which backbone.
        seed: of torch's generator.
        training: in train mode, too.
    """
    backbone = built(case, seed)
    if probe_of(backbone).complaint(2):
        pytest.skip("see gives_feature_vectors")
    if training and probe_of(backbone).complaint(4, training):
        pytest.skip("see gives_feature_vectors_in_train_mode")
    return backbone


def taken(case: Case, asked: Mapping[str, Any]) -> Backbone | None:
    """The backbone that something is asked of; None where it refuses that as it should.

    Args:
        case: which backbone.
        asked: of the request.

    Raises:
        AssertionError: it raises something else than a FwError, or gives no backbone.
    """
    working(case)
    made = attempt(case, asked)
    if isinstance(made.outcome, FwError):
        return None
    assert not made.failed, (
        f"a request with {in_words(asked)} raises {said(made.outcome)}: what cannot be had is refused with "
        "fw.FwError(message, hint)"
    )
    wrong = complaint(made.outcome)
    assert wrong is None, f"a request with {in_words(asked)}: {wrong}"
    backbone: Backbone = made.outcome
    return backbone


def in_words(asked: Mapping[str, Any]) -> str:
    """What is asked of a request, for messages."""
    return ", ".join(f"{name} = {value!r}" for name, value in asked.items())


@attrs.frozen(eq=False)
class Seen:
    """A backbone whose forward pass was traced, under a linear head.

    Attributes:
        backbone: as built.
        trace: of it.
        network: with the head.
    """

    backbone: Backbone
    trace: Trace
    network: Network

    def layout(self) -> Layout:
        """The layout of the network.

        Raises:
            FwError: the grouping names what is not there.
        """
        return derive_layout(self.network, self.backbone.grouping, sample_size(self.backbone), self.trace)


def sample_size(backbone: Backbone) -> SampleSize:
    """(channels, height, width) of an image."""
    return CHANNELS, *backbone.input.size


def seen(case: Case, training: bool = False) -> Seen:
    """The backbone as the core looks at it.

    Args:
        case, training: as `working` takes them.
    """
    backbone = working(case, training=training)
    try:
        traced = trace(backbone.module, sample_size(backbone))
    except Exception:  # a module may raise anything
        pytest.skip("see can_be_copied and can_be_traced")
    with seeded(0):
        return Seen(backbone, traced, Network(backbone.module, nn.Linear(backbone.feature_dim, 3)))


def laid_out(case: Case, training: bool = False) -> tuple[Seen, Layout]:
    """The same, and its layout."""
    found = seen(case, training)
    try:
        return found, found.layout()
    except Exception:  # a grouping may hold anything
        pytest.skip("see layout_holds_each_parameter_once")
