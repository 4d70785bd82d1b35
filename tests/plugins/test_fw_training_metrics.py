"""Metrics against scikit-learn on random data, with absent classes, two classes and a single label."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor

import framework as fw
from fw_training.metrics import METRICS


def task_of(kind: Any, classes: int) -> fw.Task:
    return fw.Task(kind, tuple(f"c{number}" for number in range(classes)))


def value(name: str, task: fw.Task, preds: Tensor, targets: Tensor, **keys: Any) -> float:
    metric = METRICS[name](**keys).build(task)
    for part in zip(preds.split(7), targets.split(7), strict=True):
        metric.update(*part)
    return float(metric.compute())


def multiclass(classes: int, seed: int, absent: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    preds = (2 * torch.randn(60, classes, generator=generator)).softmax(1)
    present = torch.tensor([number for number in range(classes) if number not in absent])
    return preds, present[torch.randint(0, len(present), (60,), generator=generator)]


def multilabel(labels: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    preds = torch.rand(50, labels, generator=generator)
    return preds, (torch.rand(50, labels, generator=generator) < 0.3).float()


def one_against_rest(preds: np.ndarray, hot: np.ndarray) -> float:
    scored = [number for number in range(hot.shape[1]) if 0 < hot[:, number].sum() < len(hot)]
    return float(np.mean([sk.roc_auc_score(hot[:, number], preds[:, number]) for number in scored]))


MULTICLASS_CASES = [(5, ()), (5, (2,)), (4, (0, 3)), (2, ()), (10, (1, 2, 3))]


@pytest.mark.parametrize(("classes", "absent"), MULTICLASS_CASES)
@pytest.mark.parametrize("seed", range(3))
def test_multiclass_figures_are_scikit_learns(classes: int, absent: tuple[int, ...], seed: int) -> None:
    preds, targets = multiclass(classes, seed, absent)
    task, said, true = task_of("multiclass", classes), preds.argmax(1).numpy(), targets.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "accuracy": sk.accuracy_score(true, said),
            "balanced_accuracy": sk.balanced_accuracy_score(true, said),
            "macro_f1": sk.f1_score(true, said, average="macro"),
            "auroc": one_against_rest(preds.numpy(), np.eye(classes)[true]),
        }
    if not absent and classes > 2:
        assert expected["auroc"] == pytest.approx(sk.roc_auc_score(true, preds, multi_class="ovr"))
    for name, figure in expected.items():
        assert value(name, task, preds, targets) == pytest.approx(figure, abs=1e-6), name


@pytest.mark.parametrize("labels", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_multilabel_figures_are_scikit_learns(labels: int, seed: int) -> None:
    preds, targets = multilabel(labels, seed)
    if labels > 1:
        targets[:, 1] = 0.0
        preds[:, 1] *= 0.4  # neither a target nor a prediction
    task, said, true = task_of("multilabel", labels), (preds >= 0.5).numpy(), targets.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "accuracy": 1 - sk.hamming_loss(true, said),
            "balanced_accuracy": np.mean(
                [sk.balanced_accuracy_score(t, s) for t, s in zip(true.T, said.T, strict=True)]
            ),
            "macro_f1": np.mean([sk.f1_score(t, s, zero_division=0) for t, s in zip(true.T, said.T, strict=True)]),
            "auroc": one_against_rest(preds.numpy(), true),
        }
    for name, figure in expected.items():
        assert value(name, task, preds, targets) == pytest.approx(float(figure), abs=1e-6), name


def test_two_classes_score_as_one_decision() -> None:
    preds, targets = multiclass(2, 0)
    binary = sk.roc_auc_score(targets, preds[:, 1])
    assert value("auroc", task_of("multiclass", 2), preds, targets) == pytest.approx(binary)


def expected_calibration(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    place = np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1)
    parts = [(confidence[place == b], right[place == b]) for b in range(bins) if (place == b).any()]
    return float(sum(abs(c.mean() - r.mean()) * len(c) for c, r in parts) / len(confidence))


def test_calibration_error_is_its_definition() -> None:
    preds, targets = multiclass(4, 1)
    confidence, said = preds.double().max(1)
    figure = expected_calibration(confidence.numpy(), (said == targets).numpy(), 10)
    assert value("ece", task_of("multiclass", 4), preds, targets, bins=10) == pytest.approx(figure, abs=1e-5)
    preds, targets = multilabel(3, 1)
    figure = expected_calibration(preds.double().numpy().ravel(), targets.numpy().ravel(), 10)
    assert value("ece", task_of("multilabel", 3), preds, targets, bins=10) == pytest.approx(figure, abs=1e-5)


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
@pytest.mark.parametrize("name", list(METRICS))
def test_direction_and_bounds(name: str, kind: Any) -> None:
    metric = METRICS[name]().build(task_of(kind, 3))
    assert metric.higher_is_better is (name != "ece")
    hot = torch.eye(3)
    metric.update(hot, torch.arange(3) if kind == "multiclass" else hot)
    assert float(metric.compute()) == pytest.approx(0.0 if name == "ece" else 1.0)
    metric.reset()
    metric.update(hot, torch.arange(3).flip(0) if kind == "multiclass" else 1 - hot)
    assert 0.0 <= float(metric.compute()) <= 1.0


def test_an_undefined_area_warns() -> None:
    preds, targets = torch.tensor([[0.2, 0.8], [0.4, 0.6]]), torch.tensor([1, 1])
    with pytest.warns(UserWarning, match="AUROC is not defined"):
        assert math.isnan(value("auroc", task_of("multiclass", 2), preds, targets))


def test_only_the_area_can_be_undefined() -> None:
    preds, targets = torch.tensor([[0.2, 0.8], [0.4, 0.6]]), torch.tensor([1, 1])
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        assert value(name, task_of("multiclass", 2), preds, targets) == 1.0
        assert math.isfinite(value(name, task_of("multilabel", 2), preds, torch.zeros(2, 2)))


def test_half_precision_probabilities_are_taken() -> None:
    preds, targets = multiclass(3, 0)
    for name in METRICS:
        assert math.isfinite(value(name, task_of("multiclass", 3), preds.bfloat16(), targets))
