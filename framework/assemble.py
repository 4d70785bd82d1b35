"""Assemble: from a checked recipe to the objects of a run, in the one place where their order matters."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from framework.additions import Adapter, Finisher, Regularizer
from framework.builder import Builder, Model, naming
from framework.component import Component
from framework.contracts import Data, FreezingPolicy, Layout, Pipeline, Plan
from framework.data import class_counts
from framework.errors import FwError
from framework.formats import place, resolved_format
from framework.freezing import FrozenNetwork, check_plan
from framework.groups import Groups
from framework.index import Index
from framework.layout import flops_per_stage
from framework.measure import pick_device
from framework.network import Network
from framework.recipe import Recipe
from framework.schedule import Phase
from framework.shared import Shared
from framework.task import Task

Criterion = Callable[[Tensor, Tensor], Tensor]


@attrs.frozen(eq=False)
class Assembly:
    """Everything that the engine needs of a run.

    Attributes:
        recipe: what it was assembled from.
        device: where the network lives.
        data: the splits and the task.
        memory_format: `contiguous` or `channels_last`.
        builder: makes the pipelines when an image has to be read.
        model: the network and its layout.
        adapter: what the network was given beside its own layers, or None.
        policy, plan: the freezing policy and its first plan.
        frozen: the network under that plan.
        criterion: (logits, targets) -> scalar.
        regularizer: adds a term to it, or None.
        groups, optimizer: the optimizer and who is in which of its groups.
        phases: of the learning rate.
        finisher: makes the finished weights, or None.
        metrics: name -> torchmetrics metric.
    """

    recipe: Recipe
    device: torch.device
    data: Data
    memory_format: str
    builder: Builder
    model: Model
    adapter: Adapter | None
    policy: FreezingPolicy
    plan: Plan
    frozen: FrozenNetwork
    criterion: Criterion
    regularizer: Regularizer | None
    groups: Groups
    optimizer: Optimizer
    phases: tuple[Phase, ...]
    finisher: Finisher | None
    metrics: Mapping[str, Any]

    @property
    def network(self) -> Network:
        """The network, backbone and head."""
        return self.model.network

    def pipeline(self, which: str) -> Pipeline:
        """The transform of training (`train`) or evaluation (`eval`) images: image -> tensor."""
        return self.builder.pipeline(which, self.model.spec)

    def component(self, table: str) -> Component:
        """The component of one of the recipe's single tables."""
        return self.builder.component(self.recipe.parts[table], table.partition(".")[0])


def assemble(recipe: Recipe, index: Index, bare: bool = False, shared: Shared | None = None) -> Assembly:
    """The objects of a run, every random draw a function of the recipe's seed.

    Args:
        recipe: checked against `index`.
        index: the plugins to build with.
        bare: builds the backbone without looking for weights, for a run that brings its own.
        shared: with the other runs of a study.

    Raises:
        FwError: whatever a user can mend, before any training.
    """
    set_threads(recipe.engine.threads)
    device = pick_device(recipe.engine.device)
    builder = Builder(recipe, index, shared)
    data = builder.data()
    task = data.task
    adapter: Adapter | None = builder.addition("adapter")
    model = builder.model(task, bare, adapter)
    policy: FreezingPolicy = builder.build("freezing")
    plan = first_plan(builder, policy, model.layout)
    memory_format = resolved_format(recipe.engine.memory_format, model.network)
    place(model.network, device, memory_format)
    frozen = FrozenNetwork(model.network, model.layout)
    frozen.apply(plan)
    frozen.auditor.know(model.originals)
    criterion = loss(builder, data, device)
    groups, optimizer = build_optimizer(builder, model, policy, plan)
    phases = tuple(Phase(builder.config(t, "scheduler"), t.core) for t in recipe.schedulers)
    metrics = builder.metrics(task)
    require_monitor(recipe, metrics, task)
    return Assembly(recipe, device, data, memory_format, builder, model, adapter, policy, plan, frozen, criterion,
                    builder.addition("regularizer"), groups, optimizer, phases, builder.addition("finisher"),
                    metrics)  # fmt: skip


def first_plan(builder: Builder, policy: FreezingPolicy, layout: Layout) -> Plan:
    """What a policy decides before the first step, checked against the network."""
    table = builder.recipe.parts["freezing"]
    with naming("freezing", table):
        plan = policy.start(layout)
    check_plan(layout, plan, table.use)
    return plan


def set_threads(threads: int) -> None:
    """Pins torch's CPU threads; 0 takes what OMP_NUM_THREADS says, else every core that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    stated = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    torch.set_num_threads(threads or (int(stated) if stated.isdecimal() and int(stated) else usable))


def loss(builder: Builder, data: Data, device: torch.device) -> Criterion:
    """The loss, with the training split's class counts."""
    made = builder.build("loss", data.task, class_counts(data.train, data.task.num_classes), len(data.train))
    train = builder.recipe.train
    mixes = train.mixup or train.cutmix
    if mixes and not getattr(made, "supports_soft_targets", True):
        raise FwError(f"the loss {builder.recipe.parts['loss'].use!r} takes no soft targets, as mixup and cutmix make",
                      'use "torch/CrossEntropyLoss", or set train.mixup and train.cutmix to 0')  # fmt: skip
    criterion: Criterion = made.to(device) if isinstance(made, nn.Module) else made
    return criterion


def build_optimizer(builder: Builder, model: Model, policy: FreezingPolicy, plan: Plan) -> tuple[Groups, Optimizer]:
    """The optimizer over the groups that the policy can need."""
    table = builder.recipe.parts["optimizer"]
    config = builder.part("optimizer")
    if not hasattr(config, "lr"):
        raise FwError(f"the optimizer {table.use!r} has no key lr, which groups and schedulers scale",
                      "report this to the plugin that brings it")  # fmt: skip
    moments = policy.moments()
    fixed = not (moments.epochs or moments.steps or moments.fractions or moments.every_epoch)
    scales = {float(scale) for scale in plan.trainable.values()} | (set() if fixed else set(policy.scales()))
    groups = Groups(model.network, model.layout, table.core.no_decay, scales)
    with naming("optimizer", table):
        return groups, groups.build(plan, float(config.lr), config.build, fixed)


def require_monitor(recipe: Recipe, metrics: Mapping[str, Any], task: Task) -> None:
    """
    Raises:
        FwError: the metric that chooses the best model does not exist for this task, or has no better side.
    """
    name = recipe.train.monitor.removeprefix("val.")
    if name != "loss" and name not in metrics:
        raise FwError(f"train.monitor = {recipe.train.monitor!r}, but a {task.kind} task has no such metric",
                      f"choose one of: {', '.join(f'val.{n}' for n in ('loss', *metrics))}")  # fmt: skip
    if name != "loss" and getattr(metrics[name], "higher_is_better", None) is None:
        raise FwError(f"train.monitor = {recipe.train.monitor!r}, but this metric does not say whether more is better",
                      "choose another, or have its plugin set higher_is_better")  # fmt: skip


def flops_shares(model: Model) -> dict[str, float]:
    """What each stage has of the floating-point operations of one image's forward pass, 0 to 1."""
    flops = flops_per_stage(model.network, model.layout, (model.spec.channels, *model.spec.size))
    total = sum(flops.values()) or 1
    return {stage.name: flops.get(stage.name, 0) / total for stage in model.layout.stages}


def describe_layout(recipe: Recipe, index: Index) -> list[dict[str, Any]]:
    """The stages of a recipe's network under its policy, for `fw show RECIPE --layout`.

    Returns:
        one row a stage: `stage`, `role`, `parameters`, `trainable` (parameters), `norm` (what its norm layers do),
        `flops_share` of one image's forward pass.
    """
    builder = Builder(recipe, index)
    data: Data = builder.build("data", recipe.seed)
    model = builder.model(data.task, bare=True, adapter=builder.addition("adapter"))
    plan = first_plan(builder, builder.build("freezing"), model.layout)
    shares = flops_shares(model)
    sizes = {name: p.numel() for name, p in model.network.named_parameters(remove_duplicate=False)}
    return [
        {
            "stage": stage.name,
            "role": stage.role,
            "parameters": sum(sizes[name] for name in stage.parameters),
            "trainable": sum(sizes[name] for name in stage.parameters if name in plan.trainable),
            "norm": _norm_words(stage.modules, model.layout, plan),
            "flops_share": shares[stage.name],
        }
        for stage in model.layout.stages
    ]


def _norm_words(modules: Sequence[str], layout: Layout, plan: Plan) -> str:
    norms = [name for name in modules if name in layout.batch_norms]
    if not norms:
        return "-"
    moving = sum(name in plan.batch_stats for name in norms)
    if any(name in plan.recalibrate for name in norms):
        return "recalibrate"
    return "batch" if moving == len(norms) else "fixed" if not moving else f"{moving} of {len(norms)} batch"
