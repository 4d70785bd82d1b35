"""Backbones of torchvision and timm under the conformance kit: small ones of several kinds."""

import pytest

import fw_timm
import fw_torchvision
from framework.testing import plugin_checks

test_torchvision = plugin_checks(fw_torchvision, names=("torchvision/squeezenet1_1",))
test_more_of_torchvision = pytest.mark.sweep(plugin_checks(fw_torchvision, names=("torchvision/resnet18",)))
test_timm = plugin_checks(fw_timm, names=("timm/test_vit",))
test_more_of_timm = pytest.mark.sweep(plugin_checks(fw_timm, names=("timm/test_resnet", "timm/tf_efficientnet_lite0")))
