"""How alike poses are: boxes around them, how these overlap, and the object keypoint similarity."""

from __future__ import annotations

import numpy as np

from skelcore.layouts import Layout

# Spread of human annotators per joint, relative to the square root of the person's area (COCO keypoint evaluation).
_SIGMAS = {"nose": 0.026, "eye": 0.025, "ear": 0.035, "shoulder": 0.079, "elbow": 0.072, "wrist": 0.062, "hip": 0.107,
           "knee": 0.087, "ankle": 0.089}
SEEN = 0.3


def sigmas(layout: Layout) -> np.ndarray:
    """OKS constants (V,); joints that COCO lacks take a middle value."""
    return np.array([_SIGMAS.get(joint.removeprefix("left_").removeprefix("right_"), 0.08) for joint in layout.joints])


def boxes(keypoints: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Boxes (..., 4) x1 y1 x2 y2 around the seen joints of ``keypoints`` (..., V, 2); zeros where none is seen."""
    seen = (scores > SEEN)[..., None]
    low = np.where(seen, keypoints, np.inf).min(-2, initial=np.inf)
    high = np.where(seen, keypoints, -np.inf).max(-2, initial=-np.inf)
    result = np.concatenate([low, high], -1)
    return np.where(np.isfinite(result), result, 0.0)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union (...) of boxes (..., 4) that broadcast against each other."""
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    common = np.clip(high - low, 0, None).prod(-1)
    return np.asarray(common / np.maximum(_areas(a) + _areas(b) - common, 1e-9))


def oks(a: np.ndarray, a_scores: np.ndarray, b: np.ndarray, b_scores: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Object keypoint similarity (...) of poses (..., V, 2) that broadcast, over the joints seen in both.

    mean_v exp(-d_v^2 / (2 s^2 (2 sigma_v)^2)) with s^2 the larger of the two box areas, since a pose of which little is
    seen has a small box; 0 without a common joint.
    """
    scale = np.maximum(_areas(boxes(a, a_scores), 1), _areas(boxes(b, b_scores), 1))
    distance = ((a - b) ** 2).sum(-1)
    both = (a_scores > SEEN) & (b_scores > SEEN)
    closeness = np.exp(-distance / (2 * scale[..., None] * (2 * sigma) ** 2))
    return np.asarray((closeness * both).sum(-1) / np.maximum(both.sum(-1), 1))


def distinct(keypoints: np.ndarray, scores: np.ndarray, rank: np.ndarray, layout: Layout,
             most: float = 0.7) -> np.ndarray:
    """Indices of poses (P, V, 2) that are not a lesser copy (OKS > ``most``) of one with higher ``rank`` (P,)."""
    if len(rank) < 2:
        return np.arange(len(rank))
    likeness = oks(keypoints[:, None], scores[:, None], keypoints, scores, sigmas(layout))
    kept: list[int] = []
    for index in np.argsort(-rank, kind="stable"):
        if all(likeness[index, other] <= most for other in kept):
            kept.append(int(index))
    return np.array(sorted(kept), np.int64)


def _areas(boxes: np.ndarray, least: float = 0) -> np.ndarray:
    """Areas (...) of boxes (..., 4), no side shorter than ``least``."""
    return np.asarray(np.clip(boxes[..., 2:] - boxes[..., :2], least, None).prod(-1))
