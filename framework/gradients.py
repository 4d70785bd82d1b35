"""Gradients: the norms by stage that a freezing policy wants to know, summed up until it is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from framework.contracts import FreezingPolicy, Layout
from framework.errors import FwError, name_hints


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


SIGNALS: Mapping[str, Callable[[nn.Parameter], Tensor]] = {"grad_norm": _gradient, "weight_norm": nn.Parameter.detach}
"""What a policy can want -> the tensor of a parameter whose norm it is."""


def wanted_signals(policy: FreezingPolicy, use: str) -> tuple[str, ...]:
    """The signals that a policy wants, in an order of their own.

    Args:
        policy: is asked once, before training.
        use: what the recipe calls it.

    Raises:
        FwError: one that there is not.
    """
    wanted = sorted(policy.wants())
    for name in wanted:
        if name not in SIGNALS:
            raise FwError(f"the policy {use!r} wants the signal {name!r}, which there is not",
                          name_hints(name, list(SIGNALS), "signals"))  # fmt: skip
    return tuple(wanted)


@attrs.frozen(eq=False)
class Norms:
    """Of one optimizer step, on the device until somebody looks.

    Attributes:
        stages: those that a gradient has reached.
        signals: signal -> (stages,), of the parameters that a gradient has reached.
    """

    stages: tuple[str, ...]
    signals: Mapping[str, Tensor]


@attrs.define
class Tally:
    """Signals summed up over the steps since the policy was last asked.

    Attributes:
        steps: how many had a gradient.
        sums: signal -> stage -> sum.
    """

    steps: int = 0
    sums: dict[str, dict[str, float]] = attrs.field(factory=dict)

    def add(self, norms: Norms) -> None:
        """Counts a step."""
        self.steps += 1
        for signal, values in norms.signals.items():
            sums = self.sums.setdefault(signal, {})
            for stage, value in zip(norms.stages, values.tolist(), strict=True):
                sums[stage] = sums.get(stage, 0.0) + value

    def take(self) -> dict[str, dict[str, float]]:
        """The mean of each signal over these steps, which are forgotten."""
        means = {signal: {stage: value / self.steps for stage, value in sums.items()}
                 for signal, sums in self.sums.items()}  # fmt: skip
        self.steps, self.sums = 0, {}
        return means


class Gradients:
    """Looks at the gradients of a network before its optimizer steps.

    Args:
        wanted: signals; where there are none, nothing is looked at.
        network: whose gradients they are.
        layout: its stages.
    """

    def __init__(self, wanted: Sequence[str], network: nn.Module, layout: Layout) -> None:
        self._wanted = wanted
        parameters = dict(network.named_parameters()) if wanted else {}
        stages = layout.stages if wanted else ()
        self._stages = {stage.name: [parameters[name] for name in stage.parameters] for stage in stages}
        self._pending: list[Norms] = []

    def note(self) -> None:
        """Remembers the norms of the gradients as they are, without waiting for the device to compute them."""
        reached = {name: found for name, members in self._stages.items()
                   if (found := [p for p in members if p.grad is not None])}  # fmt: skip
        if reached:  # none is where no image of the step could be read
            stages = tuple(reached.values())
            self._pending.append(Norms(tuple(reached), {signal: _norms(signal, stages) for signal in self._wanted}))

    def settle(self, tally: Tally) -> None:
        """Adds what is remembered to a tally, in its order, so that the sums do not depend on when this is called."""
        for norms in self._pending:
            tally.add(norms)
        self._pending.clear()


def _norms(signal: str, stages: Sequence[Sequence[nn.Parameter]]) -> Tensor:
    tensor_of = SIGNALS[signal]
    return torch.stack([get_total_norm([tensor_of(parameter) for parameter in members]) for members in stages])
