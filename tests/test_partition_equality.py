"""Partition against plain: families of networks under the policies, bit for bit over three epochs of full batches."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import torch
from sweeps import WHOLE, often, share
from torch import Tensor

from framework import train
from framework.assemble import assemble
from framework.display import NullDisplay
from framework.errors import FwError
from framework.files import load_tensors
from framework.recipe import load_recipe
from framework.runs import start_run
from framework.shared import Shared

FULL_BATCHES = [
    *("data.images=40", "data.classes=2", "data.size=64", "backbone.image_size=64", "train.batch_size=8"),
    *("train.epochs=3", "train.drop_last=true", "engine.threads=1", "engine.device=cpu", "engine.chunk=8"),
    *("engine.memory_format=auto", "head.use=mlp", "head.dropout=0.2", "train.report=false"),
]
DEPTH = "backbone.drop_path_rate=0.2"  # stochastic depth, where the network has it
SMALL_SWIN = "backbone.options={depths=[1,1,2,2],embed_dim=24,num_heads=[1,2,4,8]}"
SMALL_LEVIT = "backbone.options={embed_dim=[32,48,64],num_heads=[2,2,2],depth=[1,1,2]}"
NETWORKS = {
    "batch norm": ["backbone.use=timm/test_resnet", DEPTH],
    "torchvision": ["backbone.use=torchvision/resnet18"],
    "layer norm": ["backbone.use=timm/test_vit", DEPTH],
    "relative positions": ["backbone.use=timm/test_vit_relpos", DEPTH],
    "group norm": ["backbone.use=timm/test_efficientnet_gn", DEPTH],
    "evolved norm": ["backbone.use=timm/test_efficientnet_evos", DEPTH],
    "squeeze-excite": ["backbone.use=timm/test_efficientnet", DEPTH],
    "dense": ["backbone.use=timm/densenet121", "backbone.options={block_config=[2,2,2,2]}", "backbone.drop_rate=0.2"],
    "in-place activations": ["backbone.use=torchvision/squeezenet1_1"],
    "convnext": ["backbone.use=timm/test_convnext", DEPTH],
    "gated convolution": ["backbone.use=timm/test_mambaout", DEPTH],
    "several branches": ["backbone.use=timm/test_byobnet", DEPTH],
    "scaled weights": ["backbone.use=timm/test_nfnet", DEPTH],
    "weight standardisation": ["backbone.use=timm/resnetv2_50x1_bit", DEPTH],
    "window attention": ["backbone.use=timm/swin_tiny_patch4_window7_224", SMALL_SWIN, "backbone.image_size=56", DEPTH],
    "grid attention": ["backbone.use=timm/test_maxvit", DEPTH],
    "cached biases": ["backbone.use=timm/levit_128s", SMALL_LEVIT, DEPTH],
    "mixer": ["backbone.use=timm/mixer_s32_224", DEPTH],
}
POLICIES = {
    "frozen": ["freezing.use=frozen"],
    "frozen, batch": ["freezing.use=frozen", "freezing.norm=batch"],
    "frozen, recalibrate": ["freezing.use=frozen", "freezing.norm=recalibrate"],
    "last_stages": ["freezing.use=last_stages"],
    "last_stages, batch": ["freezing.use=last_stages", "freezing.norm=batch"],
    "last_stages, recalibrate": ["freezing.use=last_stages", "freezing.norm=recalibrate"],
    "two stages": ["freezing.use=last_stages", "freezing.n=2"],
    "first_stages": ["freezing.use=first_stages"],
    "stages": ["freezing.use=stages", "freezing.names={stages}"],
    "pattern": ["freezing.use=pattern", "freezing.patterns={weights}"],
    "norm_only": ["freezing.use=norm_only"],
    "bias_only": ["freezing.use=bias_only"],
    "full": ["freezing.use=full"],
}
ALWAYS = ("last_stages",)
FAMILIES = share(list(NETWORKS), 2)
QUICK = ("layer norm", "squeeze-excite")
QUICK_POLICIES = ("last_stages, recalibrate", "pattern", "full")
FEW = {"weight standardisation": ("frozen", "last_stages")}  # the library has no small one
ALWAYS_DIVIDED = ("frozen", "last_stages", "two stages", "stages", "pattern")
NOT_DIVIDED = ("nothing that computes lies before the first thing that moves", "every parameter may move")


@attrs.frozen
class Left:
    """What a run leaves."""

    summary: dict
    log: str
    tensors: dict[str, Tensor]


Go = Callable[..., Left]


@pytest.fixture
def go(index, tmp_path: Path) -> Go:
    """Runs `smoke` on full batches; what is equal among the runs of a test is made once."""

    shared = Shared()

    def run(*overrides: str) -> Left:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        checked = load_recipe("smoke", index, [*FULL_BATCHES, *overrides])
        summary = start_run(checked, index, folder, False, NullDisplay(), shared)
        log = (folder / "metrics.jsonl").read_text()
        return Left(summary, log, load_tensors(folder / "model.safetensors")[0])

    return run


@pytest.fixture
def asked(index) -> Callable[[str, str], list[str]]:
    """The overrides of a network under a policy; what a policy names lies in the last stage."""

    def overrides(network: str, policy: str) -> list[str]:
        keys = POLICIES[policy]
        if "{" in "".join(keys):
            recipe = load_recipe("smoke", index, [*FULL_BATCHES, *NETWORKS[network]])
            last = assemble(recipe, index, bare=True).model.layout.body[-1]
            weights = [name for name in last.parameters if name.endswith("weight")]
            keys = [key.format(stages=[last.name], weights=weights) for key in keys]
        return [*NETWORKS[network], *keys]

    return overrides


def difference(plain: Left, divided: Left) -> list[str]:
    """In what two runs differ."""
    found = [] if plain.log == divided.log else ["metrics.jsonl"]
    assert plain.tensors.keys() == divided.tensors.keys()
    return found + [name for name, one in plain.tensors.items() if not torch.equal(one, divided.tensors[name])]


def require_equal(go: Go, overrides: list[str]) -> Left:
    """Trains both ways; gives what the divided run leaves.

    Raises:
        AssertionError: they differ by a bit.
        FwError: the network cannot be divided.
    """
    divided = go(*overrides, "engine.partition=require")
    plain = go(*overrides, "engine.partition=off")
    assert plain.summary["partition"]["boundary"] is None
    assert divided.summary["partition"]["boundary"]
    epochs = [json.loads(line) for line in divided.log.splitlines()]
    assert [epoch["train.loss"] > 0 for epoch in epochs] == [True] * 3
    assert difference(plain, divided) == []
    return divided


@pytest.mark.parametrize("network", QUICK)
def test_a_family_trains_divided_as_whole_to_the_bit(go: Go, asked, network: str) -> None:
    require_equal(go, asked(network, "last_stages"))


@pytest.mark.parametrize("policy", often(POLICIES, quick=QUICK_POLICIES))
def test_a_policy_trains_divided_as_whole_to_the_bit(go: Go, asked, policy: str) -> None:
    overrides = asked("several branches", policy)
    if policy in ("first_stages", "full"):
        with pytest.raises(FwError, match="|".join(NOT_DIVIDED)):
            require_equal(go, overrides)
    else:
        require_equal(go, overrides)


def test_both_ways_leave_the_random_stream_as_the_other_does_after_every_step(
    go: Go, asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[Tensor] = []
    honest = train.take_step

    def noted(run) -> None:
        honest(run)
        states.append(torch.get_rng_state())

    monkeypatch.setattr(train, "take_step", noted)
    for partition in ("off", "require"):
        go(*asked("several branches", "last_stages"), f"engine.partition={partition}", "train.epochs=1")
    steps = len(states) // 2
    assert steps > 1
    assert not torch.equal(states[0], states[1]), "something is drawn in a step"
    assert all(torch.equal(one, other) for one, other in zip(states[:steps], states[steps:], strict=True))


@pytest.mark.parametrize("network", often(("several branches", "layer norm"), quick=("several branches",)))
def test_short_batches_and_other_chunks_differ_by_rounding_alone(go: Go, asked, network: str) -> None:
    short = [*asked(network, "last_stages"), "data.images=45", "train.drop_last=false"]
    plain = go(*short, "engine.partition=off")
    divided = go(*short, "engine.partition=require", "engine.chunk=3")
    worst = max(relative(one, divided.tensors[name]) for name, one in plain.tensors.items())
    print(f"{network}: largest relative difference of a final tensor {worst:.2g}")
    assert worst < 1e-4


def relative(expected: Tensor, found: Tensor) -> float:
    """The largest difference over the largest value."""
    scale = float(expected.double().abs().max()) or 1.0
    return float((expected.double() - found.double()).abs().max()) / scale


@pytest.mark.sweep
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("network", FAMILIES)
def test_policies_on_every_family(go: Go, asked, network: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One policy always, one of the others in turn; all of them where FW_WHOLE_SWEEPS is set."""
    others = [policy for policy in POLICIES if policy not in ALWAYS]
    turn = FAMILIES.index(network)
    taken = (*ALWAYS, others[turn % len(others)])
    policies = FEW.get(network, tuple(POLICIES) if WHOLE else taken)
    outcomes = {policy: outcome(go, asked(network, policy)) for policy in policies}
    equal = [policy for policy, found in outcomes.items() if found == "bit-equal"]
    with capsys.disabled():
        print(f"\n{network}: {len(outcomes)} policies, {len(equal)} divided and bit-equal", file=sys.stderr)
        for policy, found in outcomes.items():
            print(f"  {policy}: {found}", file=sys.stderr)
    assert [policy for policy in policies if policy.startswith(ALWAYS_DIVIDED) and policy not in equal] == []
    accepted = ("bit-equal", *(f"whole: {reason}" for reason in NOT_DIVIDED), "refused: ")
    assert [found for found in outcomes.values() if not found.startswith(accepted)] == []


def outcome(go: Go, overrides: list[str]) -> str:
    """What became of one network under one policy."""
    try:
        require_equal(go, overrides)
    except FwError as error:
        _, divided, reason = str(error).partition('engine.partition = "require", but ')
        return f"whole: {reason}" if divided else f"refused: {error}"  # norm_only, where there is no norm
    except AssertionError as error:
        return f"different: {str(error).partition(chr(10))[0]}"
    return "bit-equal"
