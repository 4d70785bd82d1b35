"""The first-party finishers under the conformance kit."""

import fw_finishers
from framework.testing import plugin_checks

test_plugin = plugin_checks(fw_finishers)
