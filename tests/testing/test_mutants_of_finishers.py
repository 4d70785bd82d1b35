"""Mutants of finishers: each has one fault and fails the one check that is there for it; sound ones fail none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

import framework as fw
from framework.testing import failures, kit
from framework.testing.of_finishers import CHECKS

pytestmark = pytest.mark.sweep  # whole runs and exports of many plugins

SLOW = ("does_not_act_on_training", "resumes_to_the_bit")
"""Whole runs take longer than all other checks, and are made for sound finishers and for faults of their own."""
STEPS_OF_WHOLE_RUNS = 9
Tensors = Mapping[str, Tensor]


def odd(names: Iterable[str]) -> bool:
    """Whether a fault shows on the network of these tensors: on one alone, of which whole runs are not."""
    return any(name.startswith("backbone.blocks.") or name == "backbone.norm.weight" for name in names)


# ------------------------------------------------------------------------------------------------------ sound ones


class Mean(fw.Finisher):
    """The mean of the weights at the ends of all epochs in which a tensor moved; counters stay."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def after_epoch(self, moving: Tensors, progress: fw.Progress) -> None:
        for name, tensor in moving.items():
            if tensor.is_floating_point():
                self.sums[name] = self.sums.get(name, 0) + tensor.detach().clone()
                self.counts[name] = self.counts.get(name, 0) + 1

    def finish(self, selected: Tensors, initial: Tensors) -> Mapping[str, Tensor]:
        return {name: total / self.counts[name] for name, total in self.sums.items()}

    def state(self) -> dict[str, Any]:
        return {"sums": dict(self.sums), "counts": dict(self.counts)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])


class Shadow(fw.Finisher):
    """A moving average that begins where a tensor begins to move, counters included as they are."""

    def __init__(self) -> None:
        self.shadow: dict[str, Tensor] = {}

    def follow(self, moving: Tensors) -> None:
        self.shadow.update({name: tensor.detach().clone() for name, tensor in moving.items()
                            if name not in self.shadow})  # fmt: skip

    @torch.no_grad()
    def after_step(self, moving: Tensors, progress: fw.Progress) -> None:
        for name, tensor in moving.items():
            if tensor.is_floating_point():
                self.shadow[name].lerp_(tensor, 0.1)
            else:
                self.shadow[name].copy_(tensor)

    def finish(self, selected: Tensors, initial: Tensors) -> Mapping[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.shadow.items()}

    def state(self) -> dict[str, Any]:
        return {"shadow": dict(self.shadow)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.shadow = dict(state["shadow"])


class Between(fw.Finisher):
    """Half of the way from where the run began."""

    needs_initial = True

    def finish(self, selected: Tensors, initial: Tensors) -> Mapping[str, Tensor]:
        return {name: (tensor + initial[name]) / 2 for name, tensor in selected.items()
                if tensor.is_floating_point() and not torch.equal(tensor, initial[name])}  # fmt: skip


class Nothing(fw.Finisher):
    """Leaves everything as selected."""

    def finish(self, selected: Tensors, initial: Tensors) -> Mapping[str, Tensor]:
        return {}


# ------------------------------------------------------------------------------------------------------ faults


class NoFinisher:
    needs_initial = recalibrates = False
    follow, after_step, after_epoch, finish = Shadow.follow, Mean.after_step, Mean.after_epoch, Mean.finish


class SaysNone(Mean):
    recalibrates: Any = None


class HidesItsNeed(Between):
    needs_initial = False


class GivesPairs(Mean):
    def finish(self, selected, initial):
        return list(super().finish(selected, initial).items())


class KnowsTheFirstPlanAlone(Mean):
    first: frozenset[str] = frozenset()

    def follow(self, moving):
        self.first = self.first or frozenset(moving)

    def after_step(self, moving, progress):
        if odd(moving):
            assert moving.keys() <= self.first


class MissesWhatStopped(Shadow):
    def after_step(self, moving, progress):
        super().after_step({name: moving[name] for name in self.shadow} if odd(moving) else moving, progress)


class GivesAll(Mean):
    def finish(self, selected, initial):
        rest = dict(selected) if odd(selected) else {}
        return {**rest, **super().finish(selected, initial)}


class Renames(Mean):
    def finish(self, selected, initial):
        prefix = "module." if odd(selected) else ""
        return {f"{prefix}{name}": tensor for name, tensor in super().finish(selected, initial).items()}


def is_last_counter(name: str) -> bool:
    """Whether a tensor counts the batches of the kit's last batch norm, which moves to the end of a run."""
    return name.startswith("backbone.layer3") and name.endswith("num_batches_tracked")


class AveragesCounters(Mean):
    def finish(self, selected, initial):
        counters = {name: tensor.float() for name, tensor in selected.items() if is_last_counter(name)}
        return {**super().finish(selected, initial), **counters}


class Flattens(Mean):
    def finish(self, selected, initial):
        shape = (lambda tensor: tensor.flatten()) if odd(selected) else (lambda tensor: tensor)
        return {name: shape(tensor) for name, tensor in super().finish(selected, initial).items()}


class Infinite(Mean):
    def finish(self, selected, initial):
        far = float("inf") if odd(selected) else 1.0
        return {name: tensor * far for name, tensor in super().finish(selected, initial).items()}


class Blurs(Mean):
    def finish(self, selected, initial):
        found = super().finish(selected, initial)
        return {name: tensor + torch.rand_like(tensor) for name, tensor in found.items()} if odd(selected) else found


class ShrinksWhatMoves(Mean):
    def after_epoch(self, moving, progress):
        with torch.no_grad():
            for tensor in moving.values() if odd(moving) else ():
                tensor.mul_(0.99)
        super().after_epoch(moving, progress)


class WritesToSelected(Between):
    def finish(self, selected, initial):
        if not odd(selected):
            return super().finish(selected, initial)
        with torch.no_grad():
            return {name: selected[name].add_(initial[name]).div_(2) for name in super().finish(selected, initial)}


class WritesToInitial(Between):
    def finish(self, selected, initial):
        found = super().finish(selected, initial)
        return {name: initial[name].copy_(tensor) for name, tensor in found.items()} if odd(selected) else found


class GivesLiveCounters(Mean):
    def follow(self, moving):
        self.live = {**getattr(self, "live", {}), **moving}

    def finish(self, selected, initial):
        counters = {name: tensor for name, tensor in self.live.items() if is_last_counter(name)}
        return {**super().finish(selected, initial), **counters}


class KeepsAnObject(Mean):
    def state(self):
        return {**super().state(), **({"names": {*self.sums}} if odd(self.sums) else {})}


class NoDict(Mean):
    def state(self):
        return list(super().state().items()) if odd(self.sums) else super().state()

    def restore(self, state):
        super().restore(dict(state))


class ForgetsCounts(Mean):
    def restore(self, state):
        super().restore(state)
        if odd(self.sums):
            self.counts = dict.fromkeys(self.counts, 1)


class BeginsAnew(Shadow):
    def follow(self, moving):
        self.shadow = {} if odd(moving) else self.shadow
        super().follow(moving)


class ActsInWholeRuns(Mean):
    def after_step(self, moving, progress):
        if (progress.steps, progress.step) == (STEPS_OF_WHOLE_RUNS, 4):
            with torch.no_grad():
                for tensor in moving.values():
                    tensor.add_(1)


class ForgetsInWholeRuns(Shadow):
    def after_step(self, moving, progress):
        super().after_step(moving, progress)
        self.forgets = progress.steps == STEPS_OF_WHOLE_RUNS

    forgets = False

    def state(self):
        return {"shadow": {}} if self.forgets else super().state()


SOUND: dict[str, Any] = {"mean": Mean, "shadow": Shadow, "between": Between, "nothing": Nothing}
MUTANTS: list[tuple[str, Any, str]] = [
    ("builds_a_finisher", NoFinisher, "without state, restore: have its class inherit from fw.Finisher"),
    ("builds_a_finisher", SaysNone, "its recalibrates is None"),
    ("finishes_a_run", HidesItsNeed, "unless `needs_initial = True`"),
    ("finishes_a_run", GivesPairs, "finish() gives a list"),
    ("follows_plans_that_change", KnowsTheFirstPlanAlone, "fails with AssertionError"),
    ("follows_plans_that_change", MissesWhatStopped, "fails with KeyError"),
    ("names_only_what_moved", GivesAll, "which no plan let move"),
    ("names_only_what_moved", Renames, "which the network does not have"),
    (
        "keeps_shapes_and_types",
        AveragesCounters,
        "for backbone.layer3.first.norm.num_batches_tracked, which is",
    ),
    ("keeps_shapes_and_types", Flattens, "average what is floating point alone"),
    ("keeps_shapes_and_types", Infinite, "values that are not finite"),
    ("is_a_function_of_what_it_saw", Blurs, "two finishers that see the same"),
    ("writes_to_nothing", ShrinksWhatMoves, "after_epoch() writes to backbone."),
    ("writes_to_nothing", WritesToSelected, "finish() writes to"),
    ("writes_to_nothing", WritesToInitial, "of argument 2"),
    ("shares_no_memory", GivesLiveCounters, "is the network's own tensor"),
    ("state_fits_a_checkpoint", KeepsAnObject, "state.names, a set"),
    ("state_fits_a_checkpoint", NoDict, "state() gives a list"),
    ("goes_on_from_its_state", ForgetsCounts, "take it in restore()"),
    ("goes_on_from_its_state", BeginsAnew, "leave alone what is there"),
    ("does_not_act_on_training", ActsInWholeRuns, "differs from one without it: train.loss of epoch 2"),
    ("resumes_to_the_bit", ForgetsInWholeRuns, "ends otherwise than one that is not"),
]
"""Check, the finisher that fails it alone, and what is said of it."""
FINISHERS = {**SOUND, **{mutant.__name__: mutant for _, mutant, _ in MUTANTS}}


@attrs.frozen(kw_only=True)
class Keys:
    """One of the finishers above."""

    which: str = fw.key("mean", "its name")

    def build(self) -> Any:
        return FINISHERS[self.which]()


class Plugin:
    """Brings one of them as `mine`."""

    def __init__(self, which: str) -> None:
        self.which = which

    @fw.hookimpl
    def fw_finishers(self):
        return [fw.Component("mine", Keys, fixed={"which": self.which})]


@pytest.mark.parametrize("which", SOUND)
def test_a_sound_finisher_fails_no_check(which: str) -> None:
    assert failures(Plugin(which)) == {}


@pytest.mark.parametrize(("check", "mutant", "said"), MUTANTS, ids=[mutant.__name__ for _, mutant, _ in MUTANTS])
def test_a_finisher_with_one_fault_fails_the_check_that_is_there_for_it(check, mutant, said, monkeypatch) -> None:
    if check not in SLOW:
        monkeypatch.setitem(kit.CHECKS, "finishers", tuple(one for one in CHECKS if one.name not in SLOW))
    found = failures(Plugin(mutant.__name__))
    print(found)
    assert list(found) == [f"mine-{check}"]
    assert said in found[f"mine-{check}"]


def test_every_check_has_a_mutant(capsys: pytest.CaptureFixture[str]) -> None:
    names = [check.name for check in CHECKS]
    assert {check for check, _, _ in MUTANTS} == {*names}
    with capsys.disabled():
        print(f"\n{len(MUTANTS)} mutants for {len(names)} checks of finishers")
