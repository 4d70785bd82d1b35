"""The backbones of both libraries: head replaced, layout derived; and real training steps over the families.

`FW_WHOLE_SWEEPS=1 pytest -m sweep tests/test_sweep_backbones.py` takes every name; without it, of timm's every eighth
and a small model of each module, of which every other takes a step.
"""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import attrs
import pytest
import torch
from filelock import FileLock
from sweeps import share
from test_sweep_partition import SMALLEST
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import framework as fw
from framework import layout as layout_module
from framework import tracing
from framework.layout import derive_layout
from framework.network import Network

pytestmark = [pytest.mark.sweep, pytest.mark.timeout(1500)]

CLASSES = 5
TRACE = tracing.trace
WORKERS = min(4, os.cpu_count() or 1)


@attrs.frozen
class Finding:
    """What one name gave.

    Attributes:
        name: of the component.
        problem: why it cannot be used, or nothing.
        library_groups: whether the library brought the stages.
        stages, trained: how many stages; how many parameters `last_stages` trains.
        numbers: parameters in all.
        fixed: parameters that the library itself keeps from training (tables of sines and cosines).
        fresh: whether its structure was traced for the first time.
    """

    name: str
    problem: str = ""
    library_groups: bool = False
    stages: int = 0
    trained: int = 0
    numbers: int = 0
    fixed: tuple[str, ...] = ()
    fresh: bool = True


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Every parameter loses its data as it is registered: builders that compute with tensors still work."""
    register = nn.Module.register_parameter

    def hollow(self: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and parameter.device.type != "meta":
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        register(self, name, parameter)

    nn.Module.register_parameter = hollow  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


class Undrawn(TorchFunctionMode):
    """Leaves tensors without data undrawn: on the meta device, torch spends most of a model's building on that."""

    DRAWING = frozenset({"normal_", "uniform_", "trunc_normal_", "clamp_", "erfinv_", "mul_", "add_", "fill_", "zero_",
                         "constant_", "copy_"})  # fmt: skip

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        tensor = args[0] if args else named.get("tensor")
        if getattr(func, "__name__", "") in self.DRAWING and isinstance(tensor, torch.Tensor) and tensor.is_meta:
            return tensor
        return func(*args, **named)


class Shortcut(TorchDispatchMode):
    """Answers at once for operations that keep their input's shape and that torch works out slowly without data."""

    aten = torch.ops.aten
    SAME = frozenset({aten._safe_softmax.default, aten.gelu.default, aten.relu.default, aten.silu_.default})
    NORMS = frozenset({aten.native_batch_norm.default, aten.native_layer_norm.default})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.SAME:
            return torch.empty_like(args[0])
        if func in self.NORMS:
            return torch.empty_like(args[0]), torch.empty(0), torch.empty(0)
        return func(*args, **(kwargs or {}))


def families() -> dict[str, Any]:
    from fw_timm.backbones import backbone_family as timm_family
    from fw_torchvision.backbones import backbone_family as torchvision_family

    return {"timm": timm_family(), "torchvision": torchvision_family()}


def structure(module: nn.Module) -> tuple[Any, ...]:
    """Equal for modules that run the same code on tensors of the same shapes."""
    modules = tuple((name, type(part)) for name, part in module.named_modules())
    shapes = tuple((name, tuple(parameter.shape)) for name, parameter in module.named_parameters())
    settings = tuple((name, value) for name, value in vars(module).items() if isinstance(value, (str, int)))
    return modules, shapes, settings


class TraceOnce:
    """Traces each structure once; the models of one library that differ in their weights alone share a trace."""

    def __init__(self) -> None:
        self.seen: dict[Any, Any] = {}
        self.trace = TRACE

    def __call__(self, module: nn.Module, size: tuple[int, int, int]) -> Any:
        key = structure(module)
        if key not in self.seen:
            with Shortcut():
                self.seen[key] = self.trace(module, size)
        return self.seen[key]


def examine_all(family: str, names: Sequence[str]) -> list[Finding]:
    """Findings of some names of one family; runs in a process of its own."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    once = TraceOnce()
    tracing.trace = layout_module.trace = once  # type: ignore[assignment]
    members = families()[family]
    found = []
    for name in names:
        before = len(once.seen)
        try:
            finding = examine(members.member(name))
        except Exception as error:
            finding = Finding(f"{family}/{name}", problem=f"{type(error).__name__}: {error}".partition("\n")[0])
        found.append(attrs.evolve(finding, fresh=len(once.seen) > before))
    return found


def build(component: fw.Component, **request: Any) -> fw.Backbone:
    backbone: fw.Backbone = component.config(**component.fixed).build(fw.BackboneRequest(**request))
    return backbone


def examine(component: fw.Component) -> Finding:
    hollow = parameters_on_meta() if component.name.startswith("torchvision/") else torch.device("meta")
    with hollow, Undrawn():
        backbone = build(component)
        network = Network(backbone.module, nn.Linear(backbone.feature_dim, CLASSES))
    layout = derive_layout(network, backbone.grouping, (3, *backbone.input.size))
    owned = [name for name, _ in network.named_parameters()]
    assert sorted(layout.parameters) == sorted(owned), "not every parameter is in exactly one stage"
    modules = [name for stage in layout.stages for name in stage.modules]
    assert sorted(modules) == sorted(name for name, _ in network.named_modules() if name), "modules are left out"
    names = [stage.name for stage in layout.stages]
    assert len(set(names)) == len(names), "two stages have one name"
    assert layout.head.parameters == ("head.weight", "head.bias"), "the head is not the new one"
    assert len(layout.body) > 1, "the backbone is a single stage"
    last = [name for stage in (layout.body[-1], *layout.tail, layout.head) for name in stage.parameters]
    assert layout.body[-1].parameters, "the last stage is empty"
    numbers = sum(parameter.numel() for parameter in network.parameters())
    fixed = tuple(name for name, parameter in network.named_parameters() if not parameter.requires_grad)
    return Finding(component.name, "", backbone.grouping is not None, len(layout.stages), len(last), numbers, fixed)


@pytest.fixture
def examined(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Finding]]:
    """The findings of a family, made once for all the processes that the tests run in."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared

    def once(family: str) -> list[Finding]:
        file = shared / f"findings-{family}.json"
        with FileLock(f"{file}.lock"):
            if not file.exists():
                file.write_text(json.dumps([attrs.asdict(finding) for finding in examine_family(family)]))
            return [Finding(**values) for values in json.loads(file.read_text())]

    return once


def taken(family: str) -> list[str]:
    """The names that are examined, in the library's order."""
    names = list(families()[family].names())
    chosen = {*SMALLEST, *share(names, 8)} if family == "timm" else {*names}
    return [name for name in names if name in chosen]


def examine_family(family: str) -> list[Finding]:
    names = taken(family)
    # Neighbours in the list share structures, so each process takes a run of them.
    size = -(-len(names) // (WORKERS * 4))
    shards = [names[start : start + size] for start in range(0, len(names), size)]
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as pool:
        results = pool.map(examine_all, [family] * len(shards), shards)
        return [finding for found in results for finding in found]


def report(lines: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print("", *lines, sep="\n", file=sys.stderr)


# Names that give no network, each for a reason that is the library's own.
NOT_USABLE = {"timm/mobilenetv5_300m_enc": "gives (1, 2048, 16, 16) for one image, not a vector of features"}


@pytest.mark.parametrize("family", ["torchvision", "timm"])
def test_every_name_gives_a_network_with_a_layout(
    family: str, examined: Callable[[str], list[Finding]], capsys: pytest.CaptureFixture[str]
):
    found = examined(family)
    failed = {finding.name: finding.problem for finding in found if finding.problem}
    fresh = sum(finding.fresh for finding in found)
    grouped = sum(finding.library_groups for finding in found)
    lines = [f"{family}: {len(found)} names, {len(found) - len(failed)} covered, {fresh} structures traced, "
             f"{grouped} with the library's stages"]  # fmt: skip
    lines += [f"  not usable: {name}: {problem}" for name, problem in failed.items()]
    lines += [f"  fixed by the library: {one.name}: {', '.join(one.fixed)}" for one in found if one.fixed]
    report(lines, capsys)
    assert [finding.name for finding in found] == [f"{family}/{name}" for name in taken(family)]
    unexpected = {name: problem for name, problem in failed.items() if NOT_USABLE.get(name, "\0") not in problem}
    assert not unexpected


TRIED_SIZES = ((64, 64), (128, 128), None)
LARGEST = 30_000_000
TORCHVISION = ("resnet18", "densenet121", "googlenet", "squeezenet1_1", "mnasnet0_5", "shufflenet_v2_x0_5",
               "regnet_y_400mf", "efficientnet_b0", "convnext_tiny", "swin_t")  # fmt: skip


@attrs.frozen
class Step:
    """What one training step of one architecture gave.

    Attributes:
        name: of the component.
        problem: why it could not be taken, or nothing.
        size: of the images.
        loss: before the step.
        unreached: parameters of the last stage, neck and head without a gradient.
        dead: parameters anywhere without a gradient while all are trained.
        unmoved: whether the step changed nothing.
    """

    name: str
    problem: str = ""
    size: tuple[int, int] = (0, 0)
    loss: float = 0.0
    unreached: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()
    unmoved: bool = False


def train_once(name: str) -> Step:
    """One SGD step on two images, everything trainable; runs in a process of its own."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    family, _, model = name.partition("/")
    reasons = []
    for size in TRIED_SIZES:
        try:
            return step(families()[family].member(model), size)
        except Exception as error:
            reasons.append(f"{size}: {type(error).__name__}: {error}".partition("\n")[0])
    return Step(name, problem="; ".join(reasons))


def step(component: fw.Component, size: tuple[int, int] | None) -> Step:
    torch.manual_seed(0)
    backbone = build(component, image_size=size)
    network = Network(backbone.module, nn.Linear(backbone.feature_dim, CLASSES)).train()
    layout = derive_layout(network, backbone.grouping, (3, *backbone.input.size))
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    loss = nn.functional.cross_entropy(network(torch.rand(2, 3, *backbone.input.size)), torch.tensor([0, 1]))
    loss.backward()
    before = network.head.weight.detach().clone()
    optimizer.step()
    dead = tuple(name for name, parameter in network.named_parameters() if parameter.grad is None)
    last = {name for stage in (layout.body[-1], *layout.tail, layout.head) for name in stage.parameters}
    unreached = tuple(name for name in dead if name in last)
    unmoved = torch.equal(network.head.weight, before)
    return Step(component.name, "", backbone.input.size, loss.item(), unreached, dead, unmoved)


def smallest_of_each_family(found: Sequence[Finding]) -> list[str]:
    """The smallest timm model of each of its modules, and one torchvision model of each class."""
    import timm

    sizes = {one.name.removeprefix("timm/"): one.numbers for one in found if not one.problem}
    chosen = []
    for module in timm.list_modules():
        known = [name for name in timm.list_models(module=module) if name in sizes]
        smallest = min(known, key=lambda name: sizes[name], default=None)
        if smallest is not None and sizes[smallest] <= LARGEST:
            chosen.append(f"timm/{smallest}")
    return [*chosen, *(f"torchvision/{name}" for name in TORCHVISION)]


def test_architectures_of_all_families_take_training_steps(
    examined: Callable[[str], list[Finding]], capsys: pytest.CaptureFixture[str]
):
    names = share(smallest_of_each_family(examined("timm")), 2)
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as pool:
        steps = list(pool.map(train_once, names, chunksize=4))
    done = [one for one in steps if not one.problem]
    lines = [f"{len(done)} of {len(steps)} architectures took a training step"]
    lines += [f"  no step: {one.name}: {one.problem}" for one in steps if one.problem]
    lines += [f"  no gradient: {one.name}: {len(one.dead)} ({', '.join(one.dead[:4])})" for one in steps if one.dead]
    report(lines, capsys)
    assert len(done) >= 40
    assert not [one.name for one in done if not math.isfinite(one.loss)]
    assert not [one.name for one in done if one.unmoved]
    assert not [(one.name, one.unreached) for one in done if one.unreached]
