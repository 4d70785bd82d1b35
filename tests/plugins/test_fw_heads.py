"""Heads: shapes, keys, initial values, and gradients to every parameter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import framework as fw
import fw_heads
from framework.catalog import PluginSource
from framework.index import build_index
from fw_heads.heads import HEADS

TASK = fw.Task("multiclass", ("a", "b", "c"))
FEATURES = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))


def make(name: str, task: fw.Task = TASK, features: int = 8, **keys: Any) -> nn.Module:
    torch.manual_seed(0)
    return HEADS[name](**keys).build(features, task)


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
@pytest.mark.parametrize("name", ["linear", "mlp", "cosine"])
def test_logits_have_a_column_per_class_and_every_parameter_a_gradient(name: str, kind: Any) -> None:
    head = make(name, fw.Task(kind, ("a", "b", "c", "d")))
    logits = head(FEATURES)
    assert logits.shape == (5, 4)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_linear_is_torchs_own_layer() -> None:
    torch.manual_seed(0)
    expected = nn.Linear(8, 3)
    assert torch.equal(make("linear")(FEATURES), expected(FEATURES))
    assert make("linear", bias=False).bias is None


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_zero_init_starts_from_equal_classes_and_can_still_learn(name: str) -> None:
    head = make(name, zero_init=True)
    logits = head(FEATURES)
    assert not logits.any()
    nn.functional.cross_entropy(logits, torch.zeros(5, dtype=torch.long)).backward()
    assert any(parameter.grad.abs().sum() > 0 for parameter in head.parameters())


def test_mlp_has_the_stated_layers() -> None:
    head = make("mlp", hidden=16, layers=2, dropout=0.5, activation="gelu")
    kinds = [type(module) for module in head]
    assert kinds == [nn.Linear, nn.GELU, nn.Dropout] * 2 + [nn.Linear]
    assert [tuple(p.shape) for p in head.parameters() if p.ndim == 2] == [(16, 8), (16, 16), (3, 16)]
    assert not torch.equal(head(FEATURES), head(FEATURES))
    head.eval()
    assert torch.equal(head(FEATURES), head(FEATURES))


def test_cosine_ignores_the_length_of_features() -> None:
    head = make("cosine", scale=4.0)
    assert torch.allclose(head(FEATURES), head(100 * FEATURES), atol=1e-5)
    own = head(head.weight.detach())
    assert torch.allclose(own.diagonal(), torch.full((3,), 4.0), atol=1e-5)
    assert torch.isfinite(head(torch.zeros(1, 8))).all()


def test_a_cosine_scale_is_kept_with_the_weights_whether_it_learns_or_not() -> None:
    learning, fixed = make("cosine"), make("cosine", learnable=False)
    assert [name for name, _ in learning.named_parameters()] == ["weight", "scale"]
    assert [name for name, _ in fixed.named_parameters()] == ["weight"]
    assert "scale" in fixed.state_dict()


def test_no_head_needs_as_many_features_as_classes() -> None:
    assert torch.equal(make("none", features=3)(FEATURES[:, :3]), FEATURES[:, :3])
    with pytest.raises(fw.FwError, match="8 features and the task has 3 classes"):
        make("none")


def test_the_plugin_can_be_indexed() -> None:
    (record,) = build_index([PluginSource.of(fw_heads, "fw_heads")]).plugins
    assert not record.fault
    assert [card.name for card in record.cards] == ["linear", "mlp", "cosine", "none"]
    assert all(card.doc for card in record.cards)
