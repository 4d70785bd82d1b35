"""The first-party adapters under the conformance kit; those but `lora` are a sweep."""

import pytest

import fw_adapters
from framework.testing import plugin_checks

OTHERS = [component.name for component in fw_adapters.fw_adapters() if component.name != "lora"]

test_plugin = plugin_checks(fw_adapters, names=("lora",))
test_the_others = pytest.mark.sweep(plugin_checks(fw_adapters, names=OTHERS))
