"""Video to person tracks: decode, detect, estimate, track. No Ray, no network.

The door through which ``adapt`` reads a user's videos: what it needs beside is here by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harvest import decode, quality
from harvest.estimators import Estimator, People, Poses, build
from harvest.reasons import VideoError
from harvest.track import Track, Tracker, distinct, iou
from skelcore.sequence import PoseSequence

__all__ = ["Estimator", "Extraction", "VideoError", "build", "decode", "extract", "scan"]

_PRESENT = 0.5
_SAME_PERSON = 0.4


@dataclass(frozen=True)
class Extraction:
    """Tracks of one video, and how many frames and seconds of it were looked at."""

    sequences: list[PoseSequence]
    frames: int
    seconds: float


def extract(path: str | Path, estimator: Estimator, fps: float = 15.0, detect_every: int = 5, short_side: int = 720,
            max_seconds: float = float("inf"), max_persons: int = 8) -> list[PoseSequence]:
    """Person tracks of a video, one PoseSequence (1, T, V, 2) each, in pixels of the video as displayed.

    Frames in which a person was not seen have score 0. ``meta["start"]`` is the second at which the track begins,
    ``meta["quality"]`` its measured numbers (quality.measure). Nobody in view gives an empty list; a video that cannot
    be read raises VideoError with a named reason.
    """
    return scan(path, estimator, fps, detect_every, short_side, max_seconds, max_persons).sequences


def scan(path: str | Path, estimator: Estimator, fps: float, detect_every: int, short_side: int, max_seconds: float,
         max_persons: int) -> Extraction:
    """``extract`` with the number of frames and seconds that it looked at."""
    tracker: Tracker | None = None
    people = _nobody()
    count = 0
    for chunk in decode.chunks(path, fps, short_side, max_seconds):
        if tracker is None:
            tracker, size, rate = Tracker(estimator.layout, chunk.rate), chunk.size, chunk.rate
            # As often in seconds as for a video of the full rate.
            every = max(1, round(detect_every * rate / fps))
        due = [i for i in range(len(chunk.frames)) if (chunk.first + i) % every == 0]
        found = dict(zip(due, estimator.detect(chunk.frames[due]), strict=True)) if due else {}
        for i in range(len(chunk.frames)):
            detections = found.get(i)
            if detections is not None:
                people = _join(people, detections, max_persons)
            count += 1
            if not len(people):
                continue
            poses = _good(estimator.estimate(chunk.frames[i:i + 1], [people])[0], estimator)
            agreed = None if detections is None else np.asarray(_overlap(poses.people, detections).any(1))
            keypoints = poses.keypoints * np.array(chunk.scale[::-1])
            tracker.update(chunk.first + i, keypoints, poses.scores, poses.presence, agreed)
            people = poses.people
    assert tracker is not None  # decode raises when there is no frame
    name = Path(path).stem
    sequences = [_sequence(track, estimator, size, rate, f"{name}/{n:04d}") for n, track in enumerate(tracker.finish())]
    return Extraction(sequences, count, count / rate)


def _nobody() -> People:
    return People(np.zeros((0, 4)), np.zeros(0), None)


def _extent(people: People) -> np.ndarray:
    """Boxes (P, 4) that can be compared between a detection and a person carried over."""
    if people.regions is None:
        return people.boxes
    centre, half = people.regions[:, :2], people.regions[:, 2:3] / 2
    return np.concatenate([centre - half, centre + half], 1)


def _overlap(people: People, others: People) -> np.ndarray:
    return iou(_extent(people), _extent(others)) > _SAME_PERSON


def _take(people: People, index: np.ndarray) -> People:
    return People(people.boxes[index], people.scores[index], None if people.regions is None else people.regions[index])


def _join(carried: People, detections: People, most: int) -> People:
    """The people being followed and those newly detected, the former first."""
    if not len(carried):
        return _take(detections, np.argsort(-detections.scores, kind="stable")[:most])
    fresh = np.flatnonzero(~_overlap(detections, carried).any(1))
    fresh = fresh[np.argsort(-detections.scores[fresh], kind="stable")][:max(0, most - len(carried))]
    if not len(fresh):
        return carried
    new = _take(detections, fresh)
    regions = (None if carried.regions is None or new.regions is None
               else np.concatenate([carried.regions, new.regions]))
    return People(np.concatenate([carried.boxes, new.boxes]), np.concatenate([carried.scores, new.scores]), regions)


def _good(poses: Poses, estimator: Estimator) -> Poses:
    """The poses that the model believes in, each person once."""
    present = np.flatnonzero(poses.presence >= _PRESENT)
    rank = poses.presence[present] * poses.scores[present].mean(1) if len(present) else np.zeros(0)
    index = present[distinct(poses.keypoints[present], poses.scores[present], rank, estimator.layout)]
    return Poses(poses.keypoints[index], poses.scores[index], poses.presence[index], _take(poses.people, index))


def _sequence(track: Track, estimator: Estimator, size: tuple[int, int], rate: float, name: str) -> PoseSequence:
    first, last = track.ticks[0], track.ticks[-1]
    joints = len(estimator.layout)
    keypoints = np.zeros((1, last - first + 1, joints, 2), np.float32)
    scores = np.zeros((1, last - first + 1, joints), np.float32)
    at = np.array(track.ticks) - first
    keypoints[0, at], scores[0, at] = np.stack(track.keypoints), np.stack(track.scores)
    sequence = PoseSequence(keypoints, scores, estimator.layout, size, rate, name)
    passes = [agreed for agreed in track.detected if agreed is not None]
    numbers = quality.measure(sequence, presence=float(np.mean(track.presence)),
                              detected=float(np.mean(passes)) if passes else 1.0)
    sequence.meta.update(start=round(first / rate, 4), quality=numbers)
    return sequence
