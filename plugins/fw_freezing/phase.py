"""Phase: one table of a freezing schedule: its keys, when it begins, and what trains under it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Literal

import attrs

import framework as fw
from fw_freezing.moments import KINDS, START, Moment
from fw_freezing.once import NORM
from fw_freezing.words import Words, meant_by, scales_by

Share = Annotated[float, fw.Bounds(gt=0, lt=1)]


@attrs.frozen(kw_only=True)
class Phase:
    """One `[[freezing.phases]]` table: when the phase begins, and what it changes; the rest stays as it was."""

    epoch: fw.PositiveInt | None = fw.key(None, "begins when so many epochs are done")
    step: fw.PositiveInt | None = fw.key(None, "begins when so many optimizer steps are done")
    fraction: Share | None = fw.key(None, "begins when this share of the run's steps is done")
    plateau: fw.PositiveInt | None = fw.key(None, "begins after so many epochs in a row without a better metric")
    train: Words | None = fw.key(None, "what trains: all, backbone, head, first:N, last:N, stages, globs of names")
    unfreeze: Words | None = fw.key(None, "what trains, too")
    freeze: Words | None = fw.key(None, "what trains no more")
    scale: fw.PositiveFloat | dict[str, fw.PositiveFloat] | None = fw.key(
        None, "learning-rate scale of what begins to train, or a table: { head = 1.0, backbone = 0.1 }"
    )
    norm: fw.NormMode | None = fw.key(None, NORM)
    schedule: Literal["continue", "restart", "warm_up"] = fw.key("continue", "what the scheduler does as it begins")


def moments_of(phases: Sequence[Phase]) -> tuple[Moment, ...]:
    """When each phase begins.

    Raises:
        fw.FwError: there is no phase; one that states no moment or several.
    """
    if not phases:
        raise fw.FwError("freezing.phases is empty", "begin with what trains first: [[freezing.phases]]")
    begins = []
    for number, phase in enumerate(phases):
        with _about(number, phases):
            begins.append(_moment_of(phase, is_first=number == 0))
    return tuple(begins)


def _moment_of(phase: Phase, is_first: bool) -> Moment:
    stated = [Moment(kind, at) for kind in KINDS if (at := getattr(phase, kind)) is not None]
    if is_first:
        if stated or phase.schedule != "continue":
            raise fw.FwError("it begins with the run", f"leave out {', '.join(KINDS)} and schedule")
        return START
    if len(stated) != 1:
        raise fw.FwError(f"it begins at {' and at '.join(map(str, stated)) or 'no moment'}",
                         f"state one of {', '.join(KINDS)}")  # fmt: skip
    return stated[0]


def plans_of(phases: Sequence[Phase], layout: fw.Layout) -> tuple[fw.Plan, ...]:
    """The plan of each phase on a network.

    Raises:
        fw.FwError: a word that means nothing there, a phase that changes nothing or under which nothing trains, a scale
            of what does not train, a restart that would not come.
    """
    plans: list[fw.Plan] = []
    trains: dict[str, float] = {}
    norm: fw.NormMode = "fixed"
    for number, phase in enumerate(phases):
        with _about(number, phases):
            trains, norm = _trained(phase, trains, layout), phase.norm or norm
            ordered = {name: trains[name] for name in layout.parameters if name in trains}
            plan = attrs.evolve(layout.plan(ordered, norm), schedule=phase.schedule)
            _require_effect(plan, plans)
            plans.append(plan)
    return tuple(plans)


def _require_effect(plan: fw.Plan, before: Sequence[fw.Plan]) -> None:
    """A plan that equals the one in force is not put in force again: its restart or recalibration would not come."""
    if plan in before[-1:] and (plan.schedule != "continue" or plan.recalibrate):
        raise fw.FwError("it says the same as the phase before, which would do nothing again",
                         "leave it out, or change what trains or at which scale")  # fmt: skip


def _trained(phase: Phase, before: Mapping[str, float], layout: fw.Layout) -> dict[str, float]:
    """What trains in a phase: parameter name -> scale."""
    _require_change(phase)
    frozen = meant_by(phase.freeze, layout)
    kept = {name: scale for name, scale in before.items() if phase.train is None and name not in frozen}
    joins = (meant_by(phase.train, layout) | meant_by(phase.unfreeze, layout)).difference(frozen, kept)
    trains = {**kept, **dict.fromkeys(joins, 1.0)}
    if not trains:
        raise fw.FwError("nothing trains", 'say what does, train = "head", or freeze less')
    if phase.scale is None or isinstance(phase.scale, Mapping):
        return {**trains, **scales_by(table_of(phase.scale), trains, layout)}
    names_some = phase.train is not None or phase.unfreeze is not None
    return {**trains, **_scaled(joins if names_some else trains, phase.scale)}


def _require_change(phase: Phase) -> None:
    changes = (phase.train, phase.unfreeze, phase.freeze, phase.scale, phase.norm)
    if phase.schedule == "continue" and all(change is None for change in changes):
        raise fw.FwError("it changes nothing", "say what trains: train, unfreeze or freeze; or scale, norm or schedule")


def _scaled(names: Collection[str], scale: float) -> dict[str, float]:
    if not names:
        raise fw.FwError(f"scale = {scale:g}, but what it unfreezes trains already, or is frozen",
                         "give what trains another scale by a table: scale = { head = 0.5 }")  # fmt: skip
    return dict.fromkeys(names, scale)


def table_of(scale: float | Mapping[str, float] | None) -> Mapping[str, float]:
    """A phase's scale as a table; a single number stands under no word."""
    if scale is None:
        return {}
    return scale if isinstance(scale, Mapping) else {"": scale}


@contextmanager
def _about(number: int, phases: Sequence[Phase]) -> Iterator[None]:
    """Says in an error which phase it is about."""
    try:
        yield
    except fw.FwError as error:
        place = f"[[freezing.phases]] phase {number + 1} of {len(phases)}"
        raise fw.FwError(f"{place}: {error.message}", error.hints) from None
