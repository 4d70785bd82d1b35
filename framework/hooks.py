"""Hooks: what the framework asks of plugins. Each docstring is the reference for plugin authors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import pluggy

from framework.component import Component, Family

CONTRACT = 1
"""The version of what framework and plugins promise each other; the guide in `plugins/README.md` says when it grows."""
OLDEST_CONTRACT = 1
"""Plugins written for this version still work."""
PROJECT = "framework"
ENTRY_POINTS = "framework.plugins"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

Components = Iterable[Component | Family]
Facts = Mapping[str, Any]


@attrs.frozen
class Kind:
    """One registry: the recipe table that uses it, the hook that fills it, what its objects are called."""

    table: str
    registry: str
    hook: str
    noun: str

    @property
    def one(self) -> str:
        """The noun with its article: `a head`, `an adapter`."""
        return f"{'an' if self.noun[0] in 'aeiou' else 'a'} {self.noun}"

    @property
    def header(self) -> str:
        """How a recipe begins such a table: `[head]`."""
        return {"transform": "[transform.train]", "metric": "[[metric]]"}.get(self.table, f"[{self.table}]")


KINDS = (
    Kind("backbone", "backbones", "fw_backbones", "backbone"),
    Kind("head", "heads", "fw_heads", "head"),
    Kind("freezing", "freezing_policies", "fw_freezing_policies", "freezing policy"),
    Kind("loss", "losses", "fw_losses", "loss"),
    Kind("optimizer", "optimizers", "fw_optimizers", "optimizer"),
    Kind("scheduler", "schedulers", "fw_schedulers", "scheduler"),
    Kind("data", "datasets", "fw_datasets", "data set"),
    Kind("transform", "transforms", "fw_transforms", "transform"),
    Kind("metric", "metrics", "fw_metrics", "metric"),
    Kind("adapter", "adapters", "fw_adapters", "adapter"),
    Kind("regularizer", "regularizers", "fw_regularizers", "regularizer"),
    Kind("finisher", "finishers", "fw_finishers", "finisher"),
)
KIND_OF_TABLE = {kind.table: kind for kind in KINDS}
KIND_OF_REGISTRY = {kind.registry: kind for kind in KINDS}


class PluginHooks:
    """What a plugin says of itself."""

    @hookspec(firstresult=True)
    def fw_contract(self) -> int:
        """The version of the contract that the plugin was written for: 1. One that does not say is taken as it is.

        A plugin for a version that is not supported is broken: its other hooks are not called.
        """
        return CONTRACT


class ComponentHooks:
    """Hooks that fill the registries. Each is called once, when the catalog is built, and yields components."""

    @hookspec
    def fw_backbones(self) -> Components:
        """Feature extractors. `config.build(request: BackboneRequest) -> Backbone`.

        `build` is called once per weights source; it raises `WeightsUnavailable` where it cannot give that one.
        """
        return ()

    @hookspec
    def fw_heads(self) -> Components:
        """Heads. `config.build(feature_dim: int, task: Task) -> nn.Module`, (N, feature_dim) -> (N, classes)."""
        return ()

    @hookspec
    def fw_freezing_policies(self) -> Components:
        """Freezing policies. `config.build() -> FreezingPolicy`; it works on the layout, never on attribute names."""
        return ()

    @hookspec
    def fw_losses(self) -> Components:
        """Losses. `config.build(task: Task, class_counts: Sequence[int], images: int) -> callable`.

        `class_counts` are the training images that have each class, `images` is how many there are in all.

        The callable takes logits (N, classes) and targets (multiclass: int64 (N,), or float (N, classes) where
        mixup or cutmix is on; multilabel: float (N, classes)) and gives a scalar. One that cannot take the floats of
        mixup has an attribute `supports_soft_targets = False`; one for other tasks raises `FwError` in `build`.
        """
        return ()

    @hookspec
    def fw_optimizers(self) -> Components:
        """Optimizers. `config.build(groups: list[dict]) -> torch.optim.Optimizer` that steps without a closure.

        A config class has a field `lr`; each group holds `params` and may hold `lr` and `weight_decay` of its own.
        """
        return ()

    @hookspec
    def fw_schedulers(self) -> Components:
        """Schedulers. `config.build(optimizer, steps: int, epochs: int) -> Scheduler`.

        `steps` is the number of optimizer steps in the scheduler's span of the run, `epochs` the number of epochs.
        Where `build` takes a further `every`, the recipe's key of that name may be "step" or "epoch" and is passed.
        """
        return ()

    @hookspec
    def fw_datasets(self) -> Components:
        """Data sets. `config.build(seed: int) -> Data`: map-style train, val and test, a task, a fingerprint."""
        return ()

    @hookspec
    def fw_transforms(self) -> Components:
        """Transforms of one image. `config.build(spec: InputSpec) -> Pipeline`.

        Random steps draw from torch's global generator only: the engine seeds it per (seed, epoch, image).
        """
        return ()

    @hookspec
    def fw_metrics(self) -> Components:
        """Metrics. `config.build(task: Task) -> torchmetrics.Metric | None`; None where it does not fit the task.

        The metric is updated with probabilities (N, classes) and targets (int64 (N,), or (N, classes) of 0 and 1). Its
        `higher_is_better` says in which direction `train.monitor` chooses; one without it cannot be the monitor.
        """
        return ()

    @hookspec
    def fw_adapters(self) -> Components:
        """Adapters. `config.build() -> Adapter`: `insert(network, layout)` adds modules that train under every policy.

        The network's own tensors keep their names and values, and it computes what it did before; `merge(network)`
        folds what was added into them at the end, where `mergeable` says that it can.
        """
        return ()

    @hookspec
    def fw_regularizers(self) -> Components:
        """Regularizers. `config.build() -> Regularizer`: `term(trainable, images)` is added to each batch's loss.

        `start(network, layout, initial)` comes first, with every tensor as the run began with it; one that reads the
        images, or looks on while the network computes, says `needs_images = True`, and the network trains whole.
        """
        return ()

    @hookspec
    def fw_finishers(self) -> Components:
        """Finishers. `config.build() -> Finisher`: `finish(selected, initial)` gives the weights of the finished model.

        `follow`, `after_step` and `after_epoch` show it the tensors that move; `state` and `restore` carry it over a
        stop. The finished weights are scored beside the raw ones.
        """
        return ()


class RunHooks:
    """Hooks that watch a run. They get facts to read; one that raises is reported and never fails the run.

    Among the facts of each is `run_dir`, the run directory as a string.
    """

    @hookspec
    def fw_run_started(self, facts: Facts) -> None:
        """After assembly, before the first step. Facts: `name`, `recipe`, `classes`, `steps`, `epochs`."""

    @hookspec
    def fw_epoch_ended(self, facts: Facts) -> None:
        """After each epoch's validation. Facts: `epoch`, `step`, `metrics`, `lr`, `images_per_s`, `network`."""

    @hookspec
    def fw_plan_changed(self, facts: Facts) -> None:
        """After a policy's new plan is in force. Facts: `epoch`, `step`, `trainable`, `added`, `removed`,
        `schedule` (what the scheduler does), `scales` (of learning rates, without repetition).
        """

    @hookspec
    def fw_checkpoint_written(self, facts: Facts) -> None:
        """After a checkpoint is on disk. Facts: `epoch`, `step`, `path`."""

    @hookspec
    def fw_run_ended(self, facts: Facts) -> None:
        """After the summary is on disk. Facts: `status`, `summary`."""


RUN_HOOKS = ("fw_run_started", "fw_epoch_ended", "fw_plan_changed", "fw_checkpoint_written", "fw_run_ended")
