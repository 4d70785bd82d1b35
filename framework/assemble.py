"""Assemble: from a checked recipe to the objects of a run, in the one place where their order matters."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from framework.bind import bind
from framework.catalog import Catalog
from framework.component import Component
from framework.contracts import Backbone, Data, FreezingPolicy, InputSpec, Layout, Pipeline, Plan
from framework.data import class_counts, refuse_duplicates, take_subset
from framework.errors import FwError, Origin, RecipeError
from framework.files import tensor_digests
from framework.freezing import FrozenNetwork, all_tensors, check_plan
from framework.groups import Groups
from framework.hooks import KIND_OF_TABLE
from framework.index import Index
from framework.layout import derive_layout, flops_per_stage
from framework.measure import pick_device
from framework.network import Network
from framework.recipe import Recipe, Table
from framework.schedule import Phase
from framework.shared import Made, Shared
from framework.streams import stream_seed
from framework.task import Task
from framework.tracing import Trace, copied, trace
from framework.weights import WeightsUsed, build_backbone, build_bare

Criterion = Callable[[Tensor, Tensor], Tensor]


@attrs.frozen(eq=False)
class Model:
    """A network as built, before any data is seen.

    Attributes:
        network: backbone and head.
        spec: what it expects of an image.
        layout: its stages.
        weights: where the backbone's tensors came from; None where a run's own model is loaded into it next.
        flops: floating-point operations of one image through the backbone.
        widest: bytes of the largest tensor that one operation gives for one image.
        digests: hashes of tensors, where they are known.
    """

    network: Network
    spec: InputSpec
    layout: Layout
    weights: WeightsUsed | None
    flops: int = 0
    widest: int = 0
    digests: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(eq=False)
class Start:
    """A backbone before the first step.

    Attributes:
        backbone: as built.
        used: where its tensors came from; None where a run's own are loaded into it next.
        seen: in what order it computes, and how much.
        digests: hashes of its tensors, where they are known.
    """

    backbone: Backbone
    used: WeightsUsed | None
    seen: Trace
    digests: Mapping[str, str] = attrs.field(factory=dict)


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
        policy, plan: the freezing policy and its first plan.
        frozen: the network under that plan.
        criterion: (logits, targets) -> scalar.
        groups, optimizer: the optimizer and who is in which of its groups.
        phases: of the learning rate.
        metrics: name -> torchmetrics metric.
    """

    recipe: Recipe
    device: torch.device
    data: Data
    memory_format: str
    builder: Builder
    model: Model
    policy: FreezingPolicy
    plan: Plan
    frozen: FrozenNetwork
    criterion: Criterion
    groups: Groups
    optimizer: Optimizer
    phases: tuple[Phase, ...]
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


class Builder:
    """Makes the objects of a recipe's tables through their plugins."""

    def __init__(self, recipe: Recipe, index: Index, shared: Shared | None = None) -> None:
        self.recipe = recipe
        self.shared = shared
        self.catalog: Catalog = index.catalog()
        self.pipelines: dict[str, Pipeline] = {}

    def component(self, table: Table, kind: str) -> Component:
        """The component that a table names."""
        return self.catalog.component(KIND_OF_TABLE[kind].hook, table.use)

    def config(self, table: Table, kind: str) -> Any:
        """The config object of a table: the plugin's own class, its own checks included."""
        return make_config(self.component(table, kind), table.values, kind)

    def part(self, name: str) -> Any:
        """The config object of one of the recipe's single tables."""
        return self.config(self.recipe.parts[name], name.partition(".")[0])

    def build(self, name: str, *arguments: Any) -> Any:
        """What the component of one of the recipe's single tables makes of these arguments."""
        with naming(name, self.recipe.parts[name]):
            return self.part(name).build(*arguments)

    def made_from(self, *tables: str) -> dict[str, Any]:
        """What some of the recipe's tables say, as JSON values."""
        return {name: self.recipe.parts[name].plain() for name in tables}

    def _once(self, what: str, made_from: Any, make: Callable[[], Made]) -> Made:
        return make() if self.shared is None else self.shared.once(what, made_from, make)

    def data(self) -> Data:
        """The data set, its subset taken and duplicates refused."""
        return self._once("data", [self.made_from("data"), self.recipe.seed], self._new_data)

    def _new_data(self) -> Data:
        keys = self.recipe.parts["data"].core
        data: Data = self.build("data", self.recipe.seed)
        if keys.subset is not None:
            data = take_subset(data, keys.subset, self.recipe.seed)
        if keys.duplicates == "error":
            refuse_duplicates(data)
        return data

    def pipeline(self, which: str, spec: InputSpec) -> Pipeline:
        """The transform of training or evaluation images."""
        if which not in self.pipelines:
            self.pipelines[which] = self.build(f"transform.{which}", spec)
        return self.pipelines[which]

    def model(self, task: Task, bare: bool = False) -> Model:
        """The network of a task.

        Args:
            task: how many logits it gives.
            bare: without looking for weights; a run's own tensors are loaded next.
        """
        start = self._start(bare)
        backbone, spec = start.backbone, start.backbone.input
        network = Network(backbone.module, self.head(backbone.feature_dim, task))
        made_from = self.made_from("backbone", "head"), task.kind, task.num_classes
        layout = self._once(
            "layout", made_from,
            lambda: derive_layout(network, backbone.grouping, (spec.channels, *spec.size), start.seen),
        )  # fmt: skip
        digests = {f"backbone.{name}": digest for name, digest in start.digests.items()}
        return Model(network, spec, layout, start.used, start.seen.flops, start.seen.widest, digests)

    def _start(self, bare: bool) -> Start:
        """The backbone before the first step: a copy where other runs begin with the same."""
        if self.shared is None:
            return self._new_start(bare)
        engine = self.recipe.engine

        def build() -> Start:
            start = self._new_start(bare)
            module = start.backbone.module
            place(module, pick_device(engine.device), resolved_format(engine.memory_format, module))
            return attrs.evolve(start, digests=tensor_digests(all_tensors(module)))

        seed = self.recipe.seed if "random" in self.recipe.parts["backbone"].core.weights else None
        made_from = self.made_from("backbone"), seed, bare, engine.device, engine.memory_format
        start = self._once("backbone", made_from, build)
        return attrs.evolve(start, backbone=attrs.evolve(start.backbone, module=copied(start.backbone.module)))

    def _new_start(self, bare: bool) -> Start:
        table = self.recipe.parts["backbone"]
        component, config = self.component(table, "backbone"), self.part("backbone")
        with naming("backbone", table):
            if bare:
                backbone, used = build_bare(config, table.core, self.recipe.seed), None
            else:
                backbone, used = build_backbone(component, table.core, config, self.recipe.seed)
        spec = backbone.input
        return Start(backbone, used, trace(backbone.module, (spec.channels, *spec.size)))

    def head(self, feature_dim: int, task: Task) -> nn.Module:
        """The head, its first parameters a function of the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(self.recipe.seed, "head"))
            head: nn.Module = self.build("head", feature_dim, task)
        return head

    def metrics(self, task: Task) -> dict[str, Any]:
        """The metrics that fit the task."""
        built = {}
        for table in self.recipe.metrics:
            with naming("metric", table):
                built[table.use] = self.config(table, "metric").build(task)
        return {name: metric for name, metric in built.items() if metric is not None}


@contextmanager
def naming(place: str, table: Table) -> Iterator[None]:
    """Adds to an error that nobody foresaw in whose part it happened; its traceback is for the plugin's author."""
    try:
        yield
    except FwError:
        raise
    except Exception as error:
        error.add_note(f"in [{place}] use = {table.use!r}")
        raise


def make_config(component: Component, values: Mapping[str, Any], table: str) -> Any:
    """A component's config object from plain values.

    Raises:
        RecipeError: the values do not fit its keys.
    """
    if component.requires:
        raise FwError(f"{component.name!r} cannot be used here", f"{component.requires} to use it")
    given = {**values, **component.fixed}
    config, problems = bind(component.config, given, (table,), lambda path, of_key: Origin(component.name))
    if problems:
        raise RecipeError(problems)
    return config


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
    model = builder.model(task, bare)
    policy: FreezingPolicy = builder.build("freezing")
    plan = first_plan(builder, policy, model.layout)
    memory_format = resolved_format(recipe.engine.memory_format, model.network.backbone)
    place(model.network, device, memory_format)
    frozen = FrozenNetwork(model.network, model.layout)
    frozen.apply(plan)
    frozen.auditor.know(model.digests)
    criterion = loss(builder, data, device)
    groups, optimizer = build_optimizer(builder, model, policy, plan)
    phases = tuple(Phase(builder.config(t, "scheduler"), t.core) for t in recipe.schedulers)
    metrics = builder.metrics(task)
    require_monitor(recipe, metrics, task)
    return Assembly(recipe, device, data, memory_format, builder, model, policy, plan, frozen, criterion,
                    groups, optimizer, phases, metrics)  # fmt: skip


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


def resolved_format(asked: str, backbone: nn.Module) -> str:
    """`auto` takes channels_last where most parameters that multiply are of convolutions over several pixels."""
    if asked != "auto":
        return asked
    layers = [module for module in backbone.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    of_convolutions = sum(layer.weight.numel() for layer in layers if isinstance(layer, nn.Conv2d))
    return "channels_last" if 2 * of_convolutions > sum(layer.weight.numel() for layer in layers) else "contiguous"


def in_format(images: Tensor, memory_format: str) -> Tensor:
    """Images, or maps of features (N, C, H, W), laid out as a network is; anything else as it is."""
    if images.dim() != 4:
        return images
    channels_last = memory_format == "channels_last"
    return images.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def place(network: nn.Module, device: torch.device, memory_format: str) -> None:
    """Moves a network to its device and memory format."""
    if memory_format == "channels_last":
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    else:
        network.to(device)


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
    model = builder.model(data.task, bare=True)
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
