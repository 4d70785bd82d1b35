"""Contracts: the types that pass between the engine and plugins. Imports no torch at run time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import attrs

from framework.errors import FwError, name_hints
from framework.task import Task

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    ImageLike = Image | Tensor

NormMode = Literal["fixed", "batch", "recalibrate"]
"""What norm layers with running statistics do where a policy does not train them.

`fixed`: they use the stored statistics, which do not move. `batch`: they use and update batch statistics.
`recalibrate`: one label-free pass over the training images re-estimates them, then they are fixed.
"""


# ---------------------------------------------------------------------------------------------- backbones


@attrs.frozen
class InputSpec:
    """What a backbone expects of an image.

    Attributes:
        size: (height, width) in pixels.
        mean, std: per channel, of pixels scaled to 0..1.
        interpolation: `bilinear`, `bicubic`, `nearest`, ... as torchvision and PIL name them.
        crop_pct: side of the centre crop over side of the resized image.
        channels: number of input channels.
    """

    size: tuple[int, int] = (224, 224)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    crop_pct: float = 0.875
    channels: int = 3

    def for_channels(self, channels: int) -> InputSpec:
        """The same for images of another number of channels: means and deviations averaged for one, else repeated."""
        if channels == self.channels:
            return self
        mean, std = _for_channels(self.mean, channels), _for_channels(self.std, channels)
        return attrs.evolve(self, channels=channels, mean=mean, std=std)


def _for_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if channels == 1:
        return (sum(values) / len(values),)
    return tuple(values[index % len(values)] for index in range(channels))


@attrs.frozen
class BackboneRequest:
    """What a recipe's `[backbone]` table asks of a builder; the keys are the core's, the same for every backbone.

    Attributes:
        weights: one source in the library's own words (`IMAGENET1K_V1`, `a1_in1k`, `package`), or None for the
            architecture alone with freshly drawn parameters.
        in_channels: channels of the input image.
        image_size: (height, width), or None for the weights' own.
        drop_rate, drop_path_rate: None leaves the library's default.
        options: further keyword arguments of the library's builder.
        timeout: seconds that a download may wait for the network.
    """

    weights: str | None = None
    in_channels: int = 3
    image_size: tuple[int, int] | None = None
    drop_rate: float | None = None
    drop_path_rate: float | None = None
    options: Mapping[str, Any] = attrs.field(factory=dict)
    timeout: float = 30.0


@attrs.frozen
class WeightsInfo:
    """Where the tensors of a backbone came from.

    Attributes:
        name: the source in full (`ResNet18_Weights.IMAGENET1K_V1`, `timm/resnet18.a1_in1k`).
        file: the file they were read from, for its SHA-256; None where the library keeps none.
        licence: as its publisher states it, or "unknown".
    """

    name: str
    file: Path | None = None
    licence: str = "unknown"


class WeightsUnavailable(Exception):
    """A backbone builder cannot give the weights it was asked for; the message says why, in one clause."""


@attrs.frozen
class Grouping:
    """A library's own division of a network's parameters.

    Attributes:
        stages: parameter names of each stage, input to output.
        neck: parameter names of what stands between the last stage and the head.
        layers: a finer division, for rates that fall with depth, input to output; the last one is what has the head's
            rate, which may be nothing. Absent: there is none.
    """

    stages: tuple[tuple[str, ...], ...]
    neck: tuple[str, ...] = ()
    layers: tuple[tuple[str, ...], ...] = ()


@attrs.frozen
class Backbone:
    """A feature extractor as built.

    Attributes:
        module: `module(x)` maps (N, channels, H, W) to (N, feature_dim).
        feature_dim: length of the feature vector.
        input: what it expects of an image.
        grouping: the library's division, or None: the layout is then derived from the module tree.
        weights: where its tensors came from, or None for freshly drawn ones.
    """

    module: nn.Module
    feature_dim: int
    input: InputSpec
    grouping: Grouping | None = None
    weights: WeightsInfo | None = None


# ------------------------------------------------------------------------------------------------- layout


@attrs.frozen
class Stage:
    """A consecutive part of a network.

    Attributes:
        name: short and unique (`stem`, `layer4`, `blocks.11`, `neck`, `head`).
        parameters: full names of its parameters; every parameter is in exactly one stage.
        modules: full names of its modules, those without parameters included.
        role: `stage`, `neck`, `adapter` (what one added beside the stages) or `head`.
    """

    name: str
    parameters: tuple[str, ...]
    modules: tuple[str, ...]
    role: Literal["stage", "neck", "adapter", "head"] = "stage"


@attrs.frozen(slots=False)
class Layout:
    """The ordered stages of a network, input to output, and what a policy may ask about its tensors.

    Attributes:
        stages: input to output; the neck, where there is one, and the head come last.
        norms: norm module -> its parameters.
        batch_norms: the norm modules that keep running statistics.
        buffers: every buffer's full name -> the module that owns it.
        biases: names of additive one-dimensional parameters outside norm layers.
        fixed: parameters that the library itself keeps from training (tables of sines and cosines); no plan made by
            `plan` trains them.
        layers: the library's finer division of all parameters, input to output, the head's in the last; () where it
            has none.
        outputs: each module of the backbone that is called, `backbone` itself included, in the order of first calls ->
            the shape of the tensor that it gives for one image, (1, ...); () where it gives something else.
        added: parameters that an adapter added; every plan made by `plan` trains them.
    """

    stages: tuple[Stage, ...]
    norms: Mapping[str, tuple[str, ...]]
    batch_norms: frozenset[str]
    buffers: Mapping[str, str]
    biases: frozenset[str]
    fixed: frozenset[str] = frozenset()
    layers: tuple[tuple[str, ...], ...] = ()
    outputs: Mapping[str, tuple[int, ...]] = attrs.field(factory=dict)
    added: frozenset[str] = frozenset()

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """Every parameter, in the order of the stages."""
        return tuple(name for stage in self.stages for name in stage.parameters)

    @cached_property
    def norm_parameters(self) -> frozenset[str]:
        """Every parameter that belongs to a norm layer."""
        return frozenset(name for names in self.norms.values() for name in names)

    @property
    def body(self) -> tuple[Stage, ...]:
        """The backbone's stages without the neck."""
        return tuple(stage for stage in self.stages if stage.role == "stage")

    @property
    def tail(self) -> tuple[Stage, ...]:
        """The neck, where there is one."""
        return tuple(stage for stage in self.stages if stage.role == "neck")

    @property
    def head(self) -> Stage:
        """The head; it may hold no parameter."""
        return self.stages[-1]

    @cached_property
    def ends(self) -> Mapping[str, str]:
        """Stage of the body -> the module whose output is the stage's, for those that have one.

        It is the last, by its first call, of the outermost modules that lie in the stage alone and give a tensor.
        """
        found = {}
        for stage in self.body:
            others = {module for other in self.stages if other is not stage for module in other.modules}
            alone = [name for name, shape in self.outputs.items() if shape and name in {*stage.modules}
                     and not any(other.startswith(f"{name}.") for other in others)]  # fmt: skip
            outermost = [name for name in alone if not any(name.startswith(f"{around}.") for around in alone)]
            if outermost:
                found[stage.name] = outermost[-1]
        return found

    def select(self, names: Iterable[str]) -> tuple[Stage, ...]:
        """The stages called `names`, in the order of the network.

        Raises:
            FwError: a name that no stage has, with near ones.
        """
        wanted = list(names)
        known = [stage.name for stage in self.stages]
        for name in wanted:
            if name not in known:
                raise FwError(f"no stage is called {name!r}", name_hints(name, known, "stages"))
        return tuple(stage for stage in self.stages if stage.name in wanted)

    def trained_batch_norms(self, trainable: Iterable[str]) -> frozenset[str]:
        """The batch norms that a plan trains: all their parameters, or, where they have none, all of their stage."""
        moving = frozenset(trainable)
        of_stage = {module: stage.parameters for stage in self.stages for module in stage.modules}
        return frozenset(
            name
            for name in self.batch_norms
            if (owned := self.norms.get(name) or of_stage.get(name, ())) and moving.issuperset(owned)
        )

    def plan(self, trainable: Iterable[str] | Mapping[str, float], norm: NormMode = "fixed") -> Plan:
        """A plan that trains these parameters, with `norm` for the batch norms it does not train.

        Args:
            trainable: parameter names, or names -> learning-rate scales; what an adapter added trains in any case.
        """
        named = trainable if isinstance(trainable, Mapping) else dict.fromkeys(trainable, 1.0)
        asked = {**dict.fromkeys(sorted(self.added), 1.0), **named}
        scales = {name: scale for name, scale in asked.items() if name not in self.fixed}
        trained = self.trained_batch_norms(scales)
        others = self.batch_norms - trained
        return Plan(
            trainable=scales,
            batch_stats=trained | others if norm == "batch" else trained,
            recalibrate=others if norm == "recalibrate" else frozenset(),
        )


# ----------------------------------------------------------------------------------------------- freezing


@attrs.frozen
class Plan:
    """A policy's decision at one moment.

    Attributes:
        trainable: parameter name -> learning-rate scale; every other parameter is frozen.
        batch_stats: norm modules that use and update batch statistics; every other one is fixed.
        recalibrate: norm modules whose statistics are re-estimated once, before the plan's first step.
        schedule: what the scheduler does when the plan comes into force.
    """

    trainable: Mapping[str, float]
    batch_stats: frozenset[str] = frozenset()
    recalibrate: frozenset[str] = frozenset()
    schedule: Literal["continue", "restart", "warm_up"] = "continue"


@attrs.frozen
class Moments:
    """When a policy's `next()` is asked, always before the step or epoch begins.

    Attributes:
        epochs: at the beginning of these epochs, counted from 0.
        steps: before these optimizer steps, counted from 0.
        fractions: when this share of the run's steps is done, each in 0..1.
        every_epoch: at the beginning of every epoch but the first.
    """

    epochs: frozenset[int] = frozenset()
    steps: frozenset[int] = frozenset()
    fractions: frozenset[float] = frozenset()
    every_epoch: bool = False


@attrs.frozen
class Progress:
    """Where a run stands.

    Attributes:
        epoch, step: how many are done.
        epochs, steps: how many the run has.
        metrics: the newest validation metrics (`val.accuracy`, ...), empty before the first validation.
        signals: each signal that a policy `wants`, stage by stage, as the mean over the steps since its `next` was last
            asked; a stage that does not train has none, and where no step was taken there are no signals at all.
    """

    epoch: int
    step: int
    epochs: int
    steps: int
    metrics: Mapping[str, float] = attrs.field(factory=dict)
    signals: Mapping[str, Mapping[str, float]] = attrs.field(factory=dict)

    @property
    def fraction(self) -> float:
        """The share of the run's steps that is done, 0..1."""
        return float(Fraction(self.step, self.steps)) if self.steps else 0.0


class FreezingPolicy:
    """Decides, now and as training goes on, what may change. A policy that decides once defines `start` alone."""

    def start(self, layout: Layout) -> Plan:
        """The plan before the first step."""
        raise NotImplementedError

    def scales(self) -> frozenset[float]:
        """Every learning-rate scale that a later plan can give: the optimizer's groups are built once."""
        return frozenset({1.0})

    def moments(self) -> Moments:
        """When `next` is asked."""
        return Moments()

    def wants(self) -> frozenset[str]:
        """The signals that `next` reads from its progress; the engine gathers what is asked for, and nothing else.

        `grad_norm`: the length of the gradient of what trains in a stage, before clipping. `weight_norm`: the length of
        these parameters.
        """
        return frozenset()

    def next(self, layout: Layout, progress: Progress) -> Plan | None:
        """The plan from here on; None keeps the one in force."""
        return None

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON values."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes what `state` gave."""


# --------------------------------------------------------------------------------------------------- data


class UnreadableImage(Exception):
    """An image cannot be decoded; the message is the reason, in one clause."""


class ImageSource(Protocol):
    """Where images come from. Copied into worker processes, so it must be picklable.

    One whose `load` several threads may call at once says so by `concurrent = True`; it is then read side by side.
    """

    def load(self, index: int) -> ImageLike:
        """The image: PIL in mode L or RGB, or a uint8 tensor (C, H, W). Raises `UnreadableImage`."""
        ...

    def digest(self, index: int) -> str:
        """A hash of the image's content alone: equal for exact duplicates, wherever they lie."""
        ...


@attrs.frozen(eq=False)
class Split:
    """Some images of a source, with their targets.

    Attributes:
        source: gives the images.
        indices: which of the source's images these are.
        names: what predictions call them (path, or number); as long as `indices`.
        targets: multiclass: int64 (N,); multilabel: float32 (N, classes) of 0 and 1.
    """

    source: ImageSource
    indices: tuple[int, ...]
    names: tuple[str, ...]
    targets: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, position: int) -> ImageLike:
        """The image at `position` of this split."""
        return self.source.load(self.indices[position])

    def digest(self, position: int) -> str:
        """The content hash of the image at `position` of this split."""
        return self.source.digest(self.indices[position])

    def take(self, positions: Sequence[int]) -> Split:
        """The split that holds only the images at these positions, in this order."""
        chosen = list(positions)
        return Split(
            source=self.source,
            indices=tuple(self.indices[p] for p in chosen),
            names=tuple(self.names[p] for p in chosen),
            targets=self.targets[chosen],
        )


@attrs.frozen(eq=False)
class Data:
    """A data set as built.

    Attributes:
        task: what is predicted.
        train, val: the two splits that every run needs.
        test: scored once, at the end; None where the data set has none.
        fingerprint: changes when any image, target or split changes.
        notes: what a reader of the summary should know ("split 60/20/20 of one folder, stratified").
    """

    task: Task
    train: Split
    val: Split
    test: Split | None
    fingerprint: str
    notes: tuple[str, ...] = ()

    @property
    def scored(self) -> dict[str, Split]:
        """The splits that a model is scored on: `val`, and `test` where there is one."""
        return {"val": self.val} if self.test is None else {"val": self.val, "test": self.test}


@attrs.frozen
class Pipeline:
    """A transform of one image: the steps, and how many of the first draw nothing at random.

    The last step gives a float32 tensor (channels, height, width), normalised. Several threads may call the
    deterministic steps at once.
    """

    steps: tuple[Callable[[Any], Any], ...]
    deterministic_steps: int

    @property
    def deterministic(self) -> bool:
        """Whether the same image always gives the same tensor."""
        return self.deterministic_steps == len(self.steps)

    def __call__(self, image: ImageLike) -> Tensor:
        """The tensor of one image."""
        tensor: Tensor = self.partly(image)
        return tensor

    def partly(self, image: ImageLike) -> Any:
        """What the steps make of one image; the first ones of a transform need not give a tensor."""
        value: Any = image
        for step in self.steps:
            value = step(value)
        return value


# ----------------------------------------------------------------------------------------------- training


class Scheduler(Protocol):
    """Moves the learning rates of an optimizer's groups.

    Built before the first step of its span, it sets the rates of that step; each group keeps its own base rate.

    Attributes:
        every: whether `step` is called after each optimizer step or after each epoch's validation.
    """

    every: Literal["step", "epoch"]

    def step(self, progress: Progress, metric: float | None = None) -> None:
        """One step or epoch is done; `progress` is the run's, not the span's; `metric` is the monitor's, at epochs."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: numbers, strings, lists, dicts and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what `state_dict` gave."""
        ...
