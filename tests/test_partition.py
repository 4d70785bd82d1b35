"""Partition: what computes something else than its network is caught, and where nothing is fixed nothing is divided."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from sweeps import share

from framework import selfcheck
from framework.assemble import assemble
from framework.display import NullDisplay
from framework.errors import AuditFailed
from framework.files import load_tensors
from framework.partition import Fixed
from framework.recipe import load_recipe
from framework.runs import feed_of, start_run
from framework.shared import Shared

FULL_BATCHES = [
    *("data.images=20", "data.classes=2", "data.size=32", "backbone.image_size=32", "train.batch_size=4"),
    *("train.epochs=2", "train.drop_last=true", "train.report=false", "head.use=mlp", "head.dropout=0.2"),
    *("engine.threads=1", "engine.device=cpu", "engine.chunk=4", "engine.memory_format=auto"),
    "backbone.use=timm/test_resnet",
]


@pytest.fixture
def go(index, tmp_path: Path):
    """Runs `smoke` on full batches; gives the summary and the tensors that are left."""
    shared = Shared()

    def run(name: str, *overrides: str) -> tuple[dict, dict]:
        checked = load_recipe("smoke", index, [*FULL_BATCHES, *overrides])
        summary = start_run(checked, index, tmp_path / name, False, NullDisplay(), shared)
        return summary, load_tensors(tmp_path / name / "model.safetensors")[0]

    return run


def test_a_partition_that_computes_something_else_is_caught(go, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = selfcheck.in_chunks

    def wrong(*given):
        return tuple(1.01 * tensor for tensor in honest(*given))

    monkeypatch.setattr(selfcheck, "in_chunks", wrong)
    asked = ["freezing.use=last_stages"]
    with pytest.raises(AuditFailed, match="the self-check failed: the boundary"):
        go("required", *asked, "engine.partition=require")
    summary, _ = go("auto", *asked, "engine.partition=auto")
    assert "self-check" in summary["partition"]["reason"]


@pytest.mark.sweep
@pytest.mark.parametrize("chunk", share([1, 2], 2))
def test_rounding_that_turns_single_relus_over_is_no_alarm(index, chunk: int) -> None:
    """A dense network under batch statistics of the few images of the check: its gradients jump, its logits do not."""
    asked = ["backbone.use=torchvision/densenet121", "freezing.use=last_stages", "engine.partition=require"]
    of_engine = ["engine.device=cpu", "engine.threads=2", f"engine.chunk={chunk}"]
    run = assemble(load_recipe("smoke", index, [*asked, *of_engine, "backbone.image_size=64"]), index)
    feed = feed_of(run, NullDisplay(), lambda: None)
    feed.divide()
    assert feed.facts()["reason"] is None


def test_the_fixed_part_is_made_ready_once(go, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the self-check, the training split and the others: where it is compiled, that takes long."""
    calls: list[str] = []
    honest = Fixed.prepared
    monkeypatch.setattr(Fixed, "prepared", lambda self, *given: calls.append("once") or honest(self, *given))
    go("once", "freezing.use=last_stages", "engine.partition=require")
    assert calls == ["once"]


def test_nothing_is_divided_where_everything_trains(go) -> None:
    summary, _ = go("full", "freezing.use=full", "engine.partition=auto")
    assert summary["partition"]["reason"] == "every parameter may move"


@pytest.mark.sweep
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_fixed_part_gives_the_same_but_for_rounding(go) -> None:
    asked = ["backbone.use=timm/test_efficientnet", "freezing.use=frozen", "engine.partition=require"]
    plain, expected = go("plain", *asked)
    compiled, found = go("compiled", *asked, "engine.compile=fixed")
    assert compiled["partition"]["images_found"] == 0  # rows that differ in their bits have an entry of their own
    assert compiled["partition"]["images_computed"] == plain["partition"]["images_computed"]
    trained = [name for name in expected if name.startswith("head.")]
    assert trained
    assert all(torch.allclose(expected[name], found[name], rtol=1e-3, atol=1e-5) for name in trained)
