"""Checkpoint: everything that a run needs to go on bit for bit, in files without pickle."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from framework.assemble import Assembly
from framework.codec import pack, plain_tensor, unpack
from framework.contracts import Plan
from framework.errors import FwError
from framework.files import load_tensors, save_tensors
from framework.freezing import all_tensors, allowed_to_move
from framework.log import sync
from framework.running import Run, Standing

BASE, INITIAL, BEST, LAST, PREVIOUS = (
    "base.safetensors",
    "initial.safetensors",
    "best.safetensors",
    "checkpoint.safetensors",
    "checkpoint-1.safetensors",
)


REST_S = 5.0
"""Seconds within which the end of another epoch writes no checkpoint: beside an epoch, what a kill loses at most."""


def path_of(folder: Path) -> Path:
    """The newest checkpoint of a run directory."""
    return folder / LAST


def exists(folder: Path) -> bool:
    """Whether there is one to go on from; while the newest is being written, only the one before it is there."""
    return path_of(folder).is_file() or (folder / PREVIOUS).is_file()


def discard(folder: Path) -> None:
    """Removes every checkpoint, and what was kept for them."""
    for spent in (BASE, INITIAL, BEST, LAST, PREVIOUS):
        (folder / spent).unlink(missing_ok=True)


def movable(parts: Assembly) -> set[str]:
    """The tensors that the plan in force lets move, or that it re-estimated when it began."""
    layout, plan = parts.model.layout, parts.frozen.plan
    recalibrated = {name for name, owner in layout.buffers.items() if owner in plan.recalibrate}
    return allowed_to_move(layout, plan) | recalibrated


def keep_base(run: Run) -> None:
    """Writes the whole network once: with the first checkpoint, and before a plan lets more of it move.

    Later checkpoints hold only what can move. What could move by then is in every one of them.
    """
    if not (run.folder / BASE).is_file():
        tensors = {name: plain_tensor(tensor) for name, tensor in all_tensors(run.parts.network).items()}
        save_tensors(run.folder / BASE, tensors, {})


def load_base(folder: Path, network: nn.Module) -> None:
    """Puts back what no plan had let move when the base was written."""
    tensors, _ = load_tensors(folder / BASE, "start the run again with: fw run")
    put_tensors(network, tensors)


def keep_initial(run: Run) -> None:
    """Writes what the run began with, once, where a regularizer or finisher asks for it."""
    if run.initial and not (run.folder / INITIAL).is_file():
        save_tensors(run.folder / INITIAL, {name: plain_tensor(tensor) for name, tensor in run.initial.items()}, {})


def load_initial(run: Run) -> dict[str, Tensor]:
    """What the run began with, on its device."""
    tensors, _ = load_tensors(run.folder / INITIAL, "start the run again with: fw run")
    return {name: tensor.to(run.parts.device) for name, tensor in tensors.items()}


def keep_best(run: Run) -> None:
    """Keeps what can move, as the best epoch so far has it; it is written with the next checkpoint."""
    run.best = _moved_tensors(run)


def load_best(run: Run) -> bool:
    """Puts the network of the best epoch back; what only a later plan let move is as it was before the first step.

    Returns:
        whether anything may have changed that the plan in force keeps.
    """
    damaged = f"{run.folder / LAST} has the newest epoch: delete the damaged file"
    tensors = run.best or load_tensors(run.folder / BEST, damaged)[0]
    if not run.standing.movable <= tensors.keys():
        load_base(run.folder, run.parts.network)
    put_tensors(run.parts.network, tensors)
    return not run.standing.movable <= movable(run.parts)


def is_due(run: Run) -> bool:
    """Whether the end of an epoch writes a checkpoint."""
    return bool(run.parts.recipe.train.checkpoint_every) or time.monotonic() - run.saved_at > REST_S


def save(run: Run) -> None:
    """Writes the checkpoint, and before it all that it hangs on; the one before it is kept until the next."""
    run.settle()
    keep_base(run)
    keep_initial(run)
    if run.best:
        save_tensors(run.folder / BEST, run.best, {"epoch": run.standing.best.epoch})
        run.best = {}
    sync(run.folder)
    tensors = {f"network/{name}": tensor for name, tensor in _moved_tensors(run).items()}
    optimizer, optimizer_tensors = pack(run.parts.optimizer.state_dict(), "optimizer")
    schedule, schedule_tensors = pack(run.schedule.state_dict(), "schedule")
    policy, policy_tensors = pack(run.parts.policy.state(), "policy")
    finisher, finisher_tensors = pack(run.parts.finisher.state() if run.parts.finisher else {}, "finisher")
    plan = run.parts.frozen.plan
    facts = {
        "standing": run.standing.to_json(),
        "plan": {
            "trainable": dict(plan.trainable),
            "batch_stats": sorted(plan.batch_stats),
            "recalibrate": sorted(plan.recalibrate),
            "schedule": plan.schedule,
        },
        "policy": policy,
        "finisher": finisher,
        "groups": run.parts.groups.members,
        "optimizer": optimizer,
        "schedule": schedule,
        "audit": run.parts.frozen.auditor.state(),
        "seconds": run.clock.seconds,
    }
    newest = path_of(run.folder)
    if newest.is_file():
        newest.replace(run.folder / PREVIOUS)
    of_state = {**optimizer_tensors, **schedule_tensors, **policy_tensors, **finisher_tensors}
    save_tensors(newest, {**tensors, **of_state}, facts)
    run.saved_at = time.monotonic()


def _moved_tensors(run: Run) -> dict[str, Tensor]:
    tensors = all_tensors(run.parts.network)
    return {name: plain_tensor(tensors[name]) for name in sorted(run.standing.movable)}


def read(folder: Path) -> tuple[dict[str, Tensor], Any] | None:
    """The newest checkpoint's tensors and facts; None where a run was stopped before its first.

    Raises:
        FwError: it is damaged.
    """
    newest, previous = path_of(folder), folder / PREVIOUS
    chosen = newest if newest.is_file() else previous
    if not chosen.is_file():
        return None
    return load_tensors(chosen, f"to go on from the checkpoint before it: rm {newest}" if chosen == newest and
                        previous.is_file() else "start the run again with: fw run")  # fmt: skip


def restore(run: Run, tensors: dict[str, Tensor], facts: Any) -> None:
    """Puts a run where a checkpoint left it."""
    put_tensors(
        run.parts.network,
        {name.removeprefix("network/"): t for name, t in tensors.items() if name.startswith("network/")},
    )
    run.standing = Standing.from_json(facts["standing"])
    run.parts.policy.restore(unpack(facts["policy"], tensors))
    kept = facts["plan"]
    plan = Plan(kept["trainable"], frozenset(kept["batch_stats"]), frozenset(kept["recalibrate"]), kept["schedule"])
    run.parts.frozen.apply(plan)
    run.parts.groups.place(facts["groups"])
    run.parts.optimizer.load_state_dict(unpack(facts["optimizer"], tensors))
    run.schedule.load_state_dict(unpack(facts["schedule"], tensors))
    auditor = run.parts.frozen.auditor
    auditor.load_state(facts["audit"])
    auditor.plan = plan
    if run.parts.finisher is not None:
        here = {name: t.to(run.parts.device) for name, t in tensors.items() if name.startswith("finisher")}
        run.parts.finisher.restore(unpack(facts["finisher"], here))
        run.parts.finisher.follow(run.parts.frozen.moving())
    run.clock.seconds.update(facts["seconds"])


def put_tensors(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copies tensors into a network in place.

    Raises:
        FwError: one that the network does not have, or of another shape.
    """
    own = all_tensors(network)
    with torch.no_grad():
        for name, tensor in tensors.items():
            if name not in own or own[name].shape != tensor.shape:
                raise FwError(f"the saved tensor {name!r} does not fit the network that the recipe describes",
                              "was another version of a plugin or library installed when it was saved?")  # fmt: skip
            own[name].copy_(tensor)
