"""Partition over both libraries: a small model of each of timm's modules and every model of torchvision, divided.

`FW_WHOLE_SWEEPS=1 pytest -m sweep tests/test_sweep_partition.py` takes all, in half an hour on two cores; without it,
few of each library.
"""

from __future__ import annotations

import logging
import sys

import attrs
import pytest
import torch
from sweeps import WHOLE

from framework.assemble import Assembly, assemble
from framework.index import Index
from framework.keeping import prepared
from framework.partition import Wish, divide
from framework.recipe import load_recipe
from framework.selfcheck import IMAGES, check_partition

pytestmark = [pytest.mark.sweep, pytest.mark.timeout(1500)]

SHARDS = 28
TAKEN = range(SHARDS) if WHOLE else (2,)
TRIED_SIZES = (64, 128, 224, 240, 256)
SMALL = ["data.images=10", "data.classes=2", "train.batch_size=2", "engine.threads=1", "engine.device=cpu"]
POLICIES = ("frozen", "last_stages")

SMALLEST = [
    "beit_base_patch16_224",
    "halonet_h1",
    "test_byobnet",
    "cait_xxs24_224",
    "coat_tiny",
    "convit_tiny",
    "convmixer_768_32",
    "test_convnext",
    "cpubone_nano",
    "crossvit_tiny_240",
    "csatv2",
    "cs3darknet_focus_s",
    "cspnext_tiny",
    "davit_tiny",
    "deepseek_vit_412m",
    "deit_tiny_patch16_224",
    "densenet121",
    "dla34",
    "dpn48b",
    "edgenext_xx_small",
    "efficientformer_l1",
    "efficientformerv2_s0",
    "test_efficientnet",
    "efficientvim_m1",
    "efficientvit_b0",
    "efficientvit_m0",
    "vit_tiny_patch16_dinov3_qkvb",
    "fasternet_t0",
    "fastvit_t8",
    "focalnet_tiny_srf",
    "gcvit_xxtiny",
    "gemma4_vit_167m",
    "ghostnet_050",
    "hardcorenas_b",
    "hgnetv2_b0",
    "hiera_tiny_224",
    "sam2_hiera_tiny",
    "hrnet_w18_small",
    "iformer_t",
    "inception_next_atto",
    "inception_resnet_v2",
    "inception_v3",
    "inception_v4",
    "lcnetv2_small",
    "levit_128s",
    "lowformer_b0",
    "test_mambaout",
    "test_coatnet",
    "poolformerv2_s12",
    "gmlp_ti16_224",
    "mobilenetv3_small_050",
    "mobilenetv5_base",
    "mobilevit_xxs",
    "mvitv2_tiny",
    "naflexvit_base_patch16_gap",
    "nasnetalarge",
    "nest_tiny",
    "nextvit_small",
    "test_nfnet",
    "pit_ti_224",
    "pnasnet5large",
    "pvt_v2_b0",
    "qwen3_vit_88m",
    "rdnet_tiny",
    "regnetx_002",
    "repghostnet_050",
    "repvit_m1",
    "res2net50_14w_8s",
    "resnest14d",
    "test_resnet",
    "resnetv2_18",
    "rexnet_100",
    "selecsls42",
    "legacy_seresnet18",
    "sequencer2d_s",
    "shvit_s1",
    "skresnet18",
    "starnet_s050",
    "swiftformer_xs",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "swinv2_cr_tiny_224",
    "tiny_vit_5m_224",
    "tnt_s_legacy_patch16_224",
    "tresnet_m",
    "twins_svt_small",
    "vgg11",
    "visformer_tiny",
    "test_vit",
    "vit_tiny_r_s16_p8_224",
    "test_vit_relpos",
    "samvit_base_patch16_224",
    "vitamin_small_224",
    "volo_d1_224",
    "ese_vovnet19b_slim_dw",
    "legacy_xception",
    "xception41p",
    "xcit_nano_12_p8_224",
]
"""The smallest, or nearly so, of each module of timm."""

# Networks that train whole under `last_stages`, each for the reason that is given.
WHOLE = {"torchvision/vit_h_14, last_stages": "every boundary is larger than engine.budget"}


@attrs.frozen
class Divided:
    """What became of one model under one policy.

    Attributes:
        problem: why it is not divided, or nothing.
    """

    name: str
    policy: str
    problem: str


def divided(name: str, index: Index) -> list[Divided]:
    """One model under each policy, at the first size that it takes."""
    reasons = []
    for size in TRIED_SIZES:
        sized = [f"backbone.image_size={size}", f"data.size={size}"] if size else []
        recipe = load_recipe("smoke", index, [*SMALL, f"backbone.use={name}", *sized])
        try:
            run = assemble(recipe, index)
        except Exception as error:  # a model may do anything with an image that it does not expect
            reasons.append(f"{size}: {type(error).__name__}: {error}".partition("\n")[0])
            continue
        return [Divided(name, policy, problem_of(run, policy)) for policy in POLICIES]
    return [Divided(name, policy, f"no size fits: {'; '.join(reasons)}") for policy in POLICIES]


def problem_of(run: Assembly, policy: str) -> str:
    """Why a network is not divided under a policy, or nothing; batch norms keep their statistics."""
    layout = run.model.layout
    last = [layout.body[-1], *layout.tail, layout.head] if policy == "last_stages" else [layout.head]
    run.frozen.apply(layout.plan([name for stage in last for name in stage.parameters], "fixed"))
    spec = run.model.spec
    try:
        partition = divide(run.frozen, torch.zeros(2, spec.channels, *spec.size), Wish(), run.model.flops)
        check_partition(run, partition, prepared(run, partition.fixed), IMAGES)
    except Exception as error:
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    return ""


def report(what: str, found: list[Divided], capsys: pytest.CaptureFixture[str]) -> None:
    """Prints how many were divided, and which were not, and why."""
    with capsys.disabled():
        for policy in POLICIES:
            of_policy = [one for one in found if one.policy == policy]
            done = sum(not one.problem for one in of_policy)
            print(f"\n{what}, {policy}: {done} of {len(of_policy)} divided and checked", end="", file=sys.stderr)
            for one in of_policy:
                if one.problem:
                    print(f"\n  whole: {one.name}: {one.problem}", end="", file=sys.stderr)


def require_expected(found: list[Divided]) -> None:
    """
    Raises:
        AssertionError: a network trains whole, and is not known to, or for another reason.
    """
    whole = {f"{one.name}, {one.policy}": one.problem for one in found if one.problem}
    assert {key: why for key, why in whole.items() if WHOLE.get(key, "\0") not in why} == {}


@pytest.fixture(autouse=True)
def quiet() -> None:
    logging.getLogger("torch").setLevel(logging.ERROR)
    torch.set_num_threads(1)


@pytest.mark.parametrize("shard", TAKEN)
def test_models_of_torchvision(index: Index, shard: int, capsys: pytest.CaptureFixture[str]) -> None:
    from fw_torchvision.backbones import backbone_family

    names = sorted(backbone_family().names())
    assert len(names) >= 80
    found = [one for name in names[shard::SHARDS] for one in divided(f"torchvision/{name}", index)]
    report(f"torchvision {shard + 1}/{SHARDS}", found, capsys)
    require_expected(found)


@pytest.mark.parametrize("shard", TAKEN)
def test_a_small_model_of_each_module_of_timm(index: Index, shard: int, capsys: pytest.CaptureFixture[str]) -> None:
    found = [one for name in SMALLEST[shard::SHARDS] for one in divided(f"timm/{name}", index)]
    report(f"timm {shard + 1}/{SHARDS}", found, capsys)
    require_expected(found)


def test_no_module_of_timm_is_left_out() -> None:
    import timm

    missing = [
        module
        for module in timm.list_modules()
        if (names := timm.list_models(module=module)) and not set(names) & set(SMALLEST)
    ]
    assert missing == []
