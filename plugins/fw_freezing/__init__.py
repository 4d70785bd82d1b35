"""Freezing policies that decide once: which stages, names or kinds of parameters train; the head always does."""

from __future__ import annotations

import framework as fw
from fw_freezing.kinds import BiasOnly, NormOnly
from fw_freezing.pattern import Pattern
from fw_freezing.stages import FirstStages, Frozen, Full, LastStages, Stages


@fw.hookimpl
def fw_freezing_policies() -> list[fw.Component]:
    """The first-party policies."""
    return [
        fw.Component("full", Full),
        fw.Component("frozen", Frozen),
        fw.Component("last_stages", LastStages),
        fw.Component("first_stages", FirstStages),
        fw.Component("stages", Stages),
        fw.Component("pattern", Pattern),
        fw.Component("norm_only", NormOnly),
        fw.Component("bias_only", BiasOnly),
    ]
