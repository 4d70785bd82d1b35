"""The first-party adapters under the conformance kit."""

import fw_adapters
from framework.testing import plugin_checks

test_plugin = plugin_checks(fw_adapters)
