"""Checks of heads: features to logits, on sizes and tasks that the head accepts."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import nn

from framework.errors import FwError
from framework.layout import derive_layout
from framework.network import Network
from framework.task import Task
from framework.testing.case import Case, Check, check
from framework.testing.chance import seeded
from framework.testing.probes import (
    Probe,
    require_copies,
    require_divides,
    require_each_row_alone,
    require_same_each_time,
    require_same_weights,
    require_still_tensors,
    require_torchs_generator,
    require_whole_state,
    said,
)


def _task(kind: Literal["multiclass", "multilabel"], classes: int) -> Task:
    return Task(kind, tuple(f"class {n}" for n in range(classes)))


FITS = (
    (16, _task("multiclass", 3)),
    (64, _task("multilabel", 5)),
    (8, _task("multilabel", 1)),
    (4, _task("multiclass", 4)),  # as many features as classes, where a head without parameters fits
)
"""(length of a feature vector, task); a head may refuse some with a FwError."""


# ------------------------------------------------------------------------------------------------- building


def _build(case: Case, feature_dim: int, task: Task, seed: int = 0, others: int | None = None) -> nn.Module | None:
    """The head, from a seed of torch's generator and one of the others; None where it refuses what it should fit."""
    if case.the.requires:
        pytest.skip(f"{case.the.requires} to check it")
    config = case.config()
    with seeded(seed, others):
        try:
            head: nn.Module = config.build(feature_dim, task)
        except FwError:
            return None
    return head


def _probes(case: Case, seed: int = 0, others: int | None = None) -> list[Probe]:
    """The head for each fit that it accepts; skips where a check of its own says what is wrong with it."""
    probes = []
    for feature_dim, task in FITS:
        try:
            head = _build(case, feature_dim, task, seed, others)
        except Exception:  # a plugin may raise anything
            pytest.skip("see builds_or_refuses_with_a_reason")
        if isinstance(head, nn.Module):
            probes.append(Probe(head, (feature_dim,), task.num_classes, "feature vectors"))
    if not probes:
        pytest.skip("see builds_or_refuses_with_a_reason")
    return probes


def _working(case: Case, seed: int = 0) -> list[Probe]:
    """The same, where they give logits."""
    probes = _probes(case, seed)
    if any(probe.complaint(4, training) for probe in probes for training in (False, True)):
        pytest.skip("see gives_a_logit_for_each_class")
    return probes


# --------------------------------------------------------------------------------------------------- checks


@check
def builds_or_refuses_with_a_reason(case: Case) -> None:
    """`build(feature_dim, task)` gives a module, or raises a FwError that says what does not fit."""
    heads = []
    for feature_dim, task in FITS:
        what = f"build({feature_dim}, a {task.kind} task of {task.num_classes} classes)"
        try:
            head = _build(case, feature_dim, task)
        except Exception as error:  # a plugin may raise anything
            raise AssertionError(
                f"{what} raises {said(error)}; a head that does not fit raises fw.FwError(message, hint)"
            ) from error
        assert head is None or isinstance(head, nn.Module), f"{what} gives a {type(head).__name__}, and no nn.Module"
        heads.append(head)
    sizes = ", ".join(f"{feature_dim} -> {task.num_classes} ({task.kind})" for feature_dim, task in FITS)
    assert any(head is not None for head in heads), f"it refuses each of {sizes}: what does it fit?"


@check
def gives_a_logit_for_each_class(case: Case) -> None:
    """Features (N, feature_dim) give finite float32 logits (N, classes): in evaluation mode of one image, too."""
    for probe in _probes(case):
        for count, training in ((1, False), (4, False), (4, True)):
            wrong = probe.complaint(count, training)
            assert wrong is None, f"{wrong}: the task has a logit for each class"


@check
def has_float32_parameters(case: Case) -> None:
    """Every parameter is float32; `train.precision` casts what is to be computed otherwise."""
    for probe in _probes(case):
        other = {name: p.dtype for name, p in probe.module.named_parameters() if p.dtype != torch.float32}
        assert not other, f"parameters of other types than torch.float32: {other}"


@check
def same_seed_same_weights(case: Case) -> None:
    """The initial weights are a function of the seed of torch's generator."""
    for probe, other in zip(_probes(case, others=1), _probes(case, others=2), strict=True):
        require_same_weights(probe.module, other.module)


@check
def gradient_reaches_the_features(case: Case) -> None:
    """A gradient of the logits arrives at the features, so that the backbone below can train."""
    for probe in _working(case):
        features = probe.rows(4).requires_grad_()
        _backward(probe, features)
        assert features.grad is not None, "no gradient arrives at the features: is there a detach() or a no_grad()?"
        assert torch.isfinite(features.grad).all(), "the gradient at the features is not finite"


@check
def gradient_reaches_every_parameter(case: Case) -> None:
    """Each parameter gets a gradient: one without a path to the loss ends a run before its first step."""
    for probe in _working(case):
        _backward(probe, probe.rows(4).requires_grad_())
        named = probe.module.named_parameters()
        missed = [name for name, parameter in named if parameter.requires_grad and parameter.grad is None]
        assert not missed, f"no gradient arrives at {', '.join(missed[:3])}: use every parameter, or leave it out"


@check
def bears_features_of_zero(case: Case) -> None:
    """Features that are all zero, as ReLUs may give them, make neither logits nor gradients infinite."""
    for probe in _working(case):
        features = torch.zeros(4, *probe.row, requires_grad=True)
        logits = _backward(probe, features)
        found = [logits, features.grad, *(parameter.grad for parameter in probe.module.parameters())]
        assert all(torch.isfinite(tensor).all() for tensor in found if tensor is not None), (
            "features of zero give logits or gradients that are not finite: divide by nothing that may be zero "
            "(functional.normalize has an eps)"
        )


def _backward(probe: Probe, features: torch.Tensor) -> torch.Tensor:
    """Sends features through a head in train mode, and a gradient that differs between the logits back."""
    probe.module.train().zero_grad(set_to_none=True)
    with torch.enable_grad(), seeded(0):
        logits: torch.Tensor = probe.module(features.clone())
        loss = (logits * torch.linspace(1, 2, logits.numel()).view_as(logits)).sum()
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
    return logits.detach()


@check
def evaluates_the_same_each_time(case: Case) -> None:
    """In evaluation mode the same features give the same logits."""
    for probe in _working(case):
        require_same_each_time(probe)


@check
def evaluates_each_row_alone(case: Case) -> None:
    """In evaluation mode the logits of one image do not hang on the others of its batch."""
    for probe in _working(case):
        require_each_row_alone(probe)


@check
def evaluation_changes_no_tensor(case: Case) -> None:
    """In evaluation mode no parameter and no buffer is written to."""
    for probe in _working(case):
        require_still_tensors(probe)


@check
def draws_from_torchs_generator_alone(case: Case) -> None:
    """In train mode all that is random comes from torch's global generator, which the engine seeds at every step."""
    for probe in _working(case):
        require_torchs_generator(probe)


@check
def can_be_copied(case: Case) -> None:
    """`copy.deepcopy` takes the head."""
    for probe in _working(case):
        require_copies(probe.module)


@check
def state_dict_holds_all_that_counts(case: Case) -> None:
    """With the saved state dict of a head, one of another seed computes what that did."""
    for probe, other in zip(_working(case), _working(case, seed=1), strict=True):
        require_whole_state(probe, other, case.folder)


@check
def is_divided_rightly_or_not_at_all(case: Case) -> None:
    """Below a network whose last stage trains, the exported head computes what the head does."""
    probe = _working(case)[0]
    if not (probe.is_steady and probe.is_repeatable):
        pytest.skip("see evaluates_the_same_each_time and draws_from_torchs_generator_alone")
    with seeded(0):
        network = Network(_small_backbone(probe.row[0]), probe.module)
    layout = derive_layout(network, None, (3, 8, 8))
    require_divides(network, layout, Probe(network, (3, 8, 8), probe.width))


def _small_backbone(feature_dim: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, feature_dim, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


CHECKS: tuple[Check, ...] = (
    builds_or_refuses_with_a_reason,
    gives_a_logit_for_each_class,
    has_float32_parameters,
    same_seed_same_weights,
    gradient_reaches_the_features,
    gradient_reaches_every_parameter,
    bears_features_of_zero,
    evaluates_the_same_each_time,
    evaluates_each_row_alone,
    evaluation_changes_no_tensor,
    draws_from_torchs_generator_alone,
    can_be_copied,
    state_dict_holds_all_that_counts,
    is_divided_rightly_or_not_at_all,
)
