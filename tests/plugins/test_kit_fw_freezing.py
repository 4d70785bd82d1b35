"""The first-party freezing policies under the kit; those whose plan does not change are a sweep."""

from __future__ import annotations

import pytest

import fw_freezing
from framework.testing import plugin_checks

PHASES = [{"train": "head"}, {"epoch": 1, "unfreeze": "last:1", "scale": 0.5}]
CHANGING = {
    "phases": {"phases": PHASES}, "lp_ft": {}, "fine_tune": {}, "gradual_unfreeze": {}, "auto_freeze": {},
}  # fmt: skip
KEYS = {"stages": {"names": ["layer2"]}, "pattern": {"patterns": ["backbone.layer2.*"]}}
OTHERS = [component.name for component in fw_freezing.fw_freezing_policies() if component.name not in CHANGING]

test_plans_that_change = plugin_checks(fw_freezing, names=[*CHANGING], keys=CHANGING)
test_plans_that_stay = pytest.mark.sweep(plugin_checks(fw_freezing, names=OTHERS, keys=KEYS))
test_batch_statistics = plugin_checks(fw_freezing, names=("last_stages",), keys={"last_stages": {"norm": "batch"}})
test_recalibration = plugin_checks(fw_freezing, names=("frozen",), keys={"frozen": {"norm": "recalibrate"}})
