"""The interface for scripts and notebooks: `fw.run`, `fw.run_each`, `fw.load`, `fw.freeze`."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import nn

from framework.allocator import keeping_memory
from framework.builder import make_config
from framework.contracts import FreezingPolicy, Layout, Plan
from framework.display import Display, NullDisplay
from framework.errors import FwError, name_hints
from framework.freezing import FrozenNetwork, check_plan
from framework.hooks import KIND_OF_TABLE
from framework.index import installed_index
from framework.layout import derive_layout
from framework.measure import pick_device
from framework.recipe import load_recipe
from framework.rundir import require_free
from framework.runs import start_run
from framework.shapes import to_plain
from framework.shared import Shared
from framework.trained import Trained, read_trained


class RunResult(Mapping[str, Any]):
    """A run's summary, read like a dict; a notebook shows it as a table.

    Attributes:
        summary: as in `summary.json`.
        folder: the run directory.
    """

    def __init__(self, summary: dict[str, Any]) -> None:
        self.summary = summary
        self.folder = Path(summary["run_dir"])

    def __getitem__(self, key: str) -> Any:
        return self.summary[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.summary)

    def __len__(self) -> int:
        return len(self.summary)

    def __repr__(self) -> str:
        return f"RunResult({self.summary['name']!r}, {self._headline()}, run_dir={str(self.folder)!r})"

    def _headline(self) -> str:
        best = self.summary["metrics"]["best"]
        name = best["monitor"].removeprefix("val.")
        return ", ".join(f"{split}.{name}={best[split][name]:.4f}" for split in ("val", "test") if split in best)

    def _repr_html_(self) -> str:
        best = self.summary["metrics"]["best"]
        splits = [split for split in ("val", "test") if split in best]
        head = "".join(f"<th>{html.escape(split)}</th>" for split in splits)
        rows = "".join(
            f"<tr><td>{html.escape(metric)}</td>"
            + "".join(f"<td>{best[s].get(metric, float('nan')):.4f}</td>" for s in splits)
            + "</tr>"
            for metric in best["val"]
        )
        title = html.escape(self.summary["heading"] or self.summary["name"])
        return f"<table><caption>{title}</caption><tr><th></th>{head}</tr>{rows}</table>"

    def predictions(self, split: str = "test") -> list[dict[str, str]]:
        """The rows of `predictions/<split>.csv`."""
        import csv

        with (self.folder / "predictions" / f"{split}.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


def run(
    recipe: str | Path, overrides: Mapping[str, Any] | None = None, *, out: str | Path | None = None,
    overwrite: bool = False, display: Display | None = None, plugins: Iterable[str | Path] = (),
) -> RunResult:  # fmt: skip
    """Trains a recipe: `fw.run("lite0_frozen", {"data.root": "photos"})`.

    Args:
        recipe: a path, or the name of a shipped recipe.
        overrides: dotted keys -> values.
        out: the run directory; `runs/<name>` if absent.
        overwrite: whether an earlier run in it may be replaced.
        display: told how it goes; silent if absent.
        plugins: files of plugins that are not installed; those that the recipe names must be among them.

    Raises:
        FwError: whatever a user can mend.
    """
    index = installed_index().including_files(plugins)
    checked = load_recipe(recipe, index, overrides or {})
    return RunResult(start_run(checked, index, Path(out) if out else None, overwrite, display or NullDisplay()))


def run_each(
    recipe: str | Path, variants: Mapping[str, Mapping[str, Any]], *, out: str | Path, overwrite: bool = False,
    display: Display | None = None, plugins: Iterable[str | Path] = (),
) -> Iterator[RunResult]:  # fmt: skip
    """Trains variants of a recipe one after another, and gives each result when it is there.

    What they have in common is made once: the images are looked up, the backbone built and its boundary computed by the
    first that needs them. Each result is what `run` gives: `fw.run_each("mine.toml", {"a": {"optimizer.lr": 0.1}, "b":
    {"optimizer.lr": 0.01}}, out="runs/rates")`.

    Args:
        recipe: a path, or the name of a shipped recipe.
        variants: name of a run -> its overrides.
        out: the folder of the run directories, which are called as the variants are.
        overwrite: whether earlier runs there may be replaced.
        display: told how it goes; silent if absent.
        plugins: files of plugins that are not installed, as `run` takes them.

    Raises:
        FwError: whatever a user can mend; before the first run where it is in the recipe or a variant.
    """
    index, shared = installed_index().including_files(plugins), Shared()
    checked = {name: load_recipe(recipe, index, overrides) for name, overrides in variants.items()}
    for name in checked:
        require_free(Path(out) / name, overwrite)
    devices = {pick_device(one.engine.device).type for one in checked.values()}

    def results() -> Iterator[RunResult]:
        with keeping_memory(torch.device(min(devices, default="cpu"))):  # from one run to the next
            for name, one in checked.items():
                yield RunResult(start_run(one, index, Path(out) / name, overwrite, display or NullDisplay(), shared))

    return results()


def load(folder: str | Path, device: str = "auto", plugins: Iterable[str | Path] = ()) -> Trained:
    """The model of a finished run, with its transform and classes: `fw.load("runs/x").predict(["a.png"])`.

    Args:
        folder: the run directory.
        device: where to put it, whatever it was trained on: auto, cpu, cuda, cuda:1, mps.
        plugins: files of plugins that are not installed, as `run` takes them.

    Raises:
        FwError: no finished run is there, its model is damaged, or the device is not there.
    """
    index = installed_index().including_files(plugins)
    return read_trained(Path(folder), index, [f"engine.device={device}"])[2]


class Frozen:
    """A model of one's own under a freezing policy, for a loop of one's own.

    Attributes:
        model: the model, changed in place.
        layout: its stages.
        plan: what may change.
    """

    def __init__(self, model: nn.Module, layout: Layout, plan: Plan) -> None:
        self.model, self.layout, self.plan = model, layout, plan
        self._frozen = FrozenNetwork(model, layout)
        self._frozen.apply(plan)
        self._frozen.auditor.open(plan)

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that train, for an optimizer."""
        return list(self._frozen.trainable().values())

    def audit(self) -> dict[str, Any]:
        """What moved since `freeze`: `frozen_moved` must be 0."""
        return self._frozen.audit()

    def release(self) -> None:
        """Lets go of the model: modes are no longer kept, every parameter may train."""
        self._frozen.release()
        self.model.requires_grad_(True)


def freeze(model: nn.Module, policy: str, *, image_size: int = 224, in_channels: int = 3, **keys: Any) -> Frozen:
    """Freezes a model of one's own by a policy: `fw.freeze(model, "last_stages", n=1)`.

    `requires_grad` and the modes are set and kept, whatever calls `model.train()`; nothing else of the model changes.

    Args:
        model: images (N, in_channels, image_size, image_size) -> logits; it ends with its head.
        policy: the policy's name, as in a recipe.
        image_size, in_channels: of an image that the model accepts, to find the order of its stages.
        keys: the policy's keys.

    Raises:
        FwError: an unknown policy or key; a plan that trains nothing.
    """
    index = installed_index()
    index.require_sound()
    kind = KIND_OF_TABLE["freezing"]
    if index.find(kind.registry, policy) is None:
        raise FwError(
            f"no freezing policy is called {policy!r}",
            name_hints(policy, index.names(kind.registry), "policies"),
        )
    component = index.catalog().component(kind.hook, policy)
    chosen: FreezingPolicy = make_config(component, to_plain(keys), "freezing").build()
    with torch.no_grad():
        derived = derive_layout(model, None, (in_channels, image_size, image_size))
    layout = attrs.evolve(derived, fixed=frozenset())  # what an earlier policy froze may train under this one
    plan = chosen.start(layout)
    check_plan(layout, plan, policy)
    return Frozen(model, layout, plan)
