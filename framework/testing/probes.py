"""Probes: what the modules of backbones and heads must hold alike, whatever it is that they take."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from framework.codec import plain_tensor
from framework.contracts import Layout
from framework.files import load_tensors, save_tensors, tensor_digests
from framework.freezing import FrozenNetwork, all_tensors, put_back
from framework.network import Network, load_state
from framework.partition import NoPartition, Wish, divide
from framework.testing.chance import seeded
from framework.testing.training import numbers
from framework.tracing import copied

TOLERANCE = 1e-3
"""Largest difference over the largest value. Other kernels round by some 1e-6; faults move values by a tenth."""
PATIENCE_S = 20.0
"""How long one thread waits for the other; they part ways where a module is not called as often in each."""


def said(error: BaseException) -> str:
    """The kind of an error, and the first line of what it says, where it says something."""
    line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference of two tensors, over the largest value in them."""
    largest = float(torch.maximum(one.abs().max(), other.abs().max()))
    return float((one - other).abs().max()) / largest if largest else 0.0


# ------------------------------------------------------------------------------------------------- a module


@attrs.frozen(eq=False)
class Probe:
    """A module, and what it takes.

    Attributes:
        module: gives a vector for each row that goes in.
        row: shape of what goes in, without the number of rows.
        width: length of a vector that comes out.
        noun: what rows are called.
    """

    module: nn.Module
    row: tuple[int, ...]
    width: int
    noun: str = "images"

    def rows(self, count: int, seed: int = 0) -> Tensor:
        """Noise to send in."""
        return numbers((count, *self.row), seed)

    def given(self, rows: Tensor, training: bool = False, seed: int = 0, others: int | None = None) -> Tensor:
        """What the module gives for a copy of rows.

        Args:
            rows: what goes in.
            training: in train mode; else in evaluation mode.
            seed: of torch's generator.
            others: seed of numpy's and random's; absent: the same.
        """
        self.module.train(training)
        with torch.no_grad(), seeded(seed, others):
            vectors: Tensor = self.module(rows.clone())
        return vectors

    def complaint(self, count: int, training: bool = False) -> str | None:
        """What is wrong with what so many rows give; None where nothing is."""
        mode = "train" if training else "evaluation"
        where = f"in {mode} mode, {self.noun} of shape {(count, *self.row)}"
        try:
            given: Any = self.given(self.rows(count), training)
        except Exception as error:  # a module may raise anything
            return f"{where} raise {said(error)}"
        if not isinstance(given, Tensor):
            return f"{where} give a {type(given).__name__}, and not one tensor"
        if given.shape != (count, self.width):
            return f"{where} give the shape {tuple(given.shape)}, and not {(count, self.width)}"
        if given.dtype != torch.float32:
            return f"{where} give {given.dtype}, and not torch.float32"
        return None if torch.isfinite(given).all() else f"{where} give values that are not finite"

    @property
    def is_steady(self) -> bool:
        """Whether the same rows give the same in evaluation mode, whatever can be drawn."""
        rows = self.rows(2)
        return apart(self.given(rows), self.given(rows, seed=1)) <= TOLERANCE

    @property
    def is_repeatable(self) -> bool:
        """Whether the same rows give the same in train mode, from the same seed of torch's generator."""
        before = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        rows = self.rows(4)
        once = self.given(rows, training=True, others=1)
        put_back(self.module, before)
        again = self.given(rows, training=True, others=2)
        put_back(self.module, before)
        return apart(once, again) <= TOLERANCE

    def require_steady(self) -> None:
        """Skips what makes no sense where the same rows give now this and now that."""
        if not self.is_steady:
            pytest.skip("see evaluates_the_same_each_time")


def require_same_each_time(probe: Probe) -> None:
    """
    Raises:
        AssertionError: evaluation draws at random, or remembers.
    """
    assert probe.is_steady, (
        f"the same {probe.noun} give other values at a second call in evaluation mode: drop nothing there "
        "(nn.Dropout, or a look at self.training), and keep nothing from one call to the next"
    )


def require_each_row_alone(probe: Probe) -> None:
    """
    Raises:
        AssertionError: what a row gives in evaluation mode hangs on the rows beside it.
    """
    probe.require_steady()
    # Of one size, so that the same kernels compute both; the others are far away, so that their statistics are, too.
    rows, strangers = probe.rows(3), 3 * probe.rows(2, seed=1) + 1
    alone = probe.given(rows)[:1], probe.given(torch.cat([rows[:1], strangers]))[:1]
    assert apart(*alone) <= TOLERANCE, (
        f"in evaluation mode the first of three {probe.noun} gives other values beside other ones: use running "
        "statistics there, and nothing that is computed over the batch"
    )


def require_torchs_generator(probe: Probe) -> None:
    """
    Raises:
        AssertionError: train mode draws from elsewhere than torch's generator.
    """
    assert probe.is_repeatable, (
        f"in train mode the same {probe.noun} give other values from the same torch.manual_seed, so that no run could "
        "be resumed: draw with torch, never with random or numpy, and from its global generator"
    )


def require_still_tensors(probe: Probe) -> None:
    """
    Raises:
        AssertionError: evaluation writes to a parameter or buffer.
    """
    probe.given(probe.rows(2))  # some make a buffer at their first call
    before = tensor_digests(all_tensors(probe.module))
    probe.given(probe.rows(2, seed=1))
    after = tensor_digests(all_tensors(probe.module))
    moved = [name for name in after if after[name] != before.get(name)]
    assert not moved, (
        f"evaluation mode writes to {', '.join(moved[:3])}: what a policy freezes must not move, and the audit of "
        "every run would fail"
    )


def require_copies(module: nn.Module) -> None:
    """
    Raises:
        AssertionError: a copy cannot be made.
    """
    try:
        copied(module)
    except Exception as error:  # a module may hold anything
        raise AssertionError(
            f"copy.deepcopy refuses the module: {said(error)}; keep locks, files and generators out of it"
        ) from error


def require_whole_state(probe: Probe, other: Probe, folder: Path) -> None:
    """
    Args:
        probe, other: the same, from other seeds.
        folder: to write to.

    Raises:
        AssertionError: the tensors of the one, written and read, do not make the other give the same.
    """
    probe.require_steady()
    path = folder / "state.safetensors"
    try:
        save_tensors(path, {name: plain_tensor(tensor) for name, tensor in probe.module.state_dict().items()}, {})
        load_state(other.module, load_tensors(path)[0])
    except Exception as error:  # a module may have any state
        raise AssertionError(
            f"the state dict cannot be written, read and loaded: {said(error)}; it holds tensors alone, and always the "
            "same names and shapes"
        ) from error
    rows = probe.rows(2)
    assert apart(probe.given(rows), other.given(rows)) <= TOLERANCE, (
        "with the state dict of another, the module gives other values than that: register every tensor that counts "
        "as a parameter or a buffer (self.register_buffer)"
    )


def require_same_weights(one: nn.Module, other: nn.Module) -> None:
    """
    Raises:
        AssertionError: two modules from one seed have other tensors.
    """
    found, expected = tensor_digests(all_tensors(one)), tensor_digests(all_tensors(other))
    moved = [name for name in {**expected, **found} if found.get(name) != expected.get(name)]
    assert not moved, (
        f"built twice from one seed, {', '.join(moved[:3])} differ: draw with torch's global generator, which the "
        "framework seeds, never with random or numpy"
    )


# ------------------------------------------------------------------------------------------ the engine's use


def require_bears_threads(probe: Probe) -> None:
    """
    Raises:
        AssertionError: two threads that call the module at once get what the other's rows give.
    """
    probe.require_steady()
    both = [probe.rows(2, seed) for seed in (0, 1)]
    expected = [probe.given(rows) for rows in both]
    try:
        found = _in_step(probe.module, both)
    except BrokenBarrierError:
        pytest.skip("the threads part ways: not every call of the module calls the same modules")
    except Exception as error:
        raise AssertionError(f"called by two threads at once, the module raises {said(error)}") from error
    assert all(apart(*pair) <= TOLERANCE for pair in zip(expected, found, strict=True)), (
        "called by two threads at once, as the engine does on a CPU, the module mixes their images up: pass on what "
        "one layer has for another as an argument, and do not keep it on self"
    )


def _in_step(module: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """What threads make of inputs, one each, as all wait for each other at the beginning of every module's call."""
    gate = Barrier(len(inputs), timeout=PATIENCE_S)

    def wait(*_: Any) -> None:
        gate.wait()

    def call(rows: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                vectors: Tensor = module(rows.clone())
        except BaseException:
            gate.abort()
            raise
        return vectors

    handles = [part.register_forward_pre_hook(wait) for part in module.modules()]
    try:
        with ThreadPoolExecutor(len(inputs)) as pool:
            futures = [pool.submit(call, rows) for rows in inputs]
        failed = [error for future in futures if (error := future.exception()) is not None]
        for error in sorted(failed, key=lambda error: isinstance(error, BrokenBarrierError)):
            raise error  # first what is not about the waiting
        return [future.result() for future in futures]
    finally:
        for handle in handles:
            handle.remove()


def require_divides(network: Network, layout: Layout, probe: Probe, flops: int = 0) -> None:
    """Trains the last stage, the neck and the head, as far as the division of the network goes.

    Args:
        network: backbone and head.
        layout: of it.
        probe: of it, too.
        flops: of one image through the backbone.

    Raises:
        AssertionError: the divided network computes something else than the whole one.
    """
    moving = [name for stage in (*layout.body[-1:], *layout.tail, layout.head) for name in stage.parameters]
    frozen = FrozenNetwork(network, layout)
    frozen.apply(layout.plan(moving))
    try:
        partition = divide(frozen, probe.rows(2), Wish(), flops)
    except NoPartition as reason:
        pytest.skip(f"the network trains whole: {reason}")
    rows, before = probe.rows(3), {name: buffer.clone() for name, buffer in network.named_buffers()}
    for mode, part in (("evaluation", partition.scored), ("train", partition.trained)):
        set_mode = frozen.train if mode == "train" else frozen.eval
        set_mode()
        with torch.no_grad(), seeded(0):
            whole = network(rows.clone())
        put_back(network, before)
        with torch.no_grad(), seeded(0):
            divided = part(*(tensor.clone() for tensor in partition.fixed(rows.clone())))
        put_back(network, before)
        assert apart(whole, divided) <= TOLERANCE, (
            f"in {mode} mode, what torch.export makes of the module computes something else than the module, so that "
            "it would train whole and slowly: leave no branch on torch.compiler, and bake no value in"
        )
