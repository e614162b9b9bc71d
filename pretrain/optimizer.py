"""The optimiser, with weight decay on weights only and a rate that falls from layer to layer."""

from __future__ import annotations

import torch

from pretrain.config import OptimizerConfig
from pretrain.objectives import Objective
from skelcore.layer_decay import groups, scales


def build(objective: Objective, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW or SGD over what ``objective`` trains; each group has a ``scale``, the factor on its learning rate.

    Layers of the encoder have those of ``layer_decay.scales``, heads have 1.
    """
    scale = {f"encoder.{name}": factor for name, factor in scales(objective.encoder, config.layer_decay).items()}
    trained = ((parameter, scale.get(name, 1.0)) for name, parameter in objective.named_parameters()
               if parameter.requires_grad)
    options = groups(trained, config.weight_decay)
    if config.name == "sgd":
        return torch.optim.SGD(options, lr=config.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(options, lr=config.lr)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each group its share of ``rate``."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
