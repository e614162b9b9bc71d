"""Barlow Twins (Zbontar, Jing, Misra, LeCun, Deny, ICML 2021, arXiv:2103.03230)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pretrain.objectives.pair import Pair, PairConfig


class BarlowConfig(PairConfig):
    """Weight of the redundancy."""

    name: Literal["barlow"] = Field("barlow", description="cross-correlation of two views towards the identity")
    redundancy: float = Field(5e-3, ge=0, description="weight of the squared off-diagonal correlations; as there are "
                                                      "`expander` times more of them, less for a wider expander "
                                                      "(published: 5e-3 for 8192, PSTL 2e-4 for 6144)")


def cross_correlation(first: Tensor, second: Tensor, weights: Tensor | None = None) -> Tensor:
    """Correlations (D, D) over the clips between dimensions of paired embeddings (N, D), eq. 2, of clips weighted by
    ``weights`` (N,)."""
    weights = torch.ones_like(first[:, 0]) if weights is None else weights
    share = weights / weights.sum().clamp(min=1e-6)
    return (_standardised(first, share) * share[:, None]).T @ _standardised(second, share)


def invariance_loss(correlation: Tensor) -> Tensor:
    """Mean squared distance of the diagonal of (D, D) from 1: the first sum of eq. 1, divided by D."""
    return (1 - correlation.diagonal()).square().mean()


def redundancy_loss(correlation: Tensor) -> Tensor:
    """Sum of the squares off the diagonal of (D, D): the second sum of eq. 1, divided by D."""
    return (correlation.square().sum() - correlation.diagonal().square().sum()) / len(correlation)


def _standardised(embeddings: Tensor, share: Tensor, epsilon: float = 1e-5) -> Tensor:
    centred = embeddings - share @ embeddings
    return centred * torch.rsqrt(share @ centred.square() + epsilon)


class Barlow(Pair):
    """The loss of eq. 1, per dimension so that its size does not depend on the expander's width.

    ``partial`` adds the same loss between the first view and the masked one.
    """

    name = "barlow"
    config: BarlowConfig

    def compare(self, first: Tensor, second: Tensor, masked: Tensor | None = None, *,
                weights: Tensor | None) -> dict[str, tuple[float, Tensor]]:
        terms = self._terms(first, second, weights)
        if masked is not None:
            partly = self._terms(first, masked, weights)
            terms |= {f"partial_{name}": (self.config.partial * weight, term)
                      for name, (weight, term) in partly.items()}
        return terms

    def _terms(self, first: Tensor, second: Tensor, weights: Tensor | None) -> dict[str, tuple[float, Tensor]]:
        correlation = cross_correlation(first, second, weights)
        return {"invariance": (1.0, invariance_loss(correlation)),
                "redundancy": (self.config.redundancy, redundancy_loss(correlation))}
