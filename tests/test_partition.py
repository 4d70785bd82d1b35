"""Partition: a divided network trains bit for bit as the whole one; its store is shared; a broken graph is caught."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from framework import selfcheck
from framework.display import NullDisplay
from framework.errors import AuditFailed
from framework.files import load_tensors
from framework.keeping import store_folder
from framework.recipe import load_recipe
from framework.runs import start_run

FULL_BATCHES = [
    *("data.images=80", "data.classes=2", "data.size=64", "backbone.image_size=64", "train.batch_size=8"),
    *(
        "train.epochs=3",
        "engine.threads=1",
        "engine.device=cpu",
        "engine.chunk=8",
        "train.drop_last=true",
        "engine.memory_format=auto",
    ),
    *("head.use=mlp", "head.dropout=0.2"),
]
NETWORKS = {
    "batch_norm": ["backbone.use=torchvision/resnet18"],
    "norm_act": ["backbone.use=timm/test_efficientnet", "backbone.drop_path_rate=0.2"],
    "layer_norm": ["backbone.use=timm/test_vit", "backbone.drop_path_rate=0.2"],
    "dense": ["backbone.use=torchvision/densenet121"],
}


@pytest.fixture
def go(index, tmp_path: Path):
    """Runs `smoke` on full batches; gives the summary and the tensors that are left."""

    def run(name: str, *overrides: str) -> tuple[dict, dict]:
        checked = load_recipe("smoke", index, [*FULL_BATCHES, *overrides])
        summary = start_run(checked, index, tmp_path / name, False, NullDisplay())
        return summary, load_tensors(tmp_path / name / "model.safetensors")[0]

    return run


@pytest.mark.parametrize("policy", ["frozen", "last_stages"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_divided_network_trains_as_the_whole_one_to_the_bit(go, network: str, policy: str) -> None:
    asked = [*NETWORKS[network], f"freezing.use={policy}"]
    plain, expected = go("plain", *asked, "engine.partition=off")
    divided, found = go("divided", *asked, "engine.partition=require")
    assert plain["partition"]["boundary"] is None
    assert divided["partition"]["images_computed"] > 0
    assert divided["metrics"] == plain["metrics"]
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_a_second_run_finds_every_image_and_other_weights_find_none(go) -> None:
    asked = [*NETWORKS["layer_norm"], "freezing.use=frozen", "engine.partition=require", "seed=11"]
    first, expected = go("first", *asked)
    second, found = go("second", *asked)
    assert second["partition"]["images_computed"] == 0
    assert second["partition"]["images_found"] == first["partition"]["images_computed"]
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    other, _ = go("other", *asked, "seed=7")  # random weights are drawn by the seed
    assert other["partition"]["images_found"] == 0


def test_a_flipped_bit_in_the_store_is_found_and_computed_again(go) -> None:
    asked = [*NETWORKS["layer_norm"], "freezing.use=frozen", "engine.partition=require", "seed=3"]
    before = set(store_folder().glob("*/*.safetensors"))
    _, expected = go("first", *asked)
    damaged = sorted(set(store_folder().glob("*/*.safetensors")) - before)[0]
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    second, found = go("second", *asked)
    assert second["partition"]["images_computed"] > 0
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_partition_that_computes_something_else_is_caught(go, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = selfcheck.in_chunks

    def wrong(fixed, images, chunk):
        return tuple(1.01 * tensor for tensor in honest(fixed, images, chunk))

    monkeypatch.setattr(selfcheck, "in_chunks", wrong)
    asked = [*NETWORKS["batch_norm"], "freezing.use=last_stages"]
    with pytest.raises(AuditFailed, match="the self-check failed: the logits"):
        go("required", *asked, "engine.partition=require")
    summary, _ = go("auto", *asked, "engine.partition=auto")
    assert "self-check" in summary["partition"]["reason"]


def test_nothing_is_divided_where_everything_trains(go) -> None:
    summary, _ = go("full", *NETWORKS["batch_norm"], "freezing.use=full", "engine.partition=auto")
    assert summary["partition"]["reason"] == "nothing that computes lies before the first thing that moves"
