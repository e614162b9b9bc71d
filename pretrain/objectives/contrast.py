"""Contrast: the pieces of losses that tell a clip's own key from those of other videos."""

from __future__ import annotations

import torch
from torch import Tensor

_NEVER = -1e9  # finite, so that its product with a probability of 0 is 0


def logits(queries: Tensor, keys: Tensor, allowed: Tensor, temperature: float) -> Tensor:
    """Similarities (N, K) of ``queries`` (N, D) and ``keys`` (K, D), of unit length, by temperature.

    Where ``allowed`` (N, K) is false they have no probability.
    """
    return (queries @ keys.T / temperature).masked_fill(~allowed, _NEVER)


def contrast(logits: Tensor, positives: Tensor) -> Tensor:
    """InfoNCE (N,): the mean negative log probability of each row's ``positives`` (N, K) bool among (N, K)."""
    return -(logits.log_softmax(1) * positives).sum(1) / positives.sum(1)


def own(clips: int, keys: Tensor) -> Tensor:
    """(N, K) bool, true where the i-th clip meets the i-th of ``keys`` (K, D), its own."""
    return torch.eye(clips, len(keys), dtype=torch.bool, device=keys.device)


def nearest(queries: Tensor, keys: Tensor, allowed: Tensor, count: int) -> Tensor:
    """(N, K) bool, true at the ``count`` of the ``allowed`` keys (K, D) that are most similar to each query (N, D)."""
    similarity = (queries @ keys.T).masked_fill(~allowed, -torch.inf)
    best, where = similarity.topk(min(count, len(keys)), 1)
    return torch.zeros_like(allowed).scatter(1, where, best.isfinite())
