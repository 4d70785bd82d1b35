"""Freezing: puts a plan in force on a network, keeps it so, and audits that nothing frozen moved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from framework.contracts import Layout, Plan, Stage
from framework.errors import AuditFailed, FwError, name_hints
from framework.files import tensor_digests


def check_plan(layout: Layout, plan: Plan, policy: str) -> None:
    """Refuses a plan that names what is not there, or trains nothing.

    Raises:
        FwError: with near names, or with what the policy left untrained.
    """
    _known(plan.trainable, layout.parameters, "parameter", policy)
    _known({*plan.batch_stats, *plan.recalibrate}, sorted(layout.batch_norms), "norm with statistics", policy)
    if not plan.trainable:
        raise FwError(f"the policy {policy!r} trains nothing on this network",
                      "take a head with parameters, or a policy that trains part of the backbone")  # fmt: skip
    left = layout.added - plan.trainable.keys()
    if left:
        raise FwError(f"the policy {policy!r} leaves {min(left)!r} untrained, which the adapter added",
                      "its plans must come from layout.plan, which trains what is added")  # fmt: skip


def _known(names: Iterable[str], known: Iterable[str], what: str, policy: str) -> None:
    there = list(known)
    present = set(there)
    for name in names:
        if name not in present:
            raise FwError(f"the policy {policy!r} names {name!r}, but there is no such {what}",
                          name_hints(name, there, "names"))  # fmt: skip


def first_moving_stage(layout: Layout, plan: Plan) -> int:
    """The position of the first stage that holds a trainable parameter or a norm with moving statistics."""
    return next((i for i, stage in enumerate(layout.stages) if _moves(stage, plan)), len(layout.stages))


def _moves(stage: Stage, plan: Plan) -> bool:
    return any(name in plan.trainable for name in stage.parameters) or any(m in plan.batch_stats for m in stage.modules)


def module_modes(layout: Layout, plan: Plan) -> dict[str, bool]:
    """For every module, whether it is in train mode under a plan while the network trains.

    Stages before the first that moves are in eval mode: no dropout, no stochastic depth, fixed statistics. From
    there on, train mode, but for the norm layers whose statistics the plan keeps.
    """
    first = first_moving_stage(layout, plan)
    modes = {name: position >= first for position, stage in enumerate(layout.stages) for name in stage.modules}
    modes.update({name: False for name in layout.batch_norms if name not in plan.batch_stats})
    return modes


class ModeKeeper:
    """A forward pre-hook that puts the modes of a plan back whenever somebody called `train()` on the network.

    Modes are set by `train(mode)`, parents first, never by the flag where a class has a `train` of its own: some
    modules (LeViT's attention) act in it.
    """

    def __init__(self, network: nn.Module, modes: Mapping[str, bool]) -> None:
        modules = dict(network.named_modules())
        self._modules = list(modules.values())
        names = sorted((name for name in modes if name in modules), key=lambda name: name.count("."))
        self.pairs = [(modules[name], modes[name]) for name in names]
        self._others = [module for name, module in modules.items() if name not in modes]

    def train(self) -> None:
        """Train mode, and from there the mode of each module; what has none of its own trains."""
        for module in self._others:
            set_mode(module, True)
        for module, mode in self.pairs:
            set_mode(module, mode)

    def eval(self) -> None:
        """Eval mode everywhere; what acts in `train` goes through train mode, which clears what it cached."""
        for module in self._modules:
            set_mode(module, False)

    def __call__(self, network: nn.Module, inputs: Any = None) -> None:
        """Restores the modes if the network is in train mode and any module has left its own."""
        if network.training and any(module.training is not mode for module, mode in self.pairs):
            self.restore()

    def restore(self) -> None:
        """Sets every module's mode."""
        for module, mode in self.pairs:
            if module.training is not mode:
                module.train(mode)


def set_mode(module: nn.Module, mode: bool) -> None:
    """Sets the mode of one module; one whose class acts in `train` goes through train mode, with what is inside it."""
    if type(module).train is nn.Module.train:
        if module.training is not mode:  # a module looks at whatever is set on it, which takes longer than this
            module.training = mode
        return
    module.train()
    module.train(mode)


@attrs.frozen(eq=False)
class Hashed:
    """A tensor and the hash of its bits."""

    tensor: Tensor
    digest: str


@attrs.frozen
class Change:
    """What a new plan changed: names of parameters that train from now on, or no longer."""

    added: tuple[str, ...]
    removed: tuple[str, ...]


class FrozenNetwork:
    """A network under a plan: gradients, modes and the audit follow the plan in force.

    Args:
        network: changed in place: `requires_grad` of its parameters, modes, one forward pre-hook.
        layout: its layout.
    """

    def __init__(self, network: nn.Module, layout: Layout) -> None:
        self.network = network
        self.layout = layout
        self.plan = Plan(trainable={})
        self.auditor = Auditor(network, layout)
        self._parameters = dict(network.named_parameters())
        self._free: set[str] = set()
        self._hook: Any = None

    def apply(self, plan: Plan) -> Change:
        """Puts `plan` in force; applying it again changes nothing."""
        before, after = set(self.plan.trainable), set(plan.trainable)
        self.plan = plan
        self._free = allowed_to_move(self.layout, plan)
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(name in plan.trainable)
            if name not in plan.trainable:
                parameter.grad = None
        if self._hook is not None:
            self._hook.remove()
        self.keeper = ModeKeeper(self.network, module_modes(self.layout, plan))
        self._hook = self.network.register_forward_pre_hook(self.keeper)
        order = self.layout.parameters
        return Change(tuple(n for n in order if n in after - before), tuple(n for n in order if n in before - after))

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that train under the plan in force, by name."""
        return {name: parameter for name, parameter in self._parameters.items() if name in self.plan.trainable}

    def moving(self) -> dict[str, Tensor]:
        """The tensors that may move under the plan in force, by name."""
        return {name: tensor for name, tensor in all_tensors(self.network).items() if name in self._free}

    def train(self) -> None:
        """Train mode, as the plan has it."""
        self.keeper.train()

    def eval(self) -> None:
        """Eval mode everywhere."""
        self.keeper.eval()

    def audit(self) -> dict[str, Any]:
        """What moved since the plan came into force, against what the plan let move."""
        return self.auditor.report()

    def release(self) -> None:
        """Takes the pre-hook off; modes and gradients stay as they are."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None


class Auditor:
    """Compares every tensor of a network, by hash, at the ends of each interval in which one plan is in force."""

    def __init__(self, network: nn.Module, layout: Layout) -> None:
        self.network = network
        self.layout = layout
        self.plan: Plan | None = None
        self.before: dict[str, str] = {}
        self._known: dict[str, tuple[tuple[int, int], str]] = {}
        self._originals: Mapping[str, Hashed] = {}
        self.moved: set[str] = set()
        self.moved_by_plan: set[str] = set()
        self.ever_frozen: set[str] = set()
        self.ever_trainable: set[str] = set()

    def open(self, plan: Plan) -> None:
        """Begins an interval: from here on, what `plan` freezes must not move."""
        self.plan = plan
        self.before = self.digests(all_tensors(self.network))
        self._remember(self.before)

    def know(self, originals: Mapping[str, Hashed]) -> None:
        """Takes it that these tensors of the network have the bits of others, which nobody writes to."""
        self._originals = originals
        self._remember({name: original.digest for name, original in originals.items()})

    def _remember(self, digests: Mapping[str, str]) -> None:
        tensors = all_tensors(self.network)
        self._known = {name: (_writes(tensors[name]), digest) for name, digest in digests.items()}

    def digests(self, tensors: Mapping[str, Tensor]) -> dict[str, str]:
        """The hash of each tensor; a parameter to which nobody wrote since it was hashed last is not hashed anew.

        What is written behind torch's back (through `.data`) is not noticed here, but when the interval ends. torch
        counts no writes of a norm to its statistics either, so buffers are always hashed.
        """
        known = {
            name: self._known[name][1] for name, tensor in tensors.items()
            if isinstance(tensor, nn.Parameter) and name in self._known and self._known[name][0] == _writes(tensor)
        }  # fmt: skip
        return known | tensor_digests({name: tensor for name, tensor in tensors.items() if name not in known})

    def close(self) -> None:
        """Ends the interval: notes what moved, frozen or not."""
        if self.plan is None:
            return
        free = allowed_to_move(self.layout, self.plan)
        # A name that is gone was replaced by something else; one that is new was not there to be frozen.
        now = self._compared(all_tensors(self.network))
        changed = {name for name, digest in self.before.items() if now.get(name) != digest}
        self.moved |= changed - free
        self.moved_by_plan |= changed & free
        self.ever_frozen |= self.before.keys() - free
        self.ever_trainable |= set(self.plan.trainable)
        self.plan = None
        self._known = {}

    def _compared(self, tensors: Mapping[str, Tensor]) -> dict[str, str]:
        """The hash of each tensor as it is; one that has every bit of its original has its hash, too."""
        as_before = {
            name: original.digest for name, original in self._originals.items()
            if name in tensors and same_bits(tensors[name], original.tensor)
        }  # fmt: skip
        return as_before | tensor_digests({name: tensor for name, tensor in tensors.items() if name not in as_before})

    def report(self) -> dict[str, Any]:
        """The audit of all intervals so far; an open one is looked at without ending it."""
        probe = Auditor(self.network, self.layout)
        probe.load_state(self.state())
        probe.plan, probe.before, probe._originals = self.plan, self.before, self._originals
        probe.close()
        buffers = [name for name in self.layout.buffers if name in probe.moved_by_plan]
        return {
            "frozen_tensors": len(probe.ever_frozen),
            "frozen_moved": len(probe.moved),
            "frozen_moved_names": sorted(probe.moved),
            "trainable_tensors": len(probe.ever_trainable),
            "trainable_never_moved": sorted(probe.ever_trainable - probe.moved_by_plan),
            "buffers_moved_by_plan": buffers,
        }

    def require_clean(self) -> None:
        """
        Raises:
            AuditFailed: a frozen tensor moved.
        """
        report = self.report()
        if report["frozen_moved"]:
            names = ", ".join(report["frozen_moved_names"][:5])
            raise AuditFailed(f"{report['frozen_moved']} of {report['frozen_tensors']} frozen tensors moved: {names}",
                              "something wrote to them behind the plan: a plugin, or a module itself")  # fmt: skip

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to go on auditing from the beginning of the interval."""
        sets = ("moved", "moved_by_plan", "ever_frozen", "ever_trainable")
        return {"before": dict(self.before), **{name: sorted(getattr(self, name)) for name in sets}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes what `state` gave; the plan in force is opened separately."""
        self.before = dict(state["before"])
        for name in ("moved", "moved_by_plan", "ever_frozen", "ever_trainable"):
            setattr(self, name, set(state[name]))


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same type, shape and bits; a zero with a sign is not one without."""
    if one.dtype != other.dtype or one.shape != other.shape or one.device != other.device:
        return False
    bits = _BITS.get(one.element_size())
    return bits is not None and not one.is_complex() and torch.equal(one.detach().view(bits), other.detach().view(bits))


_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _writes(tensor: Tensor) -> tuple[int, int]:
    """Which memory a tensor has, and how often torch has written to it."""
    return tensor.data_ptr(), tensor._version


def all_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer, by the first of its names, those that are not saved in a state dict included."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def copied_tensors(network: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter and buffer, by name, where the network is."""
    return {name: tensor.detach().clone() for name, tensor in all_tensors(network).items()}


def put_back(network: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Copies tensors back into a network, in place; what a module made or replaced meanwhile stays.

    Some make a buffer at the first image, or make it anew in another shape (ConViT's relative positions).
    """
    with torch.no_grad():
        for name, tensor in all_tensors(network).items():
            if name in before and before[name].shape == tensor.shape:
                tensor.copy_(before[name])


def allowed_to_move(layout: Layout, plan: Plan) -> set[str]:
    """The tensors that may change under a plan.

    They are its parameters, the buffers of norms with batch statistics, and other buffers of stages that train whole
    (spectral norm moves its vectors at every forward pass in train mode).
    """
    whole = {module for stage in layout.stages if stage.parameters and plan.trainable.keys() >= {*stage.parameters}
             for module in stage.modules}  # fmt: skip
    moving = (whole - layout.batch_norms) | plan.batch_stats
    return {*plan.trainable, *(name for name, owner in layout.buffers.items() if owner in moving)}
