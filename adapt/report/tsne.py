"""Exact t-SNE (van der Maaten & Hinton 2008) from a PCA, without a random number."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_AXES = 50  # of the principal ones, that distances are taken in
_EXAGGERATED = 12.0
_EARLY = 120  # steps of exaggeration


def principal(x: np.ndarray, axes: int) -> np.ndarray:
    """Coordinates (n, <= axes) of features (n, F) along their principal axes, whose signs are fixed."""
    centred = x - x.mean(0, dtype=np.float64)
    left, singular, right = np.linalg.svd(centred, full_matrices=False)
    signs = np.where(right[np.arange(len(right)), np.abs(right).argmax(1)] < 0, -1, 1)
    return (left * singular * signs)[:, :axes]


def tsne(x: np.ndarray, perplexity: float = 30.0, steps: int = 400) -> np.ndarray:
    """A map (n, 2) of features (n, F), n >= 5, in which neighbours are kept.

    Perplexity is lowered to a third of n - 1; memory is that of some (n, n) matrices. The step is n / 48, at least 50
    (Belkina et al. 2019); momentum and gains are as in the paper's own code.
    """
    reduced = principal(x, _AXES)
    p = similarities(torch.from_numpy(reduced), min(perplexity, (len(x) - 1) / 3)).float()
    y = torch.from_numpy(reduced[:, :2]).float()
    y = torch.nn.functional.pad(y, (0, 2 - y.shape[1]))
    y = 1e-4 * y / y[:, 0].std().clamp(min=1e-12)
    velocity, gains, rate = torch.zeros_like(y), torch.ones_like(y), max(len(x) / 4 / _EXAGGERATED, 50.0)
    for step in range(steps):
        early = step < _EARLY
        gradient = _gradient(p * _EXAGGERATED if early else p, y)
        gains = torch.where(gradient.sign() == velocity.sign(), gains * 0.8, gains + 0.2).clamp(min=0.01)
        velocity = (0.5 if early else 0.8) * velocity - rate * gains * gradient
        y = y + velocity
    return y.sub(y.mean(0)).numpy()


def similarities(x: Tensor, perplexity: float) -> Tensor:
    """Joint probabilities (n, n) of points (n, F) being neighbours (eq. 1 and section 3.1), by bisection."""
    squared = torch.cdist(x, x).square()
    squared = squared / squared.mean().clamp(min=1e-300)
    squared.fill_diagonal_(torch.inf)
    nearest = squared.min(1, keepdim=True).values
    low, high = (torch.full((len(x), 1), bound, dtype=x.dtype) for bound in (-20.0, 20.0))  # log precisions
    for _ in range(60):
        middle = (low + high) / 2
        conditional = torch.softmax(-(squared - nearest) * middle.exp(), 1)
        entropy = torch.special.entr(conditional).sum(1, keepdim=True)
        low, high = torch.where(entropy > np.log(perplexity), middle, low), torch.where(
            entropy > np.log(perplexity), high, middle)
    return (conditional + conditional.T) / (2 * len(x))


def _gradient(p: Tensor, y: Tensor) -> Tensor:
    """Gradient (n, 2) of the divergence from the map's Student similarities (eq. 5)."""
    near = 1 / (1 + torch.cdist(y, y).square())
    near.fill_diagonal_(0)
    pull = (p - near / near.sum()) * near
    return 4 * (pull.sum(1, keepdim=True) * y - pull @ y)
