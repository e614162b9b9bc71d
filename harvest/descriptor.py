"""Descriptors of a person's motion, window by window: alike for copies, whatever their size, place and tempo.

A window is cut into equal parts. Of each part the mean place of every body joint is taken, as seen from the middle of
the trunk; all together, with the movement stressed over the posture, make a unit vector. So neither where the person
stands nor how large it is shown matters. Tempo does not because windows of several lengths are compared with one
another, and trimming does not because windows lie all over the track. A mirrored copy is found by ``mirrored`` vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skelcore import layouts
from skelcore.layouts import Layout
from skelcore.sequence import PoseSequence

VERSION = 1  # of the numbers below and of how they are used; stored descriptors of another one are made anew
PHASES, DIMENSIONS = 8, 256  # parts of a window, fewer where all joints of so many would be more numbers than that
SECONDS = tuple(0.4 * 1.25**step for step in range(9))  # lengths of windows; the longest has 2.4 s
LENGTHS = 2  # in how many of them a track is seen: the longest that fit
HOP = 0.25  # from one window to the next, in lengths
MOST = 16  # windows of one length in a track; those of a longer track lie further apart
USUAL_FPS = 15.0  # of poses that do not tell their frame rate
STRESS = 2.0  # how much a movement counts over a posture
SEEN = 0.3  # joints with lower scores are guesses
_TRUNK = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")
_TINY = 1e-9


@dataclass(frozen=True)
class Windows:
    """Descriptors ``vectors`` (n, D) float32 of length 1, and where in which track they lie.

    ``track`` (n,) are positions in what was described; ``span`` (n, 2) begin and end, in frames with fractions.
    """

    vectors: np.ndarray
    track: np.ndarray
    span: np.ndarray

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True)
class Running:
    """Running ``sums`` (T + 1, V, 3) over T frames of joints, x and y and weight: the mean over any time at once.

    The sums of x and y are those of places times weights; a weight of 0 is a joint that is not seen.
    """

    sums: np.ndarray

    def __len__(self) -> int:
        return len(self.sums) - 1

    def means(self, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean places (..., K, V, 2) and weights (..., K, V) between the K + 1 ``edges`` (..., K + 1), in frames.

        Nothing is seen before the first frame and after the last.
        """
        within = np.clip(edges, 0, len(self))
        low = np.minimum(within.astype(np.int64), len(self) - 1)
        share = (within - low)[..., None, None]
        found = np.diff(self.sums[low] * (1 - share) + self.sums[low + 1] * share, axis=edges.ndim - 1)
        weights = found[..., 2] * (found[..., 2] > 1e-6)
        places = found[..., :2] / np.where(weights > 0, weights, np.inf)[..., None]
        return places, weights / np.maximum(np.diff(edges), _TINY)[..., None]


def body(layout: Layout) -> Layout:
    """The joints that stand for a layout: 13 of the body, or all where there are no shoulders and hips (hands)."""
    return layouts.get("penn13") if set(_TRUNK) <= set(layout.joints) else layout


def joints(sequence: PoseSequence) -> tuple[np.ndarray, np.ndarray]:
    """Places (T, V, 2) and weights (T, V) of the ``body`` joints; of several persons, those of the one seen best."""
    best = int(np.count_nonzero(sequence.scores > SEEN, axis=(1, 2)).argmax())
    one = PoseSequence(sequence.keypoints[best:best + 1, ..., :2], sequence.scores[best:best + 1], sequence.layout)
    one = one.to_layout(body(sequence.layout))
    return one.keypoints[0].astype(np.float64), np.where(one.scores[0] > SEEN, one.scores[0], 0).astype(np.float64)


def running(places: np.ndarray, weights: np.ndarray) -> Running:
    """The running sums of places (T, V, 2) with weights (T, V)."""
    frames = np.concatenate([places * weights[..., None], weights[..., None]], -1)
    return Running(np.concatenate([np.zeros((1, *frames.shape[1:])), np.cumsum(frames, 0)]))


def describe(sequences: Sequence[PoseSequence]) -> Windows:
    """Descriptors of the windows of tracks in one layout (2D; of 3D, x and y count), all in one pass.

    A track in which the trunk is never seen has none; one shorter than the shortest window has one.
    """
    if not sequences:
        return Windows(np.zeros((0, 0), np.float32), np.zeros(0, np.int64), np.zeros((0, 2)))
    layout = body(sequences[0].layout)
    found = [joints(sequence) for sequence in sequences]
    places, weights = (np.concatenate(parts) for parts in zip(*found, strict=True))
    lengths = np.array([len(part) for part, _ in found])
    rates = np.array([sequence.fps or USUAL_FPS for sequence in sequences])
    track, span = _spans(lengths, rates)
    begins = np.cumsum(lengths) - lengths
    phases = _phases(layout)
    edges = begins[track, None] + span[:, :1] + np.diff(span) * np.arange(phases + 1) / phases
    means, seen = running(*_centred(places, weights, layout)).means(edges)
    vectors = _unit(means, seen > 0)
    some = np.linalg.norm(vectors, axis=1) > 0.5
    return Windows(vectors[some], track[some], span[some])


def mirrored(vectors: np.ndarray, layout: Layout) -> np.ndarray:
    """The descriptors (n, D) that the same windows have in a mirror."""
    layout = body(layout)
    parts = vectors.reshape(len(vectors), -1, len(layout), 2)[:, :, layout.mirror]
    return (parts * np.array([-1, 1], vectors.dtype)).reshape(vectors.shape)


def _phases(layout: Layout) -> int:
    return min(PHASES, DIMENSIONS // (2 * len(layout)))


def _spans(lengths: np.ndarray, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The windows of tracks of ``lengths`` frames: which track (n,), and begin and end (n, 2) in frames."""
    tracks, spans = [], []
    for track, (frames, rate) in enumerate(zip(lengths.tolist(), rates.tolist(), strict=True)):
        sizes = [seconds * rate for seconds in SECONDS if seconds * rate <= frames][-LENGTHS:] or [float(frames)]
        for size in sizes:
            count = min(MOST, int((frames - size) / (HOP * size) + 1e-9) + 1)
            begins = np.linspace(0, frames - size, count) if count > 1 else np.array([(frames - size) / 2])
            tracks.append(np.full(count, track))
            spans.append(np.stack([begins, begins + size], -1))
    return np.concatenate(tracks), np.concatenate(spans)


def _centred(places: np.ndarray, weights: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Joints from the middle of the seen part of the trunk, or of the layout's centre; frames without it do not count.
    """
    trunk = layout.index(*_TRUNK) if set(_TRUNK) <= set(layout.joints) else [layout.centre]
    shares = weights[:, trunk, None]
    total = shares.sum(1)
    middle = (places[:, trunk] * shares).sum(1) / np.maximum(total, _TINY)
    weights = weights * (total > 0)
    return (places - middle[:, None]) * (weights > 0)[..., None], weights


def _unit(means: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Unit vectors (n, D) float32 of mean places (n, P, V, 2); a joint that a part does not show is where it mostly is.
    """
    count = np.maximum(seen.sum(1, keepdims=True), 1)[..., None]
    posture = (means * seen[..., None]).sum(1, keepdims=True) / count
    vectors = (posture + STRESS * (means - posture) * seen[..., None]).reshape(len(means), -1)
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _TINY)).astype(np.float32)
