"""Losses with one fault each: the kit names exactly the check that the fault breaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import framework as fw
from framework.testing import failures
from framework.testing.of_losses import CHECKS, dense

pytestmark = pytest.mark.sweep  # every check of a kind, against every plugin with a fault

Criterion = Callable[[Tensor, Tensor], Tensor]
Build = Callable[[fw.Task, Sequence[int]], Criterion]


def plugin(build: Build) -> object:
    """A plugin with one loss, `bad`."""

    @attrs.frozen(kw_only=True)
    class Bad:
        """A loss."""

        def build(self, task: fw.Task, class_counts: Sequence[int], images: int) -> Criterion:
            return build(task, class_counts)

    class Plugin:
        @fw.hookimpl
        def fw_losses(self):
            return [fw.Component("bad", Bad)]

    return Plugin()


def of_task(multiclass: Criterion | None = None, multilabel: Criterion | None = None) -> Build:
    """The loss of the task's kind; a sound one where none is given."""
    return lambda task, counts: {
        "multiclass": multiclass or functional.cross_entropy,
        "multilabel": multilabel or functional.binary_cross_entropy_with_logits,
    }[task.kind]


def multiclass_only(criterion: Criterion) -> Build:
    def build(task: fw.Task, counts: Sequence[int]) -> Criterion:
        if task.kind != "multiclass":
            raise fw.FwError("for multiclass tasks")
        return criterion

    return build


def of_probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    return -(dense(targets) * logits.softmax(1)).sum(1).mean()


def sound(logits: Tensor, targets: Tensor) -> Tensor:
    return -(dense(targets) * logits.log_softmax(1)).sum(1).mean()


# ------------------------------------------------------------------------------------------------------- faults


def unfit(task: fw.Task, counts: Sequence[int]) -> Criterion:
    return {"multiclass": functional.cross_entropy}[task.kind]


def refused_when_called(task: fw.Task, counts: Sequence[int]) -> Criterion:
    return functional.cross_entropy if task.kind == "multiclass" else functional.nll_loss


def refuses_both(task: fw.Task, counts: Sequence[int]) -> Criterion:
    raise fw.FwError("for other tasks")


def by_place(logits: Tensor, targets: Tensor) -> Tensor:
    terms = functional.cross_entropy(logits, targets, reduction="none")
    weights = 1.0 + torch.arange(len(terms), device=terms.device) % 2
    return (terms * weights).sum() / weights.sum()


def forgetful(task: fw.Task, counts: Sequence[int]) -> Criterion:
    calls: list[int] = []

    def criterion(logits: Tensor, targets: Tensor) -> Tensor:
        calls.append(1)
        return sound(logits, targets) / len(calls)

    return multiclass_only(criterion)(task, counts)


def shifts_logits(logits: Tensor, targets: Tensor) -> Tensor:
    logits -= logits.detach().amax(dim=1, keepdim=True)
    return sound(logits, targets)


def smooths_targets(logits: Tensor, targets: Tensor) -> Tensor:
    targets.mul_(0.9).add_(0.05)
    return functional.binary_cross_entropy_with_logits(logits, targets)


class Tempered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return sound(logits / self.temperature, targets)


def per_positive(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / targets.sum()


def naive_log(logits: Tensor, targets: Tensor) -> Tensor:
    return -(dense(targets) * logits.softmax(1)).sum(1).log().mean()


def divided_by_counts(task: fw.Task, counts: Sequence[int]) -> Criterion:
    weights = [sum(counts) / count for count in counts]
    return multiclass_only(lambda x, y: functional.cross_entropy(x, y, x.new_tensor(weights)))(task, counts)


def infinite_weights(task: fw.Task, counts: Sequence[int]) -> Criterion:
    weights = sum(counts) / torch.tensor(counts)
    return multiclass_only(lambda x, y: functional.cross_entropy(x, y, weights.to(x.device)))(task, counts)


def stays_on_the_cpu(task: fw.Task, counts: Sequence[int]) -> Criterion:
    weights = torch.ones(len(task.classes))
    return multiclass_only(lambda x, y: -(dense(y) * weights * x.log_softmax(1)).sum(1).mean())(task, counts)


def hardened(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits, targets.argmax(1) if targets.dim() == 2 else targets)


def mixes_types(logits: Tensor, targets: Tensor) -> Tensor:
    scores = torch.zeros_like(logits)
    everywhere = torch.ones_like(logits, dtype=torch.bool)
    scores[everywhere] = (logits @ torch.eye(logits.shape[1], device=logits.device)).flatten()
    return sound(scores, targets)


def rounds(logits: Tensor, targets: Tensor) -> Tensor:
    return sound((logits + 300.0) @ torch.eye(logits.shape[1], device=logits.device), targets)


MUTANTS: list[tuple[str, Build]] = [
    ("takes_a_task_or_refuses_it", unfit),
    ("takes_a_task_or_refuses_it", refused_when_called),
    ("takes_a_task_or_refuses_it", refuses_both),
    ("gives_a_float32_scalar", multiclass_only(lambda x, y: sound(x, y).reshape(1))),
    ("gives_a_float32_scalar", multiclass_only(lambda x, y: sound(x, y).double())),
    ("its_gradient_reaches_the_logits", multiclass_only(lambda x, y: sound(x.detach(), y))),
    ("is_lower_for_right_logits", multiclass_only(lambda x, y: -sound(x, y))),
    ("is_lower_for_right_logits", of_task(multilabel=lambda x, y: functional.binary_cross_entropy_with_logits(-x, y))),
    ("is_a_mean_over_images", multiclass_only(lambda x, y: functional.cross_entropy(x, y, reduction="sum"))),
    ("ignores_the_order_of_images", multiclass_only(by_place)),
    ("gives_the_same_twice", forgetful),
    ("changes_neither_logits_nor_targets", multiclass_only(shifts_logits)),
    ("changes_neither_logits_nor_targets", of_task(multilabel=smooths_targets)),
    ("has_nothing_to_train", multiclass_only(Tempered())),
    ("takes_a_batch_of_one_image", multiclass_only(lambda x, y: functional.cross_entropy(x.squeeze(), y))),
    ("takes_images_of_no_class", of_task(multilabel=per_positive)),
    ("stays_finite_at_large_logits", multiclass_only(naive_log)),
    ("takes_a_class_without_images", divided_by_counts),
    ("takes_a_class_without_images", infinite_weights),
    ("takes_soft_targets_or_says_so", multiclass_only(lambda x, y: functional.nll_loss(x.log_softmax(1), y))),
    ("takes_soft_targets_or_says_so", multiclass_only(hardened)),
    ("computes_where_the_logits_are", stays_on_the_cpu),
    ("is_the_same_under_autocast", multiclass_only(mixes_types)),
    ("is_the_same_under_autocast", multiclass_only(rounds)),
]


@pytest.mark.parametrize(("check", "build"), MUTANTS, ids=[name for name, _ in MUTANTS])
def test_each_fault_breaks_one_check(check: str, build: Build) -> None:
    found = failures(plugin(build))
    print(found)
    assert set(found) == {f"bad-{check}"}


def test_every_check_has_a_mutant() -> None:
    names = [check.name for check in CHECKS]
    print(f"{len(MUTANTS)} mutants for {len(names)} checks of losses")
    assert {name for name, _ in MUTANTS} == set(names)


def looks_at_numbers(logits: Tensor, targets: Tensor) -> Tensor:
    kept = logits.isfinite().all(dim=1)
    return sound(logits[kept], targets[kept]) if kept.any().item() else logits.sum()


SOUND = [of_task(), *map(multiclass_only, (sound, of_probabilities, looks_at_numbers))]


@pytest.mark.parametrize("build", SOUND)
def test_a_sound_loss_passes(build: Build) -> None:
    assert failures(plugin(build)) == {}


def test_a_loss_that_refuses_soft_targets_passes() -> None:
    class Hard(nn.Module):
        supports_soft_targets = False

        def forward(self, *arguments: Any) -> Tensor:
            return functional.multi_margin_loss(*arguments)

    assert failures(plugin(multiclass_only(Hard()))) == {}


def test_checks_leave_torchs_random_state_as_it_was() -> None:
    before = torch.get_rng_state()
    found = failures(plugin(multiclass_only(lambda x, y: sound(functional.dropout(x, 0.2), y))))
    assert "bad-gives_the_same_twice" in found
    assert torch.equal(torch.get_rng_state(), before)
