"""Linear least squares on one-hot targets with an L2 penalty, in closed form (Hoerl & Kennard 1970)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PENALTY = 1.0  # relative to the mean squared norm of the centred support


def fit(support: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
    """Solves the dual system (S, S) when the support is smaller than the features, else the primal (F, F)."""
    mean, offset = support.mean(1, keepdim=True), targets.mean(0)
    centred, wanted = support - mean, (targets - offset).expand(len(support), -1, -1)
    spread = centred.square().sum(-1).mean(-1)[:, None, None]
    penalty = PENALTY * torch.where(spread > 0, spread, 1)
    count, width = centred.shape[1:]
    if count <= width:
        system = centred @ centred.mT + penalty * torch.eye(count).to(support)
        weights = centred.mT @ torch.linalg.solve(system, wanted)
    else:
        system = centred.mT @ centred + penalty * torch.eye(width).to(support)
        weights = torch.linalg.solve(system, centred.mT @ wanted)
    bias = offset - mean @ weights
    return lambda queries: queries @ weights + bias
