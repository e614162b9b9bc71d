"""Linear discriminant on power-transformed features with a shrunk covariance that all classes share.

The transform is PT-MAP's (Hu et al. 2021, eq. 1) with the sign kept, since features come centred; the covariance is
shrunk as in Simple CNAPS (Bateni et al. 2020, eq. 2), by a weight that its degrees of freedom earn it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from adapt.methods.prototype import means

POWER = 0.75  # chosen with the prior on the training split of Penn Action, at 64 and at 1,536 features
PRIOR = 10.0  # clips that the round prior weighs


def fit(support: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
    """Scores are log densities up to a constant, x C m - m C m / 2 with C the inverse covariance, m a class's mean.

    The covariance is (scatter within classes + PRIOR v I) / (S - W + PRIOR), v the mean variance of a feature over
    the support; with one clip a class nothing scatters, and the rule is that of the nearest mean.
    """
    features = transform(support)
    centres = means(features, targets)
    within = features - targets @ centres
    spread = (features - features.mean(1, keepdim=True)).square().mean((1, 2))[:, None, None]
    ridge = PRIOR * torch.where(spread > 0, spread, 1)
    weights = _solve(within, ridge, centres.mT) * (len(targets) - targets.shape[1] + PRIOR)
    bias = -(centres.mT * weights).sum(1, keepdim=True) / 2
    return lambda queries: transform(queries) @ weights + bias


def transform(features: Tensor) -> Tensor:
    """Signed power of each feature, so that a few large ones do not rule, and unit length."""
    return normalize(features.sign() * features.abs().pow(POWER), dim=-1)


def _solve(rows: Tensor, ridge: Tensor, wanted: Tensor) -> Tensor:
    """(rows' rows + ridge I)^-1 wanted, by the smaller of the systems (F, F) and (S, S) (Woodbury's identity)."""
    count, width = rows.shape[1:]
    if count < width:
        system = rows @ rows.mT + ridge * torch.eye(count).to(rows)
        return (wanted - rows.mT @ torch.linalg.solve(system, rows @ wanted)) / ridge
    return torch.linalg.solve(rows.mT @ rows + ridge * torch.eye(width).to(rows), wanted)
