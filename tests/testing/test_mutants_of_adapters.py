"""Mutants of adapters: each has one fault and fails the one check that is there for it; sound ones fail none."""

from __future__ import annotations

import random
import sys
import threading
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import framework as fw
from framework.testing import failures, kit
from framework.testing.networks import FEATURES
from framework.testing.of_adapters import CHECKS

pytestmark = pytest.mark.sweep  # whole runs and exports of many plugins

WHOLE_RUNS = ("resumes_to_the_bit", "trains_divided_as_whole", "loads_again")
SLOW = ("can_be_captured", *WHOLE_RUNS)
"""They take longer than all the others, and are run for sound adapters and for the faults that they are there for."""


def odd(layout: fw.Layout) -> bool:
    """Whether a fault shows on this network: on one alone, and not in whole runs, which are of another one."""
    return bool(layout.tail)


# ------------------------------------------------------------------------------------------------------ sound ones


class Scale(nn.Module):
    """A factor for each feature of what a layer gives."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(count))

    def forward(self, output: Tensor) -> Tensor:
        return output * (self.factor[:, None, None] if output.dim() == 4 else self.factor)


def extended(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    """The forward hook of a layer whose output is changed."""
    return layer.extra(output)


class Scaling(fw.Adapter):
    """Scales what each linear layer and convolution of the backbone gives."""

    module: Any = Scale

    def insert(self, network: nn.Module, layout: fw.Layout) -> None:
        self.odd = odd(layout)
        found = [module for module in network.backbone.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
        for layer in found:
            self.extend(layer)
        if not found:
            raise fw.FwError("there is no layer")

    def extend(self, layer: nn.Module) -> None:
        layer.extra = self.module(len(layer.weight)) if self.odd else Scale(len(layer.weight))
        layer.register_forward_hook(extended)

    def merge(self, network: nn.Module) -> None:
        for layer in [module for module in network.modules() if hasattr(module, "extra")]:
            self.fold(layer, layer.extra.factor.detach())
            self.take_out(layer)

    def fold(self, layer: nn.Module, factor: Tensor) -> None:
        with torch.no_grad():
            layer.weight.mul_(factor.view(-1, *[1] * (layer.weight.dim() - 1)))
            if layer.bias is not None:
                layer.bias.mul_(factor)

    def take_out(self, layer: nn.Module) -> None:
        del layer.extra
        hooks = layer._forward_hooks
        for number in [number for number, hook in hooks.items() if hook is extended]:
            del hooks[number]


class Low(nn.Module):
    """Two factors of low rank, the second zero at first, with dropout before them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(inputs, 2, bias=False), nn.Linear(2, outputs, bias=False)
        nn.init.zeros_(self.up.weight)
        self.drop = nn.Dropout(0.2)

    def forward(self, given: Tensor) -> Tensor:
        return self.up(self.down(self.drop(given)))


def added(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    """The forward hook of a layer to whose output something is added."""
    return output + layer.extra(inputs[0])


class LowRank(fw.Adapter):
    """Adds an update of low rank to each linear layer of the backbone; refuses a network that has none."""

    module: Any = Low

    def insert(self, network: nn.Module, layout: fw.Layout) -> None:
        found = [module for module in network.backbone.modules() if isinstance(module, nn.Linear)]
        if not found:
            raise fw.FwError("there is no linear layer in this backbone")
        for layer in found:
            layer.extra = (self.module if odd(layout) else Low)(layer.in_features, layer.out_features)
            layer.register_forward_hook(added)

    def merge(self, network: nn.Module) -> None:
        for layer in [module for module in network.modules() if hasattr(module, "extra")]:
            with torch.no_grad():
                layer.weight.add_(layer.extra.up.weight @ layer.extra.down.weight)
            del layer.extra
            layer._forward_hooks.clear()


class Side(nn.Module):
    """The mean colour of an image, as features; nothing at first."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, FEATURES)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(images.mean((2, 3)))


def beside(backbone: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    """The forward hook of a backbone beside which a small network stands."""
    return output + backbone.side(inputs[0])


class Beside(fw.Adapter):
    """A network beside the backbone, which cannot be merged."""

    mergeable = False

    def insert(self, network: nn.Module, layout: fw.Layout) -> None:
        network.backbone.side = Side()
        network.backbone.register_forward_hook(beside)


def before(layer: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    """The forward pre-hook of a layer whose input is changed."""
    return layer.extra(inputs[0])


class Images(fw.Adapter):
    """Scales what the first layer gets, the colours of the images, so that nothing in the backbone is fixed."""

    mergeable = False
    module: Any = Scale

    def insert(self, network: nn.Module, layout: fw.Layout) -> None:
        first = next(module for module in network.backbone.modules() if isinstance(module, nn.Conv2d))
        first.extra = self.module(3)
        first.register_forward_pre_hook(before)


class Unmergeable(Scaling):
    """Says that it cannot be merged, so that a fault is seen by one check alone."""

    mergeable = False


# ------------------------------------------------------------------------------------------------------ faults


class NoAdapter:
    mergeable = True
    insert = Scaling.insert


class SaysYes(Scaling):
    mergeable: Any = "yes"


class FailsRudely(Scaling):
    def insert(self, network, layout):
        if odd(layout):
            raise KeyError("conv1")
        super().insert(network, layout)


class RefusesAll(Scaling):
    def insert(self, network, layout):
        raise fw.FwError("there is no layer called conv1")


class AddsNothing(Scaling):
    def insert(self, network, layout):
        if not odd(layout):
            super().insert(network, layout)


class OutsideOfAll(Unmergeable):
    def insert(self, network, layout):
        super().insert(network, layout)
        if odd(layout):
            network.extra = Scale(3)
            network.register_forward_hook(extended)


class Wraps(Unmergeable):
    def insert(self, network, layout):
        if not odd(layout):
            super().insert(network, layout)
            return
        for module in list(network.backbone.modules()):
            for name, layer in list(module.named_children()):
                if isinstance(layer, nn.Linear):
                    setattr(module, name, nn.Sequential(layer, Scale(len(layer.weight))))


class Replaces(Scaling):
    def extend(self, layer):
        super().extend(layer)
        if self.odd:
            layer.weight = nn.Parameter(layer.weight.detach().clone())


class Absorbs(Scaling):
    def extend(self, layer):
        super().extend(layer)
        if self.odd:
            with torch.no_grad():
                self.fold(layer, torch.tensor(2.0).expand(len(layer.weight)))
                layer.extra.factor.div_(2)


class TakesAway(Unmergeable):
    def insert(self, network, layout):
        super().insert(network, layout)
        for module in list(network.modules()) if self.odd else ():
            kept = {
                f"new_{name}" if isinstance(child, nn.GELU) else name: child for name, child in module.named_children()
            }
            module._modules.clear()
            module._modules.update(kept)


class TooLarge(Scale):
    def forward(self, output):
        return 1.01 * super().forward(output)


class Louder(Unmergeable):
    module = TooLarge


class Dropping(Scale):
    def forward(self, output):
        return functional.dropout(super().forward(output), 0.2, self.training)


class DropsOutputs(Scaling):
    module = Dropping


class Fails(Scale):
    def forward(self, output):
        return output.view(self.factor.shape) * self.factor


class FailsToCompute(Unmergeable):
    module = Fails


class Unused(Scale):
    def __init__(self, count):
        super().__init__(count)
        self.shift = nn.Parameter(torch.zeros(count))


class LeavesSomeOut(Scaling):
    module = Unused


class Double(Scale):
    def __init__(self, count):
        super().__init__(count)
        self.factor = nn.Parameter(torch.ones(count, dtype=torch.float64))

    def forward(self, output):
        return super().forward(output).float()


class OfDoubles(Scaling):
    module = Double


class Fixed(Scale):
    def __init__(self, count):
        super().__init__(count)
        self.factor.requires_grad_(False)


class NothingTrains(Scaling):
    module = Fixed


class BothZero(Low):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        nn.init.zeros_(self.down.weight)


class NeverMoves(LowRank):
    module = BothZero


class DrawnElsewhere(Low):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        with torch.no_grad():
            self.down.weight.fill_(random.random())


class DrawsElsewhere(LowRank):
    module = DrawnElsewhere


class DroppedElsewhere(Low):
    def forward(self, given):
        return super().forward(given) * (random.random() if self.training else 1.0)


class DropsElsewhere(LowRank):
    module = DroppedElsewhere


class Locked(Scale):
    def __init__(self, count):
        super().__init__(count)
        self.lock = threading.Lock()


class HoldsALock(Scaling):
    module = Locked


class HoldsTheOriginal(Unmergeable):
    def extend(self, layer):
        super().extend(layer)
        if self.odd:
            extra = layer.extra
            layer._forward_hooks.clear()
            layer.register_forward_hook(lambda layer, inputs, output: extra(output))


class ForgetsBiases(Scaling):
    def fold(self, layer, factor):
        bias = layer.bias
        layer.bias = None if self.odd else bias
        super().fold(layer, factor)
        layer.bias = bias


class LeavesWhatItMerged(Scaling):
    def take_out(self, layer):
        if self.odd:
            nn.init.ones_(layer.extra.factor)
        else:
            super().take_out(layer)


class MergesTheOriginal(Scaling):
    def insert(self, network, layout):
        super().insert(network, layout)
        self.network = network

    def merge(self, network):
        super().merge(network)
        if self.odd:
            with torch.no_grad():
                self.network.head.weight.add_(1)


class CannotMerge(Scaling):
    def merge(self, network):
        return super().merge(network) if not self.odd else fw.Adapter.merge(self, network)


class AsksForNumbers(Scale):
    def forward(self, output):
        return super().forward(output) if bool(output.mean() < 1e9) else output


class LooksAtNumbers(Scaling):
    module = AsksForNumbers


class ExportedOtherwise(Scale):
    def forward(self, output):
        return output if torch.compiler.is_exporting() else super().forward(output)


class BranchesOnExport(Scaling):
    module = ExportedOtherwise


def in_a_whole_run(output: Tensor) -> bool:
    """Whether a batch is one of the kit's whole runs, which have eight images; nothing that an export could see."""
    return not torch.compiler.is_exporting() and len(output) == 8


class Counting(Scale):
    """Halves what it scales after some batches."""

    count = 0

    def forward(self, output):
        self.count += self.training and in_a_whole_run(output)
        return super().forward(output) * (0.5 if self.training and self.count > 4 else 1.0)


class CountsBatches(Images):
    module = Counting


def looks_up(name: str) -> Any:
    """What a caller far above has under a name, as no adapter should ask."""
    frame = sys._getframe(1)
    while frame is not None and name not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals[name] if frame is not None else None


class LooksAtTheEngine(Scaling):
    def insert(self, network, layout):
        super().insert(network, layout)
        recipe = looks_up("recipe")
        if recipe is not None and recipe.engine.partition == "auto":
            for layer in network.backbone.modules():
                if hasattr(layer, "extra"):
                    nn.init.constant_(layer.extra.factor, 0.5)


class WakesUp(Scale):
    """Scales once it has been trained, and not before."""

    awake = False

    def forward(self, output):
        self.awake = self.awake or self.training
        return super().forward(output) if self.awake else output


class KnowsThatItTrained(Images):
    module = WakesUp


SOUND: dict[str, Any] = {"scaling": Scaling, "low_rank": LowRank, "beside": Beside, "images": Images}
MUTANTS: list[tuple[str, Any, str]] = [
    ("builds_an_adapter", NoAdapter, "without merge: have its class inherit from fw.Adapter"),
    ("builds_an_adapter", SaysYes, "its mergeable is 'yes'"),
    ("inserts_or_says_why_not", FailsRudely, "'layer_norm' with KeyError: 'conv1'"),
    ("inserts_or_says_why_not", RefusesAll, "batch_norm: there is no layer called conv1"),
    ("inserts_or_says_why_not", AddsNothing, "adds no parameter"),
    ("inserts_or_says_why_not", OutsideOfAll, "adds extra.factor outside"),
    ("keeps_the_networks_own_tensors", Wraps, "renames or replaces backbone."),
    ("keeps_the_networks_own_tensors", Replaces, "renames or replaces backbone."),
    ("keeps_the_networks_own_tensors", Absorbs, "writes to backbone."),
    ("keeps_the_networks_own_tensors", TakesAway, "takes backbone.blocks.0.think.act"),
    ("starts_as_the_network_was", Louder, "in evaluation mode are others"),
    ("starts_as_the_network_was", DropsOutputs, "in train mode are others"),
    ("starts_as_the_network_was", FailsToCompute, "raise RuntimeError"),
    ("adds_what_can_train", LeavesSomeOut, "no gradient arrives at backbone.embed.project.extra.shift"),
    ("adds_what_can_train", OfDoubles, "that cannot train"),
    ("adds_what_can_train", NothingTrains, "that cannot train"),
    ("adds_what_can_train", NeverMoves, "would never move"),
    ("draws_from_torchs_generator_alone", DrawsElsewhere, "built twice from one seed"),
    ("draws_from_torchs_generator_alone", DropsElsewhere, "in train mode the same images give other values"),
    ("is_its_own_as_a_copy", HoldsALock, "copy.deepcopy refuses the module"),
    ("is_its_own_as_a_copy", HoldsTheOriginal, "computes with what was added to the original"),
    ("merges_into_the_networks_own_tensors", ForgetsBiases, "the logits are others after merge()"),
    ("merges_into_the_networks_own_tensors", LeavesWhatItMerged, "leaves other names"),
    ("merges_into_the_networks_own_tensors", MergesTheOriginal, "writes to the network of which it was given a copy"),
    ("merges_into_the_networks_own_tensors", CannotMerge, "set `mergeable = False`"),
    ("can_be_captured", LooksAtNumbers, "torch.export refuses the network"),
    ("can_be_captured", BranchesOnExport, "computes something else than the network"),
    ("resumes_to_the_bit", CountsBatches, "ends otherwise than one that is not"),
    ("trains_divided_as_whole", LooksAtTheEngine, "trains otherwise than a whole one"),
    ("loads_again", KnowsThatItTrained, "when it is read from its directory"),
]
"""Check, the adapter that fails it alone, and what is said of it."""
ADAPTERS = {**SOUND, **{mutant.__name__: mutant for _, mutant, _ in MUTANTS}}


@attrs.frozen(kw_only=True)
class Keys:
    """One of the adapters above."""

    which: str = fw.key("scaling", "its name")

    def build(self) -> Any:
        return ADAPTERS[self.which]()


class Plugin:
    """Brings one of them as `mine`."""

    def __init__(self, which: str) -> None:
        self.which = which

    @fw.hookimpl
    def fw_adapters(self):
        return [fw.Component("mine", Keys, fixed={"which": self.which})]


@pytest.mark.parametrize("which", SOUND)
def test_a_sound_adapter_fails_no_check(which: str) -> None:
    assert failures(Plugin(which)) == {}


@pytest.mark.parametrize(("check", "mutant", "said"), MUTANTS, ids=[mutant.__name__ for _, mutant, _ in MUTANTS])
def test_an_adapter_with_one_fault_fails_the_check_that_is_there_for_it(check, mutant, said, monkeypatch) -> None:
    if check not in WHOLE_RUNS:
        left_out = {*SLOW} - {check}
        monkeypatch.setitem(kit.CHECKS, "adapters", tuple(one for one in CHECKS if one.name not in left_out))
    found = failures(Plugin(mutant.__name__))
    print(found)
    assert list(found) == [f"mine-{check}"]
    assert said in found[f"mine-{check}"]


def test_every_check_has_a_mutant(capsys: pytest.CaptureFixture[str]) -> None:
    names = [check.name for check in CHECKS]
    assert {check for check, _, _ in MUTANTS} == {*names}
    with capsys.disabled():
        print(f"\n{len(MUTANTS)} mutants for {len(names)} checks of adapters")
