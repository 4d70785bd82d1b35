"""Checks of losses: what a loss must hold, for each task that it takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import attrs
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from framework.assemble import Criterion
from framework.task import Task
from framework.testing.case import Case, Check, check
from framework.testing.training import numbers, told, undisturbed, unless_refused

CLASSES = ("cat", "dog", "owl", "yak")
TASKS = (Task("multiclass", CLASSES), Task("multilabel", CLASSES))
COUNTS = (10, 20, 30, 40)
IMAGES = 12
REFUSAL = "build() refuses a task that the loss is not made for by raising fw.FwError(what is wrong, what would do)"

MIXED = ("same device", "different devices")
"""What torch says where devices are mixed, which one depends on its version."""

# Sums of the same numbers in another order differ by some float32 rounding, 1e-7 of each.
ROUNDING = 1e-4
# bf16 keeps 8 bits: where a loss has one product computed in it, its value moves by less than a hundredth.
BF16_ROUNDING = 0.02


# ------------------------------------------------------------------------------------------------------- asking


@attrs.frozen(eq=False)
class Fit:
    """A loss and a task that it takes.

    Attributes:
        case: the loss.
        task: what is predicted.
        counts: training images of each class.
    """

    case: Case
    task: Task
    counts: Sequence[int] = COUNTS

    def build(self) -> Criterion:
        """A new one, which nothing has called yet."""
        criterion: Criterion = self.case.config().build(self.task, self.counts, sum(self.counts))
        return criterion

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """What a new one gives of copies, as a scalar: its shape, and what it writes to, are for other checks."""
        return self.build()(logits.clone(), targets.clone()).mean()

    def value(self, logits: Tensor, targets: Tensor) -> float:
        """The same as a number."""
        return float(self.loss(logits, targets))

    def slope(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The gradient at the logits; zero where none reaches them."""
        loss = self.loss(logits, targets)
        gradient = torch.autograd.grad(loss, logits, allow_unused=True)[0] if loss.requires_grad else None
        return torch.zeros_like(logits) if gradient is None else gradient

    def is_finite(self, logits: Tensor, targets: Tensor) -> bool:
        """Whether the loss and its gradient are numbers."""
        return math.isfinite(self.value(logits, targets)) and bool(torch.isfinite(self.slope(logits, targets)).all())

    def batch(self, images: int = IMAGES) -> tuple[Tensor, Tensor]:
        """Logits (N, classes) that are neither right nor wrong, and targets; the same at each call."""
        return movable(2 * numbers((images, len(CLASSES)), seed=1)), hard_targets(self.task, images)


def movable(logits: Tensor) -> Tensor:
    """The same with a gradient, and no leaf, as a head gives them."""
    return logits.clone().requires_grad_().clone()


def hard_targets(task: Task, images: int = IMAGES) -> Tensor:
    """Targets of unmixed images; in a whole batch each class occurs."""
    if task.kind == "multiclass":
        return torch.arange(images) % len(CLASSES)
    return (numbers((images, len(CLASSES)), seed=2) > 0).float()


def dense(targets: Tensor) -> Tensor:
    """Targets as float (N, classes)."""
    return targets if targets.is_floating_point() else functional.one_hot(targets, len(CLASSES)).float()


def logits_for(targets: Tensor, size: float) -> Tensor:
    """Logits as far as `size` on the right side of zero; on the wrong one where it is negative."""
    return movable(size * (2 * dense(targets) - 1))


def fits(case: Case, kind: str = "multi", counts: Sequence[int] = COUNTS) -> Iterator[Fit]:
    """The loss with each task that it takes; what it does with others is for one check alone to judge.

    Args:
        case: the loss.
        kind: what the kind of task begins with.
        counts: training images of each class.
    """
    for task in TASKS:
        if task.kind.startswith(kind) and _works(Fit(case, task)):
            yield Fit(case, task, counts)


def _works(fit: Fit) -> bool:
    try:
        fit.build()(*fit.batch())
    except Exception:
        return False
    return True


# ------------------------------------------------------------------------------------------------------- checks


@check
@undisturbed()
def takes_a_task_or_refuses_it(case: Case) -> None:
    """It is built for multiclass tasks, multilabel ones or both, and refuses what it is not made for when built."""
    taken = [task for task in TASKS if _takes(Fit(case, task))]
    assert taken, "it refuses multiclass tasks and multilabel ones: build() takes at least one of the two"


def _takes(fit: Fit) -> bool:
    fit.case.config()  # what is wrong with its keys is no refusal
    criterion = unless_refused(fit.build, f"build() fails for a {fit.task.kind} task; {REFUSAL}")
    if criterion is None:
        return False
    with told(f"it is built for a {fit.task.kind} task and cannot take its targets; {REFUSAL}"):
        criterion(*fit.batch())
    return True


@check
@undisturbed()
def gives_a_float32_scalar(case: Case) -> None:
    """The loss of a batch is one finite number, a float32 tensor without dimensions."""
    for fit in fits(case):
        loss = fit.build()(*fit.batch())
        found = f"{loss.dtype} {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        assert found == "torch.float32 ()", f"{fit.task.kind}: it gives {found}: average over images and classes"
        assert math.isfinite(loss), f"{fit.task.kind}: it gives {float(loss)} for ordinary logits"


@check
@undisturbed()
def its_gradient_reaches_the_logits(case: Case) -> None:
    """The loss has a finite gradient at the logits, which is not zero everywhere."""
    for fit in fits(case):
        gradient = fit.slope(*fit.batch())
        assert torch.isfinite(gradient).all(), f"{fit.task.kind}: its gradient at ordinary logits is not finite"
        assert gradient.any(), (
            f"{fit.task.kind}: no gradient reaches the logits, so that nothing would train: "
            "is something detached, compared or rounded, or computed under no_grad()?"
        )


@check
@undisturbed()
def is_lower_for_right_logits(case: Case) -> None:
    """The loss of logits that are all right is lower than that of logits that are all wrong."""
    for fit in fits(case):
        targets = hard_targets(fit.task)
        right, wrong = (fit.value(logits_for(targets, size), targets) for size in (3.0, -3.0))
        assert right < wrong, (
            f"{fit.task.kind}: {right:.4g} for right logits and {wrong:.4g} for wrong ones, and training lowers it: "
            "turn its sign, or look for a confusion of logits and targets"
        )


@check
@undisturbed()
def is_a_mean_over_images(case: Case) -> None:
    """A batch that holds each image twice has the same loss, so that batches and their parts can be averaged."""
    for fit in fits(case):
        logits, targets = fit.batch()
        once, twice = fit.value(logits, targets), fit.value(torch.cat([logits] * 2), torch.cat([targets] * 2))
        assert math.isclose(once, twice, rel_tol=ROUNDING), (
            f"{fit.task.kind}: {once:.6g} for a batch and {twice:.6g} for the same images twice: average over images; "
            "train.accumulate and the validation loss weigh a batch's loss by its images"
        )


@check
@undisturbed()
def ignores_the_order_of_images(case: Case) -> None:
    """The same images in another order have the same loss."""
    for fit in fits(case):
        logits, targets = fit.batch()
        forward, backward = fit.value(logits, targets), fit.value(logits.flip(0), targets.flip(0))
        assert math.isclose(forward, backward, rel_tol=ROUNDING), (
            f"{fit.task.kind}: {forward:.6g} for a batch and {backward:.6g} with its images turned round: "
            "are logits compared with other images' targets, or images weighted by their place?"
        )


@check
@undisturbed()
def gives_the_same_twice(case: Case) -> None:
    """Called again with the same logits and targets, a loss gives the same: nothing is drawn or remembered."""
    for fit in fits(case):
        criterion = fit.build()
        first = float(criterion(*fit.batch()).mean())
        torch.manual_seed(1)
        again = float(criterion(*fit.batch()).mean())
        assert first == again, (
            f"{fit.task.kind}: {first:.6g} at first and {again:.6g} again: a loss draws nothing at random and "
            "remembers nothing, since validation calls it too and no checkpoint holds it"
        )


@check
@undisturbed()
def changes_neither_logits_nor_targets(case: Case) -> None:
    """Logits and targets are the same after the call as before it."""
    for fit in fits(case):
        logits, targets = fit.batch()
        fit.build()(logits, targets)
        for name, now, before in zip(("logits", "targets"), (logits, targets), fit.batch(), strict=True):
            assert torch.equal(now, before), (
                f"{fit.task.kind}: it changes the {name} in place, which metrics read after it: "
                "work on a copy (`x - y`, not `x -= y`)"
            )


@check
@undisturbed()
def has_nothing_to_train(case: Case) -> None:
    """A loss has no parameter that trains, since no optimizer would see it."""
    for fit in fits(case):
        criterion = fit.build()
        parameters = criterion.named_parameters() if isinstance(criterion, nn.Module) else ()
        names = [name for name, parameter in parameters if parameter.requires_grad]
        assert not names, f"no optimizer sees parameters of the loss: make {', '.join(names)} keys, or buffers"


@check
@undisturbed()
def takes_a_batch_of_one_image(case: Case) -> None:
    """A batch of one image, as the last of an epoch can be, has a loss and a gradient that are numbers."""
    for fit in fits(case):
        with told(f"{fit.task.kind}: it fails on a batch of one image; does a squeeze() take a dimension away?"):
            finite = fit.is_finite(*fit.batch(images=1))
        assert finite, f"{fit.task.kind}: the loss of a batch of one image, or its gradient, is not finite"


@check
@undisturbed()
def takes_images_of_no_class(case: Case) -> None:
    """In a multilabel task, images that have no class at all have a loss and a gradient that are numbers."""
    fit = next(fits(case, "multilabel"), None) or pytest.skip("it takes no multilabel task")
    logits, targets = fit.batch()
    with told("it fails on images that have none of the classes"):
        finite = fit.is_finite(logits, torch.zeros_like(targets))
    assert finite, "the loss of images that have none of the classes is not finite: is it divided by the positives?"


@check
@undisturbed()
def stays_finite_at_large_logits(case: Case) -> None:
    """Logits of 10,000, right or wrong, have a loss and a gradient that are numbers."""
    for fit in fits(case):
        targets = hard_targets(fit.task)
        for word, size in (("right", 1e4), ("wrong", -1e4)):
            assert fit.is_finite(logits_for(targets, size), targets), (
                f"{fit.task.kind}: the loss of {word} logits of 10,000, or its gradient, is not finite: use "
                "log_softmax and logsigmoid instead of the log of a probability, or clamp what log() takes"
            )


@check
@undisturbed()
def takes_a_class_without_images(case: Case) -> None:
    """A class that no training image has leaves the loss and its gradient finite, or is refused when built."""
    for fit in fits(case, counts=(0, *COUNTS[1:])):
        failing = f"{fit.task.kind}: build() fails where a class has no training image; weigh it 1, or raise FwError"
        assert unless_refused(fit.build, failing) is None or fit.is_finite(*fit.batch()), (
            f"{fit.task.kind}: the loss is not finite where a class has no training image: is something divided by "
            "its count? Weigh that class 1, or raise FwError"
        )


@check
@undisturbed()
def takes_soft_targets_or_says_so(case: Case) -> None:
    """A multiclass loss takes float targets (N, classes), as mixup makes them, or has supports_soft_targets = False."""
    fit = next(fits(case, "multiclass"), None) or pytest.skip("it takes no multiclass task")
    if not getattr(fit.build(), "supports_soft_targets", True):
        pytest.skip("it says that it takes no soft targets")
    logits, targets = fit.batch()
    alone = dense(targets)
    mixed = 0.7 * alone + 0.3 * alone.roll(1, dims=1)
    with told("it fails on float targets (N, classes); take them, or give the loss `supports_soft_targets = False`"):
        finite = fit.is_finite(logits, mixed)
    assert finite, "the loss of mixed targets (N, classes), or its gradient, is not finite"
    assert fit.value(logits, mixed) != fit.value(logits, alone), (
        "0.7 of a class and 0.3 of another count as the first alone, so that mixup does nothing: use the shares, or "
        "give the loss `supports_soft_targets = False`"
    )


@check
@undisturbed()
def is_the_same_under_autocast(case: Case) -> None:
    """With train.precision = "bf16" the loss is what it is without, and its gradient is finite."""
    for fit in fits(case):
        logits, targets = fit.batch()
        alone = fit.value(logits, targets)
        precision = f'{fit.task.kind}: under autocast, as train.precision = "bf16" has it,'
        with torch.autocast("cpu", torch.bfloat16), told(f"{precision} it fails"):
            value, finite = fit.value(logits, targets), fit.is_finite(logits, targets)
        assert finite, f"{precision} the loss, or its gradient, is not finite"
        assert math.isclose(value, alone, rel_tol=BF16_ROUNDING), (
            f"{precision} it is {value:.4g}, and {alone:.4g} without: logits come in float32; keep to operations "
            "that leave them so (no matrix product)"
        )


@check
@undisturbed()
def computes_where_the_logits_are(case: Case) -> None:
    """With logits and targets on a GPU, all that the loss computes with is there too."""
    for fit in fits(case):
        assert not _stays_behind(fit), (
            f"{fit.task.kind}: tensors of the loss stay on the CPU when logits are on a GPU: make them buffers of an "
            "nn.Module, or move them by `.to(logits.device)`"
        )


def _stays_behind(fit: Fit) -> bool:
    """Whether devices are mixed, seen on tensors that have no numbers, so that no GPU is needed."""
    with FakeTensorMode():
        try:
            criterion = fit.build()
            moved = criterion.to("cuda") if isinstance(criterion, nn.Module) else criterion
            moved(*(tensor.to("cuda") for tensor in fit.batch()))
        except RuntimeError as error:
            return any(words in str(error) for words in MIXED)
        except Exception:  # it looks at numbers, so that there is no telling
            return False
    return False


CHECKS: tuple[Check, ...] = (
    takes_a_task_or_refuses_it,
    gives_a_float32_scalar,
    its_gradient_reaches_the_logits,
    is_lower_for_right_logits,
    is_a_mean_over_images,
    ignores_the_order_of_images,
    gives_the_same_twice,
    changes_neither_logits_nor_targets,
    has_nothing_to_train,
    takes_a_batch_of_one_image,
    takes_images_of_no_class,
    stays_finite_at_large_logits,
    takes_a_class_without_images,
    takes_soft_targets_or_says_so,
    is_the_same_under_autocast,
    computes_where_the_logits_are,
)
