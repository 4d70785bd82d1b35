"""Streams: every random draw of a run as a function of its seed and what it is for."""

from __future__ import annotations

import hashlib


def stream_seed(seed: int, *purpose: str | int) -> int:
    """The seed of one stream of random numbers, 0 <= seed < 2**63.

    Streams of different purposes are independent, so that drawing more from one (a larger head, more workers)
    never moves another; equal arguments give equal seeds on every machine.

    Args:
        seed: the recipe's seed.
        purpose: what is drawn, for instance `"order", epoch` or `"augment", epoch, index`.
    """
    text = "\0".join(str(word) for word in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
