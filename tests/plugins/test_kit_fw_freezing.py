"""The first-party freezing policies under the kit; all but three are a sweep."""

from __future__ import annotations

import pytest

import fw_freezing
from framework.testing import plugin_checks

PHASES = [{"train": "head"}, {"epoch": 1, "unfreeze": "last:1", "scale": 0.5}]
KEYS = {
    "stages": {"names": ["layer2"]}, "pattern": {"patterns": ["backbone.layer2.*"]}, "phases": {"phases": PHASES}
}  # fmt: skip
QUICK = ("phases", "gradual_unfreeze", "auto_freeze")
OTHERS = [component.name for component in fw_freezing.fw_freezing_policies() if component.name not in QUICK]

test_plugin = plugin_checks(fw_freezing, names=QUICK, keys={"phases": KEYS["phases"]})
test_the_others = pytest.mark.sweep(
    plugin_checks(fw_freezing, names=OTHERS, keys={name: KEYS[name] for name in OTHERS if name in KEYS})
)
test_batch_statistics = plugin_checks(fw_freezing, names=("last_stages",), keys={"last_stages": {"norm": "batch"}})
test_recalibration = plugin_checks(fw_freezing, names=("frozen",), keys={"frozen": {"norm": "recalibrate"}})
