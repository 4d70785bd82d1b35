"""What the framework asks of a backbone, and that nothing is passed over in silence."""

from __future__ import annotations

import fw_mono_net
import pytest

import framework as fw
from framework.testing import plugin_checks

test_plugin = plugin_checks(fw_mono_net)


def test_weights_that_there_are_not_are_unavailable() -> None:
    with pytest.raises(fw.WeightsUnavailable, match="no weights 'imagenet'"):
        fw_mono_net.MonoNet().build(fw.BackboneRequest(weights="imagenet"))


@pytest.mark.parametrize("key", [{"drop_rate": 0.1}, {"drop_path_rate": 0.1}, {"options": {"groups": 2}}])
def test_a_key_without_use_is_refused(key: dict) -> None:
    with pytest.raises(fw.FwError, match=f"no use for backbone.{next(iter(key))}"):
        fw_mono_net.MonoNet().build(fw.BackboneRequest(**key))
