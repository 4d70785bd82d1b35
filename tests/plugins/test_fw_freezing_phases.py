"""The policy `phases`: what each phase trains and when it begins, against schedules worked out by hand; its errors,
all before the first step; and that a run which is interrupted in any phase goes on bit for bit."""

from __future__ import annotations

import json
import math
import random
import re
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
from sweeps import WHOLE

import framework as fw
import fw_freezing
from framework import train
from framework.bind import bind
from framework.display import NullDisplay
from framework.errors import Origin, RecipeError
from framework.files import tensor_digests
from framework.running import Run
from framework.runs import resume_run, start_run
from framework.testing import plugin_checks
from framework.testing.chance import seeded
from framework.testing.networks import BACKBONES, NETWORKS, backbone_table, sample
from framework.testing.surroundings import settings_put_back
from framework.testing.walks import COURSES, EPOCHS, STEPS, STEPS_PER_EPOCH, Course, decisions
from framework.testing.whole_runs import Left, differences, recipe_of, run, run_in_pieces
from fw_freezing.phases import Phases
from fw_freezing.stages import FirstStages, Frozen, Full, LastStages

DENSE = {
    "phases": [
        {"train": "head", "norm": "batch"},
        {"step": 2, "unfreeze": "last:1", "scale": 0.5, "schedule": "warm_up"},
        {"epoch": 1, "train": "all", "scale": {"head": 1.0, "backbone": 0.1}, "norm": "recalibrate"},
        {"fraction": 0.5, "freeze": "first:2", "schedule": "restart"},
        {"plateau": 1, "train": ["head", "last:1"], "norm": "fixed"},
    ]
}
"""A schedule with a phase of every kind, dense enough for a run of three epochs of three steps."""

test_kit = plugin_checks(fw_freezing, names=("phases",), keys={"phases": DENSE})


def keys_of(text: str) -> Phases:
    """The keys that a recipe's `[freezing]` table makes."""
    keys, problems = bind(Phases, tomllib.loads(text), ("freezing",), lambda path, of_key: Origin("recipe.toml"))
    assert keys is not None, problems
    return keys


SOON_STAY = COURSES["metrics that soon stay"]


def walked(text: str, network: str = "batch_norm", course: Course = SOON_STAY) -> dict[int, Any]:
    """Before which step of a run which plan begins: six epochs of five steps."""
    policy, layout = keys_of(text).build(), sample(network).layout
    begun = {0: policy.start(layout)}
    return begun | {step: plan for step, plan in decisions(policy, layout, course) if plan is not None}


def layout_of(network: str = "batch_norm") -> fw.Layout:
    return sample(network).layout


def of_stages(layout: fw.Layout, *names: str) -> set[str]:
    return {name for stage in layout.stages if stage.name in names for name in stage.parameters}


def scored(*values: float, name: str = "val.accuracy") -> Course:
    """A run whose epochs bring these values of a metric."""
    return tuple(
        fw.Progress(step // STEPS_PER_EPOCH, step, EPOCHS, STEPS,
                    {name: values[step // STEPS_PER_EPOCH - 1]} if step >= STEPS_PER_EPOCH else {})
        for step in range(STEPS)
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ what trains


@pytest.mark.parametrize("network", BACKBONES)
def test_words_mean_what_the_policies_of_their_names_train(network: str) -> None:
    layout = layout_of(network)
    alike = {"all": Full(), "head": Frozen(), "last:2": LastStages(n=2)}
    for word, policy in alike.items():
        assert walked(f'phases = [{{ train = "{word}" }}]', network) == {0: policy.build().start(layout)}
    first = walked('phases = [{ train = ["first:2", "head"] }]', network)
    assert first == {0: FirstStages(n=2).build().start(layout)}


@pytest.mark.parametrize("network", BACKBONES)
def test_words_are_sets_of_parameters_of_any_network(network: str) -> None:
    layout = layout_of(network)
    rest = {*layout.parameters} - {*layout.head.parameters}
    some = [name for name in layout.parameters if name.endswith("weight")]
    last = {name for stage in (*layout.tail, layout.head) for name in stage.parameters}
    expected = {"backbone": rest, "last:0": last,
                layout.body[1].name: {*layout.body[1].parameters}, "*weight": {*some}, some[0]: {some[0]}}  # fmt: skip
    for word, names in expected.items():
        assert {*walked(f'phases = [{{ train = "{word}" }}]', network)[0].trainable} == names, word


def test_a_schedule_gives_the_plans_that_it_states() -> None:
    """All four kinds of moment; replacing, adding and freezing again; rates, norms and the scheduler."""
    text = """
        [[phases]]
        train = "head"

        [[phases]]
        step = 3
        unfreeze = ["layer3", "backbone.layer2.*conv.weight"]
        scale = 0.5
        norm = "batch"

        [[phases]]
        epoch = 2
        train = "all"
        scale = { head = 2, backbone = 0.1, "backbone.layer*" = 0.7 }
        schedule = "restart"

        [[phases]]
        fraction = 0.5
        freeze = ["first:2", "backbone.layer2.*"]
        norm = "recalibrate"

        [[phases]]
        plateau = 2
        train = "layer1"
        unfreeze = "head"
        norm = "fixed"
        schedule = "warm_up"
    """
    layout, found = layout_of(), walked(text)
    head, third = of_stages(layout, "head"), of_stages(layout, "layer3")
    inner = of_stages(layout, "layer1", "layer2", "layer3")
    assert list(found) == [0, 3, 10, 15, 25]
    assert found[0] == layout.plan(head)
    halves = dict.fromkeys((*third, *(n for n in of_stages(layout, "layer2") if n.endswith("conv.weight"))), 0.5)
    assert found[3] == layout.plan({**dict.fromkeys(head, 1.0), **halves}, "batch")
    rates = {**dict.fromkeys(layout.parameters, 0.1), **dict.fromkeys(inner, 0.7), **dict.fromkeys(head, 2.0)}
    assert found[10] == attrs.evolve(layout.plan(rates, "batch"), schedule="restart")
    assert found[15] == layout.plan({name: rates[name] for name in head | third}, "recalibrate")
    assert found[25] == attrs.evolve(layout.plan(of_stages(layout, "layer1") | head), schedule="warm_up")
    assert walked(text, course=COURSES["metrics that improve"]).keys() == {0, 3, 10, 15}
    assert keys_of(text).build().scales() == {0.1, 0.5, 0.7, 1.0, 2.0}


def test_a_number_is_the_scale_of_what_begins_to_train() -> None:
    layout = layout_of()
    found = walked("""phases = [
        { train = "last:0", scale = 0.5 },
        { epoch = 1, unfreeze = "last:1", scale = 0.1 },
        { epoch = 2, unfreeze = "layer2" },
        { epoch = 3, scale = 0.2 },
        { epoch = 4, train = "last:1" },
        { epoch = 5, scale = { layer3 = 3.0 } },
    ]""")
    head, third, second = (layout.select([name])[0].parameters for name in ("head", "layer3", "layer2"))

    def scales(step: int) -> list[set[float | None]]:
        return [{found[step].trainable.get(name) for name in names} for names in (head, third, second)]

    assert scales(0) == [{0.5}, {None}, {None}]
    assert scales(5) == [{0.5}, {0.1}, {None}]
    assert scales(10) == [{0.5}, {0.1}, {1.0}]
    assert scales(15) == [{0.2}, {0.2}, {0.2}]
    assert scales(20) == [{1.0}, {1.0}, {None}]
    assert scales(25) == [{1.0}, {3.0}, {None}]


def test_norms_stay_as_a_phase_has_them_until_another_says_otherwise() -> None:
    layout = layout_of()
    found = walked("""phases = [
        { train = "head", norm = "batch" },
        { epoch = 1, unfreeze = "layer3" },
        { epoch = 2, norm = "recalibrate" },
        { epoch = 3, freeze = "layer3" },
    ]""")
    last, head = layout.select(["layer3", "head"]), layout.head.parameters
    both = [name for stage in last for name in stage.parameters]
    assert [found[step] for step in (5, 10)] == [layout.plan(both, norm) for norm in ("batch", "recalibrate")]
    assert (found[0], found[15]) == (layout.plan(head, "batch"), layout.plan(head, "recalibrate"))


def test_of_a_table_the_narrowest_word_decides_in_whatever_order_it_is_written() -> None:
    """Two recipes that differ in the order of a table's keys alone are the same recipe, with one digest."""
    entries = ["all = 0.1", "head = 1.0", '"last:1" = 0.5', "layer2 = 0.3"]
    plans = [walked(f'phases = [{{ train = "all", scale = {{ {", ".join(order)} }} }}]')[0]
             for order in (entries, entries[::-1], entries[2:] + entries[:2])]  # fmt: skip
    layout = layout_of()
    stages = {"head": 1.0, "layer3": 0.5, "layer2": 0.3}
    expected = {name: stages.get(stage.name, 0.1) for stage in layout.stages for name in stage.parameters}
    assert [dict(plan.trainable) for plan in plans] == [expected] * 3


def test_what_a_library_keeps_fixed_is_trained_by_no_phase() -> None:
    layout = attrs.evolve(layout_of(), fixed=frozenset(layout_of().body[0].parameters))
    policy = keys_of('phases = [{ train = "all" }, { epoch = 1, train = "stem" }]').build()
    with pytest.raises(fw.FwError, match="phase 2 of 2: nothing trains"):
        policy.start(layout)


# ------------------------------------------------------------------------------------------------ when


FIRST = '{ train = "head" }'


def begin(*phases: str, course: Course = SOON_STAY, head: str = "") -> list[int]:
    """Before which steps the phases begin that come after a first."""
    tables = [f'{{ train = "{("all", "head")[number % 2]}", {phase} }}' for number, phase in enumerate(phases)]
    text = f"{head}\nphases = [{', '.join([FIRST, *tables])}]"
    return list(walked(text, course=course))[1:]


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        (["step = 1", "step = 29"], [1, 29]),
        (["epoch = 1", "epoch = 5"], [5, 25]),
        (["fraction = 0.01", "fraction = 0.1", "fraction = 0.34", "fraction = 0.99"], [1, 3, 11]),
        (["step = 4", "epoch = 1", "fraction = 0.2", "step = 7"], [4, 5, 6, 7]),
        (["epoch = 5", "epoch = 6", "epoch = 60"], [25]),
        (["step = 30"], []),
        (["step = 100", "epoch = 7"], []),  # in whatever order, of a run as short as this
    ],
)
def test_each_phase_begins_at_its_moment_if_the_run_gets_there(phases: list[str], expected: list[int]) -> None:
    assert begin(*phases) == expected


@pytest.mark.parametrize(
    ("values", "phases", "expected"),
    [
        ((0.5, 0.6, 0.6, 0.5, 0.4, 0.3), ["plateau = 2"], [20]),
        ((0.5, 0.6, 0.7, 0.8, 0.9, 1.0), ["plateau = 1"], []),
        ((0.5, 0.5, 0.5, 0.5, 0.5, 0.5), ["plateau = 1", "plateau = 1", "plateau = 2"], [10, 15, 25]),
        ((0.5, 0.4, 0.6, 0.5, 0.5, 0.6), ["plateau = 2"], [25]),
        ((math.nan, math.nan, 0.1, 0.2, 0.2, 0.2), ["plateau = 2", "plateau = 1"], [10, 25]),
        ((0.5, math.nan, 0.6, math.nan, math.nan, 0.7), ["plateau = 2"], [25]),
        # a phase at a moment of its own begins then, and what it passes over does not come any more
        ((0.5, 0.6, 0.7, 0.7, 0.7, 0.7), ["plateau = 2", "step = 12"], [12]),
        # epochs are counted from where the phase before began
        ((0.5, 0.5, 0.5, 0.5, 0.5, 0.5), ["epoch = 3", "plateau = 2"], [15, 25]),
        ((0.5, 0.5, 0.5, 0.5, 0.5, 0.5), ["step = 8", "plateau = 1"], [8, 10]),
    ],
)
def test_a_plateau_is_so_many_epochs_in_a_row_without_a_better_metric(
    values: tuple[float, ...], phases: list[str], expected: list[int]
) -> None:
    assert begin(*phases, course=scored(*values)) == expected
    falling = scored(*(-value for value in values), name="val.loss")
    assert begin(*phases, course=falling, head='metric = "val.loss"\nmode = "min"') == expected


def test_an_epoch_of_which_no_image_could_be_validated_is_no_better() -> None:
    course = tuple(attrs.evolve(now, metrics={"train.loss": 0.1} if now.epoch else {}) for now in scored(*[0.5] * 6))
    assert begin("plateau = 2", course=course) == [10]


def test_a_metric_that_the_run_does_not_have_is_answered_with_those_it_has() -> None:
    keys = keys_of('metric = "val.acuracy"\nphases = [{ train = "head" }, { plateau = 1, train = "all" }]')
    policy, layout = keys.build(), layout_of()
    policy.start(layout)
    now = next(now for now in COURSES["metrics that improve"] if now.epoch == 1)
    with pytest.raises(fw.FwError, match=r"freezing\.metric = 'val\.acuracy'") as refused:
        policy.next(layout, now)
    assert "did you mean 'val.accuracy'?" in refused.value.hints


def test_a_policy_that_waits_for_a_plateau_goes_on_waiting_after_it_was_restored() -> None:
    keys = keys_of(f'phases = [{FIRST}, {{ plateau = 4, train = "all" }}]')
    layout, course = layout_of(), scored(*[0.5] * 6)
    policy = keys.build()
    policy.start(layout)
    waits = []
    for now in course[::STEPS_PER_EPOCH]:
        assert (policy.next(layout, now) is None) == (now.epoch < 5)
        restored = keys.build()
        restored.start(layout)
        restored.restore(json.loads(json.dumps(policy.state())))
        assert restored.state() == policy.state()
        assert policy.state()["seen"] == now.epoch
        waits.append(policy.state()["waited"])
        policy = restored
    assert waits == [0, 0, 1, 2, 3, 0]


# ------------------------------------------------------------------------------------------------ errors

ERRORS = {
    "nothing": ("", "freezing.phases is empty", "begin with what trains first"),
    "a first moment": ('{ train = "head", epoch = 1 }', "phase 1 of 1: it begins with the run", "leave out epoch"),
    "a first restart": (
        '{ train = "head", schedule = "restart" }', "phase 1 of 1: it begins with the run", "and schedule"
    ),
    "no moment": (f'{FIRST}, {{ train = "all" }}', "phase 2 of 2: it begins at no moment", "state one of epoch, step"),
    "two moments": (
        f'{FIRST}, {{ train = "all", step = 4, fraction = 0.5 }}',
        "phase 2 of 2: it begins at step = 4 and at fraction = 0.5", "state one of",
    ),
    "out of order": (
        f'{FIRST}, {{ train = "all", epoch = 4 }}, {{ plateau = 1, freeze = "stem" }}, {{ train = "head", epoch = 2 }}',
        "phase 4 (epoch = 2) does not begin after phase 2 (epoch = 4)", "in their order",
    ),
    "out of order among others": (
        f'{FIRST}, {{ train = "all", epoch = 4 }}, {{ train = "head", step = 99 }}, {{ train = "all", epoch = 2 }}',
        "phase 4 (epoch = 2) does not begin after phase 2 (epoch = 4)", "in their order",
    ),
    "one moment for two": (
        f'{FIRST}, {{ train = "all", fraction = 0.5 }}, {{ freeze = "stem", fraction = 0.5 }}',
        "phase 3 (fraction = 0.5) does not begin after phase 2 (fraction = 0.5)", "a moment of its own",
    ),
    "an unknown stage": (
        f'{FIRST}, {{ unfreeze = "layre3", epoch = 1 }}', "phase 2 of 2: no stage is called 'layre3'",
        "did you mean 'layer3'",
    ),
    "an unknown stage last": (
        f'{FIRST}, {{ unfreeze = "all", epoch = 1 }}, {{ freeze = "layre3", epoch = 9 }}',
        "phase 3 of 3: no stage is called 'layre3'", "did you mean 'layer3'",
    ),
    "too many stages": ('{ train = "last:7" }', "phase 1 of 1: 'last:7', but the backbone has 4 stages", "count to 4"),
    "a pattern of nothing": (
        f'{FIRST}, {{ unfreeze = "layer2.*", epoch = 1 }}', "phase 2 of 2: 'layer2.*' matches no parameter",
        "did you mean 'backbone.layer2.*'?",
    ),
    "nothing trains": ('{ train = "head", freeze = "*" }', "phase 1 of 1: nothing trains", 'train = "head"'),
    "nothing trains then": (f'{FIRST}, {{ freeze = "head", step = 1 }}', "phase 2 of 2: nothing trains", "freeze less"),
    "a scale of what is frozen": (
        '{ train = "head", scale = { head = 1.0, layer3 = 0.1 } }',
        "phase 1 of 1: scale names 'layer3', of which nothing trains", "leave it out of scale",
    ),
    "a scale of nothing": (
        f'{FIRST}, {{ unfreeze = "head", scale = 0.5, step = 1 }}',
        "phase 2 of 2: scale = 0.5, but what it unfreezes trains already", "by a table",
    ),
    "two scales of one": (
        '{ train = "all", scale = { head = 1.0, "head.*" = 0.5 } }',
        "phase 1 of 1: scale names the same parameters by 'head' and by 'head.*'", "leave one of them out",
    ),
    "no change": (f"{FIRST}, {{ epoch = 3 }}", "phase 2 of 2: it changes nothing", "say what trains"),
    "a second restart": (
        f'{FIRST}, {{ epoch = 1, schedule = "restart" }}, {{ epoch = 2, schedule = "restart" }}',
        "phase 3 of 3: it says the same as the phase before", "leave it out",
    ),
    "a second recalibration": (
        f'{FIRST}, {{ epoch = 1, norm = "recalibrate" }}, {{ epoch = 2, norm = "recalibrate" }}',
        "phase 3 of 3: it says the same as the phase before", "leave it out",
    ),
    "a rising loss": (f'{FIRST}, {{ train = "all", plateau = 3 }}', "'val.loss' gets better as it falls", '"min"'),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_what_is_wrong_with_any_phase_is_found_before_the_first_step(case: str) -> None:
    phases, message, hint = ERRORS[case]
    metric = 'metric = "val.loss"\n' if case == "a rising loss" else ""
    keys = keys_of(f"{metric}phases = [{phases}]")
    with pytest.raises(fw.FwError) as refused:
        keys.build().start(layout_of())
    assert message in refused.value.message
    assert hint in refused.value.hint


def tables_of(freezing: Any, network: str = "batch_norm", **tables: Any) -> dict[str, Any]:
    """A recipe of the kit with a schedule of phases."""
    return {"freezing": {"use": "phases", **freezing}, "backbone": backbone_table(network), **tables,
            "engine": {"partition": "off", **tables.get("engine", {})}}  # fmt: skip


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([{"train": "head"}, {"fraction": 0.5, "train": "all"}, {"epoch": 1, "freeze": "stem"}],
         "phase 3 (epoch = 1) does not begin after phase 2 (fraction = 0.5) in a run of 3 epochs, 9 steps"),
        ([{"train": "head"}, {"step": 3, "train": "all"}, {"epoch": 1, "freeze": "stem"}],
         "phase 3 (epoch = 1) does not begin after phase 2 (step = 3)"),
        ([{"train": "head"}, {"fraction": 0.4, "train": "all"}, {"fraction": 0.41, "freeze": "stem"}],
         "phase 3 (fraction = 0.41) does not begin after phase 2 (fraction = 0.4)"),
        ([{"train": "head"}, {"epoch": 1, "unfreeze": "layre3"}], "no stage is called 'layre3'"),
    ],
)  # fmt: skip
def test_a_run_that_is_refused_leaves_nothing(index, tmp_path: Path, phases: list[Any], message: str) -> None:
    """Moments of several kinds can be compared when the run's length is known, which is before its first step."""
    with pytest.raises(fw.FwError, match=re.escape(message)):
        run(index, tables_of({"phases": phases}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_wrong_key_of_a_phase_is_told_with_its_place(index) -> None:
    phases = [{"train": "head"}, {"epoch": 0, "unfreez": "all"}, {"fraction": 1.0, "norm": "fixd"}]
    with pytest.raises(RecipeError) as refused:
        recipe_of(index.including([NETWORKS]), tables_of({"phases": phases}))
    found = {problem.message: problem.hints for problem in refused.value.problems}
    assert "freezing.phases.1.epoch: the integer 0 must be greater than 0" in found
    assert "did you mean 'unfreeze'?" in found["unknown key 'unfreez' in [freezing.phases.1]"]
    assert "freezing.phases.2.fraction: the number 1.0 must be less than 1" in found
    assert any("freezing.phases.2.norm" in message for message in found)


# ------------------------------------------------------------------------------------------------ real runs

SCHEDULERS: dict[str, Any] = {
    "step": {"use": "torch/StepLR", "step_size": 1, "gamma": 0.5},
    "cosine": {"use": "torch/CosineAnnealingLR"},
    "one cycle": {"use": "torch/OneCycleLR", "max_lr": 0.05},
    "warm-up": [{"use": "warmup", "epochs": 1}, {"use": "torch/ExponentialLR", "gamma": 0.5}],
    "plateau": {"use": "torch/ReduceLROnPlateau", "mode": "min", "patience": 0, "factor": 0.5, "threshold": 10.0},
}
OPTIMIZERS = {
    "batch_norm": {"use": "torch/SGD", "lr": 0.05, "momentum": 0.9},
    "layer_norm": {"use": "torch/AdamW", "lr": 0.01, "no_decay": ["norm"]},
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_run_that_is_resumed_in_every_phase_ends_as_a_whole_one(
    index, tmp_path: Path, monkeypatch, scheduler: str
) -> None:
    honest = train.validate
    monkeypatch.setattr(train, "validate", lambda run: {**honest(run), "accuracy": 0.5})
    network = list(OPTIMIZERS)[list(SCHEDULERS).index(scheduler) % 2]
    tables = tables_of(DENSE, network, optimizer=OPTIMIZERS[network], scheduler=SCHEDULERS[scheduler])
    whole, pieces = run(index, tables, tmp_path / "whole"), run_in_pieces(index, tables, tmp_path / "pieces")
    assert differences(whole, pieces) == []
    assert [change["step"] for change in whole.summary["plan_changes"]] == [2, 3, 5, 6]
    assert whole.epochs == pieces.epochs
    assert whole.summary["audit"] == pieces.summary["audit"]
    assert whole.summary["audit"]["frozen_moved"] == 0


def test_a_change_of_plan_shows_wherever_a_run_is_followed(index, tmp_path: Path, monkeypatch) -> None:
    """In what is told as it goes, in both logs, in the summary and in the report."""
    monkeypatch.setenv("FW_TRACKERS", "jsonl")
    said: list[str] = []
    monkeypatch.setattr(NullDisplay, "note", lambda self, text: said.append(text))
    phases = [{"train": "head"}, {"step": 2, "unfreeze": "layer3", "scale": 0.1, "schedule": "warm_up"},
              {"epoch": 2, "train": "layer3", "scale": {"layer3": 1.0}}]  # fmt: skip
    run(index, tables_of({"phases": phases}, train={"report": True}), tmp_path / "run")
    head, third = (len(layout_of().select([name])[0].parameters) for name in ("head", "layer3"))
    both = head + third
    assert [text for text in said if text.startswith("plan changed")] == [
        f"plan changed before step 3: {both} tensors train (+{third} -0); rates 0.1x to 1x; rates warm up",
        f"plan changed before step 7: {third} tensors train (+0 -{head})",
    ]
    folder = tmp_path / "run"
    epochs, events = (lines(folder / name) for name in ("metrics.jsonl", "events.jsonl"))
    assert [line["trainable"] for line in epochs] == [both, both, third]
    told = [(line["epoch"], line["step"], line["trainable"], len(line["added"]), len(line["removed"]))
            for line in events if line["event"] == "plan_changed"]  # fmt: skip
    assert told == [(0, 2, both, third, 0), (2, 6, third, 0, head)]
    also = [(line["schedule"], line["scales"]) for line in events if line["event"] == "plan_changed"]
    assert also == [("warm_up", [0.1, 1.0]), ("continue", [1.0])]
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "Tensors that train from a step on" in report
    assert "rates 0.1x to 1x, rates warm up" in report
    assert report.count("plan change") >= 2, "a mark in each drawing by epoch"


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


# ------------------------------------------------------------------------------------- random schedules, resumed


@attrs.frozen(eq=False)
class Seen:
    """What a run is made of before each of its steps."""

    steps: list[dict[str, Any]] = attrs.field(factory=list)

    def before_step(self, run: Run) -> None:
        frozen, groups = run.parts.frozen, run.parts.groups
        modules, buffers = dict(run.parts.network.named_modules()), dict(run.parts.network.named_buffers())
        self.steps.append({
            "step": run.standing.step,
            "plan": frozen.plan,
            "trains": [name for name, parameter in run.parts.network.named_parameters() if parameter.requires_grad],
            "modes": {name: module.training for name, module in modules.items()},
            "buffers": tensor_digests(buffers),
            "members": [list(names) for names in groups.members],
            "groups": [{key: value for key, value in group.items() if key != "params"}
                       for group in run.parts.optimizer.param_groups],
            "rates": groups.rates(),
        })  # fmt: skip


class Ended(Exception):
    """Stands for the end of a process."""


class EndsAfter(NullDisplay):
    """Raises when it is told of a step, of which there is no checkpoint yet."""

    def __init__(self, step: int) -> None:
        self.step = step

    def batch(self, facts) -> None:
        if facts["step"] == self.step:
            raise Ended


def drawn_moment(draw: random.Random, step: int) -> dict[str, Any]:
    """A moment before which so many steps are done, of a run of three epochs of three, or a plateau."""
    kinds: list[dict[str, Any]] = [{"step": step}, {"fraction": (step - 0.5) / 9}, {"plateau": 1}]
    return draw.choice([*kinds, *([{"epoch": step // 3}] if step % 3 == 0 else [])])


def drawn_change(draw: random.Random, layout: fw.Layout, is_first: bool) -> dict[str, Any]:
    stages = [stage.name for stage in layout.stages]
    words = ["all", "head", "backbone", "last:0", "last:1", "last:2", "first:1", "first:2", "*weight", *stages]
    what = draw.choice(["train"] if is_first else ["train", "unfreeze", "unfreeze", "freeze", "freeze", ""])
    scale = draw.choice([None, None, 0.1, 0.5, {"head": 1.0, "backbone": 0.1}, {"all": 0.5, "last:1": 2.0}])
    found = {
        what: draw.sample(words, draw.randint(1, 2)),
        "scale": scale,
        "norm": draw.choice([None, None, "fixed", "batch", "recalibrate"]),
        "schedule": None if is_first else draw.choice([None, "restart", "warm_up"]),
    }
    return {name: value for name, value in found.items() if name and value is not None}


def drawn_schedule(draw: random.Random, layout: fw.Layout) -> dict[str, Any]:
    """Phases that a network takes."""
    while True:
        begins = [{}, *(drawn_moment(draw, step) for step in sorted(draw.sample(range(1, 9), draw.randint(1, 4))))]
        phases = [{**moment, **drawn_change(draw, layout, not moment)} for moment in begins]
        keys, problems = bind(Phases, {"phases": phases}, ("freezing",), lambda path, of_key: Origin("drawn"))
        assert keys is not None, problems
        with suppress(fw.FwError):
            keys.build().start(layout)
            return {"phases": phases}


CASES_EACH = 40 if WHOLE else 10
"""Schedules under each of five schedulers: `FW_WHOLE_SWEEPS=1` asks for all 200."""


@pytest.mark.sweep
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_any_schedule_goes_on_from_any_step_as_if_nothing_had_been(
    index, tmp_path: Path, monkeypatch, scheduler: str
) -> None:
    """Plan, modes, buffers, groups and rates before each step, and what is left at the end."""
    known, original = index.including([NETWORKS]), train.take_step
    changes = 0
    for seed in range(CASES_EACH):
        draw = random.Random(f"{scheduler} {seed}")
        network, stop = list(OPTIMIZERS)[seed % 2], draw.randint(1, 9)
        freezing = drawn_schedule(draw, layout_of(network))
        tables = tables_of(freezing, network, optimizer=OPTIMIZERS[network], scheduler=SCHEDULERS[scheduler],
                           train={"checkpoint_every": 1}, metric=[{"use": "accuracy"}])  # fmt: skip
        recipe, folders = recipe_of(known, tables), [tmp_path / f"{seed}-{name}" for name in ("whole", "parts")]
        seen = [Seen(), Seen()]
        with seeded(0), settings_put_back():
            watch(monkeypatch, original, seen[0])
            start_run(recipe, known, folders[0], False, NullDisplay())
            watch(monkeypatch, original, Seen())
            with suppress(Ended):
                start_run(recipe, known, folders[1], False, EndsAfter(stop))
            watch(monkeypatch, original, seen[1])
            resume_run(folders[1], known, NullDisplay())
        where = f"interrupted in step {stop}: {freezing}"
        assert [step["step"] for step in seen[0].steps] == list(range(9)), where
        require_same(seen[0].steps[stop - 1 :], seen[1].steps, where)
        whole, parts = (Left.read(folder) for folder in folders)
        assert differences(whole, parts) == [], where
        changes += len(whole.summary["plan_changes"])
    print(f"{CASES_EACH} schedules, {changes} changes of plan")
    assert changes > CASES_EACH


def watch(monkeypatch, original, seen: Seen) -> None:
    def step(run: Run) -> None:
        seen.before_step(run)
        original(run)

    monkeypatch.setattr(train, "take_step", step)


def require_same(expected: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]], where: str) -> None:
    assert [step["step"] for step in found] == [step["step"] for step in expected], where
    for one, other in zip(expected, found, strict=True):
        assert [name for name in one if one[name] != other[name]] == [], f"step {one['step']}, {where}"
