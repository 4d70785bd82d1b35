"""Train: the one loop. What a policy decides reaches it as data; nothing here knows which policy that is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
from torch import Tensor, nn

from framework import checkpoint
from framework.builder import naming
from framework.contracts import Moments, Plan, Split
from framework.draws import seed_draws
from framework.errors import Interrupted
from framework.feed import Fed
from framework.freezing import Change, check_plan
from framework.log import log_epoch
from framework.measure import peak_device_mb, peak_rss_mb
from framework.mixing import Inputs, mix
from framework.paths import require_paths
from framework.recalibrate import recalibrate
from framework.running import Run
from framework.score import Scores, higher_is_better, score
from framework.streams import stream_seed

SETTLE_EVERY = {True: 1, False: 32}
"""Batches between two looks at the loss: on a CPU it is there at once, elsewhere a look waits for the device."""


def train(run: Run) -> None:
    """Trains until the last epoch, the last step, or patience runs out.

    A checkpoint is written at the end of an epoch where one is due, every `checkpoint_every` steps, and before a signal
    stops the run.

    Raises:
        Interrupted: a signal asked to stop.
        AuditFailed: a frozen tensor moved.
        FwError: the loss is no number any more.
    """
    at = run.standing
    while not run.is_over:
        with run.clock.time("train"):
            train_epoch(run)
        with run.clock.time("validate"):
            metrics = validate(run)
        at.last = {**training_losses(run), **{f"val.{k}": v for k, v in metrics.items()}}
        choose_best(run, metrics)
        done = attrs.evolve(run.progress(), epoch=at.epoch + 1)
        run.schedule.after_epoch(done, monitored(run, metrics))
        if run.parts.finisher is not None:
            run.parts.finisher.after_epoch(run.parts.frozen.moving(), done)
        end_epoch(run)


def train_epoch(run: Run) -> None:
    """The batches that are left of the epoch under way."""
    at = run.standing
    while not run.epoch_is_over:
        follow_policy(run)
        run.parts.frozen.train()
        for batch in run.feed.train_batches(at.epoch, at.batch):
            add_gradient(run, batch)
            at.batch += 1
            if at.batch % run.parts.recipe.train.accumulate and at.batch < run.batches_per_epoch:
                continue
            take_step(run)
            after_step(run)
            if run.epoch_is_over or policy_is_due(run):
                break  # a new plan may want other batches
    run.settle()


def add_gradient(run: Run, batch: Fed) -> None:
    """Forward and backward of one batch, weighted by its share of the optimizer step's images."""
    at, keys = run.standing, run.parts.recipe.train
    count = len(batch.positions)
    run.note_skipped(run.parts.data.train, batch.skipped)
    if not count:
        return
    seed_draws(stream_seed(run.parts.recipe.seed, "step", at.epoch, at.batch), run.parts.device)  # dropout, mixup
    inputs, targets = mix(batch.inputs, batch.targets, keys, run.parts.data.task)
    loss, term = losses(run, inputs, targets)
    whole = loss if term is None else loss + term
    share = count / images_of_step(run, at.batch)
    (whole if share == 1 else whole * share).backward()  # type: ignore[no-untyped-call]
    run.note_loss(loss, term, count)
    run.images_in_step += count
    at.images_trained += count


def losses(run: Run, inputs: Inputs, targets: Tensor) -> tuple[Tensor, Tensor | None]:
    """The loss of a batch, and what the regularizer adds to it; None where there is none."""
    with run.autocast():
        loss = run.parts.criterion(run.feed.forward(inputs).float(), targets)
        return loss, _regularization(run, inputs)


def _regularization(run: Run, inputs: Inputs) -> Tensor | None:
    regularizer = run.parts.regularizer
    if regularizer is None:
        return None
    images = inputs if regularizer.needs_images and isinstance(inputs, Tensor) else None
    with naming("regularizer", run.parts.recipe.parts["regularizer"]):
        return regularizer.term(run.parts.frozen.trainable(), images)


def images_of_step(run: Run, batch: int) -> int:
    """How many images the optimizer step to which a batch belongs has, over all its batches."""
    keys = run.parts.recipe.train
    first = batch - batch % keys.accumulate
    last = min(first + keys.accumulate, run.batches_per_epoch)
    return min(last * keys.batch_size, len(run.parts.data.train)) - first * keys.batch_size


def take_step(run: Run) -> None:
    """Clips the gradient where asked and moves the parameters and the learning rates."""
    parameters = [p for group in run.parts.optimizer.param_groups for p in group["params"]]
    make_up_for_skipped(run, parameters)
    run.gradients.note()
    limit = run.parts.recipe.train.clip_norm
    if limit:
        nn.utils.clip_grad_norm_(parameters, limit)
    run.parts.optimizer.step()
    run.parts.optimizer.zero_grad(set_to_none=True)
    run.standing.step += 1
    run.schedule.after_step(run.progress())
    if run.parts.finisher is not None:
        run.parts.finisher.after_step(run.parts.frozen.moving(), run.progress())


def make_up_for_skipped(run: Run, parameters: list[nn.Parameter]) -> None:
    """Makes the gradient the mean over the images that could be read, where some of the step's could not."""
    whole, read = images_of_step(run, run.standing.batch - 1), run.images_in_step
    run.images_in_step = 0
    if 0 < read < whole:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(whole / read)


def after_step(run: Run) -> None:
    """Tells the display, writes the checkpoint that is due, and answers a signal."""
    at, every = run.standing, run.parts.recipe.train.checkpoint_every
    if len(run.pending) >= SETTLE_EVERY[run.parts.device.type == "cpu"]:
        run.settle()
        run.display.batch({"epoch": at.epoch, "step": at.step, "steps": run.steps, "loss": mean_loss(run),
                           "images": at.images_trained})  # fmt: skip
    if every and at.step % every == 0 and not run.epoch_is_over:
        save_checkpoint(run)
    stop_if_asked(run)


def save_checkpoint(run: Run) -> None:
    """Writes a checkpoint and tells whoever watches."""
    checkpoint.save(run)
    at, written = run.standing, str(checkpoint.path_of(run.folder))
    run.watchers.tell("fw_checkpoint_written", epoch=at.epoch, step=at.step, path=written)


def mean_loss(run: Run) -> float:
    """The mean training loss of the epoch under way, without the regularizer's term."""
    return run.standing.loss_sum / max(1, run.standing.images)


def training_losses(run: Run) -> dict[str, float]:
    """The epoch's mean loss and, where there is a regularizer, the mean of its term."""
    term = {"train.regularizer": run.standing.term_sum / max(1, run.standing.images)} if run.parts.regularizer else {}
    return {"train.loss": mean_loss(run), **term}


def stop_if_asked(run: Run) -> None:
    """
    Raises:
        Interrupted: a signal has come; the checkpoint is on disk.
    """
    if run.stop:
        save_checkpoint(run)
        raise Interrupted(f"stopped after step {run.standing.step} of {run.steps}; the checkpoint is written",
                          f"continue with: fw resume {run.folder}", run.stop.signal_number)  # fmt: skip


def validate(run: Run) -> dict[str, float]:
    """Metrics of the validation split under the network as it is."""
    run.parts.frozen.eval()
    run.newest = score_split(run, run.parts.data.val, lambda: stop_if_asked(run))
    return run.newest.metrics


def score_split(run: Run, split: Split, between_batches: Callable[[], None] = lambda: None) -> Scores:
    """Scores one split with the network as it is, and notes what could not be read."""
    parts = run.parts
    scores = score(run.feed, split, parts.data.task, parts.criterion, parts.metrics, run.autocast, between_batches)
    run.note_skipped(split, scores.skipped)
    return scores


def monitored(run: Run, metrics: dict[str, float]) -> float | None:
    """The metric that chooses the best epoch; None where no validation image could be read."""
    return metrics.get(run.parts.recipe.train.monitor.removeprefix("val."))


def choose_best(run: Run, metrics: dict[str, float]) -> None:
    """Keeps the network of the best epoch, and stops when patience has run out."""
    at, keys = run.standing, run.parts.recipe.train
    found = monitored(run, metrics)
    value = math.nan if found is None else found
    sign = 1 if higher_is_better(keys.monitor, run.parts.metrics) else -1
    first_number = math.isnan(at.best.value) and not math.isnan(value)
    is_last_kept = run.parts.recipe.parts["data"].core.join_val  # what is trained on chooses nothing
    if is_last_kept or not at.best.epoch or first_number or sign * value > sign * at.best.value:
        at.best.epoch, at.best.value = at.epoch + 1, value
        checkpoint.keep_best(run)
    at.stopped_early = bool(keys.patience) and at.epoch + 1 - at.best.epoch >= keys.patience


def end_epoch(run: Run) -> None:
    """Logs the epoch, begins the next, writes the checkpoint that is due and tells whoever watches."""
    at = run.standing
    rates = sorted(set(run.parts.groups.rates().values()), reverse=True)
    at.epoch, at.batch, at.loss_sum, at.term_sum, at.images = at.epoch + 1, 0, 0.0, 0.0, 0
    log_epoch(run, rates)
    facts: dict[str, Any] = {"epoch": at.epoch, "epochs": run.epochs, "step": at.step, "metrics": dict(at.last),
                             "lr": rates[0], "images_per_s": images_per_s(run)}  # fmt: skip
    if checkpoint.is_due(run):
        save_checkpoint(run)
    run.watchers.tell("fw_epoch_ended", **facts, network=run.parts.network)
    run.display.epoch({**facts, "memory_mb": peak_rss_mb(), "device_mb": peak_device_mb(run.parts.device),
                       "seconds": sum(run.clock.seconds.get(name, 0.0) for name in ("train", "validate"))})  # fmt: skip
    stop_if_asked(run)


def images_per_s(run: Run) -> float:
    """Training images per second of training, over the whole run so far."""
    return run.standing.images_trained / max(run.clock.seconds.get("train", 0.0), 1e-9)


def policy_is_due(run: Run) -> bool:
    """Whether the policy wants to be asked before the next step."""
    at, moments = run.standing, run.parts.policy.moments()
    if at.asked_at == at.step:
        return False
    return is_due(moments, at.epoch, at.step, run.steps, begins=at.batch == 0)


def is_due(moments: Moments, epoch: int, step: int, steps: int, begins: bool) -> bool:
    """Whether a moment has come, where so many epochs, and of all steps so many, are done.

    Args:
        moments: of a policy.
        epoch, step: how many are done.
        steps: how many the run has.
        begins: whether the next step is an epoch's first.
    """
    if begins and (epoch in moments.epochs or (moments.every_epoch and epoch > 0)):
        return True
    return step in moments.steps or any(has_come(share, step, steps) for share in moments.fractions)


def has_come(share: float, step: int, steps: int) -> bool:
    """Whether `step` is the first by which this share of the steps is done, as `Progress.fraction` has it."""
    return (step - 1) / steps < share <= step / steps


def follow_policy(run: Run) -> None:
    """Asks the policy where it is due, and puts a new plan in force."""
    if not policy_is_due(run):
        return
    run.standing.asked_at = run.standing.step
    now = attrs.evolve(run.progress(), signals=run.take_signals())
    with naming("freezing", run.parts.recipe.parts["freezing"]):
        plan = run.parts.policy.next(run.parts.model.layout, now)
    if plan is not None and plan != run.parts.frozen.plan:
        change_plan(run, plan)


def change_plan(run: Run, plan: Plan) -> None:
    """Everything that depends on the plan follows: audit, modes, optimizer, schedule, batches."""
    check_plan(run.parts.model.layout, plan, run.parts.recipe.parts["freezing"].use)
    run.parts.frozen.auditor.close()
    checkpoint.keep_base(run)
    change = run.parts.frozen.apply(plan)
    noted = note_change(run, change)
    run.parts.groups.follow(plan)
    begin_plan(run)
    {"continue": lambda: None, "restart": run.schedule.restart, "warm_up": run.schedule.warm_up}[plan.schedule]()
    follow_plan(run)
    run.watchers.tell("fw_plan_changed", epoch=run.standing.epoch, step=run.standing.step,
                      trainable=sorted(plan.trainable), added=change.added, removed=change.removed,
                      schedule=plan.schedule, scales=sorted({*plan.trainable.values()}))  # fmt: skip
    counts = f"{noted['trainable']} tensors train (+{noted['added']} -{noted['removed']})"
    said = "; ".join([counts, *noted["besides"]])
    run.display.note(f"plan changed before step {run.standing.step + 1}: {said}")


def note_change(run: Run, change: Change) -> dict[str, Any]:
    """Remembers a change of plan, for the summary; a checkpoint may be written before the new plan's first step."""
    plan, stages = run.parts.frozen.plan, run.parts.model.layout.stages
    moving = [stage.name for stage in stages if not plan.trainable.keys().isdisjoint(stage.parameters)]
    noted = {
        "epoch": run.standing.epoch, "step": run.standing.step, "trainable": len(plan.trainable),
        "added": len(change.added), "removed": len(change.removed), "stages": moving, "besides": besides(plan),
    }  # fmt: skip
    run.standing.plan_changes.append(noted)
    return noted


def besides(plan: Plan) -> list[str]:
    """What a plan says beside what trains, in words; nothing where all is as usual."""
    low, high = min(plan.trainable.values()), max(plan.trainable.values())
    rates = f"rates {low:g}x" + (f" to {high:g}x" if high > low else "")
    scheduler = {"restart": "the scheduler restarts", "warm_up": "rates warm up"}.get(plan.schedule, "")
    norms = f"{len(plan.recalibrate)} norms are estimated anew" if plan.recalibrate else ""
    return [words for words in (rates if (low, high) != (1, 1) else "", scheduler, norms) if words]


def follow_plan(run: Run) -> None:
    """Has the feed divide the network under the plan in force, and keep what that makes worth keeping."""
    left = run.steps - run.standing.step
    with run.clock.time("features"):
        run.feed.follow(left / run.steps_per_epoch)


def begin_plan(run: Run) -> None:
    """What every plan begins with: new statistics where it wants them, a check that gradients arrive, the audit."""
    plan = run.parts.frozen.plan
    recalibrate(run, plan.recalibrate)
    require_paths(run)
    run.parts.frozen.auditor.open(plan)
    run.standing.movable |= checkpoint.movable(run.parts)
    if run.parts.finisher is not None:
        run.parts.finisher.follow(run.parts.frozen.moving())
