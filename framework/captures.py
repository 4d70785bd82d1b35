"""Captures: the graphs of a network in both modes, from which those of all plans are put together."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from framework.capture import Capture, NotCaptured, capture
from framework.freezing import all_tensors, set_mode
from framework.splicing import NotSpliced, splice
from framework.tracing import twin


class Captures:
    """Gives the graph of a network in the modes it is in.

    Where plans are to follow, the network is captured once with everything in evaluation mode and once with everything
    in train mode, and each plan's graph is spliced from the two; what cannot be spliced is captured under its plan.

    Args:
        network: between two graphs only modes, gradients and values of tensors change.
        several: whether plans are to follow.
    """

    def __init__(self, network: nn.Module, several: bool = False) -> None:
        self.network = network
        self.several = several
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
        return capture(self.network, images)

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
            self._whole[mode] = capture(copied, images)
        return self._whole[mode]
