"""The first-party freezing policies under the kit."""

from __future__ import annotations

import fw_freezing
from framework.testing import plugin_checks

PHASES = [{"train": "head"}, {"epoch": 1, "unfreeze": "last:1", "scale": 0.5}]
KEYS = {
    "stages": {"names": ["layer2"]}, "pattern": {"patterns": ["backbone.layer2.*"]}, "phases": {"phases": PHASES},
}  # fmt: skip

test_plugin = plugin_checks(fw_freezing, keys=KEYS)
test_batch_statistics = plugin_checks(fw_freezing, names=("last_stages",), keys={"last_stages": {"norm": "batch"}})
test_recalibration = plugin_checks(fw_freezing, names=("frozen",), keys={"frozen": {"norm": "recalibrate"}})
