"""Losses that shape features for classes that are not there yet: supervised contrast, and prototypes of episodes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def supcon(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss: Khosla et al. 2020, eq. 2 (the sum over positives outside the logarithm).

    Mean over the anchors i of ``features`` (N, F), taken as unit vectors z, of
    -1/|P(i)| sum_{p in P(i)} log(exp(z_i z_p / temperature) / sum_{a != i} exp(z_i z_a / temperature)), where P(i) are
    the others of i's label (N,). An anchor without one is left out; the mean of none is 0.
    """
    unit = F.normalize(features, dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    logits = (unit @ unit.T / temperature).masked_fill(itself, -torch.inf)
    positive = (labels[:, None] == labels) & ~itself
    counts = positive.sum(1)
    likelihood = logits.log_softmax(1).masked_fill(~positive, 0).sum(1) / counts.clamp(min=1)
    return -likelihood.sum() / (counts > 0).sum().clamp(min=1)


def prototypical(support: Tensor, queries: Tensor) -> Tensor:
    """Prototypical loss of an episode: Snell, Swersky & Zemel 2017, eq. 2 with squared Euclidean distances.

    Mean over ``queries`` (W, Q, F) of -log softmax(-|q - c|^2) at the query's own class, whose prototype c is the mean
    of its ``support`` (W, S, F).
    """
    distances = (queries.flatten(0, 1)[:, None] - support.mean(1)).square().sum(-1)
    truth = torch.arange(len(queries), device=queries.device).repeat_interleave(queries.shape[1])
    return F.cross_entropy(-distances, truth)
