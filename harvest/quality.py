"""The quality of a sample in numbers. They are stored with it, so that its gates may change without its video."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from skelcore.layouts import Layout
from skelcore.sequence import PoseSequence

_BODY = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
_TORSO = ("shoulder", "hip")
_LIMBS = (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"))
_SEEN = 0.3
_MOST_JOINTS = 9 / 12
_FEWEST = 5  # frames that a statistic of lengths needs
# Of two persons in one sample the worse one counts; for these numbers that is the higher one.
_HIGH_IS_BAD = {"outside", "jitter", "limb_drift", "limb_ratio", "teleport", "flip", "full_frame", "crowd"}


def measure(sequence: PoseSequence, presence: float = 1.0, detected: float = 1.0,
            crowd: int | None = None) -> dict[str, float]:
    """The numbers of a sample (M, T, V, 2); each is that of the worst of its persons.

    ``seconds`` from first to last frame; ``frames`` observed ones and ``observed`` their share; ``presence`` mean
    belief of the model; ``detected`` share of detector passes that agreed; ``score`` mean of the body joints;
    ``complete`` share of frames that show three quarters of them; ``outside`` share of joints beyond the frame;
    ``height`` and ``pixels`` median height of the person over the frame's and in pixels; ``motion`` median spread of
    the joints over that height; ``jitter`` median second difference over that height; ``teleport`` longest step of
    the body (median of its joints) over that height, a frame; ``full_frame`` median share of the frame's width or
    height, whichever is less, that the person spans; ``crowd`` most persons seen at once in the video; ``flip`` share
    of steps in which left and right of the torso change places; ``limb_drift`` median over the limbs of the variation
    (deviation over mean) of their lengths in torsos; ``limb_ratio`` median over left and right limbs of the longer
    length over the shorter. A number that the layout, the frame's size or the joints in view do not allow is absent.
    """
    persons = [_person(keypoints, scores, sequence) for keypoints, scores in
               zip(sequence.keypoints, sequence.scores, strict=True)]
    persons.append({"presence": presence, "detected": detected} | ({} if crowd is None else {"crowd": float(crowd)}))
    numbers: dict[str, float] = {}
    for person in persons:
        for name, value in person.items():
            worse = max if name in _HIGH_IS_BAD else min
            numbers[name] = worse(numbers.get(name, value), value)
    return {name: round(value, 4) for name, value in numbers.items()}


@lru_cache
def body_joints(layout: Layout) -> list[int]:
    """Shoulders to ankles where the layout has them, else every joint (hands)."""
    index = [i for i, joint in enumerate(layout.joints) if joint.removeprefix("left_").removeprefix("right_") in _BODY]
    return index if len(index) >= len(_BODY) else list(range(len(layout)))


def _person(keypoints: np.ndarray, scores: np.ndarray, sequence: PoseSequence) -> dict[str, float]:
    body = body_joints(sequence.layout)
    rows = np.flatnonzero(scores.max(1) > 0)
    numbers = {"seconds": len(scores) / (sequence.fps or 1.0), "frames": float(len(rows)),
               "observed": len(rows) / max(len(scores), 1)}
    names = "score", "complete", "outside", "height", "pixels", "motion", "jitter"
    if not len(rows):
        return numbers | dict.fromkeys(names, 0.0)
    frame_height, frame_width = sequence.size or (0, 0)
    frame = np.array([frame_width, frame_height], np.float32)
    points, seen = keypoints[rows], scores[rows] > _SEEN
    enough = seen.sum(1) >= 2
    low, high = _boxes(points[enough], seen[enough])
    # The longer side, so that a lying person is not small.
    height = _median((high - low).max(1)) if enough.any() else 0.0
    unit = max(height, 1e-6)
    x, y = points[:, body, 0], points[:, body, 1]
    outside = (x < 0) | (x > frame_width) | (y < 0) | (y > frame_height)
    values = (scores[rows][:, body].mean(), (seen[:, body].sum(1) >= _MOST_JOINTS * len(body)).mean(), outside.mean(),
              height / max(frame_height, 1), height, _motion(points, seen) / unit,
              _jitter(keypoints, scores > _SEEN) / unit)
    numbers |= {name: float(value) for name, value in zip(names, values, strict=True)}
    if sequence.size is not None and enough.any():
        span = np.clip(high, 0, frame) - np.clip(low, 0, frame)
        numbers["full_frame"] = _median((span / frame).min(1))
    if len(rows) > 1:
        numbers |= _steps(points, seen, np.diff(rows), unit, sequence.layout)
    return numbers | _limbs(points, seen, unit, sequence.layout)


def _boxes(points: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner (F, 2) of the box around the seen joints."""
    planes = np.ascontiguousarray(np.moveaxis(points, -1, 0))  # so that the joints lie side by side
    return np.where(seen, planes, np.inf).min(-1).T, np.where(seen, planes, -np.inf).max(-1).T


def _motion(points: np.ndarray, seen: np.ndarray) -> float:
    """Median over the joints of their standard deviation in time, in pixels."""
    often = seen.sum(0) >= 2
    if not often.any():
        return 0.0
    _, variance = _moments(points.reshape(len(points), -1), np.repeat(seen, 2, 1))
    return _median(np.sqrt(variance.reshape(-1, 2).sum(1))[often])


def _moments(values: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (D,) over time of the known ones of ``values`` (F, D)."""
    count = np.maximum(known.sum(0), 1)
    mean = (values * known).sum(0) / count
    centred = (values - mean) * known
    return mean, np.einsum("fd,fd->d", centred, centred) / count


def _jitter(keypoints: np.ndarray, seen: np.ndarray) -> float:
    """Median length of the second difference, in pixels, over joints seen in three consecutive frames."""
    three = seen[2:] & seen[1:-1] & seen[:-2]
    bend = _lengths(keypoints[2:] - 2 * keypoints[1:-1] + keypoints[:-2])
    return _median(bend[three]) if three.any() else 0.0


def _steps(points: np.ndarray, seen: np.ndarray, gaps: np.ndarray, unit: float, layout: Layout) -> dict[str, float]:
    """``teleport`` and ``flip``: what happens from each observed frame to the next, ``gaps`` (F - 1,) frames later."""
    numbers = {}
    both = seen[1:] & seen[:-1]
    count = both.sum(1)
    steps = np.sort(np.where(both, _lengths(np.diff(points, axis=0)), np.inf), 1)
    usable = count >= 3
    if usable.any():
        # The median joint: neither a kicking leg nor a joint found in a wrong place moves the body.
        middle = steps[np.arange(len(steps)), np.maximum(count - 1, 0) // 2]
        numbers["teleport"] = float((middle / gaps)[usable].max()) / unit
    pairs = _sides(layout, _TORSO)
    if pairs is None:
        return numbers
    left, right = points[:, pairs[0]], points[:, pairs[1]]
    usable = both[:, pairs.ravel()].all(1) & (gaps == 1)
    if usable.any():
        straight = _lengths(np.diff(left, axis=0)) + _lengths(np.diff(right, axis=0))
        crossed = _lengths(right[1:] - left[:-1]) + _lengths(left[1:] - right[:-1])
        width = _lengths(left - right).mean(1)
        # Seen from the side, left and right coincide, and which is which says nothing.
        apart = np.minimum(width[1:], width[:-1]) > 0.05 * unit
        swapped = apart & (crossed.sum(1) < 0.5 * straight.sum(1))
        numbers["flip"] = float(swapped[usable].mean())
    return numbers


def _limbs(points: np.ndarray, seen: np.ndarray, unit: float, layout: Layout) -> dict[str, float]:
    """``limb_drift`` and ``limb_ratio``."""
    torso, ends = _sides(layout, _TORSO), [_sides(layout, limb) for limb in _LIMBS]
    if torso is None or any(end is None for end in ends):
        return {}
    inner, outer = np.array(ends).reshape(-1, 2).T  # of left and right of each limb in turn
    lengths, known = _lengths(points[:, inner] - points[:, outer]), seen[:, inner] & seen[:, outer]
    count = known.sum(0)
    numbers = {}
    usable = (count >= _FEWEST).reshape(-1, 2).all(1)
    if usable.any():
        # Foreshortened limbs look too short and none looks too long: the longest tenth tells the length.
        rank = len(lengths) - 1 - np.maximum(count - 1, 0) // 10
        long = np.sort(np.where(known, lengths, -1), 0)[rank, np.arange(len(rank))].reshape(-1, 2)[usable]
        numbers["limb_ratio"] = _median(long.max(1) / np.maximum(long.min(1), 0.01 * unit))
    middles = points[:, torso].mean(1)
    trunk = np.maximum(_lengths(middles[:, 0] - middles[:, 1]), 0.05 * unit)
    known &= seen[:, torso.ravel()].all(1, keepdims=True)
    usable = known.sum(0) >= _FEWEST
    if usable.any():
        mean, variance = _moments(lengths / trunk[:, None], known)
        numbers["limb_drift"] = _median((np.sqrt(variance) / np.maximum(mean, 1e-6))[usable])
    return numbers


@lru_cache
def _sides(layout: Layout, parts: tuple[str, ...]) -> np.ndarray | None:
    """Joints (2, P) of the left and of the right, or None where the layout lacks one of them."""
    names = [f"{side}_{part}" for side in ("left", "right") for part in parts]
    if not set(names) <= set(layout.joints):
        return None
    return np.array(layout.index(*names)).reshape(2, -1)


def _median(values: np.ndarray) -> float:
    """As np.median, which takes three times as long for so few."""
    ordered = np.sort(values)
    return float(ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _lengths(vectors: np.ndarray) -> np.ndarray:
    """Lengths (...) of vectors (..., 2)."""
    return np.hypot(vectors[..., 0], vectors[..., 1])
