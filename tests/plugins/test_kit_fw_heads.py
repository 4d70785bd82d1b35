"""The first-party heads under the conformance kit."""

import fw_heads
from framework.testing import plugin_checks

test_plugin = plugin_checks(fw_heads)
