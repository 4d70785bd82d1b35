"""Groups: the optimizer's parameter groups, built once; a change of plan moves parameters between them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from framework.contracts import Layout, Plan
from framework.errors import FwError

Key = tuple[float, bool]
"""(learning-rate scale, whether weight decay applies)."""


class Groups:
    """Who is in which group of an optimizer.

    One group stands for each (scale, decay) that the policy can give, so that schedulers, which remember groups by
    position, never see one appear. Groups may be empty for a while.

    Args:
        network: whose parameters they are.
        layout: says which parameters belong to norms, which are biases, and which an adapter added.
        no_decay: kinds of parameters (`norm`, `bias`, `added`) that weight decay leaves alone.
        scales: every learning-rate scale that a plan can give.
    """

    def __init__(
        self, network: nn.Module, layout: Layout, no_decay: Collection[str], scales: Collection[float]
    ) -> None:
        self._parameters = dict(network.named_parameters())
        self._order = {name: position for position, name in enumerate(layout.parameters)}
        kinds = {"norm": layout.norm_parameters, "bias": _biases(layout), "added": layout.added}
        self._undecayed = frozenset(name for kind in no_decay for name in kinds[kind])
        decays = (True, False) if self._undecayed else (True,)
        self.keys: list[Key] = [(scale, decay) for scale in sorted(scales, reverse=True) for decay in decays]
        self.members: list[list[str]] = [[] for _ in self.keys]
        self._optimizer: Optimizer | None = None

    def build(self, plan: Plan, lr: float, make: Callable[[list[dict[str, Any]]], Optimizer], fixed: bool) -> Optimizer:
        """The optimizer of a plan.

        Args:
            plan: the first plan.
            lr: the recipe's learning rate; a group's is this times its scale.
            make: builds an optimizer from groups.
            fixed: whether the plan never changes, so that empty groups can be left out.
        """
        wanted = self._wanted(plan)
        if fixed:
            kept = [position for position, names in enumerate(wanted) if names]
            self.keys, wanted = [self.keys[p] for p in kept], [wanted[p] for p in kept]
        self.members = wanted
        self._optimizer = make([self._group(position, lr) for position in range(len(self.keys))])
        return self._optimizer

    def _group(self, position: int, lr: float) -> dict[str, Any]:
        scale, decay = self.keys[position]
        group: dict[str, Any] = {
            "params": [self._parameters[name] for name in self.members[position]],
            "lr": lr * scale,
            "base_lr": lr * scale,
        }
        return group if decay else {**group, "weight_decay": 0.0}

    def _wanted(self, plan: Plan) -> list[list[str]]:
        wanted: dict[Key, list[str]] = {key: [] for key in self.keys}
        for name in sorted(plan.trainable, key=self._order.__getitem__):
            key = (float(plan.trainable[name]), name not in self._undecayed)
            if key not in wanted:
                raise FwError(f"the policy scales the learning rate of {name!r} by {key[0]:g}, "
                              "which its scales() does not name", "name every scale there")  # fmt: skip
            wanted[key].append(name)
        return list(wanted.values())

    def follow(self, plan: Plan) -> None:
        """Moves parameters to where `plan` wants them; what leaves altogether loses its optimizer state."""
        before = {name for names in self.members for name in names}
        self.place(self._wanted(plan))
        for name in before - set(plan.trainable):
            self.optimizer.state.pop(self._parameters[name], None)

    def place(self, members: Sequence[Sequence[str]]) -> None:
        """Puts exactly these parameters into the groups, in this order."""
        self.members = [list(names) for names in members]
        for group, names in zip(self.optimizer.param_groups, self.members, strict=True):
            group["params"] = [self._parameters[name] for name in names]

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer that was built."""
        if self._optimizer is None:
            raise RuntimeError("build() comes first")
        return self._optimizer

    def rates(self) -> dict[str, float]:
        """The learning rate of every parameter that trains."""
        return {name: float(group["lr"]) for group, names in zip(self.optimizer.param_groups, self.members, strict=True)
                for name in names}  # fmt: skip


def _biases(layout: Layout) -> frozenset[str]:
    return layout.biases | {name for name in layout.norm_parameters if name.endswith("bias")}
