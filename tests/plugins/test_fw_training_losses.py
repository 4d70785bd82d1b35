"""Losses: values against torch and scikit-learn, soft targets, weights, and tasks that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn import functional

import framework as fw
from fw_training.losses import LOSSES

CLASSES = ("cat", "dog", "owl")
MULTICLASS, MULTILABEL = fw.Task("multiclass", CLASSES), fw.Task("multilabel", CLASSES)
COUNTS = (10, 20, 70)
FITS = {
    "torch/CrossEntropyLoss": (MULTICLASS,), "torch/BCEWithLogitsLoss": (MULTILABEL,),
    "torch/MultiMarginLoss": (MULTICLASS,), "torch/MultiLabelSoftMarginLoss": (MULTILABEL,),
    "focal": (MULTICLASS, MULTILABEL), "timm/BinaryCrossEntropy": (MULTICLASS,),
    "timm/SoftTargetCrossEntropy": (MULTICLASS,), "timm/AsymmetricLossSingleLabel": (MULTICLASS,),
    "timm/AsymmetricLossMultiLabel": (MULTILABEL,),
}  # fmt: skip
CASES = [(name, task) for name, tasks in FITS.items() for task in tasks]


def make(name: str, task: fw.Task = MULTICLASS, images: int = 100, **keys: Any) -> Any:
    return LOSSES[name](**keys).build(task, COUNTS, images)


def batch(task: fw.Task, n: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n, 3, generator=generator, requires_grad=True)
    if task.kind == "multiclass":
        return logits, torch.randint(0, 3, (n,), generator=generator)
    return logits, torch.randint(0, 2, (n, 3), generator=generator).float()


def one_hot(targets: Tensor) -> Tensor:
    return functional.one_hot(targets, 3).float()


def test_every_loss_is_covered() -> None:
    print(f"{len(LOSSES)} losses, {len(CASES)} fits")
    assert set(FITS) == set(LOSSES)


@pytest.mark.parametrize(("name", "task"), CASES)
def test_a_loss_is_a_finite_scalar_that_training_lowers(name: str, task: fw.Task) -> None:
    loss, (logits, targets) = make(name, task), batch(task)
    first = loss(logits, targets)
    assert first.shape == ()
    (gradient,) = torch.autograd.grad(first, logits)
    assert torch.isfinite(gradient).all()
    assert loss(logits - 0.1 * gradient, targets) < first


@pytest.mark.parametrize("name", [name for name, tasks in FITS.items() if len(tasks) == 1])
def test_a_task_that_does_not_fit_is_refused_with_what_would(name: str) -> None:
    (fits,) = FITS[name]
    with pytest.raises(fw.FwError, match=f"{name} is for {fits.kind} tasks") as caught:
        make(name, MULTILABEL if fits is MULTICLASS else MULTICLASS)
    suggested = caught.value.hint.removeprefix("use ").split(" or ")
    assert suggested
    assert all(fits not in FITS[other] for other in suggested)


@pytest.mark.parametrize("name", [name for name, task in CASES if task is MULTICLASS])
def test_soft_targets_are_taken_by_those_that_say_so(name: str) -> None:
    keys = {"smoothing": 0.0} if name == "timm/BinaryCrossEntropy" else {}
    loss, (logits, targets) = make(name, **keys), batch(MULTICLASS)
    if not loss.supports_soft_targets:
        assert name in ("torch/MultiMarginLoss", "timm/AsymmetricLossSingleLabel")
        return
    assert float(loss(logits, one_hot(targets))) == pytest.approx(float(loss(logits, targets)), rel=1e-6)
    mixed = 0.7 * one_hot(targets) + 0.3 * one_hot(targets.flip(0))
    assert loss(logits, mixed) != loss(logits, targets)


@pytest.mark.parametrize("weights", ["none", "balanced", (1.0, 2.0, 0.5)])
@pytest.mark.parametrize("soft", [False, True])
def test_focal_without_focus_is_cross_entropy(weights: Any, soft: bool) -> None:
    logits, targets = batch(MULTICLASS)
    chosen = one_hot(targets) if soft else targets
    ours = make("focal", gamma=0.0, class_weights=weights)(logits, chosen)
    assert float(ours) == pytest.approx(
        float(make("torch/CrossEntropyLoss", class_weights=weights)(logits, chosen)), rel=1e-5
    )


def test_focal_is_the_papers_formula() -> None:
    logits, targets = batch(MULTICLASS)
    chance = logits.softmax(1)[torch.arange(len(targets)), targets]
    expected = -((1 - chance) ** 2 * chance.log()).mean()
    assert float(make("focal")(logits, targets)) == pytest.approx(float(expected), rel=1e-5)


def test_multilabel_focal_is_the_papers_formula() -> None:
    logits, targets = batch(MULTILABEL)
    chance = torch.where(targets > 0, logits.sigmoid(), 1 - logits.sigmoid())
    alpha = torch.where(targets > 0, 0.25, 0.75)
    expected = -(alpha * (1 - chance) ** 2 * chance.log()).mean()
    assert float(make("focal", MULTILABEL, alpha=0.25)(logits, targets)) == pytest.approx(float(expected), rel=1e-5)
    plain = make("focal", MULTILABEL, gamma=0.0)(logits, targets)
    assert float(plain) == pytest.approx(float(nn.BCEWithLogitsLoss()(logits, targets)), rel=1e-5)
    with pytest.raises(fw.FwError, match="alpha of focal is for multilabel"):
        make("focal", alpha=0.25)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_finite_where_probabilities_saturate(gamma: float) -> None:
    logits = torch.tensor([[200.0, -200.0, 0.0]], requires_grad=True)
    several = torch.tensor([[0.0, 1.0, 1.0]])
    right_and_wrong = [(MULTICLASS, torch.tensor([0])), (MULTICLASS, torch.tensor([1]))]
    for task, targets in [*right_and_wrong, (MULTILABEL, several), (MULTILABEL, 1 - several)]:
        (gradient,) = torch.autograd.grad(make("focal", task, gamma=gamma)(logits, targets), logits)
        assert torch.isfinite(gradient).all()


def test_balanced_weights_are_scikit_learns() -> None:
    labels = [number for number, count in enumerate(COUNTS) for _ in range(count)]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    loss = make("torch/CrossEntropyLoss", class_weights="balanced")
    assert loss.weights.tolist() == pytest.approx(expected.tolist())
    logits, targets = batch(MULTICLASS)
    theirs = nn.CrossEntropyLoss(torch.tensor(expected, dtype=torch.float32))(logits, targets)
    assert float(loss(logits, targets)) == pytest.approx(float(theirs))


def test_a_class_without_images_weighs_one() -> None:
    loss = LOSSES["torch/CrossEntropyLoss"](class_weights="balanced").build(MULTICLASS, (10, 0, 30), 40)
    assert loss.weights.tolist() == pytest.approx([2.0, 1.0, 40 / 60])
    with pytest.raises(fw.FwError, match="no class has a training image"):
        LOSSES["torch/CrossEntropyLoss"](class_weights="balanced").build(MULTICLASS, (0, 0, 0), 0)


def test_balanced_positives_are_negatives_over_positives() -> None:
    loss = make("torch/BCEWithLogitsLoss", MULTILABEL, pos_weight="balanced")
    assert loss.weights.tolist() == pytest.approx([9.0, 4.0, 3 / 7])
    logits, targets = batch(MULTILABEL)
    theirs = nn.BCEWithLogitsLoss(pos_weight=loss.weights)(logits, targets)
    assert float(loss(logits, targets)) == pytest.approx(float(theirs))
    with pytest.raises(fw.FwError, match="no training image has 'dog'"):
        LOSSES["torch/BCEWithLogitsLoss"](pos_weight="balanced").build(MULTILABEL, (1, 0, 3), 10)


@pytest.mark.parametrize("key", ["class_weights", "pos_weight"])
def test_weights_of_the_wrong_length_name_the_classes(key: str) -> None:
    name, task = ("focal", MULTICLASS) if key == "class_weights" else ("torch/BCEWithLogitsLoss", MULTILABEL)
    with pytest.raises(fw.FwError, match=f"{key} has 2 numbers and the task has 3") as caught:
        make(name, task, **{key: (1.0, 2.0)})
    assert "cat, dog, owl" in caught.value.hint


def test_label_smoothing_is_torchs() -> None:
    logits, targets = batch(MULTICLASS)
    ours = make("torch/CrossEntropyLoss", label_smoothing=0.2)(logits, targets)
    assert ours == nn.CrossEntropyLoss(label_smoothing=0.2)(logits, targets)


def test_weights_follow_the_logits_and_are_no_parameters() -> None:
    loss = make("torch/CrossEntropyLoss", class_weights="balanced")
    assert not list(loss.parameters())
    meta = torch.empty(4, 3, device="meta")
    assert loss(meta, torch.empty(4, dtype=torch.long, device="meta")).device.type == "meta"
