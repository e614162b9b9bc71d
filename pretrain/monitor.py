"""What tells a good representation from a collapsed one: kNN accuracy, feature std and effective rank."""

from __future__ import annotations

from collections.abc import Sequence

import faiss
import numpy as np


def knn_accuracy(features: np.ndarray, labels: np.ndarray, groups: Sequence[str], k: int) -> float:
    """Leave-one-video-out accuracy of a majority vote among the k nearest by cosine.

    ``features`` (n, D) float32, ``labels`` (n,), ``groups`` (n,) the video of each clip: clips of one video never vote
    for each other. A tie goes to the class of the nearer neighbour.
    """
    unit = np.ascontiguousarray(_unit(features), np.float32)
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit)
    video = np.unique(np.asarray(groups), return_inverse=True)[1]
    _, near = index.search(unit, min(len(unit), k + int(np.bincount(video).max())))
    correct = 0
    for i, neighbours in enumerate(near):
        voters = labels[neighbours[video[neighbours] != video[i]][:k]]
        if len(voters):
            classes, first, votes = np.unique(voters, return_index=True, return_counts=True)
            correct += int(classes[np.lexsort((first, -votes))[0]] == labels[i])
    return correct / len(unit)


def feature_std(features: np.ndarray) -> float:
    """Mean std of a dimension of the unit-length features (n, D), times sqrt(D): 1 is isotropic, 0 collapsed."""
    return float(_unit(features).std(0).mean() * np.sqrt(features.shape[1]))


def effective_rank(features: np.ndarray) -> float:
    """Exponential of the entropy of the singular values' shares, of centred (n, D) (Roy, Vetterli, EUSIPCO 2007)."""
    values = np.linalg.svd(features - features.mean(0), compute_uv=False)
    share = values / max(values.sum(), 1e-12)
    share = share[share > 1e-12]
    return float(np.exp(-(share * np.log(share)).sum()))


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
