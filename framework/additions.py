"""Additions: what a recipe may add to a run: adapters, regularizers, finishers. Imports no torch at run time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from framework.contracts import Layout, Progress

if TYPE_CHECKING:
    from torch import Tensor, nn


class Adapter:
    """Adds small trainable modules to a network, and may fold them into its own tensors at the end.

    The network's own parameters and buffers keep their names and values; whatever policy decides about them, what was
    added trains.

    Attributes:
        mergeable: whether `merge` can fold all that was added into the network's own tensors.
    """

    mergeable: bool = True

    def insert(self, network: nn.Module, layout: Layout) -> None:
        """Adds modules, in place; the network computes what it did before, but for rounding.

        Called once, before the plan is made, on the CPU; random draws come from torch's global generator, which the
        engine seeds. Modules go where layers are (`backbone.blocks.0.attn.qkv.lora`), or beside the stages, as children
        of the backbone (`backbone.side`).

        Args:
            network: with `backbone` and `head`, its tensors loaded.
            layout: of the network as it is; `layout.outputs` are the modules that are called.

        Raises:
            FwError: it finds no layer, and what it looks for.
        """
        raise NotImplementedError

    def merge(self, network: nn.Module) -> None:
        """Folds what was added into the network's own tensors and takes it out, in place.

        Called on a copy of the network that `insert` changed, in evaluation mode; it computes what it did before, but
        for rounding, and has the names that it had before `insert`.
        """
        raise NotImplementedError


class Regularizer:
    """Adds a term to the loss of every batch.

    Attributes:
        needs_images: whether `term` reads the images, or looks on while the network computes: it then trains whole.
    """

    needs_images: bool = False

    def start(self, network: nn.Module, layout: Layout, initial: Mapping[str, Tensor]) -> None:
        """Once before the first step, and once before a stopped run goes on.

        Args:
            network: in place, on its device; tensors are moved by the optimizer later.
            layout: of the network.
            initial: every parameter and buffer as the run began with it, by name; copies that nobody writes to.

        Raises:
            FwError: it does not fit this network, and what would.
        """

    def term(self, trainable: Mapping[str, nn.Parameter], images: Tensor | None) -> Tensor:
        """A scalar that is added to the batch's mean loss, with gradients to what trains.

        Args:
            trainable: the parameters that train under the plan in force, by name.
            images: (N, channels, H, W) of the batch, which has just gone through the network in train mode; None unless
                `needs_images`.
        """
        raise NotImplementedError


class Finisher:
    """Makes the weights of the finished model from those that a run goes through; they do not act on training.

    Attributes:
        needs_initial: whether `finish` reads the tensors that the run began with, which costs a copy of the network.
        recalibrates: whether batch norms that moved are estimated anew under the finished weights, by one pass over the
            training images.
    """

    needs_initial: bool = False
    recalibrates: bool = False

    def follow(self, moving: Mapping[str, Tensor]) -> None:
        """A plan begins, the first or a later one; from here on these tensors, and no others, may move.

        Args:
            moving: parameters and buffers by name, as they are now; live.
        """

    def after_step(self, moving: Mapping[str, Tensor], progress: Progress) -> None:
        """An optimizer step is done. `progress.step` counts it."""

    def after_epoch(self, moving: Mapping[str, Tensor], progress: Progress) -> None:
        """An epoch is done. `progress.epoch` counts it."""

    def finish(self, selected: Mapping[str, Tensor], initial: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The finished weights: names -> tensors, of those that moved in the run; others stay as selected.

        Args:
            selected: every parameter and buffer of the best epoch, by name.
            initial: the same as the run began with them; empty unless `needs_initial`.
        """
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What a resumed run needs: numbers, strings, lists, dicts and tensors."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes what `state` gave; `follow` is called after that, with the plan in force."""
