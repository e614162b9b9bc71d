"""Kernel ridge regression on one-hot targets with a Gaussian kernel (Saunders et al. 1998)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PENALTY = 0.1  # the kernel's diagonal is 1


def fit(support: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
    """Kernel exp(-d^2 / b) with b the median squared distance between the support's clips (median heuristic)."""
    count = support.shape[1]
    distances = torch.stack([_squared(each, each) for each in support])
    above = torch.ones(count, count, dtype=torch.bool, device=support.device).triu(1)
    bandwidth = distances[:, above].median(1).values if count > 1 else distances.new_ones(len(support))
    bandwidth = torch.where(bandwidth > 0, bandwidth, 1)[:, None, None]
    offset = targets.mean(0)
    system = torch.exp(-distances / bandwidth) + PENALTY * torch.eye(count).to(support)
    weights = torch.linalg.solve(system, (targets - offset).expand(len(support), -1, -1))

    def predict(queries: Tensor) -> Tensor:
        # A draw at a time: one kernel matrix is large enough for a fast product and small enough for the cache.
        return torch.stack([_squared(queries, each).div_(-width).exp_() @ weight + offset
                            for each, width, weight in zip(support, bandwidth, weights, strict=True)])

    return predict


def _squared(left: Tensor, right: Tensor) -> Tensor:
    """Squared Euclidean distances (A, B) of ``left`` (A, F) to ``right`` (B, F)."""
    products = torch.addmm(right.square().sum(-1), left, right.T, alpha=-2)
    return products.add_(left.square().sum(-1)[:, None]).clamp_min_(0)
