"""The optimiser, with weight decay on weights only and a rate that falls from layer to layer."""

from __future__ import annotations

import torch
from torch import nn

from pretrain.config import OptimizerConfig
from pretrain.objectives import Objective


def build(objective: Objective, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW or SGD over what ``objective`` trains; each group has a ``scale``, the factor on its learning rate.

    Layer l of L of the encoder has layer_decay^(L - l) (BEiT, Bao et al., ICLR 2022, appendix), heads have 1.
    """
    layer = _layers(objective.encoder)
    last = max(layer.values())
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            depth = layer.get(name.removeprefix("encoder."), last) if name.startswith("encoder.") else last
            groups.setdefault((config.layer_decay ** (last - depth), parameter.ndim > 1), []).append(parameter)
    options = [{"params": parameters, "scale": scale, "weight_decay": config.weight_decay if decays else 0.0}
               for (scale, decays), parameters in groups.items()]
    if config.name == "sgd":
        return torch.optim.SGD(options, lr=config.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(options, lr=config.lr)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each group its share of ``rate``."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def _layers(encoder: nn.Module) -> dict[str, int]:
    """The layer, from 0, of each parameter: a child of the encoder, or an item of a list of them, in order.

    The encoder's own parameters are positions, which belong to the first.
    """
    depth: dict[str, int] = {}
    found = {}
    for name, _ in encoder.named_parameters():
        first, dot, rest = name.partition(".")
        number = rest.partition(".")[0]
        found[name] = depth.setdefault(f"{first}.{number}" if number.isdigit() else first, len(depth)) if dot else 0
    return found
