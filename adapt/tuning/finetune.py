"""Full fine-tuning: every weight, those near the input more slowly (layer decay, as in MAE and MAMP)."""

from __future__ import annotations

import torch

from adapt.tuning.way import Groups, Way, plain
from skelcore import layer_decay
from skelcore.encoders import Encoder

LAYER_DECAY = 0.8
WEIGHT_DECAY = 0.05


def prepare(encoder: Encoder, generator: torch.Generator) -> Groups:
    """All parameters, by layer."""
    encoder.requires_grad_(True)
    scales = layer_decay.scales(encoder, LAYER_DECAY)
    return layer_decay.groups(((parameter, scales[name]) for name, parameter in encoder.named_parameters()),
                              WEIGHT_DECAY)


WAY = Way(prepare, plain, rate=1e-3)
