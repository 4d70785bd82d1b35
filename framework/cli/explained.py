"""Explained: what `fw run --explain` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from framework.cli.common import aligned, print_json, size_text

if TYPE_CHECKING:
    from framework.index import Index
    from framework.recipe import Recipe


def show_explanation(recipe: Recipe, index: Index, as_json: bool) -> None:
    """Prints how a recipe's network would be divided, and what the run would take."""
    from framework.explain import explain

    facts = explain(recipe, index)
    if as_json:
        print_json(facts)
    else:
        click.echo("\n".join(explanation_lines(facts)))


def explanation_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """The explanation, for people."""
    yield f"{facts['name']}: {facts['policy']} on {facts['backbone']}"
    yield from ("", *aligned([("stage", "computation", "computed"), *map(_stage_cells, facts["stages"])]), "")
    yield from aligned([*_partition_rows(facts), *_time_rows(facts), ("memory", _memory_words(facts["memory_mb"]))])


def _stage_cells(row: Mapping[str, Any]) -> tuple[str, str, str]:
    share = row["fixed"]
    when = "once per image" if share > 0.999 else "at every step" if share < 0.001 else f"{share:.0%} once per image"
    return row["stage"], f"{row['flops_share']:>11.1%}", when


def _partition_rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if facts["boundary"] is None:
        yield "boundary", f"none: {facts['reason']}"
        return
    store = facts["store"]
    yield "boundary", facts["boundary"]
    yield "saved", f"{facts['fixed_flops_share']:.1%} of the forward pass of each image in each epoch but the first"
    if store["why_not"] is not None:
        yield "store", f"none: {store['why_not']}; the fixed part runs at every pass, without autograd"
        return
    images = sum(facts["images"].values())
    yield "store", (f"{size_text(store['bytes'])} for {images:,} images, {facts['bytes_per_image']:,} bytes each; "
                    f"{images - store['missing']:,} of them are there")  # fmt: skip


def _time_rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    batch, predicted = facts["batch_s"], facts["predicted"]
    fixed = f"fixed part {_ms(batch['fixed'])}, " if batch["fixed"] else ""
    whole = f" (whole network {_ms(batch['whole_step'])})" if facts["boundary"] is not None else ""
    yield (
        "one batch",
        f"of {facts['batch_size']} images: reading {_ms(batch['read'])}, {fixed}step {_ms(batch['step'])}{whole}",
    )
    epochs = f"{predicted['epoch_s']:.1f} s for each of {facts['epochs']} epochs"
    if facts["boundary"] is None:
        yield "predicted", f"{predicted['total_s']:.0f} s: {epochs}"
        return
    yield "predicted", f"{predicted['total_s']:.0f} s: {predicted['features_s']:.1f} s for the one pass, {epochs}"
    yield "", f"the whole network would take {predicted['whole_epoch_s']:.1f} s for each{_repaid_words(predicted)}"


def _repaid_words(predicted: Mapping[str, Any]) -> str:
    epochs = predicted["repaid_after"]
    if not predicted["features_s"]:
        return ""  # there is no pass
    if epochs is None:
        return "; the pass is not repaid"
    return f"; repaid after {epochs} epoch{'s' if epochs != 1 else ''}"


def _memory_words(memory: Mapping[str, Any]) -> str:
    device = memory["peak_device"]
    return f"{memory['peak_rss']:.0f} MiB at its peak so far" + (f", {device:.0f} MiB on the device" if device else "")


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
