"""What a run keeps of its model: all of it, what moved, or an adapter beside it; and `fw merge`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sweeps import often
from torch import Tensor

import framework as fw
from framework.files import load_tensors, save_tensors

SMALL = {
    "data.images": 40, "data.classes": 3, "data.size": 40, "backbone.image_size": 32, "train.batch_size": 10,
    "train.epochs": 2, "engine.threads": 1, "backbone.use": "timm/test_efficientnet", "train.report": False,
    "optimizer.lr": 0.1, "freezing.use": "frozen", "engine.partition": "off",
}  # fmt: skip


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A file of weights, as somebody might have fetched one."""
    import timm

    torch.manual_seed(3)
    file = tmp_path / "base.safetensors"
    save_file(timm.create_model("test_efficientnet", num_classes=0).state_dict(), file)
    return file


def trained(base: Path, name: str, keep: str, **tables: object) -> Path:
    folder = base.parent / name
    fw.run("smoke", {**SMALL, "backbone.weights": [f"file:{base}"], "train.keep_model": keep, **tables}, out=folder)
    return folder


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return load_tensors(folder / "model.safetensors")[0]


def logits(folder: Path) -> Tensor:
    loaded = fw.load(folder)
    images = torch.randn(5, 3, *loaded.input.size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return loaded.module(images)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("policy", often(("frozen", "last_stages", "norm_only"), quick=("norm_only",)))
def test_a_delta_and_its_base_are_the_whole_model(base: Path, cli, policy: str) -> None:
    whole = trained(base, "whole", "whole", **{"freezing.use": policy})
    delta = trained(base, "delta", "delta", **{"freezing.use": policy})
    kept, expected = tensors_of(delta), tensors_of(whole)
    assert 0 < len(kept) < len(expected)
    assert set(kept) == {name for name in expected if name.startswith("head.") or name in moved(delta)}
    assert torch.equal(logits(delta), logits(whole))
    done = cli("merge", delta)
    assert (done.code, done.err) == (0, "")
    assert f"{len(expected)} tensors, its base from the recipe's weights" in done.out
    assert_equal(tensors_of(delta), expected)
    assert cli("merge", delta).out == "nothing to merge: the model is whole\n"


def moved(folder: Path) -> set[str]:
    """What differs from the base, by the run's own audit."""
    summary = json.loads((folder / "summary.json").read_text())
    names = load_tensors(folder / "model.safetensors")[1]
    assert names["delta"]["base"]["sha256"] == summary["weights"]["sha256"]
    never = set(summary["audit"]["trainable_never_moved"])
    return {name for name in tensors_of(folder) if name not in never}


def test_a_delta_is_as_small_as_what_trains(base: Path) -> None:
    whole, delta = (trained(base, keep, keep) / "model.safetensors" for keep in ("whole", "delta"))
    assert delta.stat().st_size < whole.stat().st_size / 20


def test_a_merged_file_can_lie_elsewhere(base: Path, cli) -> None:
    delta = trained(base, "delta", "delta")
    before = (delta / "model.safetensors").read_bytes()
    out = base.parent / "whole.safetensors"
    assert cli("merge", delta, "--out", out).code == 0
    assert (delta / "model.safetensors").read_bytes() == before
    assert len(load_file(out)) > len(tensors_of(delta))


def test_another_base_is_refused(base: Path, cli, snapshot) -> None:
    delta = trained(base, "delta", "delta")
    tensors = load_file(base)
    save_file({**tensors, "bn1.bias": tensors["bn1.bias"] + 1e-3}, base)
    refused = cli("merge", delta)
    assert refused.code == 2
    assert "have SHA-256" in refused.err
    recipe = delta / "recipe.toml"  # and if somebody takes the pin out
    lines = [line for line in recipe.read_text().splitlines() if not line.startswith("sha256")]
    recipe.write_text("\n".join(lines))
    refused = cli("merge", delta)
    assert refused.code == 2
    snapshot("merge_another_base", refused.err)
    with pytest.raises(fw.FwError, match="this base is another one"):
        fw.load(delta)
    base.unlink()
    assert "there is no file" in cli("merge", delta).err


def test_a_damaged_delta_is_refused_and_stays(base: Path, cli) -> None:
    delta = trained(base, "delta", "delta")
    file = delta / "model.safetensors"
    tensors, facts = load_tensors(file)
    save_tensors(file, {name: tensor for name, tensor in tensors.items() if name != "head.bias"}, facts)
    before = file.read_bytes()
    refused = cli("merge", delta)
    assert (refused.code, file.read_bytes()) == (2, before)
    assert "does not fit the network of its recipe" in refused.err


def test_a_delta_is_no_backbone_for_another_run(base: Path, cli) -> None:
    delta = trained(base, "delta", "delta")
    keys = {**SMALL, "backbone.weights": [f"run:{delta}"]}
    with pytest.raises(fw.FwError, match="what moved in the run") as refused:
        fw.run("smoke", keys, out=base.parent / "next")
    assert f"fw merge {delta}" in str(refused.value.hints)
    assert cli("merge", delta).code == 0
    assert fw.run("smoke", keys, out=base.parent / "next")["transfer"] is True


def test_lora_is_merged_and_its_delta_is_its_factors(base: Path, cli) -> None:
    lora = {"adapter.use": "lora", "adapter.rank": 2}
    merged, delta = trained(base, "merged", "whole", **lora), trained(base, "delta", "delta", **lora)
    summary = json.loads((merged / "summary.json").read_text())["adapter"]
    assert summary["merged"] is True
    assert 0 <= summary["difference"] < 1e-4
    assert not any(".lora." in name for name in tensors_of(merged))
    kept = tensors_of(delta)
    assert all(".lora." in name or name.startswith("head.") for name in kept)
    assert sum(tensor.numel() for name, tensor in kept.items() if ".lora." in name) == summary["parameters"]
    assert close(logits(delta), logits(merged))
    assert "adapter merged, logits within" in cli("merge", delta).out
    assert_equal(tensors_of(delta), tensors_of(merged))


def close(one: Tensor, other: Tensor) -> bool:
    return float((one - other).abs().max()) <= 1e-4 * float(other.abs().max())


def test_a_backbone_with_an_adapter_in_it_is_no_backbone_for_another_run(base: Path) -> None:
    folder = trained(base, "side", "whole", **{"adapter.use": "side"})
    assert any(".side." in name for name in tensors_of(folder))
    with pytest.raises(fw.FwError, match="a backbone with the adapter 'side' in it"):
        fw.run("smoke", {**SMALL, "backbone.weights": [f"run:{folder}"]}, out=base.parent / "next")


def test_what_cannot_be_merged_is_loaded_with_its_adapter(base: Path, cli) -> None:
    whole = trained(base, "whole", "whole", **{"adapter.use": "side"})
    delta = trained(base, "delta", "delta", **{"adapter.use": "side"})
    assert torch.equal(logits(whole), logits(delta))
    assert json.loads((whole / "summary.json").read_text())["adapter"]["reason"].startswith("it has modules of its own")
    assert cli("merge", whole).out == "nothing to merge: the model is whole\n"
    assert cli("merge", delta, "--json").code == 0
    assert_equal(tensors_of(delta), tensors_of(whole))


def test_fw_merge_wants_a_finished_run(base: Path, cli, tmp_path: Path) -> None:
    assert "is no run directory" in cli("merge", tmp_path / "nothing").err
    folder = trained(base, "whole", "none")
    assert "train.keep_model" in cli("merge", folder).err
    shutil.rmtree(folder)


CROOKED = '''
import attrs
import framework as fw
from torch import nn


@attrs.frozen
class Crooked:
    """Adds a bias to the head's input, and takes twice of it back."""

    def build(self):
        return Bias()


class Bias(fw.Adapter):
    def insert(self, network, layout):
        import torch

        network.backbone.more = nn.Linear(1, layout.outputs["backbone"][1])
        network.backbone.register_forward_hook(add)

    def merge(self, network):
        network.backbone._forward_hooks.clear()
        del network.backbone.more


def add(backbone, images, features):
    return features + backbone.more(features[:, :1])


@fw.hookimpl
def fw_adapters():
    yield fw.Component("crooked", Crooked)
'''


def test_what_does_not_merge_equally_is_kept_apart(base: Path, cli) -> None:
    plugin = base.parent / "crooked.py"
    plugin.write_text(CROOKED)
    keys = {**SMALL, "backbone.weights": [f"file:{base}"], "adapter.use": "crooked"}
    summary = fw.run("smoke", keys, out=base.parent / "run", plugins=[plugin])
    assert summary["adapter"]["merged"] is False
    assert "merging would move logits by" in summary["adapter"]["reason"]
    assert "backbone.more.weight" in tensors_of(base.parent / "run")
    before = (base.parent / "run" / "model.safetensors").read_bytes()
    done = cli("merge", base.parent / "run", "--allow-local-plugins")
    assert done.code == 3
    assert "merging moves logits by" in done.err
    assert (base.parent / "run" / "model.safetensors").read_bytes() == before
