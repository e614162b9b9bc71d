"""VICReg: variance-invariance-covariance regularisation (Bardes, Ponce, LeCun, ICLR 2022, arXiv:2105.04906)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from pretrain.objectives.objective import weighted_mean
from pretrain.objectives.pair import Pair, PairConfig


class VICRegConfig(PairConfig):
    """Weights of the three terms."""

    name: Literal["vicreg"] = Field("vicreg", description="variance-invariance-covariance regularisation")
    invariance: float = Field(25.0, ge=0, description="weight of the distance between the two views")
    variance: float = Field(25.0, ge=0, description="weight of the hinge that keeps each dimension's std above 1")
    covariance: float = Field(1.0, ge=0, description="weight of the squared off-diagonal covariances")


def invariance_loss(first: Tensor, second: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared distance of paired embeddings (N, D), eq. 5, weighted by ``weights`` (N,)."""
    return weighted_mean(F.mse_loss(first, second, reduction="none").mean(1), weights)


def variance_loss(embeddings: Tensor, target: float = 1.0, epsilon: float = 1e-4) -> Tensor:
    """Mean hinge on the standard deviation of each dimension of (N, D), eq. 1."""
    return F.relu(target - torch.sqrt(embeddings.var(0) + epsilon)).mean()


def covariance_loss(embeddings: Tensor) -> Tensor:
    """Sum of squared off-diagonal covariances of (N, D), divided by D, eq. 4."""
    count, dims = embeddings.shape
    centred = embeddings - embeddings.mean(0)
    covariance = centred.T @ centred / (count - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / dims


class VICReg(Pair):
    """The loss of eq. 6; ``partial`` adds the invariance of the first view to the masked one, weighted likewise."""

    name = "vicreg"
    config: VICRegConfig

    def compare(self, first: Tensor, second: Tensor, masked: Tensor | None = None, *,
                weights: Tensor | None) -> dict[str, tuple[float, Tensor]]:
        config = self.config
        terms = {
            "invariance": (config.invariance, invariance_loss(first, second, weights)),
            "variance": (config.variance, (variance_loss(first) + variance_loss(second)) / 2),
            "covariance": (config.covariance, covariance_loss(first) + covariance_loss(second)),
        }
        if masked is not None:
            terms["partial"] = config.partial * config.invariance, invariance_loss(first, masked, weights)
        return terms
