"""What cannot work of a policy, an adapter or a regularizer: one text, under snapshot, before anything trains."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from framework import train

INDEXING = "indexing plugins (once per installed version) ...\n"
RECIPE = """\
extends = "smoke"
name = "wrong"

[data]
images = 40
size = 32

[backbone]
image_size = 32

[train]
batch_size = 8
report = false

[engine]
threads = 1
partition = "off"
"""
HEAD_FIRST = '{train = "head"}'
WRONG = {
    "policy_of_an_unknown_stage": ('freezing = {use = "stages", names = ["layer3", "layer5"]}',),
    "policy_of_another_unknown_stage": ('freezing = {use = "surgical", stage = "layr4"}',),
    "pattern_without_match": ('freezing = {use = "pattern", patterns = ["layer4.*"]}',),
    "policy_without_a_norm_layer": ('freezing = {use = "norm_only"}', 'backbone.use = "torchvision/squeezenet1_1"'),
    "phases_out_of_order": (
        f'freezing = {{use = "phases", phases = [{HEAD_FIRST}, {{epoch = 2, train = "all"}}, '
        '{epoch = 1, freeze = "stem"}]}',
    ),
    "phases_at_one_moment": (
        f'freezing = {{use = "phases", phases = [{HEAD_FIRST}, {{fraction = 0.5, train = "all"}}, '
        '{fraction = 0.5, freeze = "stem"}]}',
    ),
    "phases_that_overlap_in_this_run": (
        f'freezing = {{use = "phases", phases = [{HEAD_FIRST}, {{step = 3, train = "all"}}, '
        '{epoch = 1, freeze = "stem"}]}',
    ),
    "phase_of_an_unknown_stage": (
        f'freezing = {{use = "phases", phases = [{HEAD_FIRST}, {{epoch = 1, unfreeze = "layre4"}}]}}',
    ),
    "phase_that_trains_nothing": (
        f'freezing = {{use = "phases", phases = [{HEAD_FIRST}, {{epoch = 1, freeze = "head"}}]}}',
    ),
    "rate_of_a_frozen_stage": (
        'freezing = {use = "phases", phases = [{train = "last:1", scale = {head = 1.0, layer3 = 0.1}}]}',
    ),
    "adapter_without_a_layer": ('freezing = {use = "frozen"}', 'adapter = {use = "lora", targets = ["*.attn.qkv"]}'),
    "adapter_near_a_layer": ('freezing = {use = "frozen"}', 'adapter = {use = "lora", targets = ["layer4.0.conv3"]}'),
    "regularizer_of_a_divided_network": (
        'freezing = {use = "last_stages"}', 'regularizer = {use = "delta"}', 'engine.partition = "require"',
    ),
}  # fmt: skip
"""What a text is called -> the overrides that cannot work."""


@pytest.fixture
def recipe(here: Path) -> Path:
    """A recipe that would run in a moment."""
    file = here / "wrong.toml"
    file.write_text(RECIPE)
    return file


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_work_is_told_before_anything_trains(
    recipe: Path, cli, snapshot, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(train, "take_step", lambda run: pytest.fail("a step was taken"))
    words = ["run", recipe.name, *(word for override in WRONG[name] for word in ("--set", override))]
    result = cli(*words)
    said = result.err.replace(INDEXING, "")
    assert result.code == 2, said
    assert "Traceback" not in said
    assert [*recipe.parent.iterdir()] == [recipe], "nothing is left behind"
    snapshot(name, f"$ fw {shlex.join(words)}\n{said}")
