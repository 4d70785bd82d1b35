"""What the framework asks of a data set, and what is drawn."""

from __future__ import annotations

import fw_shapes
import numpy as np
import pytest

from framework.testing import plugin_checks

test_plugin = plugin_checks(fw_shapes)


def test_the_fingerprint_follows_the_pixels() -> None:
    prints = {fw_shapes.Shapes(images=15, size=size).build(seed).fingerprint for size in (16, 32) for seed in (0, 1)}
    assert len(prints) == 4
    assert fw_shapes.Shapes(images=15, size=16).build(0).fingerprint in prints


def test_a_shape_covers_what_its_class_says() -> None:
    """Of the circle around it a square covers 2/pi, a triangle 3 sqrt(3) / (4 pi)."""
    covered: dict[int, list[float]] = {0: [], 1: [], 2: []}
    drawings = fw_shapes.Drawings(seed=0, size=64)
    for index in range(60):
        light = np.asarray(drawings.load(index)).mean(2) > 128
        rows, columns = np.nonzero(light)
        centre = np.array([rows.mean(), columns.mean()])
        radius = np.hypot(rows - centre[0], columns - centre[1]).max() + 0.5
        covered[index % 3].append(light.sum() / (np.pi * radius**2))
    found = [float(np.median(shares)) for shares in covered.values()]
    assert found == pytest.approx([1.0, 2 / np.pi, 3 * np.sqrt(3) / (4 * np.pi)], abs=0.1)
