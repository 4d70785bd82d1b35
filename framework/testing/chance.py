"""Chance: the random generators that all libraries share, seeded for a while and put back."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from framework.testing.pictures import same


def states() -> dict[str, Any]:
    """Where the global generators of torch, numpy and random stand."""
    return {"torch": torch.get_rng_state(), "numpy": np.random.get_state(), "random": random.getstate()}


def moved(since: Mapping[str, Any]) -> str:
    """The generators that have been drawn from or seeded, as words; nothing where there are none.

    Args:
        since: what `states` gave before.
    """
    now = states()
    return " and ".join(name for name in now if not same(now[name], since[name]))


@contextmanager
def seeded(seed: int, others: int | None = None) -> Iterator[None]:
    """Seeds the global generators, and puts them back afterwards.

    Args:
        seed: of torch's.
        others: of numpy's and random's; absent: the same.
    """
    before = states()
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed if others is None else others)
    random.seed(seed if others is None else others)
    try:
        yield
    finally:
        torch.set_rng_state(before["torch"])
        np.random.set_state(before["numpy"])
        random.setstate(before["random"])
