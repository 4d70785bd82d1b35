"""First-party heads: features to logits."""

from __future__ import annotations

from collections.abc import Iterable

import framework as fw


@fw.hookimpl
def fw_heads() -> Iterable[fw.Component]:
    """`linear`, `mlp`, `cosine`, `none`."""
    from fw_heads.heads import HEADS

    return [fw.Component(name, config) for name, config in HEADS.items()]
