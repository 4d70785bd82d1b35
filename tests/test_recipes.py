"""The shipped recipes: each is checked, copied, and run, shortened by overrides alone."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sweeps import often, share

from framework.assemble import assemble
from framework.display import NullDisplay
from framework.index import Index
from framework.recipe import Recipe, is_study, load_recipe
from framework.runs import start_run
from framework.shared import Shared
from framework.sources import find_recipe, read_document, recipes_folder, shipped_recipes

REPO = Path(__file__).parent.parent
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
STUDIES = {
    "study_methods": "12 ways of training, 5 trials each, 5 seeds, 1 round",
    "study_policies": "4 ways of training, 7 trials each, 5 seeds, 6 rounds",
}
"""What ships beside the recipes and compares them, and what `fw validate` says of it."""
FEW = "data.subset={per_class=4, val_per_class=2, test_per_class=2}"
RANDOM = "backbone.weights=['random']"
PHOTOS, IDX = "PHOTOS", "IDX"

# What makes a run of each short; everything else is the recipe's own.
SHORT: dict[str, list[str]] = {
    "fashion_mnist_finetune": [FEW, RANDOM, f"data.root={IDX}", "train.batch_size=20"],
    "lite0_few": [FEW, f"data.root={IDX}"],
    "lite0_finetune": [FEW, "backbone.image_size=64", f"data.root={IDX}"],
    "lite0_frozen": [FEW, f"data.root={IDX}"],
    "resnet18_finetune": [FEW, RANDOM],
    "resnet18_frozen": [FEW, RANDOM],
    "resnet18_last_stage": [FEW, RANDOM],
    "smoke": ["data.images=50"],
    "tutorial_finetune": [RANDOM, f"data.root={PHOTOS}"],
    "tutorial_frozen": [RANDOM, f"data.root={PHOTOS}"],
    "vit_tiny_frozen": [FEW, RANDOM],
}
OFTEN = ("lite0_few", "resnet18_finetune", "resnet18_frozen", "smoke", "tutorial_frozen")
"""Those that are run every time; the sweep runs all."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real photographs of two classes as JPEG files in train and val folders, as the tutorial's data lie."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    root = tmp_path_factory.mktemp("photos")
    loaded = load_sample_images()
    for name, pixels in zip(("china", "flower"), loaded.images, strict=True):
        for number in range(6):
            split = "train" if number < 4 else "val"
            row, column = divmod(number, 3)
            patch = pixels[row * 140 : row * 140 + 140, column * 160 : column * 160 + 160]
            file = root / split / name / f"{number:02}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(patch).save(file)
    return root


@pytest.fixture(scope="module")
def idx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fashion-MNIST where it is installed; else handwritten digits in files of the same format."""
    if FASHION_MNIST.is_dir():
        return FASHION_MNIST
    from sklearn.datasets import load_digits

    root = tmp_path_factory.mktemp("idx")
    digits = load_digits()
    images = np.kron(digits.images * 15, np.ones((1, 3, 3))).astype(np.uint8)
    for prefix, part in (("train", slice(0, 1200)), ("t10k", slice(1200, None))):
        for what, array in (("images-idx3", images[part]), ("labels-idx1", digits.target[part].astype(np.uint8))):
            head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
            (root / f"{prefix}-{what}-ubyte").write_bytes(head + array.tobytes())
    return root


@pytest.fixture
def shortened(index: Index, photos: Path, idx: Path) -> Callable[..., Recipe]:
    """A shipped recipe of one epoch on few images."""

    def load(name: str, *more: str) -> Recipe:
        places = {PHOTOS: str(photos), IDX: str(idx)}
        own = [key + "=" + places.get(value, value) for key, _, value in (item.partition("=") for item in SHORT[name])]
        return load_recipe(name, index, [*own, "train.epochs=1", "engine.threads=1", *more])

    return load


def resolved(name: str, index: Index) -> dict[str, Any]:
    """A shipped recipe with every default, without the keys that only name it."""
    values = load_recipe(name, index).resolved()
    return {key: value for key, value in values.items() if key not in ("name", "doc")}


def test_every_recipe_that_ships_is_covered_here() -> None:
    files = sorted(file.stem for file in (REPO / "recipes").glob("*.toml"))
    print(f"\n{len(SHORT)} recipes are run, {len(STUDIES)} studies checked")
    assert sorted([*SHORT, *STUDIES]) == files == shipped_recipes()
    assert [name for name in files if name.startswith("study_")] == [*STUDIES]
    for name in files:
        text = (recipes_folder() / f"{name}.toml").read_text(encoding="utf-8")
        assert text.startswith("# "), "its first line says what it is for"
        assert is_study(read_document(find_recipe(name))) == (name in STUDIES)
        assert name in STUDIES or f'\nname = "{name}"\n' in text


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_and_its_copy_elsewhere_are_valid_and_nothing_but_a_study(cli, here: Path, name: str) -> None:
    assert cli("cp", name, "mine.toml").code == 0
    for study in (name, "mine.toml"):
        result = cli("validate", study)
        assert result.code == 0, result.err
        assert result.out.startswith(f"ok: {Path(study).stem}: {STUDIES[name]} of timing\n")
        for command in ("run", "show"):
            refused = cli(command, study)
            assert (refused.code, refused.out) == (2, "")
            assert refused.err.startswith(f"error: {study!r} is a study")
            assert f"help: fw bench {study} runs it" in refused.err


@pytest.mark.parametrize("name", SHORT)
def test_a_recipe_and_its_copy_elsewhere_are_valid(cli, here: Path, name: str) -> None:
    assert cli("cp", name, "mine.toml").code == 0
    for recipe in (name, "mine.toml"):
        result = cli("validate", recipe)
        assert (result.code, result.err.replace("indexing plugins (once per installed version) ...\n", "")) == (0, "")
        assert result.out.startswith(f"ok: {name}: ")


@pytest.mark.parametrize("name", often(SHORT, quick=OFTEN))
def test_a_recipe_runs(shortened, index: Index, tmp_path: Path, name: str) -> None:
    recipe = shortened(name)
    summary = start_run(recipe, index, tmp_path / "run", False, NullDisplay())
    assert summary["status"] == "done"
    audit = summary["audit"]
    assert audit["frozen_moved"] == 0
    # A bias whose sum goes through a linear layer into batch statistics has no gradient but rounding.
    assert all(tensor.endswith(".bias") for tensor in audit["trainable_never_moved"])
    assert (audit["frozen_tensors"] == 0) is (recipe.parts["freezing"].use == "full")
    assert summary["transfer"] is name.startswith("lite0_"), "offline, these alone have real weights"
    assert (summary["heading"] is None) is summary["transfer"]
    if recipe.parts["freezing"].use == "frozen":
        assert summary["params"]["trainable"] < 0.01 * summary["params"]["total"]
        assert audit["buffers_moved_by_plan"] == []
    if name == "resnet18_frozen":
        assert audit["frozen_tensors"] == 120, "every tensor of ResNet-18 outside the head"


SETTINGS = {
    "whole": "partition=off",
    "contiguous": "memory_format=contiguous",
    "channels_last": "memory_format=channels_last",
    "in memory": "cache=memory",
    "nothing kept": "cache=off",
    "small chunks": "chunk=3",
    "small boundary": "budget=20000",
    "threads": "threads=2",
}
TOLERANCE = 1e-3
"""Largest relative difference of a loss after a few steps."""
ENGINE = (
    "smoke", "resnet18_finetune", "resnet18_last_stage", "resnet18_frozen", "lite0_finetune", "vit_tiny_frozen"
)  # fmt: skip
"""What the engine may treat differently: other recipes train these networks under these policies, on other images."""
GENTLE = ("train.max_steps=3", "optimizer.lr=1e-5")
"""Training amplifies any rounding: at their own rates, three steps of resnet18_finetune grow it to 28 %."""


@pytest.mark.sweep
@pytest.mark.parametrize("name", share(ENGINE, 2))
def test_the_engine_changes_cost_and_no_result(shortened, index: Index, tmp_path: Path, name: str) -> None:
    """Order, augmentation and dropout are drawn alike whatever `[engine]` says; sums are rounded otherwise."""
    shared, worst = Shared(), {}
    expected = losses(start_run(shortened(name, *GENTLE), index, tmp_path / "as it is", False, NullDisplay(), shared))
    for setting, key in SETTINGS.items():
        recipe = shortened(name, *GENTLE, f"engine.{key}")
        found = losses(start_run(recipe, index, tmp_path / setting, False, NullDisplay(), shared))
        assert found.keys() == expected.keys()
        worst[setting] = max(abs(found[of] - expected[of]) / expected[of] for of in expected)
    print(f"\n{name}: {len(SETTINGS)} settings, largest relative difference {max(worst.values()):.1g}")
    assert {setting: value for setting, value in worst.items() if not value <= TOLERANCE} == {}


def losses(summary: dict[str, Any]) -> dict[str, float]:
    """The loss of each split at the end."""
    final = summary["metrics"]["final"]
    return {split: final[split]["loss"] for split in ("train", "val")}


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ("resnet18_frozen", "resnet18_finetune", {"freezing"}),
        ("resnet18_frozen", "resnet18_last_stage", {"freezing"}),
        ("resnet18_frozen", "vit_tiny_frozen", {"backbone"}),
        ("tutorial_finetune", "tutorial_frozen", {"freezing"}),
        ("lite0_frozen", "lite0_finetune", {"freezing", "optimizer.lr"}),
    ],
)
def test_recipes_to_compare_differ_in_what_they_compare_alone(index: Index, one: str, other: str, apart: set) -> None:
    first, second = resolved(one, index), resolved(other, index)
    differing = set()
    for table in first.keys() | second.keys():
        if first[table] == second[table]:
            continue
        if table in apart:
            differing.add(table)
            continue
        keys = first[table].keys() | second[table].keys()
        differing |= {f"{table}.{key}" for key in keys if first[table].get(key) != second[table].get(key)}
    assert differing == apart


@pytest.mark.parametrize(("name", "policy"), [("tutorial_finetune", "full"), ("tutorial_frozen", "frozen")])
def test_the_tutorials_settings_are_exact(index: Index, name: str, policy: str) -> None:
    """Transfer learning for computer vision tutorial, pytorch.org."""
    recipe = resolved(name, index)
    assert (recipe["backbone"]["use"], recipe["backbone"]["weights"]) == ("torchvision/resnet18", ["IMAGENET1K_V1"])
    assert recipe["freezing"] == {"use": policy, "norm": "fixed"}
    assert recipe["loss"] == {"use": "torch/CrossEntropyLoss", "label_smoothing": 0.0, "class_weights": "none"}
    sgd = {"lr": 0.001, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False, "maximize": False}
    assert recipe["optimizer"] == {"use": "torch/SGD", "no_decay": [], **sgd}
    assert recipe["scheduler"] == [{"use": "torch/StepLR", "every": "auto", "step_size": 7, "gamma": 0.1}]
    plain = {"max_steps": 0, "workers": 0, "accumulate": 1, "clip_norm": 0.0, "mixup": 0.0, "cutmix": 0.0,
             "patience": 0, "precision": "fp32", "sampler": "shuffle", "drop_last": False}  # fmt: skip
    assert recipe["train"].items() >= {"epochs": 25, "batch_size": 4, "monitor": "val.accuracy", **plain}.items()


def test_the_tutorials_transforms_and_schedule_are_those_that_are_built(shortened, index: Index) -> None:
    from torchvision.transforms import v2

    parts = assemble(shortened("tutorial_finetune"), index)
    adapt, crop, flip, to_float, normalize = parts.pipeline("train").steps
    assert isinstance(crop, v2.RandomResizedCrop)
    assert (crop.size, crop.scale, crop.ratio) == ([224, 224], (0.08, 1.0), (3 / 4, 4 / 3))
    assert isinstance(flip, v2.RandomHorizontalFlip)
    assert flip.p == 0.5
    assert (normalize.mean, normalize.std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    same, resize, center, *rest = parts.pipeline("eval").steps
    assert isinstance(center, v2.CenterCrop)
    assert (resize.size, center.size) == ((256, 256), [224, 224])
    assert [type(step) for step in (same, *rest)] == [type(step) for step in (adapt, to_float, normalize)]
    [group] = [group for group in parts.optimizer.param_groups if group["params"]]
    assert (type(parts.optimizer).__name__, group["lr"], group["momentum"]) == ("SGD", 0.001, 0.9)


@pytest.mark.parametrize(
    ("name", "stages"),
    [("resnet18_frozen", ["stem", *(f"layer{n}" for n in range(1, 5)), "head"]),
     ("vit_tiny_frozen", ["stem", *(f"blocks.{n}" for n in range(12)), "neck", "head"])],
)  # fmt: skip
def test_the_layout_of_a_recipe(cli, name: str, stages: list[str]) -> None:
    result = cli("show", name, "--layout")
    assert result.code == 0, result.err
    rows = [line.split() for line in result.out.splitlines()[1:]]
    assert [row[0] for row in rows] == [*stages, "total"]
    assert [row[2] for row in rows[:-1]] == [*(["frozen"] * (len(stages) - 1)), "all"]
    assert sum(float(row[3].rstrip("%")) for row in rows[:-1]) == pytest.approx(100, abs=1)


@pytest.mark.sweep
def test_resnet18_frozen_reads_digits_even_with_random_weights(index: Index, tmp_path: Path) -> None:
    recipe = load_recipe("resnet18_frozen", index, [RANDOM])
    summary = start_run(recipe, index, tmp_path / "run", False, NullDisplay())
    best = summary["metrics"]["best"]
    print(f"\nresnet18_frozen: val accuracy {best['val']['accuracy']:.4f}, test {best['test']['accuracy']:.4f}, "
          f"{summary['time_s']['total']:.1f} s")  # fmt: skip
    assert summary["audit"]["frozen_moved"] == 0
    assert summary["heading"] == "RANDOM BACKBONE: not transfer learning"
    assert best["val"]["accuracy"] >= 0.95
