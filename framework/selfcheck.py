"""Selfcheck: whether a partition computes what its network does, on one batch and without leaving a trace."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import attrs
import torch
from torch import Tensor, fx, nn

from framework.assemble import Assembly
from framework.draws import seed_draws
from framework.formats import in_format
from framework.freezing import all_tensors, put_back
from framework.measure import autocast
from framework.partition import Fixed, Partition, in_chunks
from framework.passed import PASSED, what_is_checked

IMAGES, IMAGES_OF_STATISTICS = 2, 4
"""Images of the check: few enough to cost little beside a run; more where a norm takes statistics of its batch."""
TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}
"""Largest difference over the largest value, by precision. On ten families fp32 was equal to the bit in full chunks;
the bits of other chunks differ by rounding, which batch statistics of a few images enlarge."""
SHIFT = 0.1
"""What trains is moved by this share of its spread, so that a value of its that was baked in shows."""
NOISE = 10007
"""Random numbers of which the moves are repeats: a prime, lest rows of a weight move alike."""


class CheckFailed(Exception):
    """A partition computes something else than its network; the message says what, in one clause."""


@attrs.frozen(eq=False)
class Outcome:
    """What one pass forward and back leaves.

    Attributes:
        logits: (N, classes) in train mode.
        scored: (N, classes) in evaluation mode.
        gradients: trainable parameter -> gradient; those without one are missing.
        buffers: buffer -> value afterwards.
        random: state of the random stream afterwards.
    """

    logits: Tensor
    scored: Tensor
    gradients: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    random: Tensor


def check_partition(run: Assembly, partition: Partition, fixed: Fixed, chunk: int) -> None:
    """Compares boundary, outputs, gradients, buffers and random state, once in a process for what is the same.

    What follows the boundary is compared from one that was computed as the network computes it, with all images and all
    threads at once: the rounding of chunks turns single ReLUs over, and a gradient of a few images with them.

    Args:
        run: the network, under the plan of the partition.
        partition: what is checked.
        fixed: its fixed part, ready for many calls.
        chunk: images at a time through it.

    Raises:
        CheckFailed: with the first thing that differs.
    """
    parts = [part.code if isinstance(part, fx.GraphModule) else "" for part in (partition.trained, partition.scored)]
    what = what_is_checked(run, partition.structure, partition.boundary, parts, run.recipe.engine.compile, chunk)
    if what in PASSED:
        return
    network, images = run.network, _images(run)

    def plain() -> Tensor:
        logits: Tensor = network(images)
        return logits

    if run.recipe.engine.compile == "off":  # what is compiled is so for one size
        chunk = min(chunk, len(images))

    with without_trace(network, run.device):
        _shift(network, run)
        try:
            with autocast(run.recipe.train.precision, run.device):
                boundary, in_use = partition.fixed(images), in_chunks(fixed, images, chunk, fixed.lanes)
                expected, found = _outcome(run, plain), _outcome(run, partial(_divided, run, partition, boundary))
        except Exception as error:  # a broken graph may raise anything
            raise CheckFailed(f"it raises {type(error).__name__}: {str(error).partition(chr(10))[0]}") from error
    tolerance = TOLERANCE[run.recipe.train.precision]
    compare_boundaries(boundary, in_use, tolerance)
    compare(expected, found, tolerance)
    PASSED.add(what)


def _divided(run: Assembly, partition: Partition, boundary: Sequence[Tensor]) -> Tensor:
    part = partition.trained if run.network.training else partition.scored
    return part(*(tensor.clone() for tensor in boundary))  # an activation may work in place


def _images(run: Assembly) -> Tensor:
    spec = run.model.spec
    generator = torch.Generator().manual_seed(0)
    count = IMAGES_OF_STATISTICS if run.frozen.plan.batch_stats else IMAGES
    images = torch.randn(count, spec.channels, *spec.size, generator=generator).to(run.device)
    return in_format(images, run.memory_format)


def _shift(network: nn.Module, run: Assembly) -> None:
    noise = torch.randn(NOISE, generator=torch.Generator().manual_seed(1)).to(run.device)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name in run.frozen.plan.trainable:
                spread = float(parameter.float().std()) if parameter.numel() > 1 else 0.0
                repeated = noise.repeat(-(-parameter.numel() // NOISE))[: parameter.numel()]
                parameter.add_(repeated.view(parameter.shape).to(parameter), alpha=SHIFT * (spread or 1.0))


def _outcome(run: Assembly, forward: Callable[[], Tensor]) -> Outcome:
    network = run.network
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    run.frozen.eval()
    with torch.no_grad():
        scored = forward().float()
    run.frozen.train()
    seed_draws(2, run.device)
    logits = forward().float()
    weights = torch.linspace(-1, 1, logits.numel(), device=logits.device).view_as(logits)
    (logits * weights).sum().backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    state = torch.cuda.get_rng_state(run.device) if run.device.type == "cuda" else torch.get_rng_state()
    network.zero_grad(set_to_none=True)
    put_back(network, before)
    return Outcome(logits.detach(), scored, gradients, buffers, state)


def compare_boundaries(expected: Sequence[Tensor], found: Sequence[Tensor], tolerance: float) -> None:
    """
    Raises:
        CheckFailed: with the first tensor that is another one, by more than the tolerance allows.
    """
    kinds = [[(tensor.shape, tensor.dtype) for tensor in boundary] for boundary in (expected, found)]
    if kinds[0] != kinds[1]:
        raise CheckFailed(f"the boundary has the shapes and types {kinds[1]}, and not {kinds[0]}")
    for one, other in zip(expected, found, strict=True):
        _compare("the boundary", one, other, tolerance)


def compare(expected: Outcome, found: Outcome, tolerance: float) -> None:
    """
    Raises:
        CheckFailed: with the first thing that differs by more than the tolerance allows.
    """
    _compare("the logits in evaluation mode", expected.scored, found.scored, tolerance)
    _compare("the logits in train mode", expected.logits, found.logits, tolerance)
    if not torch.equal(expected.random, found.random):
        raise CheckFailed("another number of random numbers is drawn")
    if lost := expected.gradients.keys() ^ found.gradients.keys():
        raise CheckFailed(f"the gradient of {min(lost)} is there one way and not the other")
    apart = [name for name, gradient in expected.gradients.items() if not torch.equal(gradient, found.gradients[name])]
    largest = max((float(g.abs().max()) for g in expected.gradients.values()), default=0.0) if apart else 0.0
    for name in apart:
        one, other = expected.gradients[name], found.gradients[name]
        _compare(f"the gradient of {name}", one, other, tolerance, floor=tolerance * largest)
    for name, buffer in expected.buffers.items():
        _compare(f"the buffer {name}", buffer, found.buffers[name], tolerance)


def _compare(what: str, expected: Tensor, found: Tensor, tolerance: float, floor: float = 0.0) -> None:
    if not expected.numel() or torch.equal(expected, found):
        return
    apart = ~torch.isclose(expected, found, rtol=0, atol=0, equal_nan=True)  # infinite bounds are equal, too
    if not apart.any():
        return
    scale = max(float(expected.double().abs().max()), floor)
    difference = float((expected.double() - found.double())[apart].abs().max())
    if not difference <= tolerance * scale:
        raise CheckFailed(f"{what} differs by {difference:.2g}, at values up to {scale:.2g}")


@contextmanager
def without_trace(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Puts parameters, buffers, gradients and random streams back as they were."""
    before = {name: tensor.detach().clone() for name, tensor in all_tensors(network).items() if _may_change(tensor)}
    state = random.getstate()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(state)
        network.zero_grad(set_to_none=True)
        put_back(network, before)


def _may_change(tensor: Tensor) -> bool:
    return tensor.requires_grad or not isinstance(tensor, nn.Parameter)
