"""Low-rank adapters: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, on any encoder.

A weight W becomes W + (alpha / r) B A with B (O, r) and A (r, I), of which only B and A are trained. A convolution's
weight is the matrix (O, I k) that multiplies its unfolded input; depthwise convolutions have no such matrix, and one of
no more rows or columns than r has nothing to gain: both stay as they are. B starts at zero, so the start is the
encoder itself, and the product is added to W at the end, so that the result is an ordinary encoder.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from adapt.tuning.way import Groups, Way
from skelcore.encoders import Encoder

RANK = 4
ALPHA = 8
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LowRank(nn.Module):
    """W + (alpha / r) B A of a weight (O, I, ...), with A drawn from ``generator`` at the scale of a unit output."""

    def __init__(self, weight: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        drawn = torch.randn(RANK, columns, generator=generator, device=generator.device)
        self.down = nn.Parameter(drawn.to(weight) / columns**0.5)
        self.up = nn.Parameter(weight.new_zeros(rows, RANK))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + ALPHA / RANK * (self.up @ self.down).view_as(weight)


def prepare(encoder: Encoder, generator: torch.Generator) -> Groups:
    """Adapters on every weight matrix; the encoder's own weights are frozen."""
    encoder.requires_grad_(False)
    adapters = []
    for module in [each for each in encoder.modules() if _takes(each)]:
        weight = module.get_parameter("weight")
        adapters.append(LowRank(weight, generator))
        parametrize.register_parametrization(module, "weight", adapters[-1])
    return [{"params": [parameter for adapter in adapters for parameter in adapter.parameters()], "scale": 1.0,
             "weight_decay": 0.0}]


def finish(encoder: Encoder) -> None:
    """Add each product to its weight."""
    for module in list(encoder.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def _takes(module: nn.Module) -> bool:
    whole = isinstance(module, nn.Linear) or (isinstance(module, _CONVOLUTIONS) and module.groups == 1)
    return whole and min(module.get_parameter("weight").flatten(1).shape) > RANK


WAY = Way(prepare, finish, rate=1e-2)
