"""TensorBoard: the numbers of a run as event files in its directory, for `tensorboard --logdir runs`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from fw_trackers.tracker import Facts, Tracker, numbers_of_best, numbers_of_epoch

FOLDER = "tensorboard"


class TensorBoard(Tracker):
    """Scalars over optimizer steps: `val/accuracy`, `lr`, `images_per_s`, `trainable` (tensors), `best/test.accuracy`.

    A resumed run hides what was written after the checkpoint from which it goes on.

    Args:
        facts: of `fw_run_started`.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, facts: Facts) -> None:
        self._library: Any = import_module("torch.utils.tensorboard")
        self._folder = Path(facts["run_dir"]) / FOLDER
        self._writer: Any = None

    def epoch_ended(self, facts: Facts) -> None:
        """The epoch's numbers."""
        self._write(numbers_of_epoch(facts), facts["step"], hidden_from=facts["step"])

    def plan_changed(self, facts: Facts) -> None:
        """How many parameter tensors train from here on; the epoch that ended with this step stands."""
        self._write({"trainable": len(facts["trainable"])}, facts["step"], hidden_from=facts["step"] + 1)

    def run_ended(self, facts: Facts) -> None:
        """The scores of the selected network."""
        steps = facts["summary"]["steps"]
        self._write(numbers_of_best(facts["summary"]), steps, hidden_from=steps + 1)
        self._writer.close()

    def _write(self, numbers: Mapping[str, float], step: int, hidden_from: int) -> None:
        """Writes scalars at a step.

        Args:
            numbers: by dotted name.
            step: optimizer steps done.
            hidden_from: from which step on an earlier process's numbers are told again; the first call of this one
                decides it.
        """
        if self._writer is None:
            self._writer = self._library.SummaryWriter(str(self._folder), purge_step=hidden_from)
        for name, value in numbers.items():
            self._writer.add_scalar(name.replace(".", "/", 1), value, step)
        self._writer.flush()
