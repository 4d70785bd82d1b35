"""The first-party finishers under the conformance kit; those but `ema` are a sweep."""

import pytest

import fw_finishers
from framework.testing import plugin_checks

OTHERS = [component.name for component in fw_finishers.fw_finishers() if component.name != "ema"]

test_plugin = plugin_checks(fw_finishers, names=("ema",))
test_the_others = pytest.mark.sweep(plugin_checks(fw_finishers, names=OTHERS))
