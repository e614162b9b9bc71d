"""Kernel ridge regression on one-hot targets with a Gaussian kernel (Saunders et al. 1998)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PENALTY = 0.1  # the kernel's diagonal is 1


def fit(support: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
    """Kernel exp(-d^2 / b) with b the median squared distance between the support's clips (median heuristic)."""
    draws, count = support.shape[:2]
    distances = _squared(support, support)
    above = torch.ones(count, count, dtype=torch.bool, device=support.device).triu(1)
    bandwidth = distances[:, above].median(1).values if count > 1 else distances.new_ones(draws)
    bandwidth = torch.where(bandwidth > 0, bandwidth, 1)[:, None, None]
    offset = targets.mean(0)
    system = torch.exp(-distances / bandwidth) + PENALTY * torch.eye(count).to(support)
    weights = torch.linalg.solve(system, (targets - offset).expand(draws, -1, -1))
    return lambda queries: _squared(queries.expand(draws, -1, -1), support).div_(-bandwidth).exp_() @ weights + offset


def _squared(left: Tensor, right: Tensor) -> Tensor:
    """Squared Euclidean distances (D, A, B) of ``left`` (D, A, F) to ``right`` (D, B, F)."""
    products = torch.baddbmm(right.square().sum(-1)[:, None], left, right.mT, alpha=-2)
    return products.add_(left.square().sum(-1)[..., None]).clamp_min_(0)
