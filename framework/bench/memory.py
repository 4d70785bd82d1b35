"""Memory: what a training step keeps and what it passes through, from the allocator's own record of one step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from framework.measure import MIB, peak_since_reset_mb, reset_peak, resident_mb
from framework.running import Run

PARTS = ("parameters", "copies", "optimizer", "gradients", "activations", "workspace")
"""Of a step at its peak: parameters and buffers; what else the run keeps of them, as it began or on average; what the
optimizer keeps; gradients that are there already; what is held for the way back; the rest, which is what kernels work
in and pass on."""
Seen = tuple[int, int]
"""An address, and when something was there, in nanoseconds."""


@attrs.frozen
class Block:
    """Memory from when it was given out until it was taken back, in nanoseconds; an end that was not seen is None."""

    address: int
    bytes: int
    begin: int
    end: int | None = None

    def is_out(self, when: int) -> bool:
        """Whether it was given out at a time."""
        return self.begin <= when and (self.end is None or when < self.end)

    def holds(self, seen: Seen) -> bool:
        """Whether what was seen lay in it."""
        address, when = seen
        return self.address == address and self.is_out(when)


def memory_of_step(run: Run, step: Callable[[], None]) -> dict[str, float]:
    """What is in memory at the peak of a training step, and the peak itself, measured in a step before.

    Args:
        run: with its store filled and the optimizer's state made.
        step: takes one step, its batch drawn within it.

    Returns:
        MiB: each of `PARTS` at the peak; `saved`, the most that is held for the way back; `at_rest` and `peak` of the
        process or device, between steps and within one.
    """
    device, own, state = run.parts.device, storages(of_network(run)), storages(of_optimizer(run))
    copies = {place: size for place, size in storages(of_copies(run)).items() if place not in own}
    reset_peak(device)
    at_rest = resident_mb(device)
    step()
    peak = peak_since_reset_mb(device)
    gradients: list[Seen] = []
    hook = run.parts.optimizer.register_step_pre_hook(lambda *_: gradients.extend(seen(of_gradients(run))))
    saved, blocks = recorded(step, device)
    hook.remove()
    at_peak = in_use_at_peak(blocks, gradients, [place for place in saved if place[0] not in {*own, *copies}])
    kept = {"parameters": own, "copies": copies, "optimizer": state}
    found = {**{name: sum(sizes.values()) for name, sizes in kept.items()}, **at_peak}
    return {name: size / MIB for name, size in found.items()} | {"at_rest": at_rest, "peak": peak}


def of_network(run: Run) -> Iterator[Tensor]:
    """Parameters and buffers."""
    yield from run.parts.network.parameters()
    yield from run.parts.network.buffers()


def of_copies(run: Run) -> Iterator[Tensor]:
    """What the run, its regularizer and its finisher keep from step to step."""
    seen: set[int] = set()
    pending: list[Any] = [run.initial, run.best, run.parts.regularizer, run.parts.finisher]
    while pending:
        thing = pending.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            yield thing
        elif isinstance(thing, nn.Module):
            pending += [*thing.parameters(), *thing.buffers()]
        elif isinstance(thing, Mapping):
            pending += thing.values()
        elif isinstance(thing, list | tuple | set | frozenset):
            pending += thing
        else:
            pending += getattr(thing, "__dict__", {}).values()


def of_gradients(run: Run) -> Iterator[Tensor]:
    """The gradients that are there."""
    return (p.grad for p in run.parts.network.parameters() if p.grad is not None)


def of_optimizer(run: Run) -> Iterator[Tensor]:
    """What the optimizer keeps for the parameters."""
    for state in run.parts.optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))


def storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Address -> bytes of the memory behind some tensors, each once."""
    found = (tensor.untyped_storage() for tensor in tensors)
    return {storage.data_ptr(): storage.nbytes() for storage in found}


def seen(tensors: Iterable[Tensor]) -> list[Seen]:
    """Where some tensors are now."""
    now = time.time_ns()
    return [(address, now) for address in storages(tensors)]


def recorded(work: Callable[[], None], device: torch.device) -> tuple[list[Seen], list[Block]]:
    """What autograd saved during some work, and every block that was given out."""
    from torch.profiler import ProfilerActivity, profile

    saved: list[Seen] = []

    def note(tensor: Tensor) -> Tensor:
        saved.extend(seen([tensor]))
        return tensor

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities, profile_memory=True) as profiled, saved_tensors_hooks(note, lambda kept: kept):
        work()
    results: Any = profiled.profiler
    return saved, _blocks(results.kineto_results.experimental_event_tree(), device)


def _blocks(tree: Iterable[Any], device: torch.device) -> list[Block]:
    """The blocks of a profiler's record, a tree of events of which some give out memory or take it back."""
    from torch._C._profiler import _EventType

    events, pending = [], list(tree)
    while pending:
        event = pending.pop()
        pending += event.children
        kind, fields = event.typed
        if kind == _EventType.Allocation and fields.device.type == device.type:
            events.append((event.start_time_ns, fields.ptr, fields.alloc_size))
    done: list[Block] = []
    given: dict[int, Block] = {}
    for when, address, size in sorted(events, key=lambda event: event[0]):
        if size > 0:
            given[address] = Block(address, size, when)
        elif address in given:
            done.append(attrs.evolve(given.pop(address), end=when))
    return [*done, *given.values()]


def in_use_at_peak(blocks: Sequence[Block], gradients: Sequence[Seen], saved: Sequence[Seen]) -> dict[str, int]:
    """Bytes by use when most was given out: `gradients`, `activations`, `workspace`; and `saved`, all activations."""
    of_address: dict[int, list[Block]] = {}
    for block in blocks:
        of_address.setdefault(block.address, []).append(block)

    def held(places: Sequence[Seen]) -> set[Block]:
        return {block for place in places for block in of_address.get(place[0], ()) if block.holds(place)}

    use = {"gradients": held(gradients), "activations": held(saved)}
    use["gradients"] -= use["activations"]
    moment = _moment_of_peak(blocks)
    peak = {block for block in blocks if block.is_out(moment)}
    found = {name: sum(block.bytes for block in of & peak) for name, of in use.items()}
    return {
        **found, "workspace": sum(block.bytes for block in peak) - sum(found.values()),
        "saved": sum(block.bytes for block in use["activations"]),
    }  # fmt: skip


def _moment_of_peak(blocks: Sequence[Block]) -> int:
    changes = [(block.begin, block.bytes) for block in blocks]
    changes += [(block.end, -block.bytes) for block in blocks if block.end is not None]
    most = now = when_most = 0
    for when, change in sorted(changes):
        now += change
        if now > most:
            most, when_most = now, when
    return when_most
