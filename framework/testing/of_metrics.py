"""Checks of metrics: what they give, what they depend on, and scikit-learn's figures."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeGuard

import attrs
import pytest
import torch
from torch import Tensor

from framework.score import measure
from framework.testing.answers import Answers, drawn, scikit_learns, task_of
from framework.testing.case import Case, Check, check

if TYPE_CHECKING:
    from torchmetrics import Metric

TASKS = (task_of("multiclass", 4), task_of("multilabel", 3))
SMALL_TASKS = (task_of("multiclass", 2), task_of("multilabel", 1))
CLOSE = 1e-5
"""Sums of 48 float32 figures in another order agree to about 1e-6."""
BATCH = 7


@attrs.frozen(eq=False)
class Scored:
    """A component as the metric of one task, and predictions for it.

    Attributes:
        config: of the component.
        answers: random ones.
    """

    config: Any
    answers: Answers

    def new(self) -> Any:
        """The metric, new."""
        return self.config.build(self.answers.task)

    def value(self, answers: Answers) -> float:
        """What a new one gives, used as a run uses it."""
        given = answers.copied
        return measure({"": self.new()}, given.probabilities, given.targets)[""]


@check
def gives_a_metric(case: Case) -> None:
    """`build` gives a torchmetrics metric, or None where the task does not suit it, but not for both tasks."""
    config = case.config()
    made = [config.build(task) for task in TASKS]
    for task, metric in zip(TASKS, made, strict=True):
        assert metric is None or _is_metric(metric), (
            f"for a {task.kind} task build gave {metric!r}; it must give a torchmetrics.Metric, or None"
        )
    assert any(metric is not None for metric in made), (
        "build gives None for a multiclass and for a multilabel task, so that it is never computed"
    )


@check
def gives_a_finite_number(case: Case) -> None:
    """Updated with probabilities and targets, it computes one finite number."""
    for scored in _scored(case):
        kind, made = scored.answers.task.kind, _computed(scored.new(), scored.answers)
        assert _is_number(made), f"for a {kind} task it computes {made!r}; give one number: average over the classes"
        assert math.isfinite(made), f"for a {kind} task it computes {float(made)}, though every class has images"


@check
def small_tasks_are_scored(case: Case) -> None:
    """A task of two classes or of one label, a single image, images of one class: none is an error, it may be nan."""
    config = case.config()
    for task in (*TASKS, *SMALL_TASKS):
        answers = drawn(task)
        alike = attrs.evolve(answers, targets=torch.zeros_like(answers.targets))
        for few in (answers.take(slice(1)), alike):
            try:
                metric = config.build(task)
                if _is_metric(metric):
                    _computed(metric, few)
            except Exception as error:
                raise AssertionError(
                    f"a {task.kind} task of {task.num_classes}, scored on {len(few)} images of one class, ends in "
                    f"{type(error).__name__}: {error}; leave out what is not defined, or give nan; "
                    "where a task does not suit the metric, let `build` give None"
                ) from error


@check
def batches_do_not_matter(case: Case) -> None:
    """Updated once with all images or batch by batch, it computes the same."""
    for scored in _numbers(case):
        answers = scored.answers
        batches = [answers.take(slice(at, at + BATCH)) for at in range(0, len(answers), BATCH)]
        whole, parts = scored.value(answers), float(_computed(scored.new(), *batches))
        assert _close(whole, parts), (
            f"all images at once give {whole:.6f}, batches of {BATCH} give {parts:.6f}; "
            "add up counts in `update`, or keep the predictions, and divide in `compute` alone"
        )


@check
def order_does_not_matter(case: Case) -> None:
    """The same images in another order give the same number."""
    for scored in _numbers(case):
        there = scored.value(scored.answers)
        back = scored.value(scored.answers.take(torch.arange(len(scored.answers)).flip(0)))
        assert _close(there, back), (
            f"the images give {there:.6f}, in the opposite order {back:.6f}; a metric is one of a set of images"
        )


@check
def reset_forgets(case: Case) -> None:
    """After `reset` it computes what a new one would."""
    for scored in _numbers(case):
        metric = scored.new()
        _computed(metric, drawn(scored.answers.task, seed=1))
        metric.reset()
        after, new = float(_computed(metric, scored.answers)), scored.value(scored.answers)
        assert _close(after, new), (
            f"after other images and a reset it gives {after:.6f}, a new one {new:.6f}; "
            "keep what it counts in states: self.add_state(name, default, dist_reduce_fx)"
        )


@check
def leaves_predictions_alone(case: Case) -> None:
    """Probabilities and targets are the same afterwards: a run scores them further and writes them to a file."""
    for scored in _numbers(case):
        answers, given = scored.answers, scored.answers.copied
        scored.new().update(given.probabilities, given.targets)
        assert torch.equal(given.probabilities, answers.probabilities), "`update` changes the probabilities it is given"
        assert torch.equal(given.targets, answers.targets), "`update` changes the targets it is given"


@check
def knows_which_way_is_better(case: Case) -> None:
    """Where it says which way is better, perfect predictions score no worse than random ones."""
    stated = [(scored, way) for scored in _numbers(case) if (way := scored.new().higher_is_better) is not None]
    if not stated:
        pytest.skip("it does not say which way is better, and no run can monitor it")
    for scored, higher in stated:
        perfect, random = scored.value(scored.answers.perfect), scored.value(scored.answers)
        gain = perfect - random if higher else random - perfect
        assert gain > -CLOSE, (
            f"higher_is_better is {higher}, but perfect predictions score {perfect:.6f} and random ones {random:.6f}; "
            "a run that monitors it would keep its worst network"
        )


@check
def stays_within_its_bounds(case: Case) -> None:
    """Where its class states `plot_lower_bound` or `plot_upper_bound`, what it computes lies between them."""
    for scored in _numbers(case):
        metric = scored.new()
        low, high = (_bound(metric, name) for name in ("plot_lower_bound", "plot_upper_bound"))
        for answers in (scored.answers, scored.answers.perfect, scored.answers.wrong):
            value = scored.value(answers)
            within = (
                (-math.inf if low is None else low) - CLOSE <= value <= (math.inf if high is None else high) + CLOSE
            )
            assert within, (
                f"it states the bounds {low} and {high}, but gives {value:.6f}; mend what it computes, or its "
                "plot_lower_bound and plot_upper_bound"
            )


@check
def agrees_with_scikit_learn(case: Case) -> None:
    """Where scikit-learn knows a metric of its name, both compute the same number."""
    for scored in _numbers(case):
        known = scikit_learns(case.name, scored.answers)
        if not known:
            pytest.skip("scikit-learn knows no metric of its name")
        value = scored.value(scored.answers)
        listed = ", ".join(f"{figure} {number:.6f}" for figure, number in known.items())
        assert any(_close(value, number) for number in known.values()), (
            f"for a {scored.answers.task.kind} task it gives {value:.6f}, but scikit-learn's {listed}; "
            "mend it, or call it something else"
        )


def _is_metric(made: Any) -> TypeGuard[Metric]:
    from torchmetrics import Metric  # takes seconds, of which checks of other kinds need not know

    return isinstance(made, Metric)


def _scored(case: Case) -> Iterator[Scored]:
    """The component as a metric of each task that suits it."""
    config = case.config()
    for task in TASKS:
        if _is_metric(config.build(task)):
            yield Scored(config, drawn(task))


def _numbers(case: Case) -> list[Scored]:
    """Those that compute one finite number; skips where there are none."""
    found = [scored for scored in _scored(case) if _is_finite(_computed(scored.new(), scored.answers))]
    if not found:
        pytest.skip("it computes no number")
    return found


def _computed(metric: Any, *batches: Answers) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for batch in batches:
            given = batch.copied
            metric.update(given.probabilities, given.targets)
        return metric.compute()


def _bound(metric: Metric, name: str) -> float | None:
    """A bound that the plugin states; torchmetrics' own are for its plots, and some are wrong (Cohen's kappa)."""
    owner = next(kind for kind in type(metric).__mro__ if name in vars(kind))
    bound: float | None = None if owner.__module__.startswith("torchmetrics.") else getattr(metric, name)
    return bound


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=CLOSE, abs_tol=CLOSE)


def _is_number(made: Any) -> bool:
    return isinstance(made, Tensor | float | int) and torch.as_tensor(made).numel() == 1


def _is_finite(made: Any) -> bool:
    return _is_number(made) and math.isfinite(made)


CHECKS: tuple[Check, ...] = (
    gives_a_metric,
    gives_a_finite_number,
    small_tasks_are_scored,
    batches_do_not_matter,
    order_does_not_matter,
    reset_forgets,
    leaves_predictions_alone,
    knows_which_way_is_better,
    stays_within_its_bounds,
    agrees_with_scikit_learn,
)
