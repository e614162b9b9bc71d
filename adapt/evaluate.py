"""Every head on every representation over all draws: the accuracies of a few-shot table."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from adapt.episodes import Budget, Episodes
from adapt.methods import METHODS, TRANSDUCTIVE, align

_SCORES = 1 << 22  # draws x queries x (support clips or classes) of one step: stays near the cache


@torch.no_grad()
def predict(method: str, episodes: Episodes, pool: Tensor, queries: Tensor, k: Budget) -> np.ndarray:
    """Predicted classes (D, Q) by a head fitted to each draw's k-shot support; features (P, F) and (Q, F).

    A transductive head meets the queries of a draw all at once, and no others.
    """
    labels = torch.from_numpy(episodes.labels(k)).to(pool.device)
    targets = torch.nn.functional.one_hot(labels, len(episodes.classes)).to(pool.dtype)
    support = pool[torch.from_numpy(episodes.support(k)).to(pool.device)]
    if method in TRANSDUCTIVE:
        if episodes.asked.all():  # the same queries in every draw
            return METHODS[method](support, targets)(queries).argmax(-1).cpu().numpy()
        return np.stack([_jointly(method, each[None], targets, queries, asked)
                         for each, asked in zip(support, episodes.asked, strict=True)])
    head = METHODS[method](support, targets)
    chunk = max(1, _SCORES // (len(support) * max(support.shape[1], len(episodes.classes))))
    return torch.cat([head(part).argmax(-1) for part in queries.split(chunk)], 1).cpu().numpy()


@torch.no_grad()
def aligned(episodes: Episodes, pool: Tensor, queries: Tensor, pool_tokens: Tensor, query_tokens: Tensor,
            k: Budget) -> np.ndarray:
    """Predicted classes (D, Q): prototype's best ones, re-ranked by ``align`` on tokens (P, T, parts, F), (Q, ...)."""
    targets = torch.nn.functional.one_hot(torch.from_numpy(episodes.labels(k)), len(episodes.classes)).to(pool)
    rows = torch.from_numpy(episodes.support(k)).to(pool.device)
    head, support = METHODS["prototype"](pool[rows], targets), pool_tokens[rows]
    return align.rerank(head(queries), support, targets, query_tokens).argmax(-1).cpu().numpy()


def _jointly(method: str, support: Tensor, targets: Tensor, queries: Tensor, asked: np.ndarray) -> np.ndarray:
    """Classes (Q,) of the queries that are asked, classified together; 0 for the others."""
    predicted = np.zeros(len(queries), np.int64)
    chosen = queries[torch.from_numpy(asked).to(queries.device)]
    predicted[asked] = METHODS[method](support, targets)(chosen)[0].argmax(-1).cpu().numpy()
    return predicted


def recalls(predicted: np.ndarray, episodes: Episodes) -> np.ndarray:
    """Share (D, W) of each class's asked queries that are predicted right; NaN where a draw asks none."""
    right = predicted == episodes.query_labels
    found = np.full((len(predicted), len(episodes.classes)), np.nan)
    for row, hits, asked in zip(found, right, episodes.asked, strict=True):
        counts = np.bincount(episodes.query_labels[asked], minlength=len(row))
        hit = np.bincount(episodes.query_labels[asked], hits[asked], len(row))
        row[counts > 0] = hit[counts > 0] / counts[counts > 0]
    return found


def accuracies(predicted: np.ndarray, episodes: Episodes) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy (D,) over each draw's queries, and its mean over the classes that have queries."""
    right = (predicted == episodes.query_labels) & episodes.asked
    return right.sum(1) / episodes.asked.sum(1), np.nanmean(recalls(predicted, episodes), 1)


def confusion(predicted: np.ndarray, episodes: Episodes) -> np.ndarray:
    """Counts (W, W) of true class (row) against prediction (column), summed over the draws."""
    size = len(episodes.classes)
    truth = np.broadcast_to(episodes.query_labels, predicted.shape)
    cells = (truth * size + predicted)[episodes.asked]
    return np.bincount(cells, minlength=size * size).reshape(size, size)
