"""Policies by kind of parameter: norm layers, or biases."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

import framework as fw
from fw_freezing.once import Once


@attrs.frozen(kw_only=True)
class NormOnly(Once):
    """The weights and biases of norm layers train, and the head (2003.00152)."""

    def chosen(self, layout: fw.Layout) -> Iterable[str]:
        """Every norm layer's parameters."""
        return _present(sorted(layout.norm_parameters), "norm layer with parameters")


@attrs.frozen(kw_only=True)
class BiasOnly(Once):
    """Every bias trains, those of norm layers too, and the head (BitFit, 2106.10199)."""

    def chosen(self, layout: fw.Layout) -> Iterable[str]:
        """Every additive one-dimensional parameter."""
        of_norms = [name for name in layout.norm_parameters if name.endswith("bias")]
        return _present(sorted({*layout.biases, *of_norms} - {*layout.head.parameters}), "bias")


def _present(names: list[str], what: str) -> list[str]:
    if not names:
        raise fw.FwError(f"this backbone has no {what} that could train",
                         "choose a policy by stages: frozen, last_stages, full")  # fmt: skip
    return names
