"""Norm-affine tuning: only the scales and shifts of norms, as in Frankle, Schwab & Morcos, "Training BatchNorm and Only
BatchNorm", ICLR 2021, here from pretrained weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from adapt.tuning.way import Groups, Way, plain
from skelcore.encoders import Encoder


def prepare(encoder: Encoder, generator: torch.Generator) -> Groups:
    """Scales and shifts of every batch and layer norm; all else is frozen."""
    encoder.requires_grad_(False)
    norms = [module for module in encoder.modules() if isinstance(module, _BatchNorm | nn.LayerNorm)]
    trained = [parameter.requires_grad_(True) for norm in norms for parameter in (norm.weight, norm.bias)]
    return [{"params": trained, "scale": 1.0, "weight_decay": 0.0}]


WAY = Way(prepare, plain, rate=1e-2)
