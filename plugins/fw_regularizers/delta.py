"""DELTA: the squared distance of feature maps from those of the network as it started (1901.09229)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import attrs
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.hooks import RemovableHandle

import framework as fw
from fw_regularizers.pull import HEAD_WEIGHT, pull


@attrs.frozen(kw_only=True)
class Delta:
    """Feature maps are pulled to what the network gave as it started, the head to zero (DELTA, 1901.09229).

    The term is weight/2 times the sum over stages of the mean squared difference between the stage's output and that of
    a copy of the network as the run began, on the same images, plus head_weight/2 times the squared length of the
    head's training parameters. What an adapter added is held by what it does to the maps, and by nothing else. Stages
    below the first that trains give what they gave, and are left out. It takes the place of weight decay, so leave
    `optimizer.weight_decay` at 0. The copy is in evaluation mode, as the authors' is: where batch norms train, or
    stages drop something, the term is not 0 at the start either.

    This is the paper's variant without attention. With it each channel has a weight of its own, by how much the loss
    rises without the channel, which takes a pass over training images for every channel of every map. The authors
    compare a convolution of each stage of a ResNet, here it is what the stage gives, on any backbone. Their code sums
    the squares over images, channels and positions; here it is the mean over all of them, so that a weight means the
    same at every batch size, resolution and width, though not at every size of the numbers in a map: try powers of ten.

    Each step costs a forward pass more, and the memory of one more network.
    """

    weight: fw.NonNegative = fw.key(1.0, "factor of half the mean squared difference of a stage's outputs; 0 for none")
    head_weight: fw.NonNegative = fw.key(0.01, HEAD_WEIGHT)

    def build(self) -> fw.Regularizer:
        """The regularizer."""
        return FeatureMaps(self)


class FeatureMaps(fw.Regularizer):
    """Compares the outputs of stages with those of a copy of the network as the run began.

    Args:
        keys: what the recipe says.
    """

    needs_images = True

    def __init__(self, keys: Delta) -> None:
        self.keys = keys
        self.body: tuple[fw.Stage, ...] = ()
        self.head: frozenset[str] = frozenset()
        self.reference = nn.Module()
        self.now, self.then = Outputs(), Outputs()

    def start(self, network: nn.Module, layout: fw.Layout, initial: Mapping[str, Tensor]) -> None:
        """Makes the copy, and looks on from here on while the network computes.

        Raises:
            fw.FwError: no stage has an output that could be compared.
        """
        self.body = tuple(stage for stage in layout.body if stage.name in layout.ends)
        if not self.body:
            stages = ", ".join(stage.name for stage in layout.body)
            raise fw.FwError(f"regularizer.use = 'delta' compares what stages give, and none of {stages} ends with a "
                             "module that gives a tensor", "take l2_sp, which compares weights")  # fmt: skip
        self.head = frozenset(layout.head.parameters)
        self.reference = as_it_started(network, initial)
        self.now.watch(network, layout.ends)
        self.then.watch(self.reference, layout.ends)

    def term(self, trainable: Mapping[str, nn.Parameter], images: Tensor | None) -> Tensor:
        """The weighted squares, float32; a part whose weight is 0 is left out.

        Raises:
            fw.FwError: the network did not compute a stage that is to be compared.
        """
        heads = {name: tensor for name, tensor in trainable.items() if name in self.head}
        term = pull(self.keys.head_weight, heads, {})
        now, moving = self.now.take(), first_moving(self.body, trainable)
        if self.keys.weight and moving:
            self.reference(images)  # in which nothing trains, so that autograd keeps nothing
            then = self.then.take()
            term = term + self.keys.weight / 2 * sum(apart(stage.name, now, then) for stage in moving)
        return term


def as_it_started(network: nn.Module, initial: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a network with other tensors, in evaluation mode, of which nothing trains."""
    reference = copy.deepcopy(network).eval().requires_grad_(False)
    for name, tensor in (*reference.named_parameters(), *reference.named_buffers()):
        tensor.copy_(initial[name])
    return reference


def first_moving(body: tuple[fw.Stage, ...], trainable: Mapping[str, nn.Parameter]) -> tuple[fw.Stage, ...]:
    """The first stage of which something trains, and those after it; none where nothing of them does."""
    first = next((at for at, stage in enumerate(body) if not trainable.keys().isdisjoint(stage.parameters)), len(body))
    return body[first:]


def apart(stage: str, now: Mapping[str, Tensor], then: Mapping[str, Tensor]) -> Tensor:
    """The mean squared difference of what a stage gives and what it gave, a scalar of float32.

    Raises:
        fw.FwError: it gave nothing now.
    """
    if stage not in now:
        raise fw.FwError(f"regularizer.use = 'delta' compares what the stage {stage!r} gives, but in this step the "
                         "network did not compute it", "take l2_sp, which compares weights")  # fmt: skip
    return mse_loss(now[stage].float(), then[stage].float())


class Outputs:
    """What stages give while their network computes with gradients; validation, which has none, leaves no trace."""

    def __init__(self) -> None:
        self._newest: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []

    def watch(self, network: nn.Module, ends: Mapping[str, str]) -> None:
        """Looks on at the modules whose outputs are the stages', and no longer at those before.

        Args:
            network: in place; each module gets a forward hook.
            ends: stage -> module.
        """
        for handle in self._handles:
            handle.remove()
        modules = {stage: network.get_submodule(name) for stage, name in ends.items()}
        self._handles = [module.register_forward_hook(keeper(module, stage, self._newest))
                         for stage, module in modules.items()]  # fmt: skip

    def take(self) -> dict[str, Tensor]:
        """The newest outputs, by stage; they are kept no longer."""
        taken = dict(self._newest)
        self._newest.clear()
        return taken


def keeper(module: nn.Module, stage: str, newest: dict[str, Tensor]) -> Callable[[nn.Module, object, Tensor], None]:
    """A forward hook that keeps the output of one module, and not of its copies, which have the hook, too."""

    def keep(called: nn.Module, inputs: object, output: Tensor) -> None:
        if called is module and torch.is_grad_enabled():
            newest[stage] = output

    return keep
