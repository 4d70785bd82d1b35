"""Adapters: small trainable modules on the layers of a backbone, or beside it."""

from __future__ import annotations

from collections.abc import Iterable

import framework as fw


@fw.hookimpl
def fw_adapters() -> Iterable[fw.Component]:
    """`lora`, `ssf`, `side`."""
    from fw_adapters.lora import Lora
    from fw_adapters.side import Side
    from fw_adapters.ssf import Ssf

    return [fw.Component("lora", Lora), fw.Component("ssf", Ssf), fw.Component("side", Side)]
