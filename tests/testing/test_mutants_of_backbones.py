"""Mutants of backbones: for each check a backbone with one fault, which that check finds and no other."""

from __future__ import annotations

import contextlib
import random
import socket
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
from framework.testing.of_backbones import CHECKS

pytestmark = pytest.mark.sweep  # every check of a kind, against every plugin with a fault

# ---------------------------------------------------------------------------------------- an honest backbone


def stage(before: int, after: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU())


class Stages(nn.Module):
    """Three convolutions, a mean over the map, and dropout."""

    def __init__(self, channels: int, drop_rate: float) -> None:
        super().__init__()
        self.one, self.two, self.three = stage(channels, 8), stage(8, 8), stage(8, 8)
        self.drop = nn.Dropout(drop_rate)

    def map_of(self, images: Tensor) -> Tensor:
        made: Tensor = self.three(self.two(self.one(images)))
        return made

    def forward(self, images: Tensor) -> Any:
        return self.drop(self.map_of(images).mean((2, 3)))


@attrs.frozen(kw_only=True)
class Good:
    """Three convolutions."""

    net: ClassVar[Callable[[int, float], nn.Module]] = Stages
    listed: ClassVar[tuple[str, ...]] = ("ones", "far")

    def build(self, request: fw.BackboneRequest) -> Any:
        self.refuse(request)
        module = self.net(*self.sizes(request))
        info = self.load(module, request.weights)
        return fw.Backbone(module, 8, self.spec(request), self.grouping(module), info)

    def refuse(self, request: fw.BackboneRequest) -> None:
        if request.drop_path_rate is not None:
            raise fw.FwError("there is no drop_path_rate", "take backbone.drop_path_rate out of the recipe")
        if request.options:
            raise fw.FwError(f"there are no options {', '.join(request.options)}")
        self.find(request.weights)

    def find(self, weights: str | None) -> None:
        if weights == "far":
            raise fw.WeightsUnavailable("they cannot be downloaded")
        if weights not in (None, "ones"):
            raise fw.WeightsUnavailable(f"there are no weights {weights!r}")

    def sizes(self, request: fw.BackboneRequest) -> tuple[int, float]:
        return request.in_channels, request.drop_rate or 0.0

    def load(self, module: nn.Module, weights: str | None) -> fw.WeightsInfo | None:
        if weights is None:
            return None
        for parameter in module.parameters():
            nn.init.ones_(parameter)
        return fw.WeightsInfo(f"net.{weights}")

    def spec(self, request: fw.BackboneRequest) -> fw.InputSpec:
        own = fw.InputSpec(request.image_size or (16, 16), (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
        return own.for_channels(request.in_channels)

    def grouping(self, module: nn.Module) -> fw.Grouping | None:
        named = [[f"{child}.{name}" for name, _ in part.named_parameters()] for child, part in module.named_children()]
        return fw.Grouping(tuple(tuple(names) for names in named if names))


class Plugin:
    """Brings one backbone."""

    def __init__(self, config: type[Good]) -> None:
        self.config = config

    @fw.hookimpl
    def fw_backbones(self):
        return [fw.Component("net", self.config, choices={"weights": self.config.listed})]


@attrs.frozen(kw_only=True)
class Derived(Good):
    """The stages are left to the framework."""

    def grouping(self, module: nn.Module) -> fw.Grouping | None:
        return None


class Pixels(nn.Module):
    """Mean colours: no parameters at all."""

    def __init__(self, channels: int, drop_rate: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(drop_rate)

    def forward(self, images: Tensor) -> Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), (2, 4))
        return self.drop(pooled.flatten(1))


class Tokens(nn.Module):
    """Patches through linear layers with layer norm: no convolution, no batch norm."""

    def __init__(self, channels: int, drop_rate: float) -> None:
        super().__init__()
        self.channels = channels
        self.embed = nn.Linear(16 * channels, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU()) for _ in range(4))
        self.norm = nn.LayerNorm(8)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(nn.functional.unfold(images, 4, stride=4).transpose(1, 2))
        for block in self.blocks:
            tokens = tokens + block(tokens)
        pooled: Tensor = self.drop(self.norm(tokens).mean(1))
        return pooled


@attrs.frozen(kw_only=True)
class WithoutParameters(Derived):
    """Mean colours."""

    net = Pixels


@attrs.frozen(kw_only=True)
class OfTokens(Derived):
    """Patches and layer norm."""

    net = Tokens


@pytest.mark.parametrize("config", [Good, Derived, WithoutParameters, OfTokens])
def test_an_honest_backbone_passes(config: type[Good]) -> None:
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


@breaks("builds_without_weights")
class NoBackbone(Good):
    """Gives the module itself."""

    def build(self, request: fw.BackboneRequest) -> Any:
        return self.net(*self.sizes(request))


@breaks("builds_without_weights")
class Raises(Good):
    """Cannot do without weights."""

    def find(self, weights: str | None) -> None:
        if weights is None:
            raise KeyError("weights")
        super().find(weights)


@breaks("builds_without_weights")
class SizeOfOneNumber(Good):
    """Says the side of a square."""

    def spec(self, request: fw.BackboneRequest) -> fw.InputSpec:
        return attrs.evolve(super().spec(request), size=16)


@breaks("builds_offline")
class AsksForNews(Good):
    """Looks for a newer version."""

    def refuse(self, request: fw.BackboneRequest) -> None:
        super().refuse(request)
        with contextlib.suppress(OSError):
            socket.create_connection(("news.invalid", 80), timeout=0.1).close()


@breaks("builds_offline")
class NeedsTheNetwork(Good):
    """Fetches its settings."""

    def refuse(self, request: fw.BackboneRequest) -> None:
        super().refuse(request)
        socket.create_connection(("settings.invalid", 80), timeout=0.1).close()


@breaks("changes_no_setting_of_torch")
class TurnsGradientsOff(Good):
    """Switches gradients off while it loads, and not on again."""

    def load(self, module: nn.Module, weights: str | None) -> fw.WeightsInfo | None:
        torch.set_grad_enabled(False)
        return super().load(module, weights)


@breaks("gives_feature_vectors")
class WrongWidth(Good):
    """States another number of features."""

    def build(self, request: fw.BackboneRequest) -> Any:
        return attrs.evolve(super().build(request), feature_dim=9)


@breaks("gives_feature_vectors")
class Squeezed(Stages):
    """Loses the dimension of a single image."""

    def forward(self, images: Tensor) -> Any:
        return super().forward(images).squeeze()


@breaks("gives_feature_vectors")
class Halved(Stages):
    """Gives half precision."""

    def forward(self, images: Tensor) -> Any:
        return super().forward(images).half()


@breaks("gives_feature_vectors")
class Map(Stages):
    """Gives a map of features."""

    def forward(self, images: Tensor) -> Any:
        return self.map_of(images)


@breaks("gives_feature_vectors_in_train_mode")
class Auxiliary(Stages):
    """Gives a second output in train mode."""

    def forward(self, images: Tensor) -> Any:
        features = super().forward(images)
        return (features, features) if self.training else features


@breaks("features_depend_on_the_image")
class Blind(Stages):
    """Looks at nothing."""

    def forward(self, images: Tensor) -> Any:
        return super().forward(torch.zeros_like(images))


@breaks("says_what_images_it_takes")
class MeanOfBytes(Good):
    """States mean and deviation of pixels in 0..255."""

    def spec(self, request: fw.BackboneRequest) -> fw.InputSpec:
        spec = super().spec(request)
        return attrs.evolve(spec, mean=tuple(255 * m for m in spec.mean), std=tuple(255 * d for d in spec.std))


@breaks("says_what_images_it_takes")
class UnknownInterpolation(Good):
    """Names an interpolation as another library does."""

    def spec(self, request: fw.BackboneRequest) -> fw.InputSpec:
        return attrs.evolve(super().spec(request), interpolation="cubic")


@breaks("takes_one_channel_or_refuses")
class AlwaysColour(Good):
    """Does not look at the number of channels."""

    def sizes(self, request: fw.BackboneRequest) -> tuple[int, float]:
        return 3, request.drop_rate or 0.0

    def spec(self, request: fw.BackboneRequest) -> fw.InputSpec:
        return super().spec(attrs.evolve(request, in_channels=3))


@breaks("takes_one_channel_or_refuses")
class ColourFilters(Good):
    """States one channel, and has filters for three."""

    def sizes(self, request: fw.BackboneRequest) -> tuple[int, float]:
        return 3, request.drop_rate or 0.0


@breaks("takes_another_image_size_or_refuses")
class OneSize(Good):
    """Does not look at the image size."""

    def spec(self, request: fw.BackboneRequest) -> fw.InputSpec:
        return super().spec(attrs.evolve(request, image_size=None))


@breaks("takes_another_image_size_or_refuses")
class RefusesSizeRudely(Good):
    """Refuses another size with an error that is nobody's to mend."""

    def refuse(self, request: fw.BackboneRequest) -> None:
        super().refuse(request)
        assert request.image_size in (None, (16, 16))


@breaks("takes_drop_rates_or_refuses")
class DropsNothing(Good):
    """Does not look at the drop rate."""

    def sizes(self, request: fw.BackboneRequest) -> tuple[int, float]:
        return request.in_channels, 0.0


@breaks("takes_drop_rates_or_refuses")
class DropsNoPath(Good):
    """Does not look at the rate of stochastic depth."""

    def refuse(self, request: fw.BackboneRequest) -> None:
        super().refuse(attrs.evolve(request, drop_path_rate=None))


@breaks("refuses_unknown_options")
class TakesAnyOption(Good):
    """Does not look at the options."""

    def refuse(self, request: fw.BackboneRequest) -> None:
        super().refuse(attrs.evolve(request, options={}))


@breaks("refuses_unknown_weights")
class TakesAnyWeights(Good):
    """Does not look at the name of the weights."""

    def find(self, weights: str | None) -> None:
        if weights == "far":
            super().find(weights)


@breaks("refuses_unknown_weights")
class RefusesWeightsRudely(Good):
    """Refuses unknown weights with an error that ends the run."""

    def find(self, weights: str | None) -> None:
        if weights not in (None, *self.listed):
            raise fw.FwError(f"there are no weights {weights!r}")
        super().find(weights)


@breaks("lists_weights_by_names_of_its_own")
class ListsRandom(Good):
    """Offers what the framework does itself."""

    listed = ("ones", "random")


@breaks("lists_weights_by_names_of_its_own")
class ListsText(Good):
    """Forgets the comma of a tuple with one name."""

    listed = "ones"


@breaks("unreachable_weights_are_unavailable")
class FailsWithoutNetwork(Good):
    """Lets the error of the download through."""

    def find(self, weights: str | None) -> None:
        if weights == "far":
            socket.create_connection(("weights.invalid", 443), timeout=0.1).close()
        super().find(weights)


@breaks("says_where_its_weights_are_from")
class SaysNothing(Good):
    """Loads weights and does not say so."""

    def load(self, module: nn.Module, weights: str | None) -> fw.WeightsInfo | None:
        super().load(module, weights)


@breaks("says_where_its_weights_are_from")
class SaysTooMuch(Good):
    """Calls drawn weights by a name."""

    def load(self, module: nn.Module, weights: str | None) -> fw.WeightsInfo | None:
        return super().load(module, weights) or fw.WeightsInfo("net.fresh")


@breaks("same_seed_same_weights")
class DrawsElsewhere(Stages):
    """Draws with Python's generator."""

    def __init__(self, channels: int, drop_rate: float) -> None:
        super().__init__(channels, drop_rate)
        nn.init.constant_(self.one[0].bias, random.random())


@breaks("another_seed_other_weights")
class SeedsItself(Good):
    """Draws the same weights always."""

    def sizes(self, request: fw.BackboneRequest) -> tuple[int, float]:
        torch.manual_seed(0)
        return super().sizes(request)


@breaks("state_dict_holds_all_that_counts")
class KeepsTensorToItself(Stages):
    """Has a tensor that is neither parameter nor buffer."""

    def __init__(self, channels: int, drop_rate: float) -> None:
        super().__init__(channels, drop_rate)
        self.scale = 1 + torch.rand(8)

    def forward(self, images: Tensor) -> Any:
        return super().forward(images) * self.scale.to(images.device)


@breaks("state_dict_holds_all_that_counts")
class StateOfText(Stages):
    """Has a text in its state dict, which no safetensors file can hold."""

    def get_extra_state(self) -> str:
        return "text"

    def set_extra_state(self, state: str) -> None: ...


@breaks("evaluates_the_same_each_time")
class AlwaysDrops(Stages):
    """Drops in evaluation mode, too."""

    def forward(self, images: Tensor) -> Any:
        return nn.functional.dropout(super().forward(images), 0.5, training=True)


@breaks("evaluates_each_row_alone")
class Centres(Stages):
    """Takes the mean over the batch in evaluation mode, too."""

    def forward(self, images: Tensor) -> Any:
        features = super().forward(images)
        return features - 0.5 * features.mean(0, keepdim=True)


@breaks("evaluation_changes_no_tensor")
class Counts(Stages):
    """Counts its calls in a buffer."""

    def __init__(self, channels: int, drop_rate: float) -> None:
        super().__init__(channels, drop_rate)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images: Tensor) -> Any:
        self.calls.add_(1)
        return super().forward(images)


@breaks("draws_from_torchs_generator_alone")
class ShakesByPython(Stages):
    """Draws with Python's generator in train mode."""

    def forward(self, images: Tensor) -> Any:
        features = super().forward(images)
        return features * (1 + random.random()) if self.training else features


@breaks("leaves_images_alone")
class Normalises(Stages):
    """Writes to its images."""

    def forward(self, images: Tensor) -> Any:
        images -= 0.5
        return super().forward(images)


@breaks("can_be_copied")
class HoldsLock(Stages):
    """Holds what cannot be copied."""

    def __init__(self, channels: int, drop_rate: float) -> None:
        super().__init__(channels, drop_rate)
        self.lock = threading.Lock()


@breaks("can_be_traced")
class LooksAtValues(Stages):
    """Decides by the values of its images."""

    def forward(self, images: Tensor) -> Any:
        return super().forward(images if float(images.max()) < 1e9 else images / 255)


@breaks("can_be_traced")
class CallsItself(Stages):
    """Holds itself in a lambda, so that a copy calls the original."""

    def __init__(self, channels: int, drop_rate: float) -> None:
        super().__init__(channels, drop_rate)
        self.last = lambda images: self.three(self.two(images))

    def map_of(self, images: Tensor) -> Tensor:
        made: Tensor = self.last(self.one(images))
        return made


@breaks("layout_holds_each_parameter_once")
class NamesNothing(Good):
    """Groups a parameter that is not there."""

    def grouping(self, module: nn.Module) -> fw.Grouping | None:
        return fw.Grouping((("one.0.weight",), ("four.0.weight",)))


@breaks("layout_holds_each_parameter_once")
class NamesTwice(Good):
    """Has one parameter in two stages."""

    def grouping(self, module: nn.Module) -> fw.Grouping | None:
        first, *others = super().grouping(module).stages
        return fw.Grouping((first, first, *others))


@breaks("stages_stand_in_forward_order")
class Backwards(Good):
    """Has the stages from the output to the input."""

    def grouping(self, module: nn.Module) -> fw.Grouping | None:
        return fw.Grouping(super().grouping(module).stages[::-1])


@breaks("gradient_reaches_every_stage")
class Detaches(Stages):
    """Lets no gradient through to the first stages."""

    def map_of(self, images: Tensor) -> Tensor:
        made: Tensor = self.three(self.two(self.one(images)).detach())
        return made


@breaks("gradient_reaches_every_stage")
class FreezesItself(Good):
    """Freezes its own parameters."""

    def load(self, module: nn.Module, weights: str | None) -> fw.WeightsInfo | None:
        module.requires_grad_(False)
        return super().load(module, weights)


@breaks("works_in_channels_last")
class Views(Stages):
    """Takes it that the channels of a map lie one after the other."""

    def forward(self, images: Tensor) -> Any:
        pooled = nn.functional.adaptive_avg_pool2d(self.map_of(images), 2)
        return self.drop(pooled.view(len(images), -1).view(len(images), 8, 4).mean(2))


@breaks("bears_several_threads")
class KeepsOnSelf(Stages):
    """Hands a map from one layer to another on itself."""

    def map_of(self, images: Tensor) -> Tensor:
        self.early = self.one(images)
        made: Tensor = self.three(self.two(self.early)) + nn.functional.avg_pool2d(self.early, 4)
        return made


@breaks("is_divided_rightly_or_not_at_all")
class ExportsOtherwise(Stages):
    """Takes another way where it is exported."""

    def forward(self, images: Tensor) -> Any:
        features = super().forward(images)
        return 2 * features if torch.compiler.is_exporting() else features


@pytest.mark.parametrize(("check", "config"), MUTANTS, ids=[f"{check}-{config.__name__}" for check, config in MUTANTS])
def test_a_backbone_with_one_fault_fails_one_check(check: str, config: type[Good]) -> None:
    found = failures(Plugin(config))
    assert list(found) == [f"net-{check}"], found
    assert found[f"net-{check}"].startswith("AssertionError: ")


def test_every_check_has_a_mutant(capsys: pytest.CaptureFixture[str]) -> None:
    covered = Counter(check for check, _ in MUTANTS)
    with capsys.disabled():
        print(f"\nbackbones: {len(covered)} of {len(CHECKS)} checks, {len(MUTANTS)} mutants")
    assert covered.keys() == {check.name for check in CHECKS}
