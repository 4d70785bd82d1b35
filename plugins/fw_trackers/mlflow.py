"""Mlflow: a run as a run of MLflow, its recipe as parameters and its numbers as metrics."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from fw_trackers.tracker import Facts, Tracker, numbers_of_best, numbers_of_epoch

EXPERIMENT = "fw-transfer"
RUN_ID = "mlflow_run_id"
STORE = "mlflow.db"
_MOST = 100
"""Parameters that MLflow takes at a time."""


class Mlflow(Tracker):
    """A run of MLflow in the store that MLFLOW_TRACKING_URI names; without it, in `mlflow.db` of the run directory.

    MLFLOW_EXPERIMENT_NAME names the experiment, else it is `fw-transfer`. The run's id lies in `mlflow_run_id` of the
    run directory: a resumed run goes on in the same one, where what it tells again stands already. One that was stopped
    stays `RUNNING`.

    Args:
        facts: of `fw_run_started`.

    Raises:
        ImportError: mlflow, or what its store needs, is not installed.
    """

    def __init__(self, facts: Facts) -> None:
        self._library: Any = import_module("mlflow")
        folder = Path(facts["run_dir"]).absolute()
        self._client = self._library.MlflowClient(
            os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / STORE}"
        )
        known = folder / RUN_ID
        if not known.is_file():
            known.write_text(self._begin(facts, folder), encoding="utf-8")
        self._run = known.read_text(encoding="utf-8")
        self._client.update_run(self._run, "RUNNING")
        self._told = {(mark, point.step) for mark in ("epoch", "trainable", "steps")
                      for point in self._client.get_metric_history(self._run, mark)}  # fmt: skip

    def epoch_ended(self, facts: Facts) -> None:
        """The epoch's numbers."""
        self._log("epoch", facts["epoch"], facts["step"], numbers_of_epoch(facts))

    def plan_changed(self, facts: Facts) -> None:
        """How many parameter tensors train from here on."""
        self._log("trainable", len(facts["trainable"]), facts["step"])

    def run_ended(self, facts: Facts) -> None:
        """The scores of the selected network; an audit that failed makes the run `FAILED`."""
        summary = facts["summary"]
        self._log("steps", summary["steps"], summary["steps"], numbers_of_best(summary))
        self._client.set_terminated(self._run, "FINISHED" if facts["status"] == "done" else "FAILED")

    def _begin(self, facts: Facts, folder: Path) -> str:
        """Makes the run in MLflow, with its recipe; gives its id."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        made = self._client.create_run(experiment, run_name=facts["name"], tags={"fw.run_dir": str(folder)})
        run_id: str = made.info.run_id
        params = [self._library.entities.Param(key, value) for key, value in _flat(facts["recipe"])]
        for first in range(0, len(params), _MOST):
            self._client.log_batch(run_id, params=params[first : first + _MOST])
        return run_id

    def _log(self, mark: str, value: float, step: int, numbers: Mapping[str, float] | None = None) -> None:
        """Writes metrics at a step, once: MLflow keeps every point that it is given.

        Args:
            mark: the metric that shows whether the others were written.
            value: of the mark.
            step: optimizer steps done.
            numbers: the others.
        """
        if (mark, step) in self._told:
            return
        now = int(time.time() * 1000)
        everything = {**(numbers or {}), mark: value}
        metrics = [self._library.entities.Metric(name, float(value), now, step) for name, value in everything.items()]
        self._client.log_batch(self._run, metrics=metrics)


def _flat(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Every key of a recipe with its value as text: `optimizer.lr`."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value if isinstance(value, str) else json.dumps(value, default=str)
