"""Digits: scikit-learn's handwritten digits, embedded in the package, no download."""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import NDArray

import framework as fw
from fw_data.keys import TestShare, ValShare, stated
from fw_data.sources import ArraySource


@attrs.frozen(kw_only=True)
class Digits:
    """1,797 handwritten digits, 8x8 grey pixels, embedded in scikit-learn."""

    val: ValShare = fw.key(0.2, "share of the images for validation")
    test: TestShare = fw.key(0.2, "share of the images for the test; 0: no test split")

    def build(self, seed: int) -> fw.Data:
        """The digits, split by seed, every class alike."""
        import torch
        from sklearn.datasets import load_digits

        targets = load_digits().target
        task = fw.Task("multiclass", tuple(str(digit) for digit in range(10)))
        count = len(targets)
        names = tuple(f"digit-{number:04d}" for number in range(count))
        whole = fw.Split(
            ArraySource(digit_images), tuple(range(count)), names, torch.tensor(targets, dtype=torch.int64)
        )
        splits = fw.cut_split(whole, task, seed, val=self.val, test=self.test)
        return fw.make_data(task, splits, [f"split {stated(self.val, self.test)} by seed {seed}, stratified"])


def digit_images() -> NDArray[np.uint8]:
    """All digits (1797, 8, 8), their 17 grey levels spread over 0..255."""
    from sklearn.datasets import load_digits

    images: NDArray[np.float64] = load_digits().images
    return np.rint(images * (255 / 16)).astype(np.uint8)
