"""Surgical fine-tuning: one stage alone, or every stage at a rate by its relative gradient norm (2210.11466)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import attrs

import framework as fw
from fw_freezing.once import Once, parameters_of

SCALES = tuple(2.0**-power for power in range(10))
"""The learning-rate scales that `auto_rgn` gives: 1, 1/2, ... 1/512."""


@attrs.frozen(kw_only=True)
class Surgical(Once):
    """One stage of the backbone trains, and the head (surgical fine-tuning, 2210.11466).

    The paper finds that the best stage depends on how the images differ from those of the pretraining: the first where
    pixels do (corruptions, another sensor), a middle one where features do (other kinds within a class), the last where
    only the meaning does; there one stage does as well as all, or better. Its networks had learnt the classes before,
    and only the chosen stage trained. Here the head is new and trains too; the neck does not, unless it is named.
    """

    position: fw.Fraction = fw.key(0.0, "which stage, from 0, the first, to 1, the last")
    stage: str = fw.key("", "name of the stage, instead of position; `fw show RECIPE --layout` lists them")

    def chosen(self, layout: fw.Layout) -> Iterable[str]:
        """The parameters of the stage."""
        if self.stage:
            return parameters_of(layout.select([self.stage]))
        return layout.body[round(self.position * (len(layout.body) - 1))].parameters


@attrs.frozen(kw_only=True)
class AutoRgn:
    """Everything trains, each stage at a rate by its relative gradient norm (Auto-RGN, 2210.11466).

    The relative gradient norm of a stage is the length of its gradient over that of its parameters. The stage that has
    the largest trains at the full rate, any other at its share of the largest. The paper claims that this does better
    than one rate for all, without having to know which stage is the best.

    The authors measure on five batches before every epoch. Here the norms are those of the steps since the rates were
    set last, so that no batch is computed for them alone; until `probe` steps are done, all stages train at the lowest
    rate. Shares are rounded to powers of two from 1 to 1/512, to the nearest by ratio. The head is new, so that its
    gradients say nothing of the images: it trains at the full rate, and does not count.
    """

    probe: fw.PositiveInt = fw.key(5, "steps after which the rates are first set; from then on they are at every epoch")

    def build(self) -> fw.FreezingPolicy:
        """The policy."""
        return ByRelativeGradient(self)


class ByRelativeGradient(fw.FreezingPolicy):
    """Scales rates by what the engine measures; it remembers nothing itself.

    Args:
        keys: what the recipe says.
    """

    def __init__(self, keys: AutoRgn) -> None:
        self.keys = keys

    def start(self, layout: fw.Layout) -> fw.Plan:
        """Everything at the lowest rate."""
        return _scaled(layout, {})

    def scales(self) -> frozenset[float]:
        """The powers of two."""
        return frozenset(SCALES)

    def moments(self) -> fw.Moments:
        """After the probe, and at every epoch."""
        return fw.Moments(steps=frozenset({self.keys.probe}), every_epoch=True)

    def wants(self) -> frozenset[str]:
        """Both norms of each stage."""
        return frozenset({"grad_norm", "weight_norm"})

    def next(self, layout: fw.Layout, progress: fw.Progress) -> fw.Plan | None:
        """Everything at the rates that were measured, if any were."""
        norms = relative_norms(progress.signals, {layout.head.name})
        largest = max(norms.values(), default=0.0)
        return _scaled(layout, {stage: scale_of(norm / largest) for stage, norm in norms.items()}) if largest else None


def relative_norms(signals: Mapping[str, Mapping[str, float]], without: Iterable[str]) -> dict[str, float]:
    """Stage -> length of its gradient over that of its parameters; one whose parameters are all zero has none."""
    weights = {stage: norm for stage, norm in signals.get("weight_norm", {}).items() if norm and stage not in without}
    return {stage: signals["grad_norm"][stage] / norm for stage, norm in weights.items()}


def scale_of(share: float) -> float:
    """The scale that is nearest to a share of the largest, by ratio."""
    octaves = math.log2(max(SCALES[-1], share))
    return min(SCALES, key=lambda scale: abs(math.log2(scale) - octaves))


def _scaled(layout: fw.Layout, scales: Mapping[str, float]) -> fw.Plan:
    """Everything trains; a stage without a scale at the lowest rate, the head at the highest."""
    rates = {**scales, layout.head.name: SCALES[0]}
    return layout.plan({name: rates.get(stage.name, SCALES[-1]) for stage in layout.stages
                        for name in stage.parameters})  # fmt: skip
