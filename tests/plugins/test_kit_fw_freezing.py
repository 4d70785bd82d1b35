"""The first-party freezing policies under the kit."""

from __future__ import annotations

import fw_freezing
from framework.testing import plugin_checks

KEYS = {"stages": {"names": ["layer2"]}, "pattern": {"patterns": ["backbone.layer2.*"]}}

test_plugin = plugin_checks(fw_freezing, keys=KEYS)
test_batch_statistics = plugin_checks(fw_freezing, names=("last_stages",), keys={"last_stages": {"norm": "batch"}})
test_recalibration = plugin_checks(fw_freezing, names=("frozen",), keys={"frozen": {"norm": "recalibrate"}})
