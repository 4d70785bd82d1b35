"""A small plugin with one component or more in each registry, and a recipe that uses it: no library is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import attrs

import framework as fw


@attrs.frozen(kw_only=True)
class Net:
    """A toy backbone."""

    width: fw.PositiveInt = fw.key(8, "channels")

    def build(self, request: fw.BackboneRequest) -> Any:
        return self.width


@attrs.frozen(kw_only=True)
class Linear:
    """One linear layer."""

    bias: bool = fw.key(True, "whether it has a bias")


@attrs.frozen(kw_only=True)
class Mlp:
    """Linear layers with a nonlinearity between them."""

    hidden: tuple[fw.PositiveInt, ...] = fw.key((64,), "width of each hidden layer")
    dropout: fw.Fraction = fw.key(0.0, "probability of dropping a unit")
    activation: Literal["relu", "gelu"] = fw.key("relu", "the nonlinearity")


@attrs.frozen(kw_only=True)
class Frozen:
    """Only the head trains."""

    norm: Literal["fixed", "batch", "recalibrate"] = fw.key("fixed", "what batch norms do")


@attrs.frozen(kw_only=True)
class LastStages:
    """The last n stages train."""

    n: fw.PositiveInt = fw.key(1, "how many")


@attrs.frozen(kw_only=True)
class CrossEntropy:
    """Cross entropy."""

    label_smoothing: fw.Fraction = fw.key(0.0, "share of the target spread over all classes")


@attrs.frozen(kw_only=True)
class Sgd:
    """Stochastic gradient descent."""

    lr: fw.PositiveFloat = fw.key(doc="learning rate")
    momentum: fw.NonNegative = fw.key(0.0, "share of the last step")
    betas: tuple[float, float] = fw.key((0.9, 0.999), "decay rates")
    limit: int | float | None = fw.key(None, "largest step")


@attrs.frozen(kw_only=True)
class Constant:
    """The learning rate stays."""


@attrs.frozen(kw_only=True)
class Step:
    """The learning rate falls by a factor."""

    step_size: fw.PositiveInt = fw.key(doc="epochs between falls")
    gamma: Annotated[float, fw.Bounds(gt=0, lt=1)] = fw.key(0.1, "the factor")


@attrs.frozen(kw_only=True)
class Split:
    val: fw.Fraction = fw.key(0.2, "share of the images")
    test: fw.Fraction = fw.key(0.2, "share of the images")


@attrs.frozen(kw_only=True)
class Folder:
    """A folder of images."""

    root: Path = fw.key(doc="the folder")
    extra: tuple[Path, ...] = fw.key((), "more folders")
    split: Split = fw.key(Split(), "shares of the splits")
    names: dict[str, int] = fw.key({}, "class names and numbers")


@attrs.frozen(kw_only=True)
class Crop:
    """A centre crop."""

    resize: fw.Count = fw.key(0, "side before the crop")


@attrs.frozen(kw_only=True)
class Score:
    """A metric."""


@attrs.frozen(kw_only=True)
class LowRank:
    """Trains a product of two small matrices beside each layer."""

    rank: fw.PositiveInt = fw.key(4, "of the product")


@attrs.frozen(kw_only=True)
class ToStart:
    """Draws the weights back to where they began."""

    weight: fw.NonNegative = fw.key(doc="factor of the term")


@attrs.frozen(kw_only=True)
class Average:
    """The mean of the weights of some epochs."""


class Toys:
    """The plugin."""

    @fw.hookimpl
    def fw_backbones(self):
        def member(name: str) -> fw.Component:
            choices = {"weights": (f"{name}_in1k", "DEFAULT")}
            requires = "install bricks" if name == "brick" else ""
            return fw.Component(f"toy/{name}", Net, choices=choices, requires=requires)

        yield fw.Family("toy", lambda: ["net18", "net50", "brick"], member)

    @fw.hookimpl
    def fw_heads(self):
        return [fw.Component("linear", Linear), fw.Component("mlp", Mlp)]

    @fw.hookimpl
    def fw_freezing_policies(self):
        return [fw.Component("frozen", Frozen), fw.Component("last_stages", LastStages)]

    @fw.hookimpl
    def fw_losses(self):
        return [fw.Component("cross_entropy", CrossEntropy)]

    @fw.hookimpl
    def fw_optimizers(self):
        return [fw.Component("sgd", Sgd)]

    @fw.hookimpl
    def fw_schedulers(self):
        return [fw.Component("constant", Constant), fw.Component("step", Step)]

    @fw.hookimpl
    def fw_datasets(self):
        return [fw.Component("folder", Folder)]

    @fw.hookimpl
    def fw_transforms(self):
        return [fw.Component("center_crop", Crop)]

    @fw.hookimpl
    def fw_metrics(self):
        names = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece")
        return [fw.Component(name, Score) for name in names]

    @fw.hookimpl
    def fw_adapters(self):
        return [fw.Component("low_rank", LowRank)]

    @fw.hookimpl
    def fw_regularizers(self):
        return [fw.Component("to_start", ToStart)]

    @fw.hookimpl
    def fw_finishers(self):
        return [fw.Component("average", Average)]


RECIPE = """\
# a recipe of toys
name = "toy"
seed = 3

[data]
use = "folder"
root = "photos"
subset = { per_class = 5 }

[backbone]
use = "toy/net18"
weights = ["net18_in1k", "random"]

[head]
use = "mlp"
hidden = [32, 16]

[freezing]
use = "frozen"
norm = "batch"

[loss]
use = "cross_entropy"

[optimizer]
use = "sgd"
lr = 0.1
no_decay = ["norm"]

[[scheduler]]
use = "constant"
epochs = 2

[[scheduler]]
use = "step"
step_size = 7

[train]
epochs = 20
"""
