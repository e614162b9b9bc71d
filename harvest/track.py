"""Tracks: the poses of single frames joined into persons over time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from skelcore.layouts import Layout

# Spread of human annotators per joint, relative to the square root of the person's area (COCO keypoint evaluation).
_SIGMAS = {"nose": 0.026, "eye": 0.025, "ear": 0.035, "shoulder": 0.079, "elbow": 0.072, "wrist": 0.062, "hip": 0.107,
           "knee": 0.087, "ankle": 0.089}
_SEEN = 0.3


def sigmas(layout: Layout) -> np.ndarray:
    """OKS constants (V,); joints that COCO lacks take a middle value."""
    return np.array([_SIGMAS.get(joint.removeprefix("left_").removeprefix("right_"), 0.08) for joint in layout.joints])


def boxes(keypoints: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Boxes (P, 4) x1 y1 x2 y2 around the seen joints of ``keypoints`` (P, V, 2); zeros where none is seen."""
    seen = (scores > _SEEN)[..., None]
    low = np.where(seen, keypoints, np.inf).min(1, initial=np.inf)
    high = np.where(seen, keypoints, -np.inf).max(1, initial=-np.inf)
    result = np.concatenate([low, high], -1)
    return np.where(np.isfinite(result), result, 0.0)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union (P, Q) of boxes (P, 4) and (Q, 4)."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(-1)
    areas = [np.clip(x[:, 2:] - x[:, :2], 0, None).prod(-1) for x in (a, b)]
    return common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-9)


def oks(a: np.ndarray, a_scores: np.ndarray, b: np.ndarray, b_scores: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Object keypoint similarity (P, Q) of poses (P, V, 2) and (Q, V, 2) over the joints seen in both.

    mean_v exp(-d_v^2 / (2 s^2 (2 sigma_v)^2)) with s^2 the mean of the two box areas.
    """
    areas = [np.clip(x[:, 2:] - x[:, :2], 1, None).prod(-1) for x in (boxes(a, a_scores), boxes(b, b_scores))]
    scale = (areas[0][:, None] + areas[1][None]) / 2
    distance = ((a[:, None] - b[None]) ** 2).sum(-1)
    both = (a_scores > _SEEN)[:, None] & (b_scores > _SEEN)[None]
    closeness = np.exp(-distance / (2 * scale[..., None] * (2 * sigma) ** 2))
    return (closeness * both).sum(-1) / np.maximum(both.sum(-1), 1)


@dataclass
class Track:
    """One person: ``ticks`` at which it was seen, and for each keypoints (V, 2), scores (V,), presence and whether
    the detector agreed (None between its passes)."""

    ticks: list[int] = field(default_factory=list)
    keypoints: list[np.ndarray] = field(default_factory=list)
    scores: list[np.ndarray] = field(default_factory=list)
    presence: list[float] = field(default_factory=list)
    detected: list[bool | None] = field(default_factory=list)
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))

    def predict(self, tick: int, horizon: int) -> np.ndarray:
        """Where the joints (V, 2) would be if the whole body went on as before, for at most ``horizon`` ticks."""
        return self.keypoints[-1] + self.velocity * min(tick - self.ticks[-1], horizon)

    def add(self, tick: int, keypoints: np.ndarray, scores: np.ndarray, presence: float, detected: bool | None) -> None:
        if self.ticks:
            both = (scores > _SEEN) & (self.scores[-1] > _SEEN)
            if both.any():
                step = np.median((keypoints - self.keypoints[-1])[both], 0) / (tick - self.ticks[-1])
                self.velocity = (self.velocity + step) / 2
        self.ticks.append(tick)
        self.keypoints.append(keypoints)
        self.scores.append(scores)
        self.presence.append(presence)
        self.detected.append(detected)


class Tracker:
    """Joins poses frame by frame: cost 1 - max(OKS with the predicted pose, IoU / 2), assigned optimally.

    A track is born with its first pose, counts after ``birth`` of them, and ends when unseen for ``patience`` seconds;
    it is never continued after that.
    """

    def __init__(self, layout: Layout, rate: float, birth: int = 3, patience: float = 1.0, least: float = 0.25) -> None:
        self._sigma, self._birth, self._least = sigmas(layout), birth, least
        self._patience, self._horizon = max(1, round(patience * rate)), max(1, round(rate / 2))
        self._tracks: list[Track] = []
        self._alive: list[Track] = []
        self._last = -1

    def update(self, tick: int, keypoints: np.ndarray, scores: np.ndarray, presence: np.ndarray,
               detected: np.ndarray | None = None) -> None:
        """Take the poses of one frame: ``keypoints`` (P, V, 2), ``scores`` (P, V), ``presence`` and
        ``detected`` (P,)."""
        self._last = tick
        self._alive = [track for track in self._alive if tick - track.ticks[-1] <= self._patience]
        agreed: list[bool | None] = [None] * len(keypoints) if detected is None else [bool(d) for d in detected]
        rows, columns = self._assign(tick, keypoints, scores)
        for row, column in zip(rows, columns, strict=True):
            self._alive[row].add(tick, keypoints[column], scores[column], float(presence[column]), agreed[column])
        taken = set(columns)
        for column in (c for c in range(len(keypoints)) if c not in taken):
            track = Track()
            track.add(tick, keypoints[column], scores[column], float(presence[column]), agreed[column])
            self._tracks.append(track)
            self._alive.append(track)

    def finish(self) -> list[Track]:
        """All tracks with enough poses, in order of birth; in a video shorter than that, those seen throughout."""
        return [track for track in self._tracks if len(track.ticks) >= min(self._birth, self._last + 1)]

    def _assign(self, tick: int, keypoints: np.ndarray, scores: np.ndarray) -> tuple[list[int], list[int]]:
        if not self._alive or not len(keypoints):
            return [], []
        predicted = np.stack([track.predict(tick, self._horizon) for track in self._alive])
        known = np.stack([track.scores[-1] for track in self._alive])
        likeness = np.maximum(oks(predicted, known, keypoints, scores, self._sigma),
                              iou(boxes(predicted, known), boxes(keypoints, scores)) / 2)
        rows, columns = linear_sum_assignment(-np.where(likeness >= self._least, likeness, 0))
        good = likeness[rows, columns] >= self._least
        return rows[good].tolist(), columns[good].tolist()


def distinct(keypoints: np.ndarray, scores: np.ndarray, rank: np.ndarray, layout: Layout,
             most: float = 0.7) -> np.ndarray:
    """Indices of poses (P, V, 2) that are not a lesser copy (OKS > ``most``) of one with higher ``rank`` (P,)."""
    if len(rank) < 2:
        return np.arange(len(rank))
    likeness = oks(keypoints, scores, keypoints, scores, sigmas(layout))
    kept: list[int] = []
    for index in np.argsort(-rank, kind="stable"):
        if all(likeness[index, other] <= most for other in kept):
            kept.append(int(index))
    return np.array(sorted(kept), np.int64)
