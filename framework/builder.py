"""Builder: the objects of a recipe's tables, each made by its plugin; what runs of a study share is made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import nn

from framework.additions import Adapter
from framework.bind import bind
from framework.catalog import Catalog
from framework.component import Component
from framework.contracts import Backbone, Data, InputSpec, Layout, Pipeline
from framework.data import refuse_duplicates, take_subset, with_val
from framework.errors import FwError, Origin, RecipeError
from framework.files import tensor_digests
from framework.formats import place, resolved_format
from framework.freezing import Hashed, all_tensors
from framework.hooks import KIND_OF_TABLE
from framework.index import Index
from framework.layout import derive_layout, extended
from framework.measure import pick_device
from framework.network import Network
from framework.recipe import Recipe, Table
from framework.shared import Made, Shared
from framework.streams import stream_seed
from framework.task import Task
from framework.tracing import Trace, copied, trace
from framework.weights import WeightsUsed, build_backbone, build_bare, seed_of


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
        originals: what tensors of the network were copied from, where that is kept.
    """

    network: Network
    spec: InputSpec
    layout: Layout
    weights: WeightsUsed | None
    flops: int = 0
    widest: int = 0
    originals: Mapping[str, Hashed] = attrs.field(factory=dict)


@attrs.frozen(eq=False)
class Start:
    """A backbone before the first step.

    Attributes:
        backbone: as built.
        used: where its tensors came from; None where a run's own are loaded into it next.
        seen: in what order it computes, and how much.
        originals: what its tensors were copied from, where that is kept.
    """

    backbone: Backbone
    used: WeightsUsed | None
    seen: Trace
    originals: Mapping[str, Hashed] = attrs.field(factory=dict)


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
        stated = self.recipe.parts["data"].core.split_seed
        seed = self.recipe.seed if stated is None else stated
        return self._once("data", [self.made_from("data"), seed], lambda: self._new_data(seed))

    def _new_data(self, seed: int) -> Data:
        keys = self.recipe.parts["data"].core
        data: Data = self.build("data", seed)
        if keys.subset is not None:
            data = take_subset(data, keys.subset, seed)
        if keys.duplicates == "error":
            refuse_duplicates(data)
        return with_val(data) if keys.join_val else data

    def pipeline(self, which: str, spec: InputSpec) -> Pipeline:
        """The transform of training or evaluation images."""
        if which not in self.pipelines:
            self.pipelines[which] = self.build(f"transform.{which}", spec)
        return self.pipelines[which]

    def model(self, task: Task, bare: bool = False, adapter: Adapter | None = None) -> Model:
        """The network of a task.

        Args:
            task: how many logits it gives.
            bare: without looking for weights; a run's own tensors are loaded next.
            adapter: adds its modules; absent: the network as it is.
        """
        start = self._start(bare)
        backbone, spec = start.backbone, start.backbone.input
        network = Network(backbone.module, self.head(backbone.feature_dim, task))
        made_from = self.made_from("backbone", "head"), task.kind, task.num_classes
        layout = self._once(
            "layout", made_from,
            lambda: derive_layout(network, backbone.grouping, (spec.channels, *spec.size), start.seen),
        )  # fmt: skip
        if adapter is not None:
            layout = self._adapted(network, layout, adapter)
        originals = {f"backbone.{name}": original for name, original in start.originals.items()}
        return Model(network, spec, layout, start.used, start.seen.flops, start.seen.widest, originals)

    def _adapted(self, network: Network, layout: Layout, adapter: Adapter) -> Layout:
        """The layout of a network with what the adapter adds to it, drawn from the seed alone.

        Raises:
            FwError: it adds nothing, or changes the network's own tensors.
        """
        use = self.recipe.parts["adapter"].use
        before = all_tensors(network)
        with naming("adapter", self.recipe.parts["adapter"]), torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(self.recipe.seed, "adapter"))
            adapter.insert(network, layout)
        after = all_tensors(network)
        lost = next((name for name, tensor in before.items() if after.get(name) is not tensor), None)
        if lost is not None:
            raise FwError(f"the adapter {use!r} renamed or replaced {lost!r}", "report this to the plugin")
        found = extended(layout, network)
        if not found.added:
            raise FwError(f"the adapter {use!r} finds no layer in {self.recipe.parts['backbone'].use!r}",
                          "take another adapter, or leave out [adapter]")  # fmt: skip
        homeless = found.added - {*found.parameters}
        if homeless:
            raise FwError(f"the adapter {use!r} added {min(homeless)!r} outside the backbone",
                          "report this to the plugin")  # fmt: skip
        return found

    def _start(self, bare: bool) -> Start:
        """The backbone before the first step: a copy where other runs begin with the same."""
        if self.shared is None:
            return self._new_start(bare)
        engine = self.recipe.engine

        def build() -> Start:
            start = self._new_start(bare)
            module = start.backbone.module
            place(module, pick_device(engine.device), resolved_format(engine.memory_format, module))
            tensors = all_tensors(module)
            digests = tensor_digests(tensors)
            return attrs.evolve(start, originals={name: Hashed(tensors[name], digests[name]) for name in tensors})

        seed = seed_of(self.recipe.parts["backbone"].core, self.recipe.seed)
        made_from = self.made_from("backbone"), seed, bare, engine.device, engine.memory_format
        start = self._once("backbone", made_from, build)
        return attrs.evolve(start, backbone=attrs.evolve(start.backbone, module=copied(start.backbone.module)))

    def _new_start(self, bare: bool) -> Start:
        table = self.recipe.parts["backbone"]
        component, config = self.component(table, "backbone"), self.part("backbone")
        with naming("backbone", table):
            if bare:
                backbone, used = build_bare(config, table.core, seed_of(table.core, self.recipe.seed)), None
            else:
                backbone, used = build_backbone(component, table.core, config, self.recipe.seed)
        spec = backbone.input
        return Start(backbone, used, trace(backbone.module, (spec.channels, *spec.size)))

    def addition(self, name: str) -> Any:
        """What the recipe adds under one of its optional tables; None where it has no such table."""
        return self.build(name) if name in self.recipe.parts else None

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
