"""Checks of a backbone's stages, and of what the engine does with its module: copies, traces, formats, threads."""

from __future__ import annotations

import pytest
import torch

from framework.contracts import Grouping
from framework.errors import FwError
from framework.formats import in_format, place, resolved_format
from framework.testing.builds import laid_out, probe_of, sample_size, seen, working
from framework.testing.case import Case, Check, check
from framework.testing.chance import seeded
from framework.testing.probes import TOLERANCE, apart, require_bears_threads, require_copies, require_divides, said
from framework.tracing import trace


@check
def can_be_copied(case: Case) -> None:
    """`copy.deepcopy` takes the module: the runs of a study begin with copies, and to trace is to run a copy."""
    require_copies(working(case).module)


@check
def can_be_traced(case: Case) -> None:
    """The forward pass runs on shapes without data, which is how the order of its stages and their cost are found."""
    backbone = working(case)
    try:
        trace(backbone.module, sample_size(backbone))
    except FwError as error:
        raise AssertionError(
            f"{said(error)}; it was an image without data (device='meta'): ask no tensor for its values in the forward "
            "pass (item(), bool(), numpy()), make new tensors on its device, and let no lambda hold the module: "
            "that of a copy would call the original"
        ) from error
    except Exception:  # it cannot be copied for that
        pytest.skip("see can_be_copied")


@check
def layout_holds_each_parameter_once(case: Case) -> None:
    """Every parameter is in exactly one stage, and the grouping, where there is one, names none twice."""
    found = seen(case)
    grouping = found.backbone.grouping or Grouping(())
    named = [name for names in (*grouping.stages, grouping.neck) for name in names]
    twice = [name for name in named if named.count(name) > 1]
    assert not twice, f"the grouping names {twice[0]!r} twice: a parameter can be frozen or trained in one stage only"
    try:
        layout = found.layout()
    except FwError as error:
        raise AssertionError(f"{said(error)}; names are those of module.named_parameters()") from error
    there = [name for name, _ in found.network.named_parameters()]
    assert sorted(layout.parameters) == sorted(there), "the layout does not hold each parameter once"


@check
def stages_stand_in_forward_order(case: Case) -> None:
    """The first parameter of each stage is used after that of the stage before it."""
    found, layout = laid_out(case)
    uses = {f"backbone.{name}": moment for name, moment in found.trace.parameters.items()}
    used = {stage.name: [uses[name] for name in stage.parameters if name in uses] for stage in layout.stages}
    begins = {name: min(moments) for name, moments in used.items() if moments}
    order = sorted(begins, key=lambda name: begins[name])
    assert list(begins) == order, (
        f"the grouping has the stages {', '.join(begins)}, but the forward pass begins them as {', '.join(order)}: "
        "policies take the last stage to be the one next to the head"
    )


@check
def gradient_reaches_every_stage(case: Case) -> None:
    """A gradient at the features arrives in every stage, so that any policy can train any of them."""
    found, layout = laid_out(case, training=True)
    parameters = dict(found.network.named_parameters())
    if len(parameters) == len(layout.head.parameters):
        pytest.skip("it has no parameters")
    module = found.backbone.module.train()
    with torch.enable_grad(), seeded(0):
        features = module(probe_of(found.backbone).rows(4))
        assert features.requires_grad, "the features lead back to no parameter: no_grad(), requires_grad_(False)?"
        (features * torch.linspace(1, 2, features.numel()).view_as(features)).sum().backward()
    for stage in (*layout.body, *layout.tail):
        train = [parameters[name] for name in stage.parameters if name not in layout.fixed]
        gradients = [parameter.grad for parameter in train if parameter.grad is not None]
        assert gradients or not train, f"no gradient arrives in the stage {stage.name!r}: is there a detach()?"
        assert all(torch.isfinite(g).all() for g in gradients), f"gradients of the stage {stage.name!r} are not finite"


@check
def works_in_channels_last(case: Case) -> None:
    """Where most of its work is convolution, which the engine runs in channels_last, that gives the same features."""
    probe = probe_of(working(case))
    probe.require_steady()
    memory_format = resolved_format("auto", probe.module)
    if memory_format == "contiguous":
        pytest.skip("its work is not convolution")
    images = probe.rows(2)
    expected = probe.given(images)
    place(probe.module, torch.device("cpu"), memory_format)
    try:
        found = probe.given(in_format(images, memory_format))
    except Exception as error:  # a module may raise anything
        raise AssertionError(f"in channels_last it raises {said(error)}: use reshape() or flatten()") from error
    assert apart(expected, found) <= TOLERANCE, "in channels_last it gives other features"


@check
def bears_several_threads(case: Case) -> None:
    """Two threads may call the module at once in evaluation mode, as the engine does on a CPU."""
    require_bears_threads(probe_of(working(case)))


@check
def is_divided_rightly_or_not_at_all(case: Case) -> None:
    """Where the last stage trains, the exported network computes what the network does, or the core says why not."""
    found, layout = laid_out(case, training=True)
    probe = probe_of(found.backbone)
    if not (probe.is_steady and probe.is_repeatable):
        pytest.skip("see evaluates_the_same_each_time and draws_from_torchs_generator_alone")
    require_divides(found.network, layout, probe, found.trace.flops)


CHECKS: tuple[Check, ...] = (
    can_be_copied,
    can_be_traced,
    layout_holds_each_parameter_once,
    stages_stand_in_forward_order,
    gradient_reaches_every_stage,
    works_in_channels_last,
    bears_several_threads,
    is_divided_rightly_or_not_at_all,
)
