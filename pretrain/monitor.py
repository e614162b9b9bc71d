"""What tells a good representation from a collapsed one, as numbers of features (n, D) of clean clips.

Neighbours and a linear probe need labels, and report what a few-shot head could do with the features; the others need
none. None of them chooses anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import faiss
import numpy as np

# Collapse. On penn.pkl, random encoders with calibrated batch norm have ranks of 27 to 124 and stds of 0.037 (a wide
# graph encoder, whose pooled ReLU outputs share a large mean) to 0.23, other ones and weak ones ranks from 2; runs that
# had collapsed ended at a rank of 1.4 (one direction) or, where no batch norm held them up, at equal features.
LEAST_RANK = 1.5
LEAST_STD = 0.01
_ROWS = 512  # of a matrix of distances at a time
_STRENGTHS = 10.0 ** np.arange(-4, 2)  # of the probe's ridge, as shares of the features' mean variance


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


def probe_accuracy(features: np.ndarray, labels: np.ndarray, groups: Sequence[str], folds: int = 5) -> float:
    """Accuracy of ``linear_probe`` over a labelled set of which each clip is tested once, on features (n, D).

    ``labels`` (n,), ``groups`` (n,) the video of each clip: no video has clips on both sides. nan for a single video.
    """
    fold = video_folds(groups, folds)
    correct = [linear_probe(features[fold != each], labels[fold != each], features[fold == each], labels[fold == each])
               * (fold == each).sum() for each in range(fold.max() + 1 if fold.any() else 0)]
    return float(sum(correct) / len(labels)) if correct else float("nan")


def video_folds(groups: Sequence[str], folds: int) -> np.ndarray:
    """The fold (n,) of each clip: whole videos, dealt out in the order of their names' sha256."""
    names, video = np.unique(np.asarray(groups), return_inverse=True)
    order = sorted(range(len(names)), key=lambda i: hashlib.sha256(str(names[i]).encode()).digest())
    dealt = np.empty(len(names), np.int64)
    dealt[order] = np.arange(len(names)) % folds
    return dealt[video]


def linear_probe(train_features: np.ndarray, train_labels: np.ndarray, test_features: np.ndarray,
                 test_labels: np.ndarray) -> float:
    """Test accuracy of ridge regression onto one-hot labels, in closed form: features (n, D), labels (n,).

    Features are standardised by the training ones. The strength of the ridge is that of the least leave-one-out error
    among ``_STRENGTHS``: a residual left out is that of the whole fit divided by 1 - h, the leverage (Allen 1974).
    """
    mean, std = train_features.mean(0, dtype=np.float64), train_features.std(0, dtype=np.float64)
    # A dimension that is constant but for rounding says nothing, and must not be blown up.
    scale = np.where(std > 1e-6 * np.abs(mean) + 1e-12, 1 / np.maximum(std, 1e-12), 0)
    x = (train_features - mean) * scale
    classes, index = np.unique(train_labels, return_inverse=True)
    targets = np.eye(len(classes))[index]
    centred = targets - targets.mean(0)
    power, axes = np.linalg.eigh(x.T @ x)
    power = np.maximum(power, 0)
    projected = x @ axes
    answers = projected.T @ centred
    unit = max(power.mean(), 1e-12)

    def error(strength: float) -> float:
        shrunk = 1 / (power + strength * unit)
        leverage = np.square(projected) @ shrunk + 1 / len(x)
        residual = centred - projected @ (shrunk[:, None] * answers)
        return float(np.square(residual / np.maximum(1 - leverage, 1e-6)[:, None]).sum())

    best = min(_STRENGTHS, key=error)
    weights = axes @ (answers / (power + best * unit)[:, None])
    scores = ((test_features - mean) * scale) @ weights + targets.mean(0)
    return float((classes[scores.argmax(1)] == test_labels).mean())


def alignment(first: np.ndarray, second: np.ndarray) -> float:
    """Mean squared distance of the unit features (n, D) of two views of a clip; 0 is best (Wang & Isola 2020, eq. 1).

    The exponent alpha is 2.
    """
    return float(np.square(_unit(first) - _unit(second)).sum(1, dtype=np.float64).mean())


def uniformity(features: np.ndarray) -> float:
    """Log of the mean of exp(-2 |x - y|^2) over all pairs of unit features (n, D) (Wang & Isola 2020, eq. 2).

    0 when all are equal, about -4 when they fill a sphere of many dimensions; nan for a single clip.
    """
    unit = _unit(features)
    count, total = len(unit), 0.0
    if count < 2:
        return float("nan")
    for start in range(0, count, _ROWS):
        cosine = unit[start:start + _ROWS] @ unit.T
        total += float(np.exp(4 * np.minimum(cosine, 1) - 4).sum(dtype=np.float64))
    # Each clip is at distance 0 from itself, which is no pair.
    return float(np.log(max(total - count, 1e-300) / (count * (count - 1))))


def feature_std(features: np.ndarray) -> float:
    """Mean std of a dimension of the unit-length features (n, D), times sqrt(D): 1 is isotropic, 0 collapsed."""
    return float(_unit(features).std(0).mean() * np.sqrt(features.shape[1]))


def effective_rank(features: np.ndarray) -> float:
    """Exponential of the entropy of the singular values' shares, of centred (n, D) (Roy, Vetterli, EUSIPCO 2007)."""
    centred = features - features.mean(0, dtype=np.float64)
    # The squares of the singular values, from the smaller of the two products: several times as fast as they are.
    gram = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0))
    share = values / max(values.sum(), 1e-12)
    share = share[share > 1e-12]
    return float(np.exp(-(share * np.log(share)).sum()))


def collapse(rank: float, std: float) -> str | None:
    """What happened and what to do, when features of this effective rank and std have collapsed; else None."""
    if std < LEAST_STD:
        what = f"all clips have nearly the same features (std {std:.2g} of an isotropic one, least {LEAST_STD})"
    elif rank < LEAST_RANK:
        what = f"the features lie along one direction (effective rank {rank:.2f}, least {LEAST_RANK})"
    else:
        return None
    return (f"{what}: the encoder has collapsed; lower optimizer.lr, take milder views, a larger batch_size or "
            "objective.name=vicreg, which holds variances up")


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
