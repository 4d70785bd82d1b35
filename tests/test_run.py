"""A whole run, from a recipe to its directory: what it trains, what it proves, what it leaves."""

from __future__ import annotations

import csv
import json
import math
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from sweeps import often
from torch import nn

import framework as fw
from framework import rundir
from framework.display import NullDisplay
from framework.recipe import load_recipe
from framework.runs import start_run
from framework.trained import evaluate, predict, read_trained

FAST = [
    *("data.images=60", "data.classes=3", "data.size=40", "backbone.use=timm/test_efficientnet"),
    "backbone.image_size=32",
    *("train.batch_size=10", "train.epochs=2", "engine.threads=1", "engine.partition=off", "train.report=false"),
]
TINY = ["data.images=20", "train.epochs=1", "train.batch_size=6"]
NETWORKS = {
    "batch_norm": "torchvision/resnet18",
    "norm_act": "timm/test_efficientnet",
    "layer_norm": "timm/test_vit",
    "group_norm": "timm/resnet50_gn",
}


@pytest.fixture
def go(index, tmp_path: Path):
    """Runs `smoke` with overrides and gives the summary."""

    def run(*overrides: str, name: str = "run", recipe: str = "smoke", fast: bool = True) -> dict:
        checked = load_recipe(recipe, index, [*(FAST if fast else []), *overrides])
        return start_run(checked, index, tmp_path / name, False, NullDisplay())

    return run


@pytest.mark.parametrize("norm", ["fixed", "batch", "recalibrate"])
@pytest.mark.parametrize("network", often(NETWORKS, quick=("batch_norm",)))
def test_frozen_runs_leave_the_backbone_as_it_was(go, network: str, norm: str) -> None:
    summary = go(f"backbone.use={NETWORKS[network]}", "freezing.use=frozen", f"freezing.norm={norm}", *TINY)
    audit = summary["audit"]
    assert audit["frozen_moved"] == 0
    assert audit["trainable_tensors"] == 2
    assert audit["trainable_never_moved"] == []
    statistics = audit["buffers_moved_by_plan"]
    if norm == "batch" and network in ("batch_norm", "norm_act"):
        assert statistics
        assert all(
            name.rsplit(".", 1)[1] in ("running_mean", "running_var", "num_batches_tracked") for name in statistics
        )
    else:
        assert statistics == []
    if network == "batch_norm":
        assert audit["frozen_tensors"] + len(statistics) == 120


def test_recalibration_takes_the_statistics_of_the_training_images(go, index, tmp_path: Path) -> None:
    """One pass, a cumulative average: the same as averaging each batch norm's batch statistics by hand."""
    go("freezing.use=frozen", "freezing.norm=recalibrate", "train.epochs=1")
    _, builder, trained = read_trained(tmp_path / "run", index)
    network = trained.module
    data = builder.data()
    first = network.backbone.bn1
    means = []
    first.register_forward_hook(lambda module, inputs, output: means.append(inputs[0].mean(dim=(0, 2, 3))))
    with torch.no_grad():
        for at in range(0, len(data.train), 10):
            network(
                torch.stack([trained.transform(data.train.load(p)) for p in range(at, min(at + 10, len(data.train)))])
            )
    assert torch.allclose(first.running_mean, torch.stack(means).mean(0), atol=1e-5)
    assert int(first.num_batches_tracked) == len(means)


def test_the_run_directory_holds_all_that_was_read_decided_and_produced(go, tmp_path: Path) -> None:
    summary = go("train.report=true")
    folder = tmp_path / "run"
    names = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert names == {
        *("recipe.toml", "environment.json", "origin.json", "metrics.jsonl", "timing.jsonl", "summary.json"),
        *("events.jsonl", "report.html", "model.safetensors", "predictions/val.csv", "predictions/test.csv"),
    }
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert summary["transfer"] is False
    assert summary["heading"] == "RANDOM BACKBONE: not transfer learning"
    wanted = {"name", "status", "transfer", "metrics", "weights", "params", "partition", "audit", "time_s",
              "images_per_s", "memory_mb", "engine", "environment"}  # fmt: skip
    assert wanted <= set(summary)
    resolved = tomllib.loads((folder / "recipe.toml").read_text())
    assert resolved["optimizer"]["momentum"] == 0.9
    assert resolved["optimizer"]["nesterov"] is False, "every default is filled in"
    rows = list(csv.DictReader((folder / "predictions" / "test.csv").open()))
    assert len(rows) == summary["data"]["images"]["test"]
    hits = sum(row["target"] == row["predicted"] for row in rows) / len(rows)
    assert hits == pytest.approx(summary["metrics"]["best"]["test"]["accuracy"])
    assert all(math.isclose(sum(float(row[f"p_class_{c}"]) for c in range(3)), 1, abs_tol=1e-4) for row in rows)
    with safe_open(folder / "model.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["facts"])
    assert facts["classes"] == ["class_0", "class_1", "class_2"]
    assert facts["head"]["use"] == "linear"
    assert facts["input"]["size"] == [32, 32]
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == [1, 2]


def test_the_resolved_recipe_gives_the_same_run(go, index, tmp_path: Path) -> None:
    first = go(name="one")
    again = load_recipe(tmp_path / "one" / "recipe.toml", index)
    second = start_run(again, index, tmp_path / "two", False, NullDisplay())
    assert first["metrics"] == second["metrics"]
    assert (tmp_path / "one" / "recipe.toml").read_text() == (tmp_path / "two" / "recipe.toml").read_text()


def test_a_run_directory_is_never_overwritten_by_accident(go, index, tmp_path: Path, snapshot) -> None:
    go()
    before = (tmp_path / "run" / "summary.json").read_bytes()
    with pytest.raises(fw.FwError) as error:
        go()
    snapshot("output_in_use", error.value.render())
    assert (tmp_path / "run" / "summary.json").read_bytes() == before
    other = tmp_path / "photos"
    other.mkdir()
    (other / "cat.png").write_bytes(b"mine")
    recipe = load_recipe("smoke", index, FAST)
    with pytest.raises(fw.FwError, match="no run directory"):
        start_run(recipe, index, other, True, NullDisplay())
    assert (other / "cat.png").read_bytes() == b"mine"
    assert start_run(recipe, index, tmp_path / "run", True, NullDisplay())["status"] == "done"


def test_what_a_kill_left_before_the_recipe_was_written_is_in_nobodys_way(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (".lock", ".recipe.toml.k3x_9ab2"):
        (folder / name).touch()
    for overwrite in (False, True):
        rundir.require_free(folder, overwrite)
    rundir.create(folder, overwrite=False)
    assert list(folder.iterdir()) == []
    (folder / ".notes.template").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(fw.FwError):
            rundir.create(folder, overwrite)
    assert (folder / ".notes.template").read_text() == "mine"


def test_the_recipe_goes_last_so_that_a_half_emptied_run_directory_is_still_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("recipe.toml", *(f"file{number}" for number in range(20))):
        (folder / name).touch()
    gone: list[str] = []
    unlink = Path.unlink

    def noted(path: Path, missing_ok: bool = False) -> None:
        gone.append(path.name)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", noted)
    rundir.create(folder, overwrite=True)
    removed = [name for name in gone if name != ".lock"]
    assert (len(removed), removed[-1]) == (21, "recipe.toml")


def test_multilabel_from_data_to_predictions(go, tmp_path: Path) -> None:
    summary = go("data.kind=multilabel", "loss.use=torch/BCEWithLogitsLoss", "train.epochs=3")
    assert summary["task"]["kind"] == "multilabel"
    assert 0 <= summary["metrics"]["best"]["test"]["auroc"] <= 1
    rows = list(csv.DictReader((tmp_path / "run" / "predictions" / "test.csv").open()))
    for row in rows:
        present = [name for name in ("class_0", "class_1", "class_2") if float(row[f"p_{name}"]) >= 0.5]
        assert row["predicted"] == "|".join(present)


def test_a_loss_that_does_not_fit_the_task_is_refused_before_any_work(go, snapshot) -> None:
    with pytest.raises(fw.FwError) as error:
        go("data.kind=multilabel")
    snapshot("loss_of_another_task", error.value.render())


def test_accumulating_batches_is_one_larger_batch(go) -> None:
    """Also where the last step has fewer batches, and the last batch fewer images."""
    common = ["data.images=70", "freezing.use=frozen", "train.epochs=2", "optimizer.lr=0.5"]
    whole = go(*common, "train.batch_size=16", name="whole")
    parts = go(*common, "train.batch_size=8", "train.accumulate=2", name="parts")
    assert whole["steps"] == parts["steps"] == 6
    one, other = whole["metrics"]["final"], parts["metrics"]["final"]
    assert one["train"]["loss"] == pytest.approx(other["train"]["loss"], rel=1e-4)
    assert one["val"]["loss"] == pytest.approx(other["val"]["loss"], rel=1e-4)


def test_what_changes_results_and_what_does_not(go) -> None:
    augmented = ["transform.train.use=augment", "freezing.use=full"]
    plain = go(*augmented, name="plain")
    assert go(*augmented, "train.workers=2", name="workers")["metrics"] == plain["metrics"]
    assert go(*augmented, "seed=1", name="seed")["metrics"] != plain["metrics"]
    assert go(*augmented, "train.mixup=0.4", "train.cutmix=1.0", name="mixed")["metrics"] != plain["metrics"]
    clipped = go(*augmented, "train.clip_norm=0.01", name="clipped")
    assert clipped["metrics"] != plain["metrics"]
    assert go(*augmented, *TINY, "train.precision=bf16", name="bf16")["status"] == "done"
    balanced = go(*augmented, "train.sampler=balanced", name="balanced")
    assert balanced["metrics"] != plain["metrics"]


def test_max_steps_and_patience_stop_a_run(go) -> None:
    short = go("train.max_steps=5", "train.epochs=9", name="short")
    assert (short["steps"], short["epochs"]) == (5, 2)
    still = go("optimizer.lr=1e-12", "train.epochs=9", "train.patience=2", "freezing.use=frozen", name="still")
    assert still["stopped_early"]
    assert still["epochs"] == still["metrics"]["best"]["epoch"] + 2


def test_a_loss_that_explodes_is_one_clear_error(go) -> None:
    with pytest.raises(fw.FwError, match="lower optimizer"):
        go("optimizer.lr=1e38", "freezing.use=full")


def test_parameters_that_nothing_uses_are_named_before_training(index, go, monkeypatch) -> None:
    from framework.network import Network

    original = Network.__init__

    def with_idle_part(self, backbone, head) -> None:
        original(self, backbone, head)
        self.backbone.layer4[0].idle = torch.nn.Linear(3, 3)

    monkeypatch.setattr(Network, "__init__", with_idle_part)
    with pytest.raises(fw.FwError, match=r"2 trainable parameters have no path to the loss: backbone.layer4.0.idle"):
        go("backbone.use=torchvision/resnet18", "freezing.use=full")


def test_a_single_image_left_over_is_refused_where_batch_norm_cannot_take_it(go) -> None:
    with pytest.raises(fw.FwError, match="drop_last"):
        go("data.images=60", "train.batch_size=7", "freezing.use=full", "backbone.image_size=32")
    assert (
        go("data.images=60", "train.batch_size=7", "freezing.use=full", "train.drop_last=true", name="x")["status"]
        == "done"
    )


def test_evaluate_and_predict_agree_with_the_run(go, index, tmp_path: Path) -> None:
    summary = go("train.epochs=3")
    folder = tmp_path / "run"
    scores = evaluate(folder, index, ())
    assert scores["metrics"]["test"] == summary["metrics"]["best"]["test"]
    other = evaluate(folder, index, ["data.images=90"])
    assert other["data"]["images"]["test"] == 18
    with pytest.raises(fw.FwError, match="same classes"):
        evaluate(folder, index, ["data.classes=5"])
    with pytest.raises(fw.FwError, match="cannot be set"):
        evaluate(folder, index, ["backbone.use=timm/test_vit"])

    from torchvision.transforms.v2.functional import to_pil_image

    _, builder, _ = read_trained(folder, index)
    images = tmp_path / "images"
    images.mkdir()
    test = builder.data().test
    for position in range(4):
        to_pil_image(test.load(position)).save(images / f"{position}.png")
    (images / "broken.png").write_bytes(b"not a picture")
    rows = predict(folder, index, [images])
    assert [Path(row["image"]).name for row in rows] == ["0.png", "1.png", "2.png", "3.png", "broken.png"]
    assert "error" in rows[-1]
    saved = list(csv.DictReader((folder / "predictions" / "test.csv").open()))
    for row, before in zip(rows[:4], saved, strict=False):
        assert row["predicted"] == before["predicted"]
        assert row["p_class_0"] == pytest.approx(float(before["p_class_0"]), abs=1e-4)
    with pytest.raises(fw.FwError, match="no file"):
        predict(folder, index, [tmp_path / "nothing.png"])


def test_a_picture_is_read_alike_in_training_and_in_prediction(go, index, tmp_path: Path) -> None:
    """A transparent picture lies on white either way: what a model was trained on is what it is asked about."""
    from PIL import Image

    from fw_data.sources import FileSource

    go(*TINY)
    file = tmp_path / "logo.png"
    Image.new("RGBA", (40, 40), (10, 20, 30, 0)).save(file)
    trained = read_trained(tmp_path / "run", index)[2]
    in_training = trained.predict([FileSource(tmp_path, [file.name]).load(0)])[0].tolist()
    (row,) = predict(tmp_path / "run", index, [file])
    assert [row[f"p_class_{c}"] for c in range(3)] == in_training


def test_weights_of_an_earlier_run_are_carried_over(go, index, tmp_path: Path) -> None:
    go("freezing.use=full", name="first")
    second = go("freezing.use=frozen", f"backbone.weights=['run:{tmp_path / 'first'}']", name="second")
    assert second["weights"]["used"].startswith("run:")
    assert second["transfer"] is True, "the first run trained the backbone"
    one = read_trained(tmp_path / "first", index)[2].module.backbone.state_dict()
    two = read_trained(tmp_path / "second", index)[2].module.backbone.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    pinned = tomllib.loads((tmp_path / "second" / "recipe.toml").read_text())["backbone"]["sha256"]
    assert pinned == second["weights"]["sha256"] != ""


def test_what_no_run_has_trained_is_no_transfer(go, tmp_path: Path) -> None:
    go("freezing.use=frozen", "freezing.norm=batch", name="first")
    second = go("freezing.use=frozen", f"backbone.weights=['run:{tmp_path / 'first'}']", name="second")
    assert second["transfer"] is False


def test_the_file_of_a_run_is_named_by_its_run(go, tmp_path: Path, snapshot) -> None:
    go(name="first")
    with pytest.raises(fw.FwError) as error:
        go(f"backbone.weights=['file:{tmp_path / 'first' / 'model.safetensors'}']", name="second")
    snapshot("weights_of_a_run", error.value.render())
    with pytest.raises(fw.FwError, match="is a folder, no file"):
        go(f"backbone.weights=['file:{tmp_path / 'first'}']", name="second")


def test_weights_from_a_file_must_fit(go, tmp_path: Path, snapshot) -> None:
    import torchvision

    model = torchvision.models.resnet18()
    torch.save(model.state_dict(), tmp_path / "whole.pth")
    resnet = "backbone.use=torchvision/resnet18"
    summary = go(resnet, f"backbone.weights=['file:{tmp_path / 'whole.pth'}']", *TINY, name="whole")
    assert summary["transfer"] is True
    assert len(summary["weights"]["sha256"]) == 64
    state = model.state_dict()
    state["extra.weight"] = state.pop("layer1.0.conv1.weight")
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(fw.FwError) as error:
        go(resnet, f"backbone.weights=['file:{tmp_path / 'other.pth'}', 'random']", name="other")
    snapshot("weights_do_not_fit", error.value.render())
    torch.save(model, tmp_path / "pickled.pth")
    with pytest.raises(fw.FwError, match="nothing but tensors"):
        go(resnet, f"backbone.weights=['file:{tmp_path / 'pickled.pth'}']", name="pickled")
    with pytest.raises(fw.FwError) as error:
        go(resnet, f"backbone.weights=['file:{tmp_path / 'missing.pth'}']", name="missing")
    snapshot("weights_missing", error.value.render())


def test_from_python(index, tmp_path: Path) -> None:
    keys = load_recipe("smoke", index, FAST).resolved()
    tables = {name: keys[name] for name in ("data", "backbone", "train", "engine")}
    result = fw.run("smoke", tables, out=tmp_path / "run")
    assert result["status"] == "done"
    assert "accuracy" in result._repr_html_()
    assert len(result.predictions("test")) == 12
    trained = fw.load(tmp_path / "run")
    image = torch.zeros(3, 50, 60, dtype=torch.uint8)
    probabilities = trained.predict([image, image])
    assert probabilities.shape == (2, 3)
    assert torch.allclose(probabilities.sum(1), torch.ones(2))


def test_freezing_a_model_of_ones_own() -> None:
    import torchvision

    model = torchvision.models.resnet18(num_classes=3)
    frozen = fw.freeze(model, "last_stages", n=1, image_size=64)
    optimizer = torch.optim.SGD(frozen.parameters(), lr=0.1)
    for _ in range(2):
        model.train()
        model(torch.randn(4, 3, 64, 64)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    audit = frozen.audit()
    assert audit["frozen_moved"] == 0
    assert audit["frozen_tensors"] == 122 - 30 - 2
    assert {name.split(".")[0] for name in audit["buffers_moved_by_plan"]} == {"layer4"}
    with pytest.raises(fw.FwError, match="did you mean 'last_stages'"):
        fw.freeze(model, "last_stage")


def test_modules_that_ask_for_their_version_are_loaded_again(go, tmp_path: Path) -> None:
    """MNASNet does; safetensors keep tensors and no versions."""
    summary = go("backbone.use=torchvision/mnasnet0_5", "freezing.use=frozen", *TINY)
    trained = fw.load(summary["run_dir"])
    assert trained.predict([torch.zeros(3, 40, 40, dtype=torch.uint8)]).shape == (1, 3)
    weights = f"backbone.weights=['run:{summary['run_dir']}']"
    again = go("backbone.use=torchvision/mnasnet0_5", weights, *TINY, name="again")
    assert again["weights"]["used"].startswith("run:")


class Linear(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2)


class Wrapper(nn.Module):
    """A network whose only child is called as a recipe's network calls its backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Linear()


@pytest.mark.parametrize(
    ("of", "prefix"), [(Wrapper, ""), (Wrapper, "module."), (Linear, "backbone."), (Linear, "module.backbone.")]
)
def test_names_are_unwrapped_as_far_as_the_backbone_needs_it(of: type[nn.Module], prefix: str, tmp_path: Path) -> None:
    from framework.weights import _unwrapped, load_backbone

    module = of()
    drawn = {name: torch.randn_like(tensor) for name, tensor in module.state_dict().items()}
    wrapped = {f"{prefix}{name}": tensor for name, tensor in drawn.items()}
    load_backbone(module, _unwrapped(wrapped, module), tmp_path)
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in drawn.items())


def test_a_backbone_may_have_parts_of_the_names_that_a_network_has(tmp_path: Path) -> None:
    from framework.weights import _from_file

    module = Wrapper()
    module.head = nn.Identity()
    drawn = {"backbone.weight": torch.randn(2, 2), "backbone.bias": torch.randn(2), "head.weight": torch.randn(3, 2)}
    torch.save(drawn, tmp_path / "weights.pth")
    _from_file(fw.Backbone(module, 2, fw.InputSpec()), tmp_path / "weights.pth")
    assert torch.equal(module.backbone.weight, drawn["backbone.weight"])


def test_whoever_watches_hears_of_every_checkpoint(go) -> None:
    summary = go("train.checkpoint_every=1", "freezing.use=frozen")
    lines = [json.loads(line) for line in (Path(summary["run_dir"]) / "events.jsonl").read_text().splitlines()]
    told = [line["step"] for line in lines if line["event"] == "checkpoint_written"]
    assert set(range(1, summary["steps"] + 1)) - set(told) <= {summary["steps"] // 2, summary["steps"]}, told
