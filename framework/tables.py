"""Tables: the recipe keys that are the core's own, the same whichever component a recipe names."""

from __future__ import annotations

from typing import Any, Literal, NewType

import attrs

from framework.component import Count, Fraction, NonNegative, PositiveFloat, PositiveInt, key

WeightsSource = NewType("WeightsSource", str)
"""One entry of `backbone.weights`; the path in `file:PATH` and `run:DIR` is relative to the recipe's folder."""


@attrs.frozen(kw_only=True)
class TrainTable:
    """`[train]`: what changes results and belongs to no component."""

    epochs: PositiveInt = key(10, "passes over the training images")
    max_steps: Count = key(0, "stop after this many optimizer steps; 0: no limit")
    batch_size: PositiveInt = key(32, "images per batch")
    workers: Count = key(0, "processes that load images; results do not depend on it")
    accumulate: PositiveInt = key(1, "batches per optimizer step")
    clip_norm: NonNegative = key(0.0, "largest norm of the whole gradient; 0: no clipping")
    precision: Literal["fp32", "bf16"] = key("fp32", "bf16 runs forward and backward under autocast")
    sampler: Literal["shuffle", "balanced"] = key("shuffle", "balanced draws every class equally often")
    drop_last: bool = key(False, "leave out an epoch's last batch if it is short")
    mixup: NonNegative = key(0.0, "alpha of mixup (1710.09412); 0: off")
    cutmix: NonNegative = key(0.0, "alpha of cutmix (1905.04899); 0: off; with mixup, one of the two per batch")
    monitor: str = key("val.accuracy", "the validation metric that chooses the best model")
    patience: Count = key(0, "stop after this many epochs without a better monitor; 0: never")
    checkpoint_every: Count = key(
        0, "optimizer steps between checkpoints, beside one per epoch; 0: one per epoch, at most one in 5 seconds"
    )
    keep_model: Literal["whole", "delta", "none"] = key(
        "whole", "what model.safetensors holds at the end; delta: what moved, to be loaded with the same weights"
    )
    report: bool = key(True, "write report.html at the end; a comparison does without")


@attrs.frozen(kw_only=True)
class EngineTable:
    """`[engine]`: what changes cost, never results beyond a stated tolerance."""

    device: str = key("auto", "auto, cpu, cuda, cuda:1, mps")
    threads: Count = key(0, "CPU threads of torch; 0: OMP_NUM_THREADS, else all cores")
    memory_format: Literal["auto", "contiguous", "channels_last"] = key(
        "auto", "layout of images in memory; auto: channels_last where most of the work is convolution"
    )
    partition: Literal["off", "auto", "require"] = key(
        "auto", "compute what cannot change once per image; require: an error where that is not possible"
    )
    boundary: str = key("", "the last stage that may be computed once; empty: chosen by what it saves")
    budget: PositiveInt = key(2**20, "largest boundary, in bytes for each image")
    chunk: Count = key(0, "images at a time through the fixed part; 0: by memory")
    compile: Literal["off", "fixed"] = key(
        "off", "fixed: torch.compile for what is computed once; needs a C++ compiler, repays for many images"
    )
    cache: Literal["off", "auto", "memory", "disk"] = key("auto", "where the boundary is kept; auto: disk, else memory")
    cache_gb: PositiveFloat = key(20.0, "size of the feature store on disk; what was used least recently goes")


@attrs.frozen(kw_only=True)
class BackboneKeys:
    """The core's keys of `[backbone]`."""

    weights: tuple[WeightsSource, ...] = key(
        doc="sources in order of preference: a library's name, package, file:PATH, run:DIR, random"
    )
    sha256: str = key("", "refuse weights with another SHA-256")
    in_channels: PositiveInt = key(3, "channels of the input image")
    image_size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = key(
        None, "side, or [height, width]; absent: the weights' own"
    )
    drop_rate: Fraction | None = key(None, "dropout before the head, where the backbone has it")
    drop_path_rate: Fraction | None = key(None, "stochastic depth, where the backbone has it")
    options: dict[str, Any] = key({}, "further keyword arguments of the library's builder")
    download_timeout: PositiveFloat = key(30.0, "seconds that a download may wait for the network")


@attrs.frozen(kw_only=True)
class Subset:
    """`data.subset`: fewer images, drawn by the recipe's seed; per class, or in all (stratified)."""

    per_class: PositiveInt | None = key(None, "training images per class")
    val_per_class: PositiveInt | None = key(None, "validation images per class")
    test_per_class: PositiveInt | None = key(None, "test images per class")
    train: PositiveInt | None = key(None, "training images in all")
    val: PositiveInt | None = key(None, "validation images in all")
    test: PositiveInt | None = key(None, "test images in all")


@attrs.frozen(kw_only=True)
class DataKeys:
    """The core's keys of `[data]`."""

    subset: Subset | None = key(None, "use fewer images")
    split_seed: Count | None = key(None, "draws splits and subset; absent: the recipe's seed")
    join_val: bool = key(
        False, "train on the validation images, too, once nothing is chosen by them any more; the last epoch counts"
    )
    duplicates: Literal["error", "allow"] = key("error", "what exact duplicates across splits are")
    on_error: Literal["raise", "skip"] = key("raise", "what an unreadable image does; skipped ones are listed")


@attrs.frozen(kw_only=True)
class OptimizerKeys:
    """The core's keys of `[optimizer]`."""

    no_decay: tuple[Literal["norm", "bias", "added"], ...] = key(
        (), "parameters that weight decay leaves alone; `added` are an adapter's"
    )


@attrs.frozen(kw_only=True)
class SchedulerKeys:
    """The core's keys of `[scheduler]`."""

    every: Literal["auto", "step", "epoch"] = key("auto", "when it moves; auto: as the scheduler is meant")
    epochs: PositiveInt | None = key(None, "length of this phase; the last one takes what is left")


@attrs.frozen(kw_only=True)
class TransformKeys:
    """The core's keys of `[transform.train]` and `[transform.eval]`."""

    views: Count = key(0, "draws kept for each image, used in turn; 0: a new one at every pass")


@attrs.frozen(kw_only=True)
class NoKeys:
    """The core's keys of a table to which the core adds none."""


CORE_KEYS: dict[str, type[Any]] = {
    "backbone": BackboneKeys,
    "data": DataKeys,
    "optimizer": OptimizerKeys,
    "scheduler": SchedulerKeys,
    "transform": TransformKeys,
}


def core_keys(table: str) -> type[Any]:
    """The class of the core's keys of a component table."""
    return CORE_KEYS.get(table, NoKeys)
