"""Variants of a recipe in one process: they share what they begin with, and nothing that they do."""

from __future__ import annotations

import copy
import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from sweeps import often

import framework as fw
from framework import builder, captures, runs, train
from framework.builder import Builder
from framework.display import NullDisplay
from framework.errors import AuditFailed
from framework.files import load_tensors
from framework.index import Index
from framework.results import NO_SELECTION
from framework.running import Run
from framework.shared import Shared

SMALL = {
    "data.images": 40, "data.classes": 3, "data.size": 40, "backbone.use": "timm/test_efficientnet",
    "backbone.image_size": 32, "train.batch_size": 8, "train.epochs": 2, "optimizer.lr": 0.05, "train.report": False,
}  # fmt: skip
VARIANTS = {
    "head": {"freezing.use": "frozen"},
    "all of it": {"freezing.use": "full", "freezing.norm": "batch"},
    "another seed": {"freezing.use": "frozen", "seed": 1},
    "head again": {"freezing.use": "frozen"},
    "last stage": {"freezing.use": "last_stages"},
    "last stage, another seed": {"freezing.use": "last_stages", "seed": 1},
    "thawed": {"freezing.use": "gradual_unfreeze"},
    "new statistics": {"freezing.use": "frozen", "freezing.norm": "recalibrate"},
}
"""The second moves every tensor, so that one it left behind would show in the fourth."""
STUDIES = {"few": ("head", "all of it", "head again", "last stage"), "all": tuple(VARIANTS)}


@pytest.mark.parametrize("study", often(STUDIES, quick=("few",)))
def test_each_ends_bit_for_bit_as_it_does_alone(tmp_path: Path, study: str) -> None:
    variants = {name: {**SMALL, **VARIANTS[name]} for name in STUDIES[study]}
    together = list(fw.run_each("smoke", variants, out=tmp_path / "together"))
    assert [result.folder.name for result in together] == list(variants)
    for result, (name, overrides) in zip(together, variants.items(), strict=True):
        alone = fw.run("smoke", overrides, out=tmp_path / "alone" / name)
        for key in ("metrics", "audit", "weights", "params"):
            assert result[key] == alone[key], name
        one, other = (load_tensors(run.folder / "model.safetensors")[0] for run in (result, alone))
        assert [tensor for tensor in one if not torch.equal(one[tensor], other[tensor])] == [], name


def test_what_they_have_in_common_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setenv("FW_CACHE_DIR", str(tmp_path / "cache"))
    for what in ("_new_start", "_new_data"):
        honest = getattr(Builder, what)
        monkeypatch.setattr(Builder, what, lambda self, *a, h=honest, w=what: made.append(w) or h(self, *a))
    derive = builder.derive_layout
    monkeypatch.setattr(builder, "derive_layout", lambda *a: made.append("layout") or derive(*a))
    capture = captures.capture
    monkeypatch.setattr(captures, "capture", lambda *a: made.append("graph") or capture(*a))
    rates = {f"{rate}": {**SMALL, "freezing.use": "last_stages", "optimizer.lr": rate} for rate in (0.1, 0.01, 0.001)}
    results = list(fw.run_each("smoke", rates, out=tmp_path / "runs"))
    assert sorted(made) == ["_new_data", "_new_start", "graph", "graph", "layout"], "a graph of each mode"
    assert [result["partition"]["images_found"] > 0 for result in results] == [False, True, True]
    assert len({result["metrics"]["final"]["train"]["loss"] for result in results}) == 3


def test_a_mistake_in_a_variant_is_told_before_the_first_run(tmp_path: Path) -> None:
    with pytest.raises(fw.FwError, match="momentun"):
        fw.run_each("smoke", {"good": SMALL, "bad": {**SMALL, "optimizer.momentun": 0.9}}, out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_run_that_keeps_no_model_says_so_when_asked_for_it(tmp_path: Path) -> None:
    result = fw.run("smoke", {**SMALL, "freezing.use": "frozen", "train.keep_model": "none"}, out=tmp_path / "run")
    assert result["status"] == "done"
    assert not (tmp_path / "run" / "model.safetensors").exists()
    with pytest.raises(fw.FwError, match='keep_model = "none"'):
        fw.load(tmp_path / "run")


def test_where_validation_images_are_trained_on_the_last_epoch_counts(tmp_path: Path) -> None:
    """Nothing is chosen by images that were trained on: each epoch's network takes the place of the one before."""
    keys = {**SMALL, "freezing.use": "full", "optimizer.lr": 1e-12, "train.epochs": 3}
    apart = fw.run("smoke", keys, out=tmp_path / "apart")
    joined = fw.run("smoke", {**keys, "data.join_val": True}, out=tmp_path / "joined")
    assert (apart["metrics"]["best"]["epoch"], joined["metrics"]["best"]["epoch"]) == (1, 3)
    sizes = [result["data"]["images"] for result in (apart, joined)]
    assert sizes[1] == {**sizes[0], "train": sizes[0]["train"] + sizes[0]["val"]}
    assert [result["selection"].startswith(NO_SELECTION) for result in (apart, joined)] == [False, True]


def test_things_are_told_apart_by_all_that_they_are_made_from() -> None:
    shared, made = Shared(), iter(range(9))
    asked = [("a", [1]), ("a", [2]), ("b", [1]), ("a", {"x": 1, "y": 2}), ("a", {"y": 2, "x": 1}), ("a", [1])]
    assert [shared.once(what, of, lambda: next(made)) for what, of in asked] == [0, 1, 2, 3, 3, 0]


def test_checkpoints_rest_where_epochs_are_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The selected model is that of the best epoch all the same."""
    written: list[int] = []
    save = runs.checkpoint.save
    monkeypatch.setattr(runs.checkpoint, "save", lambda run: written.append(run.standing.epoch) or save(run))
    keys = {**SMALL, "freezing.use": "full", "train.epochs": 4}
    tensors = []
    for rest, expected in ((3600.0, []), (0.0, [1, 2, 3, 4])):
        written.clear()
        monkeypatch.setattr(runs.checkpoint, "REST_S", rest)
        fw.run("smoke", keys, out=tmp_path / f"rest {rest}")
        assert written == expected
        tensors.append(load_tensors(tmp_path / f"rest {rest}" / "model.safetensors")[0])
    assert [name for name, one in tensors[0].items() if not torch.equal(one, tensors[1][name])] == []


def test_a_parameter_that_was_written_to_is_hashed_anew_and_a_statistic_always() -> None:
    from framework.freezing import Auditor, all_tensors
    from framework.layout import derive_layout

    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten())
    layout = derive_layout(network, None, (3, 8, 8))
    auditor = Auditor(network, layout)
    auditor.open(fw.Plan({}))
    before = auditor.digests(all_tensors(network))
    assert before == auditor.before
    with torch.no_grad():
        network[0].bias.add_(1)
        network(torch.randn(2, 3, 8, 8))
    after = auditor.digests(all_tensors(network))
    moved = {name for name, digest in after.items() if digest != before[name]}
    assert moved == {"0.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"}
    auditor.close()
    assert auditor.moved == moved


def test_a_copy_is_held_against_its_original_bit_by_bit() -> None:
    from framework.files import tensor_digests
    from framework.freezing import Auditor, Hashed, all_tensors
    from framework.layout import derive_layout

    original = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten())
    with torch.no_grad():
        original[0].bias.zero_()
    network = copy.deepcopy(original)
    auditor = Auditor(network, derive_layout(network, None, (3, 8, 8)))
    digests = tensor_digests(all_tensors(original))
    auditor.know({name: Hashed(tensor, digests[name]) for name, tensor in all_tensors(original).items()})
    auditor.open(fw.Plan({}))
    network[0].bias.data.neg_()  # a zero with a sign, and behind torch's back
    network[1].weight.data[0] = torch.nan
    network[1].num_batches_tracked.add_(1)
    assert auditor.report()["frozen_moved_names"] == ["0.bias", "1.num_batches_tracked", "1.weight"]
    auditor.close()
    assert auditor.moved == {"0.bias", "1.num_batches_tracked", "1.weight"}


def test_a_run_that_fails_its_audit_keeps_all_that_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = train.take_step

    def meddling(run: Run) -> None:
        honest(run)
        next(run.parts.network.backbone.parameters()).data.add_(1)

    monkeypatch.setattr(train, "take_step", meddling)
    with pytest.raises(AuditFailed, match="frozen tensors moved"):
        fw.run("smoke", {**SMALL, "freezing.use": "frozen"}, out=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "audit failed"
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_a_run_that_fails_after_an_epoch_stays_and_resumes_from_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: Index
) -> None:
    keys = {**SMALL, "freezing.use": "last_stages", "engine.partition": "off"}
    whole = fw.run("smoke", keys, out=tmp_path / "whole")
    honest = train.validate

    def failing(run: Run) -> dict[str, float]:
        if run.standing.epoch == 1:
            raise fw.FwError("the disk is full")
        return honest(run)

    with monkeypatch.context() as patched:
        patched.setattr(train, "validate", failing)
        with pytest.raises(fw.FwError, match="disk is full"):
            fw.run("smoke", keys, out=tmp_path / "run")
    log = tmp_path / "run" / "metrics.jsonl"
    assert len(log.read_text().splitlines()) == 1
    again = runs.resume_run(tmp_path / "run", index, NullDisplay())
    assert again["metrics"] == whole["metrics"]
    assert log.read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_a_network_that_makes_buffers_at_its_first_image_passes_its_audit_every_time(tmp_path: Path) -> None:
    keys = {**SMALL, "backbone.use": "timm/convit_tiny", "freezing.use": "frozen", "engine.partition": "off",
            "train.epochs": 1, "data.images": 16}  # fmt: skip
    rates = {f"{rate}": {**keys, "optimizer.lr": rate} for rate in (0.1, 0.01)}
    moved = [result["audit"]["frozen_moved"] for result in fw.run_each("smoke", rates, out=tmp_path)]
    assert moved == [0, 0]


def test_runs_that_are_over_leave_no_network_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Any]] = []
    prepare = runs.prepare_run

    def noted(*given: Any) -> Run:
        run = prepare(*given)
        made.append(weakref.ref(run.parts.network))
        return run

    monkeypatch.setattr(runs, "prepare_run", noted)
    rates = {f"{rate}": {**SMALL, "freezing.use": "frozen", "optimizer.lr": rate} for rate in (0.1, 0.01, 0.001)}
    gc.collect()
    gc.disable()
    try:
        for _ in fw.run_each("smoke", rates, out=tmp_path):
            pass
        assert [ref() is None for ref in made] == [True] * 3
    finally:
        gc.enable()


def test_an_occupied_folder_is_found_before_the_first_run(tmp_path: Path) -> None:
    fw.run("smoke", {**SMALL, "freezing.use": "frozen", "train.epochs": 1}, out=tmp_path / "b")
    with pytest.raises(fw.FwError, match="holds a finished run"):
        fw.run_each("smoke", {"a": SMALL, "b": SMALL}, out=tmp_path)
    assert not (tmp_path / "a").exists()
