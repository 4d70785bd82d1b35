"""Schedulers: the family `torch/<scheduler>`, and what any library's family of schedulers is made with."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch.optim import Optimizer, lr_scheduler

import framework as fw

Every = Literal["auto", "step", "epoch"]

SPAN_ARGUMENTS = frozenset({"T_max", "total_steps", "total_iters", "t_initial"})
"""Arguments that say how long a schedule lasts; left out of a recipe, they are the span that it is given."""

GROUP_RATES = frozenset({"base_lr", "max_lr"})
"""Learning rates that may differ by group: a recipe states the optimizer's, groups get it in their own proportion."""

GROUP_NUMBERS = frozenset({"min_lr", "base_momentum", "max_momentum"})
"""Numbers that may differ by group; groups are the core's, so that a recipe states one for all."""

CODE_ONLY = frozenset({"optimizer", "last_epoch", "epochs", "steps_per_epoch", "t_in_epochs", "initialize"})
"""Arguments that the span, the checkpoint or the key `every` stand for."""

MEANT_PER_STEP = frozenset({"OneCycleLR", "CyclicLR"})
"""The classes of torch whose documentation says to step them after every batch."""


class LibraryScheduler:
    """A library's scheduler behind the contract `fw.Scheduler`; subclasses say how it advances.

    Its state is the scheduler's plain attributes. Every other one (counters by milestone, functions, the optimizer)
    is what the constructor makes of the same keys, so that it need not be kept.
    """

    def __init__(self, inner: Any, every: Literal["step", "epoch"]) -> None:
        self.inner = inner
        self.every = every
        self.count = 0

    def step(self, progress: fw.Progress, metric: float | None = None) -> None:
        """One step or epoch is done."""
        self.count += 1
        self.advance(metric)

    def advance(self, metric: float | None) -> None:
        """Moves the library's scheduler to `count`."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """How far it is, as JSON values."""
        return {"count": self.count, "inner": plain_state(self.inner)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what `state_dict` gave; learning rates are the optimizer's."""
        self.count = state["count"]
        load_plain_state(self.inner, state["inner"])


class TorchScheduler(LibraryScheduler):
    """A scheduler of torch. One of a fixed length (OneCycleLR) stays at its last rate when that is over."""

    def advance(self, metric: float | None) -> None:
        """One more step, with the metric where the scheduler takes one."""
        if takes_metric(type(self.inner)):
            if metric is not None:
                self.inner.step(metric)
        elif self.count < getattr(self.inner, "total_steps", math.inf):
            self.inner.step()


def takes_metric(library: type[Any]) -> bool:
    """Whether a scheduler of torch is driven by a metric."""
    return "metrics" in inspect.signature(library.step).parameters


class SchedulerConfig:
    """Builds a library's scheduler from a config class that was made from its signature."""

    library_class: ClassVar[type[Any]]
    wrapper: ClassVar[type[LibraryScheduler]]
    meant: ClassVar[Literal["step", "epoch"]]
    by_metric: ClassVar[bool]

    def build(self, optimizer: Optimizer, steps: int, epochs: int, every: Every = "auto") -> LibraryScheduler:
        """The scheduler on this optimizer, over a span of `steps` optimizer steps in `epochs` epochs.

        Raises:
            FwError: the library refuses a value, in its words; a metric's scheduler is to move at steps.
        """
        kind, name = type(self), type(self).__name__
        moves = kind.meant if every == "auto" else every
        if kind.by_metric and moves == "step":
            raise fw.FwError(
                f"[scheduler] {name} waits for the validation metric and cannot move every step", 'set every = "epoch"'
            )
        try:
            inner = kind.library_class(
                optimizer, **self.arguments(optimizer, steps if moves == "step" else epochs, moves)
            )
        except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
            raise fw.FwError(f"[scheduler] {name}: {error}", "mend the keys of [scheduler]") from error
        return kind.wrapper(inner, moves)

    def arguments(self, optimizer: Optimizer, span: int, moves: str) -> dict[str, Any]:
        """The keyword arguments of the library's constructor; `span` is counted in what it moves at."""
        stated = fw.recipe_arguments(self)
        known = inspect.signature(type(self).library_class).parameters
        spans = {name: stated.get(name, span) for name in SPAN_ARGUMENTS.intersection(known)}
        rates = {name: group_rates(optimizer, stated.get(name)) for name in GROUP_RATES.intersection(known)}
        return {**stated, **spans, **rates}


def group_rates(optimizer: Optimizer, rate: float | None) -> list[float]:
    """A learning rate for each group: `rate` in the proportion of the group's to the optimizer's, or the group's."""
    own = [float(group["lr"]) for group in optimizer.param_groups]
    whole = float(optimizer.defaults["lr"])
    return own if rate is None else [rate * (lr / whole) if whole else rate for lr in own]


class TorchSchedulerConfig(SchedulerConfig):
    """Builds a scheduler of torch."""

    wrapper = TorchScheduler


def scheduler_config(
    name: str, library: type[Any], base: type[SchedulerConfig], *, meant: str, by_metric: bool, doc: str = ""
) -> type[Any]:
    """A config class of a scheduler, from the signature of its constructor.

    A scheduler that a metric drives has a required key `mode`: whether more or less is better depends on the recipe's
    `monitor`, and a wrong guess would lower the learning rate of a run that improves.

    Raises:
        TypeError: it needs a function or other schedulers, which a recipe cannot state.
    """
    empty = inspect.Parameter.empty
    overrides: dict[str, tuple[Any, Any]] = dict.fromkeys(SPAN_ARGUMENTS, (fw.PositiveInt | None, None))
    for number in GROUP_RATES | GROUP_NUMBERS:
        parameter = inspect.signature(library).parameters.get(number)
        default = parameter.default if parameter else empty
        overrides[number] = (fw.NonNegative, float(default) if isinstance(default, (int, float)) else empty)
    overrides["max_lr"] = (fw.PositiveFloat | None, None)
    if by_metric:
        overrides["mode"] = (Literal["min", "max"], empty)
    config = fw.config_from_signature(name, library, skip=CODE_ONLY, overrides=overrides, base=base, doc=doc)
    config.library_class, config.meant, config.by_metric = library, meant, by_metric
    return config


def scheduler_family() -> fw.Family:
    """The family `torch/<scheduler>`: every class of `torch.optim.lr_scheduler` whose arguments a recipe can state.

    Those that need a function (LambdaLR, MultiplicativeLR) or other schedulers (SequentialLR, ChainedScheduler) are
    not in it; phases of schedulers are `[[scheduler]]` tables.
    """
    return fw.Family("torch", lambda: [name for name in _classes() if _config(name) is not None], _member)


def _member(name: str) -> fw.Component:
    config = _config(name) if name in _classes() else None
    if config is None:
        hints = fw.name_hints(name, list(_classes()), "schedulers")
        raise fw.FwError(f"torch has no scheduler {name!r} that a recipe can state", hints)
    return fw.Component(f"torch/{name}", config)


def _config(name: str) -> type[Any] | None:
    library = _classes()[name]
    meant = "step" if name in MEANT_PER_STEP else "epoch"
    try:
        return scheduler_config(name, library, TorchSchedulerConfig, meant=meant, by_metric=takes_metric(library))
    except TypeError:
        return None


def _classes() -> dict[str, type[Any]]:
    base = lr_scheduler.LRScheduler
    members = {name: getattr(lr_scheduler, name) for name in lr_scheduler.__all__}
    return {name: kind for name, kind in members.items() if issubclass(kind, base) and kind is not base}


# ----------------------------------------------------------------------------------------------------- state


def plain_state(scheduler: Any) -> dict[str, Any]:
    """The attributes of a library's scheduler that JSON can hold exactly, those of a scheduler inside it included."""
    state = {}
    for name, value in vars(scheduler).items():
        if hasattr(value, "optimizer"):
            state[name] = plain_state(value)
        elif _is_plain(value):
            state[name] = _encode(value)
    return state


def load_plain_state(scheduler: Any, state: Mapping[str, Any]) -> None:
    """Takes what `plain_state` gave."""
    for name, value in state.items():
        if isinstance(value, dict) and "float" not in value:
            load_plain_state(getattr(scheduler, name), value)
        else:
            setattr(scheduler, name, _decode(value))


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _encode(value: Any) -> Any:
    if isinstance(value, list):
        return [_encode(item) for item in value]
    # JSON has no infinity, where a plateau's best value starts; a library's float may be numpy's.
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return float(value["float"]) if isinstance(value, dict) else value
