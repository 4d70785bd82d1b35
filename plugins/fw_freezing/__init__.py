"""Freezing policies: those that decide once, and those that papers compare, which let more train as time goes on."""

from __future__ import annotations

import framework as fw
from fw_freezing.auto_freeze import AutoFreeze
from fw_freezing.head_first import FineTune, GradualUnfreeze, LpFt
from fw_freezing.kinds import BiasOnly, NormOnly
from fw_freezing.layer_decay import LayerDecay
from fw_freezing.pattern import Pattern
from fw_freezing.phases import Phases
from fw_freezing.stages import FirstStages, Frozen, Full, LastStages, Stages
from fw_freezing.surgical import AutoRgn, Surgical


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
        fw.Component("phases", Phases),
        fw.Component("lp_ft", LpFt),
        fw.Component("fine_tune", FineTune),
        fw.Component("gradual_unfreeze", GradualUnfreeze),
        fw.Component("layer_decay", LayerDecay),
        fw.Component("surgical", Surgical),
        fw.Component("auto_rgn", AutoRgn),
        fw.Component("auto_freeze", AutoFreeze),
    ]
