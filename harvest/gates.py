"""Quality of a track in numbers, and the gates that they must pass; the numbers are stored, so gates can change."""

from __future__ import annotations

import numpy as np

from harvest.config import Gates
from skelcore.layouts import Layout
from skelcore.sequence import PoseSequence

_BODY = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
_SEEN = 0.3
_MOST_JOINTS = 9 / 12


def measure(sequence: PoseSequence, presence: float = 1.0, detected: float = 1.0) -> dict[str, float]:
    """The numbers of a one-person track (1, T, V, 2).

    ``seconds`` from first to last frame; ``frames`` observed ones and ``observed`` their share; ``presence`` mean
    belief of the model; ``detected`` share of detector passes that agreed; ``score`` mean of the body joints;
    ``complete`` share of frames that show three quarters of them; ``outside`` share of joints beyond the frame;
    ``height`` and ``pixels`` median height of the person over the frame's and in pixels; ``motion`` median spread of
    the joints over that height; ``jitter`` median second difference over that height.
    """
    keypoints, scores = sequence.keypoints[0], sequence.scores[0]
    body = body_joints(sequence.layout)
    rows = scores.max(1) > 0
    seen = scores[rows] > _SEEN
    heights = _heights(keypoints[rows], seen)
    height = float(np.median(heights)) if len(heights) else 0.0
    frame_height, frame_width = sequence.size or (0, 0)
    outside = ((keypoints < 0) | (keypoints > np.array([frame_width, frame_height]))).any(-1)[rows]
    numbers = {
        "seconds": len(rows) / (sequence.fps or 1.0),
        "frames": float(rows.sum()),
        "observed": float(rows.mean()) if len(rows) else 0.0,
        "presence": presence,
        "detected": detected,
        "score": float(scores[rows][:, body].mean()) if rows.any() else 0.0,
        "complete": float((seen[:, body].mean(1) >= _MOST_JOINTS - 1e-6).mean()) if rows.any() else 0.0,
        "outside": float(outside[:, body].mean()) if rows.any() else 0.0,
        "height": height / max(frame_height, 1),
        "pixels": height,
        "motion": _motion(keypoints, scores) / max(height, 1e-6),
        "jitter": _jitter(keypoints, scores) / max(height, 1e-6),
    }
    return {name: round(value, 4) for name, value in numbers.items()}


def judge(numbers: dict[str, float], gates: Gates) -> str | None:
    """The first gate that a track's numbers fail, or None."""
    unconfirmed = numbers["detected"] < gates.min_detected and numbers["presence"] < gates.sure_presence
    failed = {
        "too_short": numbers["seconds"] < gates.min_seconds or numbers["frames"] < gates.min_frames,
        "hallucinated": numbers["presence"] < gates.min_presence or unconfirmed,
        "small": numbers["height"] < gates.min_height or numbers["pixels"] < gates.min_pixels,
        "low_score": numbers["score"] < gates.min_score,
        "few_joints": numbers["complete"] < gates.min_complete,
        "truncated": numbers["outside"] > gates.max_outside,
        "gaps": numbers["observed"] < gates.min_observed,
        "frozen": numbers["motion"] < gates.min_motion,
    }
    return next((name for name, bad in failed.items() if bad), None)


def body_joints(layout: Layout) -> list[int]:
    """Shoulders to ankles where the layout has them, else every joint (hands)."""
    index = [i for i, joint in enumerate(layout.joints) if joint.removeprefix("left_").removeprefix("right_") in _BODY]
    return index if len(index) >= len(_BODY) else list(range(len(layout)))


def _heights(keypoints: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Longer side of the box around the seen joints, per frame that shows at least two: a lying person is not small."""
    enough = seen.sum(1) >= 2
    mask, points = seen[enough][..., None], keypoints[enough]
    if not len(points):
        return np.zeros(0)
    return (np.where(mask, points, -np.inf).max(1) - np.where(mask, points, np.inf).min(1)).max(1)


def _motion(keypoints: np.ndarray, scores: np.ndarray) -> float:
    """Median over the joints of their standard deviation in time, in pixels."""
    seen = scores > _SEEN
    often = seen.sum(0) >= 2
    if not often.any():
        return 0.0
    values = np.where(seen[..., None], keypoints, np.nan)[:, often]
    return float(np.median(np.sqrt(np.nanvar(values, 0).sum(-1))))


def _jitter(keypoints: np.ndarray, scores: np.ndarray) -> float:
    """Median length of the second difference, in pixels, over joints seen in three consecutive frames."""
    seen = scores > _SEEN
    three = seen[2:] & seen[1:-1] & seen[:-2]
    bend = np.linalg.norm(keypoints[2:] - 2 * keypoints[1:-1] + keypoints[:-2], axis=-1)
    return float(np.median(bend[three])) if three.any() else 0.0
