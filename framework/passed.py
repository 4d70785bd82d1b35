"""Passed: checks of a network that a process need not make twice; a study trains the same one many times."""

from __future__ import annotations

import hashlib
from typing import Any

from framework.assemble import Assembly
from framework.identity import code_of_modules, machine

PASSED: set[str] = set()
"""What was checked in this process, and passed."""


def what_is_checked(run: Assembly, *more: Any) -> str:
    """A hash of what a network computes with under its plan, but for the values of tensors, and of plain facts."""
    plan = run.frozen.plan
    facts = (computed_by(run), sorted(plan.trainable), sorted(plan.batch_stats), run.recipe.train.precision,
             run.memory_format, machine(run.device), run.model.spec, more)  # fmt: skip
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def computed_by(run: Assembly) -> str:
    """A hash of what a network computes, but for modes and the values of tensors.

    The tables are in it for options that a network's text does not show, such as how it pools.
    """
    tables = run.builder.made_from(*(name for name in ("backbone", "head", "adapter") if name in run.recipe.parts))
    facts = repr(run.network), tables, code_of_modules(run.network)
    return hashlib.sha256(repr(facts).encode()).hexdigest()
