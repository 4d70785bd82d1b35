"""Models: what `model.safetensors` holds: a whole network or what moved of it, its adapter merged or beside it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from framework.additions import Adapter
from framework.builder import Builder, Model
from framework.checkpoint import put_tensors
from framework.codec import plain_tensor
from framework.contracts import InputSpec
from framework.errors import AuditFailed, FwError
from framework.files import load_tensors, save_tensors, tensors_digest
from framework.freezing import all_tensors
from framework.network import Network, load_state
from framework.running import Run
from framework.task import Task
from framework.tracing import copied

MERGE_TOLERANCE = 1e-3
"""How far merging may move a logit, as a share of the largest: rounding of fp32 in a hundred layers stays below."""
IMAGES_OF_CHECK = 8


@attrs.frozen(eq=False)
class Merged:
    """A copy of a network whose adapter was merged.

    Attributes:
        network: without what the adapter had added.
        difference: of its logits, at most, as a share of the largest.
    """

    network: Network
    difference: float

    @property
    def is_equal(self) -> bool:
        """Whether it computes the same but for rounding."""
        return self.difference <= MERGE_TOLERANCE


def merged(adapter: Adapter, model: Model, images: Tensor) -> Merged:
    """A copy of a network with its adapter folded into it, and how far that moved its logits.

    Args:
        adapter: that is in the network.
        model: the network; it is left as it is.
        images: (N, C, H, W) on its device, on which both are compared.

    Raises:
        FwError: the adapter leaves something behind.
    """
    network = copied(model.network)
    assert isinstance(network, Network)
    network._forward_pre_hooks.clear()  # the modes of a plan are kept by one
    network.eval()
    with torch.no_grad():
        before = network(images).float()
        adapter.merge(network)
        after = network(images).float()
    left = sorted(model.layout.added & all_tensors(network).keys())
    if left:
        raise FwError(f"the adapter leaves {left[0]!r} behind when it is merged", "report this to its plugin")
    scale = float(before.abs().max()) or 1.0
    return Merged(network, float((after - before).abs().max()) / scale)


def noise(spec: InputSpec) -> Tensor:
    """A few images (N, channels, H, W) for the comparison, always the same ones."""
    return torch.randn(IMAGES_OF_CHECK, spec.channels, *spec.size, generator=torch.Generator().manual_seed(0))


# -------------------------------------------------------------------------------------------------- writing


def save_model(run: Run, path: Path) -> dict[str, Any] | None:
    """Writes the selected network, or what moved of it, with its class names, head and input spec.

    An adapter that can be merged is, into a copy, where the whole network is written; where that moves its logits by
    more than rounding, the network is written with the adapter in it.

    Returns:
        what the summary says of the adapter: `use`, `parameters` (how many numbers it added), `merged`, `difference`
        (of logits, as a share of the largest), `reason` where it is not merged; None where there is none.
    """
    keep, adapter = run.parts.recipe.train.keep_model, run.parts.adapter
    if adapter is None:
        _save(run, path, run.parts.network, False)
        return None
    reason, found = _why_apart(keep, adapter), None
    if not reason:
        found = merged(adapter, run.parts.model, noise(run.parts.model.spec).to(run.parts.device))
        reason = "" if found.is_equal else f"merging would move logits by {found.difference:.1g} of the largest"
    folded = found.network if found is not None and not reason else None
    _save(run, path, folded or run.parts.network, folded is not None)
    sizes = {name: parameter.numel() for name, parameter in run.parts.network.named_parameters()}
    return {
        "use": run.parts.recipe.parts["adapter"].use,
        "parameters": sum(sizes[name] for name in run.parts.model.layout.added),
        "merged": folded is not None,
        "difference": found.difference if found is not None else None,
        "reason": reason or None,
    }


def _why_apart(keep: str, adapter: Adapter) -> str:
    """Why an adapter is not to be merged into what is written; nothing where it is."""
    if keep == "none":
        return "no model is kept"
    if not adapter.mergeable:
        return "it has modules of its own, which no layer of the network can hold"
    return "what is kept are the tensors that moved" if keep == "delta" else ""


def _save(run: Run, path: Path, network: Network, is_merged: bool) -> None:
    keep = run.parts.recipe.train.keep_model
    if keep == "none":
        return
    state = {name: plain_tensor(tensor) for name, tensor in network.state_dict().items()}
    facts = _facts(run, is_merged)
    if keep == "delta":
        moved = _moved(run)
        rest = {name: tensor for name, tensor in state.items() if name not in moved}
        state = {name: tensor for name, tensor in state.items() if name in moved}
        facts["delta"] = {"base": run.facts["weights"], "sha256_of_rest": tensors_digest(rest)}
    save_tensors(path, state, facts)


def _moved(run: Run) -> Set[str]:
    """What a base does not bring: tensors that a plan let move, the head, and what an adapter added."""
    layout = run.parts.model.layout
    tensors = all_tensors(run.parts.network)
    added = {module for stage in layout.stages if stage.role == "adapter" for module in stage.modules}
    return {
        name for name in tensors
        if name in run.standing.movable or name in layout.added or name.startswith("head.")
        or name.rpartition(".")[0] in added
    }  # fmt: skip


def _backbone_was_trained(run: Run) -> bool:
    """Whether it carries over to other runs what it learnt in this one, whatever it began with."""
    return any(f"backbone.{name}" in run.standing.movable for name, _ in run.parts.network.backbone.named_parameters())


def _facts(run: Run, is_merged: bool) -> dict[str, Any]:
    """What stands in the model file beside its tensors."""
    recipe, data, facts = run.parts.recipe, run.parts.data, run.facts
    adapter = recipe.parts.get("adapter")
    return {
        "name": recipe.name,
        "task": data.task.kind,
        "classes": list(data.task.classes),
        "backbone": recipe.parts["backbone"].plain(),
        "head": recipe.parts["head"].plain(),
        "adapter": adapter.plain() if adapter else None,
        "merged": is_merged,
        "delta": None,
        "input": attrs.asdict(run.parts.model.spec),
        "weights": facts["weights"],
        "transfer": facts["weights"]["transfer"] or _backbone_was_trained(run),
        "epoch": run.standing.best.epoch,
        "environment": facts["environment"],
    }


# -------------------------------------------------------------------------------------------------- reading


@attrs.frozen(eq=False)
class Kept:
    """A model file.

    Attributes:
        path: the file.
        tensors: of the network, or those that moved.
        facts: as they were written beside them.
    """

    path: Path
    tensors: dict[str, Tensor]
    facts: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Kept:
        """What a model file holds.

        Raises:
            FwError: it is missing or damaged.
        """
        why = 'the run has not finished, it was told train.keep_model = "none", or the file was moved'
        return cls(path, *load_tensors(path, why))

    @property
    def task(self) -> Task:
        """What the model predicts."""
        return Task(self.facts["task"], tuple(self.facts["classes"]))

    @property
    def is_delta(self) -> bool:
        """Whether it holds what moved, and needs its base."""
        return bool(self.facts.get("delta"))

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter's modules are among its tensors."""
        return bool(self.facts.get("adapter")) and not self.facts.get("merged")

    def model(self, builder: Builder) -> Model:
        """The network with these tensors in it.

        Args:
            builder: of the recipe that trained it, its weights pinned.

        Raises:
            FwError: the base of a delta is not there, or another one; tensors do not fit the network.
        """
        adapter = builder.addition("adapter") if self.has_adapter else None
        model = builder.model(self.task, not self.is_delta, adapter)
        try:
            self._put_into(model.network)
        except (RuntimeError, FwError) as error:
            raise FwError(f"{self.path} does not fit the network of its recipe: {error}") from error
        return model

    def _put_into(self, network: Network) -> None:
        if not self.is_delta:
            load_state(network, self.tensors)
            return
        rest = {name: tensor for name, tensor in network.state_dict().items() if name not in self.tensors}
        base = self.facts["delta"]
        if tensors_digest(rest) != base["sha256_of_rest"]:
            raise FwError(f"it holds what moved of {base['base']['name']}, and this base is another one",
                          "load it with the weights and the library's version that it was trained with")  # fmt: skip
        put_tensors(network, self.tensors)


# -------------------------------------------------------------------------------------------------- merging


def write_whole(kept: Kept, builder: Builder, path: Path) -> dict[str, Any]:
    """Writes the whole network of a model file: a delta with its base, an adapter merged where it can be.

    Args:
        kept: what the run kept.
        builder: of the run's recipe.
        path: what is written, whole or not at all.

    Returns:
        what was done: `delta` and `merged`, whether there was one; `difference` of logits by merging, as a share of the
        largest; `tensors`, how many.

    Raises:
        FwError: as `Kept.model`.
        AuditFailed: merging moves logits by more than rounding.
    """
    model = kept.model(builder)
    model.network.eval()
    network, difference = model.network, None
    adapter = builder.addition("adapter") if kept.has_adapter else None
    if adapter is not None and adapter.mergeable:
        found = merged(adapter, model, noise(model.spec))
        if not found.is_equal:
            raise AuditFailed(f"merging moves logits by {found.difference:.1g} of the largest",
                              "the model was left as it is: fw.load reads it all the same")  # fmt: skip
        network, difference = found.network, found.difference
    state = {name: plain_tensor(tensor) for name, tensor in network.state_dict().items()}
    facts = {**kept.facts, "delta": None, "merged": bool(kept.facts.get("merged")) or difference is not None}
    save_tensors(path, state, facts)
    return {"delta": kept.is_delta, "merged": difference is not None, "difference": difference, "tensors": len(state)}
