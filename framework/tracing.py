"""Tracing: in what order a network uses its modules and parameters, and what that costs, without computing anything."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from framework.errors import FwError

SampleSize = tuple[int, int, int]
"""(channels, height, width) of one image."""


@attrs.frozen
class Trace:
    """What one forward pass of one image does, in evaluation mode.

    Attributes:
        modules: module name -> the moment of its first call; modules that are not called are missing.
        parameters: parameter name -> the moment of its first use; parameters that no output needs are missing.
        output: shape of what the network gives, or None where that is no single tensor.
        flops: floating-point operations, as `count_flops` counts them.
        widest: bytes of the largest tensor that one operation gives.
        outputs: each module that is called, in the order of first calls -> the shape of the tensor that it gives for
            one image; () where it gives something else.
    """

    modules: Mapping[str, int]
    parameters: Mapping[str, int]
    output: tuple[int, ...] | None
    flops: int = 0
    widest: int = 0
    outputs: Mapping[str, tuple[int, ...]] = attrs.field(factory=dict)


def trace(network: nn.Module, sample_size: SampleSize) -> Trace:
    """The order in which `network` uses its modules and parameters; the network itself is left as it is.

    Args:
        sample_size: (channels, height, width) of the image.

    Raises:
        FwError: the network does not accept an image of this size, or its forward needs real numbers.
    """
    ghost = _ghost(network)
    recorder = _Recorder(ghost)
    with recorder, recorder.watching(ghost):
        output = _run(ghost, sample_size)
    shape = tuple(output.shape) if isinstance(output, Tensor) else None
    outputs = {name: recorder.shapes.get(name, ()) for name in recorder.modules}
    return Trace(recorder.modules, recorder.parameters, shape, recorder.flops, recorder.widest, outputs)


def output_shape(network: nn.Module, sample_size: SampleSize) -> tuple[int, ...] | None:
    """The shape of what `network` gives for one image, without computing it; None where that is no single tensor.

    Args:
        sample_size: (channels, height, width).

    Raises:
        FwError: the network does not accept an image of this size.
    """
    return trace(network, sample_size).output


def count_flops(network: nn.Module, sample_size: SampleSize) -> dict[str, int]:
    """Module name -> floating-point operations for one image inside it, its children included.

    Counted are matrix products, convolutions and attention, two operations per multiplication and addition, as
    `torch.utils.flop_counter` knows them; 0 where it knows none.

    Args:
        sample_size: (channels, height, width).
    """
    ghost = _ghost(network)
    counter = FlopCounterMode(display=False)
    with counter:
        _run(ghost, sample_size)
    root = type(ghost).__name__
    totals = {name: sum(operations.values()) for name, operations in counter.get_flop_counts().items()}
    return {name: totals.get(f"{root}.{name}" if name else root, 0) for name, _ in ghost.named_modules()}


def _run(ghost: nn.Module, sample_size: SampleSize) -> Any:
    try:
        with _quiet_random_state(), torch.no_grad(), torch.device("meta"), sdpa_kernel(SDPBackend.MATH):
            return ghost(torch.empty(1, *sample_size))
    except Exception as error:  # a model may raise anything at a size that it does not take
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        size = "x".join(map(str, sample_size))
        raise FwError(f"{type(ghost).__name__} does not accept an image of {size}: {reason}",
                      "set backbone.image_size to a size that this model takes") from error  # fmt: skip


def _ghost(network: nn.Module) -> nn.Module:
    """A copy whose tensors have a shape and no data, so that it costs nothing and caches nothing in the original."""
    memo: dict[int, Any] = {}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(_shape_of(parameter), requires_grad=False)
    for tensor in (*network.buffers(), *loose_tensors(network)):
        memo[id(tensor)] = _shape_of(tensor)
    return _copy(network, memo).eval()


def _copy(network: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A deep copy; what `memo` holds under the identity of something stands in its place."""
    return copy.deepcopy(network, {**memo, **{id(empty): OrderedDict() for empty in _empty_hooks(network)}})


def _empty_hooks(network: nn.Module) -> Iterator[OrderedDict[Any, Any]]:
    """A dozen per module, on which most of the copying would be spent."""
    for module in network.modules():
        yield from (value for value in vars(module).values() if isinstance(value, OrderedDict) and not value)


def _shape_of(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta", requires_grad=False)


def loose_tensors(network: nn.Module) -> Iterator[Tensor]:
    """Tensors that modules keep as plain attributes."""
    return (value for value in plain_attributes(network) if isinstance(value, Tensor))


def plain_attributes(network: nn.Module) -> Iterator[Any]:
    """What modules keep that is no parameter, buffer, module or hook; what lists and tables hold, each by itself."""
    own = vars(nn.Module())
    for module in network.modules():
        yield from tree_leaves({name: value for name, value in vars(module).items() if name not in own})


def twin(network: nn.Module, others: Mapping[str, Tensor] | None = None) -> nn.Module:
    """A copy of a network's modules over the same parameters, buffers and loose tensors.

    Args:
        network: what to copy; modes, and what modules cache from now on, are the copy's own.
        others: name of a parameter -> what stands in its place.
    """
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers(), *loose_tensors(network))}
    for name, value in (others or {}).items():
        shared[id(network.get_parameter(name))] = nn.Parameter(value, requires_grad=False)
    return _copy(network, shared)


def copied(network: nn.Module) -> nn.Module:
    """A copy of a network with tensors of its own."""
    derived = (tensor for tensor in loose_tensors(network) if not tensor.is_leaf)  # which torch refuses to copy
    return _copy(network, {id(tensor): tensor.detach().clone() for tensor in derived})


@contextmanager
def _quiet_random_state() -> Iterator[None]:
    """Whatever is drawn inside is not missed outside."""
    state = random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(state)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes when each module is first called and each parameter first used, and how much is computed."""

    def __init__(self, ghost: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.modules: dict[str, int] = {}
        self.parameters: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.flops = 0
        self.widest = 0
        self._clock = 0
        self._names = {id(parameter): name for name, parameter in ghost.named_parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._clock += 1
        for value in tree_leaves((args, kwargs)):
            name = self._names.get(id(value))
            if name is not None:
                self.parameters.setdefault(name, self._clock)
        given = func(*args, **(kwargs or {}))
        self._weigh(func, args, kwargs or {}, given)
        return given

    def _weigh(self, func: Any, args: Any, kwargs: Any, given: Any) -> None:
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            with suppress(Exception):  # a formula may not know this form of its operation, and costs refuse no network
                self.flops += int(formula(*args, **kwargs, out_val=given))
        sizes = (leaf.numel() * leaf.element_size() for leaf in tree_leaves(given) if isinstance(leaf, Tensor))
        self.widest = max(self.widest, *sizes, 0)

    @contextmanager
    def watching(self, ghost: nn.Module) -> Iterator[None]:
        """Notes module calls as long as it is open."""
        handles = [
            module.register_forward_pre_hook(lambda _module, _inputs, name=name: self._called(name))
            for name, module in ghost.named_modules()
        ]
        handles += [
            module.register_forward_hook(lambda _module, _inputs, given, name=name: self._gave(name, given))
            for name, module in ghost.named_modules()
        ]
        yield
        for handle in handles:
            handle.remove()

    def _called(self, name: str) -> None:
        self._clock += 1
        self.modules.setdefault(name, self._clock)

    def _gave(self, name: str, given: Any) -> None:
        if isinstance(given, Tensor):
            self.shapes.setdefault(name, tuple(given.shape))
