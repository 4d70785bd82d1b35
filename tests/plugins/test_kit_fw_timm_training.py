"""The kit's checks on fw_timm's optimizers and schedulers, those that stand for the others."""

from __future__ import annotations

import fw_timm
from framework.testing import plugin_checks

OPTIMIZERS = (
    "timm/sgdw", "timm/adamp", "timm/adopt", "timm/lamb", "timm/larc", "timm/lion", "timm/madgrad", "timm/novograd",
    "timm/rmsproptf", "timm/adafactor", "timm/kron", "timm/muon", "timm/mars", "timm/nadamw", "timm/laprop",
)  # fmt: skip
SCHEDULERS = {
    "timm/cosine": {"warmup_t": 1},
    "timm/tanh": {},
    "timm/poly": {},
    "timm/step": {"decay_t": 2.0, "decay_rate": 0.5},
    "timm/multistep": {"decay_t": [1, 2], "decay_rate": 0.5},
    "timm/plateau": {"mode": "max", "patience_t": 0, "decay_rate": 0.5},
    "timm/wsd": {"decay_t": 1},
}

test_plugin = plugin_checks(fw_timm, names=(*OPTIMIZERS, *SCHEDULERS), keys=SCHEDULERS)
