"""Every head on every representation over all draws: the accuracies of a few-shot table."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from adapt.episodes import Episodes
from adapt.methods import METHODS

_SCORES = 1 << 22  # draws x queries x (support clips or classes) of one step: stays near the cache


@torch.no_grad()
def predict(method: str, episodes: Episodes, pool: Tensor, queries: Tensor, k: int) -> np.ndarray:
    """Predicted classes (D, Q) by a head fitted to each draw's k-shot support; features (P, F) and (Q, F)."""
    labels = torch.from_numpy(episodes.labels(k)).to(pool.device)
    targets = torch.nn.functional.one_hot(labels, len(episodes.classes)).to(pool.dtype)
    support = pool[torch.from_numpy(episodes.support(k)).to(pool.device)]
    head = METHODS[method](support, targets)
    chunk = max(1, _SCORES // (len(support) * max(support.shape[1], len(episodes.classes))))
    return torch.cat([head(part).argmax(-1) for part in queries.split(chunk)], 1).cpu().numpy()


def accuracies(predicted: np.ndarray, episodes: Episodes) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy (D,) over each draw's queries, and its mean over the classes that have queries."""
    right = (predicted == episodes.query_labels) & episodes.asked
    overall = right.sum(1) / episodes.asked.sum(1)
    per_class = np.stack([np.bincount(episodes.query_labels[asked], hits[asked], len(episodes.classes))
                          / np.maximum(np.bincount(episodes.query_labels[asked], minlength=len(episodes.classes)), 1)
                          for hits, asked in zip(right, episodes.asked, strict=True)])
    present = np.stack([np.isin(np.arange(len(episodes.classes)), episodes.query_labels[asked])
                        for asked in episodes.asked])
    return overall, (per_class * present).sum(1) / present.sum(1)


def confusion(predicted: np.ndarray, episodes: Episodes) -> np.ndarray:
    """Counts (W, W) of true class (row) against prediction (column), summed over the draws."""
    size = len(episodes.classes)
    truth = np.broadcast_to(episodes.query_labels, predicted.shape)
    cells = (truth * size + predicted)[episodes.asked]
    return np.bincount(cells, minlength=size * size).reshape(size, size)
