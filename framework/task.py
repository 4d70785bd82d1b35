"""Task: what is predicted, and the names of the classes."""

from __future__ import annotations

from typing import Literal

import attrs


@attrs.frozen
class Task:
    """What a network is asked for.

    Attributes:
        kind: `multiclass` (one class per image; targets are int64 of shape (N,)) or `multilabel`
            (any number of classes per image; targets are float32 of shape (N, classes), 0 or 1).
        classes: class names; a logit's column is the index into them.
    """

    kind: Literal["multiclass", "multilabel"]
    classes: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """How many logits a head gives per image."""
        return len(self.classes)
