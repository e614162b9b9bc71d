"""VICReg: variance-invariance-covariance regularisation (Bardes, Ponce, LeCun, ICLR 2022, arXiv:2105.04906)."""

from __future__ import annotations

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from skelcore.config import Config
from skelcore.errors import InputError


class VICRegConfig(Config):
    """Weights of the three terms and the shape of the expander."""

    invariance: float = Field(25.0, ge=0, description="weight of the distance between the two views")
    variance: float = Field(25.0, ge=0, description="weight of the hinge that keeps each dimension's std above 1")
    covariance: float = Field(1.0, ge=0, description="weight of the squared off-diagonal covariances")
    expander: PositiveInt = Field(1024, description="width of the expander's layers")


def invariance_loss(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared distance of paired embeddings (N, D), eq. 5."""
    return F.mse_loss(first, second)


def variance_loss(embeddings: Tensor, target: float = 1.0, epsilon: float = 1e-4) -> Tensor:
    """Mean hinge on the standard deviation of each dimension of (N, D), eq. 1."""
    return F.relu(target - torch.sqrt(embeddings.var(0) + epsilon)).mean()


def covariance_loss(embeddings: Tensor) -> Tensor:
    """Sum of squared off-diagonal covariances of (N, D), divided by D, eq. 4."""
    count, dims = embeddings.shape
    centred = embeddings - embeddings.mean(0)
    covariance = centred.T @ centred / (count - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / dims


class VICReg(nn.Module):
    """The loss of eq. 6 over an expander of three layers; ``forward`` takes pooled features (N, dim) of two views."""

    def __init__(self, dim: int, config: VICRegConfig) -> None:
        super().__init__()
        self.config = config
        width = config.expander
        self.expander = nn.Sequential(
            nn.Linear(dim, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True),
            nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True),
            nn.Linear(width, width, bias=False),
        )

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its unweighted terms; raises InputError for a batch of one, whose variance is undefined."""
        if len(first) < 2:
            raise InputError("batch_size: vicreg needs at least 2 clips a batch")
        embedded = [self.expander(features) for features in (first, second)]
        terms = {
            "invariance": invariance_loss(*embedded),
            "variance": (variance_loss(embedded[0]) + variance_loss(embedded[1])) / 2,
            "covariance": covariance_loss(embedded[0]) + covariance_loss(embedded[1]),
        }
        weights = {name: getattr(self.config, name) for name in terms}
        loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        return loss, terms
