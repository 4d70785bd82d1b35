"""Captures: the graphs of a network in both modes, from which those of all plans are put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from framework.capture import Capture, NotCaptured, capture
from framework.freezing import all_tensors, set_mode
from framework.shared import Shared
from framework.splicing import NotSpliced, splice
from framework.template import Template, constants_of, images_as
from framework.tracing import twin


class Captures:
    """Gives the graph of a network in the modes it is in.

    Where plans are to follow, the network is captured once with everything in evaluation mode and once with everything
    in train mode, and each plan's graph is spliced from the two; what cannot be spliced is captured under its plan.
    What other runs of a study captured of a network that was made alike is laid over this one.

    Args:
        network: between two graphs only modes, gradients and values of tensors change.
        several: whether plans are to follow.
        shared: with the other runs of a study.
        made_from: gives all that the network's operations depend on, as JSON values; asked where something is captured.
    """

    def __init__(
        self, network: nn.Module, several: bool = False, shared: Shared | None = None,
        made_from: Callable[[], Any] = lambda: None,
    ) -> None:  # fmt: skip
        self.network = network
        self.several = several
        self.shared = shared
        self.made_from = made_from
        self.spliced = False
        self._whole: dict[bool, Capture] = {}
        self._tensors: Mapping[str, Tensor] = {}

    def graph(self, images: Tensor) -> Capture:
        """The graph of the network in the modes it is in.

        Args:
            images: as `capture` takes them, always of one shape.

        Raises:
            NotCaptured: as `capture` says.
        """
        self._forget_of_others()
        modes = {name: module.training for name, module in self.network.named_modules()}
        if not any(modes.values()):
            return self._in_one_mode(False, images)
        if self.several:
            try:
                graph = splice(self._in_one_mode(False, images), self._in_one_mode(True, images), modes)
            except (NotCaptured, NotSpliced):
                self.several = False
            else:
                self.spliced = True
                return graph
        return self._captured(self.network, images)

    def capture_each(self) -> None:
        """Captures the network anew under each plan from now on."""
        self.several = self.spliced = False
        self._whole.clear()

    def _forget_of_others(self) -> None:
        """Forgets graphs over tensors that the network has no more."""
        tensors = all_tensors(self.network)
        if tensors.keys() != self._tensors.keys() or any(self._tensors[name] is not t for name, t in tensors.items()):
            self._whole.clear()
        self._tensors = tensors

    def _in_one_mode(self, mode: bool, images: Tensor) -> Capture:
        if mode not in self._whole:
            copied = twin(self.network)
            for module in copied.modules():
                set_mode(module, mode)
            self._whole[mode] = self._captured(copied, images)
        return self._whole[mode]

    def _captured(self, network: nn.Module, images: Tensor) -> Capture:
        """The graph of a network in the modes it is in, from another run where one has it."""
        if self.shared is None:
            return capture(network, images)
        training = [name for name, module in network.named_modules() if module.training]
        made_from = [self.made_from(), training, images_as(images), constants_of(network)]
        return self.shared.once("graph", made_from, lambda: Template.of(capture(network, images))).over(network)
