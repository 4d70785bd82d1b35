"""Draws: seeds the generators from which torch draws in a step."""

from __future__ import annotations

import torch


def seed_draws(seed: int, device: torch.device) -> None:
    """Seeds what torch draws from on the CPU and on one device, as `torch.manual_seed` does.

    That function also queues a seed for every accelerator that is not in use, with a stack trace each: a millisecond,
    as long as a step of a head takes.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
