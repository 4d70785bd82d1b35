"""Each check of metrics finds a metric with that one fault, and says nothing against a good one."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassCohenKappa

import framework as fw
from framework.testing import failures
from framework.testing.of_metrics import CHECKS

pytestmark = pytest.mark.sweep  # every check of a kind, against every plugin with a fault


class Share(Metric):
    """The share of decisions that are right."""

    higher_is_better = True
    full_state_update = False
    plot_lower_bound, plot_upper_bound = 0.0, 1.0

    right: Tensor
    all: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("right", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("all", torch.tensor(0.0), dist_reduce_fx="sum")

    def hits(self, preds: Tensor, target: Tensor) -> Tensor:
        return (preds.argmax(1) == target if target.ndim == 1 else (preds >= 0.5) == target.bool()).float()

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.right += self.hits(preds, target).sum()
        self.all += target.numel()

    def compute(self) -> Any:
        return self.right / self.all


class PerClass(Share):
    def compute(self) -> Any:
        return super().compute().repeat(3)


class NeverFinite(Share):
    def compute(self) -> Any:
        return super().compute() * float("nan")


class Fussy(Share):
    def update(self, preds: Tensor, target: Tensor) -> None:
        if len(preds) < 2:
            raise ValueError("a single image")
        super().update(preds, target)


class MeanOfBatches(Share):
    def update(self, preds: Tensor, target: Tensor) -> None:
        self.right += self.hits(preds, target).mean()
        self.all += 1


class LaterImagesCountMore(Share):
    def update(self, preds: Tensor, target: Tensor) -> None:
        for row, hit in enumerate(self.hits(preds, target).flatten(1) if target.ndim > 1 else self.hits(preds, target)):
            weight = 1.0 + self.all + row
            self.right += weight * hit.mean()
        self.all += len(preds)

    def compute(self) -> Any:
        return self.right / (self.all * (self.all + 1) / 2)


class NeverForgets(Share):
    def reset(self) -> None:
        right, images = self.right, self.all
        super().reset()
        self.right, self.all = right, images


class ClampsInPlace(Share):
    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(preds.clamp_(0.01, 0.99), target)


class MarksInPlace(Share):
    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(preds, target)
        target[0] = 1 - target[0]


class Downwards(Share):
    higher_is_better = False


class InPercent(Share):
    def compute(self) -> Any:
        return 100 * super().compute()


@attrs.frozen(kw_only=True)
class Good:
    """The share of decisions that are right."""

    def build(self, task: fw.Task) -> Any:
        return Share()


@attrs.frozen(kw_only=True)
class Kappa:
    """Cohen's kappa: torchmetrics says that it lies in 0..1, and it does not."""

    def build(self, task: fw.Task) -> Any:
        return MulticlassCohenKappa(task.num_classes) if task.kind == "multiclass" else None


@attrs.frozen(kw_only=True)
class OfOneTask:
    """The share of right images, for one task."""

    def build(self, task: fw.Task) -> Any:
        return Share() if task.kind == "multiclass" else None


@attrs.frozen(kw_only=True)
class Function:
    """A function instead of a metric."""

    def build(self, task: fw.Task) -> Any:
        return lambda preds, target: 0.5


@attrs.frozen(kw_only=True)
class OfNoTask:
    """A metric that suits neither task."""

    def build(self, task: fw.Task) -> Any:
        return None


@attrs.frozen(kw_only=True)
class SeveralLabelsOnly:
    """A metric that refuses a single label."""

    def build(self, task: fw.Task) -> Any:
        if task.num_classes < 2:
            raise ValueError("more than one label, please")
        return Share()


def of(metric: type[Metric]) -> type[Any]:
    """A config class that builds this metric."""

    def build(self: Any, task: fw.Task) -> Any:
        return metric()

    made = attrs.make_class(metric.__name__, [], kw_only=True, frozen=True, class_body={"build": build})
    made.__doc__ = "A metric with a fault."
    return made


class Offers:
    """A plugin with one metric."""

    def __init__(self, config: type[Any], name: str = "sample") -> None:
        self.component = fw.Component(name, config)

    @fw.hookimpl
    def fw_metrics(self) -> Any:
        return [self.component]


MUTANTS = (
    ("gives_a_metric", Function),
    ("gives_a_metric", OfNoTask),
    ("gives_a_finite_number", of(PerClass)),
    ("gives_a_finite_number", of(NeverFinite)),
    ("small_tasks_are_scored", of(Fussy)),
    ("small_tasks_are_scored", SeveralLabelsOnly),
    ("batches_do_not_matter", of(MeanOfBatches)),
    ("order_does_not_matter", of(LaterImagesCountMore)),
    ("reset_forgets", of(NeverForgets)),
    ("leaves_predictions_alone", of(ClampsInPlace)),
    ("leaves_predictions_alone", of(MarksInPlace)),
    ("knows_which_way_is_better", of(Downwards)),
    ("stays_within_its_bounds", of(InPercent)),
)
KNOWN_NAMES = (
    "balanced_accuracy",
    "f1",
    "macro-f1",
    "roc_auc",
    "auroc_weighted",
    "average_precision",
    "precision_macro",
)


@pytest.mark.parametrize(
    ("config", "name"), [(Good, "sample"), (Good, "acme/accuracy"), (OfOneTask, "acme/micro_f1"), (Kappa, "kappa")]
)
def test_a_good_metric_passes(config: type[Any], name: str) -> None:
    assert failures(Offers(config, name)) == {}


@pytest.mark.parametrize(("check", "config"), MUTANTS, ids=[f"{config.__name__}-{check}" for check, config in MUTANTS])
def test_a_fault_is_found_and_nothing_else(check: str, config: type[Any]) -> None:
    found = failures(Offers(config))
    assert set(found) == {f"sample-{check}"}, found


@pytest.mark.parametrize("name", KNOWN_NAMES)
def test_a_name_that_scikit_learn_computes_otherwise(name: str) -> None:
    found = failures(Offers(Good, f"acme/{name}"))
    assert set(found) == {f"acme/{name}-agrees_with_scikit_learn"}, found
    assert "but scikit-learn's" in found.popitem()[1]


def test_each_check_has_a_mutant() -> None:
    names = {check.name for check in CHECKS}
    print(f"{len(MUTANTS) + len(KNOWN_NAMES)} faults for {len(names)} checks of metrics")
    assert names == {check for check, _ in MUTANTS} | {"agrees_with_scikit_learn"}
