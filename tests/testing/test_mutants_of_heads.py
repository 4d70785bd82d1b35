"""Mutants of heads: for each check a head with one fault, which that check finds and no other."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import attrs
import pytest
import torch
from torch import Tensor, nn

import framework as fw
from framework.testing import failures
from framework.testing.of_heads import CHECKS

pytestmark = pytest.mark.sweep  # every check of a kind, against every plugin with a fault

# -------------------------------------------------------------------------------------------- an honest head


class Layers(nn.Module):
    """Two linear layers, an activation that works in place, and dropout."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.hidden, self.act, self.drop = nn.Linear(features, 8), nn.ReLU(inplace=True), nn.Dropout(0.5)
        self.last = nn.Linear(8, classes)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.last(self.drop(self.act(self.hidden(features))))
        return logits


@attrs.frozen(kw_only=True)
class Good:
    """Two linear layers."""

    net: ClassVar[Callable[[int, int], nn.Module]] = Layers

    def build(self, feature_dim: int, task: fw.Task) -> Any:
        return self.net(feature_dim, task.num_classes)


@attrs.frozen(kw_only=True)
class OfOneTask(Good):
    """Refuses what it does not fit, and says so."""

    def build(self, feature_dim: int, task: fw.Task) -> Any:
        if task.kind == "multilabel" or feature_dim % 16:
            raise fw.FwError("this head is for multiclass tasks and multiples of 16 features", "take another head")
        return super().build(feature_dim, task)


@attrs.frozen(kw_only=True)
class ZeroLayer(Good):
    """A linear layer that begins at zero."""

    def build(self, feature_dim: int, task: fw.Task) -> Any:
        layer = nn.Linear(feature_dim, task.num_classes)
        nn.init.zeros_(layer.weight)
        return layer


@attrs.frozen(kw_only=True)
class Normed(Good):
    """A batch norm before the linear layer."""

    def build(self, feature_dim: int, task: fw.Task) -> Any:
        return nn.Sequential(nn.BatchNorm1d(feature_dim), nn.Linear(feature_dim, task.num_classes))


class Plugin:
    """Brings one head."""

    def __init__(self, config: type[Good]) -> None:
        self.config = config

    @fw.hookimpl
    def fw_heads(self):
        return [fw.Component("net", self.config)]


@pytest.mark.parametrize("config", [Good, OfOneTask, ZeroLayer, Normed])
def test_an_honest_head_passes(config: type[Good]) -> None:
    assert failures(Plugin(config)) == {}


# ---------------------------------------------------------------------------------------------- their faults

MUTANTS: list[tuple[str, type[Good]]] = []


def breaks(check: str) -> Callable[[Any], Any]:
    """Notes a config class, or a module for one, that breaks a check."""

    def note(fault: Any) -> Any:
        if issubclass(fault, nn.Module):
            fault = type(fault.__name__, (Good,), {"__doc__": fault.__doc__, "__module__": __name__, "net": fault})
        MUTANTS.append((check, attrs.frozen(kw_only=True)(fault)))
        return fault

    return note


@breaks("builds_or_refuses_with_a_reason")
class RefusesRudely(Good):
    """Refuses some sizes with an error that is nobody's to mend."""

    def build(self, feature_dim: int, task: fw.Task) -> Any:
        assert feature_dim % 8 == 0
        return super().build(feature_dim, task)


@breaks("builds_or_refuses_with_a_reason")
class RefusesAll(Good):
    """Fits nothing."""

    def build(self, feature_dim: int, task: fw.Task) -> Any:
        raise fw.FwError("there is no such head")


@breaks("builds_or_refuses_with_a_reason")
class NoModule(Good):
    """Gives a function."""

    def build(self, feature_dim: int, task: fw.Task) -> Any:
        return super().build(feature_dim, task).forward


@breaks("gives_a_logit_for_each_class")
class Background(Layers):
    """Has a logit for none of the classes, too."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes + 1)


@breaks("gives_a_logit_for_each_class")
class Squeezed(Layers):
    """Loses the dimension of a single image."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).squeeze(0)


@breaks("gives_a_logit_for_each_class")
class TwoOutputs(Layers):
    """Gives the features beside the logits in train mode."""

    def forward(self, features: Tensor) -> Any:
        logits = super().forward(features)
        return (logits, features) if self.training else logits


@breaks("has_float32_parameters")
class DoubleScale(Layers):
    """Has a parameter in double precision."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        self.scale = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) * self.scale.float()


@breaks("same_seed_same_weights")
class DrawsElsewhere(Layers):
    """Draws with Python's generator."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        nn.init.constant_(self.last.bias, random.random())


@breaks("gradient_reaches_the_features")
class Detaches(Layers):
    """Lets no gradient through to the backbone."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.detach())


@breaks("gradient_reaches_every_parameter")
class Idle(Layers):
    """Has a layer that it does not use."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        self.spare = nn.Linear(features, classes)


@breaks("bears_features_of_zero")
class DividesByNorm(Layers):
    """Divides by the length of the features."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features / features.norm(dim=1, keepdim=True))


@breaks("evaluates_the_same_each_time")
class AlwaysDrops(Layers):
    """Drops in evaluation mode, too."""

    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(features), 0.5, training=True)


@breaks("evaluates_each_row_alone")
class Centres(Layers):
    """Takes the mean over the batch in evaluation mode, too."""

    def forward(self, features: Tensor) -> Tensor:
        logits = super().forward(features)
        return logits - 0.5 * logits.mean(0, keepdim=True)


@breaks("evaluation_changes_no_tensor")
class Counts(Layers):
    """Counts its calls in a buffer."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        self.calls.add_(1)
        return super().forward(features)


@breaks("draws_from_torchs_generator_alone")
class ShakesByPython(Layers):
    """Draws with Python's generator in train mode."""

    def forward(self, features: Tensor) -> Tensor:
        logits = super().forward(features)
        return logits * (1 + random.random()) if self.training else logits


@breaks("can_be_copied")
class HoldsLock(Layers):
    """Holds what cannot be copied."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        self.lock = threading.Lock()


@breaks("state_dict_holds_all_that_counts")
class KeepsTensorToItself(Layers):
    """Has a tensor that is neither parameter nor buffer."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        self.scale = 1 + torch.rand(classes)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) * self.scale


@breaks("is_divided_rightly_or_not_at_all")
class ExportsOtherwise(Layers):
    """Takes another way where it is exported."""

    def forward(self, features: Tensor) -> Tensor:
        logits = super().forward(features)
        return 2 * logits if torch.compiler.is_exporting() else logits


@pytest.mark.parametrize(("check", "config"), MUTANTS, ids=[f"{check}-{config.__name__}" for check, config in MUTANTS])
def test_a_head_with_one_fault_fails_one_check(check: str, config: type[Good]) -> None:
    found = failures(Plugin(config))
    assert list(found) == [f"net-{check}"], found
    assert found[f"net-{check}"].startswith("AssertionError: ")


def test_every_check_has_a_mutant(capsys: pytest.CaptureFixture[str]) -> None:
    covered = Counter(check for check, _ in MUTANTS)
    with capsys.disabled():
        print(f"\nheads: {len(covered)} of {len(CHECKS)} checks, {len(MUTANTS)} mutants")
    assert covered.keys() == {check.name for check in CHECKS}
