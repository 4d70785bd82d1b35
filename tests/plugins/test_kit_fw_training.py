"""The kit's checks on fw_training: every loss, and the optimizers and schedulers that stand for the others."""

from __future__ import annotations

import fw_training
from framework.testing import plugin_checks
from fw_training.losses import LOSSES
from fw_training.metrics import METRICS

OPTIMIZERS = (
    "torch/SGD", "torch/Adam", "torch/AdamW", "torch/RMSprop", "torch/Adadelta", "torch/Adafactor", "torch/ASGD",
    "torch/NAdam", "torch/Adagrad", "torch/Rprop",
)  # fmt: skip
SCHEDULERS = {
    "constant": {},
    "warmup": {},
    "torch/StepLR": {"step_size": 2, "gamma": 0.5},
    "torch/MultiStepLR": {"milestones": [1, 3]},
    "torch/ExponentialLR": {"gamma": 0.7},
    "torch/PolynomialLR": {},
    "torch/CosineAnnealingLR": {},
    "torch/CosineAnnealingWarmRestarts": {"T_0": 2},
    "torch/OneCycleLR": {},
    "torch/CyclicLR": {"base_lr": 0.01, "step_size_up": 2},
    "torch/ReduceLROnPlateau": {"mode": "max", "patience": 0},
}
BALANCED = {
    "torch/CrossEntropyLoss": "class_weights", "torch/BCEWithLogitsLoss": "pos_weight",
    "torch/MultiMarginLoss": "class_weights", "torch/MultiLabelSoftMarginLoss": "class_weights",
    "focal": "class_weights",
}  # fmt: skip

test_plugin = plugin_checks(
    fw_training,
    names=(*LOSSES, *OPTIMIZERS, *SCHEDULERS),
    keys=SCHEDULERS,
    expected_failures={
        "torch/Rprop-follows_a_changed_rate": "the learning rate is the size of its first step alone",
    },
)
test_balanced_losses = plugin_checks(
    fw_training, names=tuple(BALANCED), keys={name: {key: "balanced"} for name, key in BALANCED.items()}
)
test_metrics = plugin_checks(fw_training, names=tuple(METRICS))
