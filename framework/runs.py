"""Runs: starting and resuming them, from a checked recipe to the results."""

from __future__ import annotations

import difflib
import time
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from torch import Tensor

from framework import checkpoint, log, results, rundir
from framework.allocator import keeping_memory
from framework.assemble import Assembly, assemble
from framework.builder import naming
from framework.contracts import Data, Split
from framework.data import thinned
from framework.decoded import Decoded
from framework.display import RANDOM_BACKBONE, Display
from framework.errors import FwError
from framework.feed import Feed, WholeNetwork
from framework.files import remove_scratch, write_json
from framework.filling import Filler
from framework.freezing import copied_tensors
from framework.index import Index
from framework.measure import Clock
from framework.models import save_model
from framework.recalibrate import recalibrate
from framework.recipe import Recipe, load_resolved
from framework.running import Run, Standing, new_schedule
from framework.score import Scores
from framework.shapes import to_plain
from framework.shared import Shared
from framework.signals import StopRequest
from framework.stored import Divided
from framework.train import begin_plan, follow_plan, score_split, stop_if_asked, train
from framework.watchers import Watchers


def start_run(
    recipe: Recipe, index: Index, out: Path | None, overwrite: bool, display: Display, shared: Shared | None = None
) -> dict[str, Any]:
    """Trains a recipe from the beginning.

    Args:
        recipe: checked against `index`.
        index: the plugins.
        out: the run directory; `runs/<name>` if absent.
        overwrite: whether an earlier run in it may be replaced.
        display: told how it goes.
        shared: with the other runs of a study.

    Returns:
        the summary, which is also on disk.

    Raises:
        FwError: whatever a user can mend; Interrupted after a signal; AuditFailed if a frozen tensor moved.
    """
    began = time.perf_counter()
    folder = out or rundir.default_folder(recipe)
    rundir.require_free(folder, overwrite)
    run = prepare_run(recipe, index, folder, display, shared)
    rundir.create(folder, overwrite)  # not earlier: a mistake found above leaves no trace, and an old run in place
    try:
        with rundir.locked(folder):
            rundir.write_recipe(folder, run.parts.recipe)
            rundir.write_facts(folder, dict(run.facts))
            log.cut(folder / log.METRICS, 0)
            run.clock.seconds["start_up"] = time.perf_counter() - began
            return _go(run)
    except FwError:
        if not run.standing.epoch and not checkpoint.exists(folder):  # nothing was done: an image that cannot be read
            rundir.discard(folder)
        raise


def prepare_run(
    recipe: Recipe, index: Index, folder: Path, display: Display, shared: Shared | None = None,
    images: int | None = None,
) -> Run:  # fmt: skip
    """A run before its first step, its first plan in force; nothing is written.

    Args:
        recipe, index, folder, display, shared: as `start_run` takes them.
        images: at most this many of each split, for a measurement; absent: all.
    """
    parts = assemble(recipe, index, shared=shared)
    used = to_plain(parts.model.weights)
    parts = attrs.evolve(parts, recipe=results.recipe_with_pinned_weights(recipe, used))
    facts = {"weights": used, "environment": rundir.environment(index), "data": _data_facts(parts.data),
             "recipe": parts.recipe.to_toml(), "heading": None if used["transfer"] else RANDOM_BACKBONE}  # fmt: skip
    if images is not None:
        parts = attrs.evolve(parts, data=thinned(parts.data, images))
    run = _new_run(parts, facts, folder, index, display)
    begin_additions(run, partial(copied_tensors, parts.network))
    begin_plan(run)
    return run


def resume_run(folder: Path, index: Index, display: Display, shared: Shared | None = None) -> dict[str, Any]:
    """Goes on with a run that was stopped, bit for bit as if it had not been.

    Args:
        folder: of the run.
        index, display, shared: as `start_run` takes them.

    Raises:
        FwError: it is finished, its recipe or data changed, or a file is damaged.
    """
    began = time.perf_counter()
    rundir.require_run(folder)
    recipe = load_resolved(folder / rundir.RECIPE, index)
    if rundir.is_finished(folder):
        raise FwError(f"the run in {folder} is finished", f"its results are in {folder / rundir.SUMMARY}")
    with rundir.locked(folder):
        remove_scratch(folder)
        saved, facts = checkpoint.read(folder), rundir.read_facts(folder)
        _require_same_recipe(folder, facts["recipe"])
        parts = assemble(recipe, index, bare=saved is not None, shared=shared)
        _require_same_data(facts["data"], parts.data)
        _warn_of_changes(facts["environment"], rundir.environment(index), display)
        run = _new_run(parts, facts, folder, index, display)
        if saved is None:
            checkpoint.discard(folder)
            begin_additions(run, partial(copied_tensors, parts.network))
            begin_plan(run)
        else:
            checkpoint.load_base(folder, parts.network)
            checkpoint.restore(run, *saved)
            begin_additions(run, partial(checkpoint.load_initial, run))
        log.cut(folder / log.METRICS, run.standing.log_bytes)
        run.clock.seconds["start_up"] = run.clock.seconds.get("start_up", 0.0) + time.perf_counter() - began
        return _go(run)


def _new_run(parts: Assembly, facts: dict[str, Any], folder: Path, index: Index, display: Display) -> Run:
    stop = StopRequest()
    made: list[weakref.ref[Run]] = []  # a feed that held its run would keep both, and the network, after the end

    def between_batches() -> None:
        run = made[0]() if made else None
        if run is not None:
            stop_if_asked(run)

    feed = feed_of(parts, display, between_batches)
    run = Run(parts, feed, new_schedule(parts, feed), Standing(), folder, display,
              Watchers(index, display.warn, folder), Clock(parts.device), stop, facts=facts)  # fmt: skip
    made.append(weakref.ref(run))
    return run


def begin_additions(run: Run, initial: Callable[[], dict[str, Tensor]]) -> None:
    """Gives the regularizer and the finisher what the run began with.

    Args:
        run: before its first step, or before it goes on.
        initial: gives every tensor of the network, by name, as the run began with it.
    """
    regularizer, finisher = run.parts.regularizer, run.parts.finisher
    if regularizer is None and (finisher is None or not finisher.needs_initial):
        return
    run.initial = initial()
    if regularizer is not None:
        with naming("regularizer", run.parts.recipe.parts["regularizer"]):
            regularizer.start(run.parts.network, run.parts.model.layout, run.initial)


def feed_of(parts: Assembly, display: Display, between_batches: Callable[[], None]) -> Feed:
    """Where the batches of a run come from, as `[engine]` has it."""
    filler = Filler(parts.recipe.engine, display.note, between_batches)
    decoded = Decoded(parts, filler)
    reason = whole_because(parts)
    if reason:
        return WholeNetwork(parts, reason, decoded)
    return Divided(parts, filler, decoded, display.note)


def whole_because(parts: Assembly) -> str:
    """Why a network trains whole whatever its plan; nothing where it may be divided.

    Raises:
        FwError: the recipe requires a partition.
    """
    if parts.recipe.engine.partition == "off":
        return 'engine.partition = "off"'
    if parts.regularizer is None or not parts.regularizer.needs_images:
        return ""
    reason = f"the regularizer {parts.recipe.parts['regularizer'].use!r} looks on while the whole network computes"
    if parts.recipe.engine.partition == "require":
        raise FwError(f'engine.partition = "require", but {reason}', 'set engine.partition = "auto" to train whole')
    return reason


def _go(run: Run) -> dict[str, Any]:
    """Trains to the end and writes the results."""
    recipe, facts = run.parts.recipe, run.facts
    started = {
        "name": recipe.name, "run_dir": str(run.folder), "epochs": run.epochs, "steps": run.steps,
        "epoch": run.standing.epoch, "step": run.standing.step, "transfer": facts["weights"]["transfer"],
        "weights": facts["weights"],
        "params": results.parameter_counts(run.parts.network),
        "policy": recipe.parts["freezing"].use, "data": facts["data"],
    }  # fmt: skip
    run.display.started(started)
    run.watchers.tell("fw_run_started", name=recipe.name, recipe=recipe.resolved(),
                      classes=list(run.parts.data.task.classes), steps=run.steps, epochs=run.epochs)  # fmt: skip
    with keeping_memory(run.parts.device):
        with run.stop:
            if not run.is_over:
                follow_plan(run)
            train(run)
        run.parts.frozen.auditor.close()
        summary = finish(run)
    run.display.ended(summary)
    run.watchers.tell("fw_run_ended", status=summary["status"], summary=summary)
    run.parts.frozen.release()
    if summary["status"] != "done":
        run.parts.frozen.auditor.require_clean()
    return summary


def finish(run: Run) -> dict[str, Any]:
    """Scores the model, the test split once, and writes it, predictions, summary and report.

    Where there is a finisher, the selected network is scored first, and then the finished one, which is kept.
    """
    data, raw = run.parts.data, None
    with run.clock.time("validate"):
        if checkpoint.load_best(run):
            follow_plan(run)
        run.parts.frozen.eval()
        scored = {name: scores_known(run, split) or score_split(run, split) for name, split in data.scored.items()}
        if run.parts.finisher is not None:
            raw = _metrics(scored)
            finish_weights(run)
            scored = {name: score_split(run, split) for name, split in data.scored.items()}
        for name, split in data.scored.items():
            rows = results.prediction_rows(split, scored[name], data.task)
            results.write_rows(run.folder / "predictions" / f"{name}.csv", rows, results.prediction_columns(data.task))
    adapter = save_model(run, run.folder / rundir.MODEL)
    summary = results.summary(run, _metrics(scored), raw, adapter)
    log.sync(run.folder)
    write_json(run.folder / rundir.SUMMARY, summary)  # which marks the run as finished
    checkpoint.discard(run.folder)
    if run.parts.recipe.train.report:
        report(run, summary, scored)
    return summary


def finish_weights(run: Run) -> None:
    """Puts the weights that the finisher makes into the selected network, which is left in evaluation mode.

    Raises:
        FwError: it names what is not there, or did not move.
    """
    finisher, table = run.parts.finisher, run.parts.recipe.parts["finisher"]
    assert finisher is not None
    with naming("finisher", table):
        finished = dict(finisher.finish(copied_tensors(run.parts.network), run.initial))
    fixed = finished.keys() - run.standing.movable
    if fixed:
        raise FwError(f"the finisher {table.use!r} names {min(fixed)!r}, which did not move in this run",
                      "report this to its plugin")  # fmt: skip
    checkpoint.put_tensors(run.parts.network, finished)
    if finished and finisher.recalibrates:
        layout = run.parts.model.layout
        recalibrate(run, {owner for name, owner in layout.buffers.items()
                          if owner in layout.batch_norms and name in run.standing.movable})  # fmt: skip
    follow_plan(run)
    run.parts.frozen.eval()


def _metrics(scored: Mapping[str, Scores]) -> dict[str, dict[str, float]]:
    return {name: scores.metrics for name, scores in scored.items()}


def report(run: Run, summary: dict[str, Any], scored: dict[str, Scores]) -> None:
    """Writes the report; where that fails, the run has its results all the same."""
    try:
        from framework.report.run_report import write_run_report

        write_run_report(run.folder, summary, run.parts.data, scored)
    except Exception as error:  # a full disk, an image that is gone, a library that cannot be imported
        run.display.warn(f"there is no report: {type(error).__name__}: {error}")


def scores_known(run: Run, split: Split) -> Scores | None:
    """What is known already of the selected network: how it validated, if the newest epoch was the best."""
    is_newest = run.standing.best.epoch == run.standing.epoch
    return run.newest if is_newest and split is run.parts.data.val else None


def _data_facts(data: Data) -> dict[str, Any]:
    sizes = {"train": len(data.train), "val": len(data.val), "test": len(data.test) if data.test is not None else 0}
    return {"fingerprint": data.fingerprint, "images": sizes, "notes": list(data.notes)}


def _require_same_recipe(folder: Path, before: str) -> None:
    now = (folder / rundir.RECIPE).read_text(encoding="utf-8")
    if now == before:
        return
    lines = difflib.unified_diff(before.splitlines(), now.splitlines(), "as it was", "as it is", lineterm="", n=1)
    raise FwError(f"{folder / rundir.RECIPE} changed since the run began:\n" + "\n".join(lines),
                  "put it back to resume, or start another run with: fw run")  # fmt: skip


def _warn_of_changes(before: dict[str, Any], now: dict[str, Any], display: Display) -> None:
    """Other libraries, plugins or threads may round otherwise: the run goes on, no longer bit for bit."""
    of_rounding = ("libraries", "plugins", "threads", "processor", "accelerator")
    for name in (name for name in of_rounding if before[name] != now[name]):
        display.warn(f"{name} changed since the run began, so that it need not end bit-equal: "
                     f"{before[name]} then, {now[name]} now")  # fmt: skip


def _require_same_data(before: dict[str, Any], data: Data) -> None:
    if data.fingerprint != before["fingerprint"]:
        raise FwError("the data changed since the run began: its images, targets or splits are not what they were",
                      f"then: {before['images']}; now: {_data_facts(data)['images']}")  # fmt: skip
