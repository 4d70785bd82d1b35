"""The first-party regularizers under the conformance kit."""

import fw_regularizers
from framework.testing import plugin_checks

test_plugin = plugin_checks(fw_regularizers)
