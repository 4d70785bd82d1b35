"""Freed memory stays with a process while a run computes on its CPU, and goes back to the system afterwards."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="it is glibc that is told"
)
SCRIPT = """
import resource
from pathlib import Path
import torch
from torch import nn
from framework.allocator import keeping_memory

network = nn.Sequential(nn.Conv2d(3, 32, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 8, 1))
images = torch.randn(8, 3, 224, 224)

def faults(steps):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        network(images).mean().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 2**20

faults(3)
outside, before = faults(3), resident()
with keeping_memory(torch.device("DEVICE")):
    faults(3)
    inside, kept = faults(3), resident() - before
print(outside, inside, kept, resident() - before, faults(3))
"""


def measured(device: str = "cpu", **environment: str) -> list[int]:
    """Page faults of three steps outside and inside; MiB kept inside and after; faults after."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    script = [sys.executable, "-c", SCRIPT.replace("DEVICE", device)]
    done = subprocess.run(script, env=plain | environment, capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def test_freed_memory_is_the_next_steps_and_goes_back_in_the_end() -> None:
    outside, inside, kept, left, after = measured()
    assert inside < outside / 4, "the pages of a freed tensor are asked for again now and then, not at every step"
    assert kept > 60
    assert left < kept / 4
    assert after > outside / 4, "it is the system that hands out pages again"


RETURNING = """
from pathlib import Path
import resource, torch
from framework.allocator import keeping_memory, returning_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 2**20

def left():
    before = resident()
    blocks = [torch.ones(2**18) for _ in range(100)]  # of 1 MiB
    full = resident() - before
    del blocks
    return full, resident() - before

with returning_memory(torch.device("cpu")):
    torch.ones(30 * 2**18), torch.ones(30 * 2**18)  # as large a block as would have glibc keep all smaller ones
    inside = left()
    with keeping_memory(torch.device("cpu")):
        within = left()
with keeping_memory(torch.device("cpu")):
    kept = left()
print(*inside, *within, *kept)
"""


def test_freed_memory_goes_back_at_once_where_resident_memory_is_read() -> None:
    """A block that keeps memory changes nothing within one that returns it."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run([sys.executable, "-c", RETURNING], env=plain, capture_output=True, text=True, check=True)
    full, left, full_within, left_within, _, kept = map(int, done.stdout.split())
    assert min(full, full_within) > 95
    assert max(left, left_within) < 5
    assert kept > 50


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("device", "environment"),
    [("meta", {}), ("cpu", {"MALLOC_MMAP_MAX_": "65536"}), ("cpu", {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=65536"})],
    ids=["an accelerator", "a variable", "a tunable"],
)
def test_what_a_user_or_a_device_manages_is_left_alone(device: str, environment: dict[str, str]) -> None:
    outside, inside, *_ = measured(device, **environment)
    assert inside > outside / 2
