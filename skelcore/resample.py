"""Time resampling of batches of clips that respects missing joints."""

from __future__ import annotations

import math

import numpy as np


def neighbours(lengths: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where ``frames`` instants, spread evenly from the first to the last frame, fall in clips of ``lengths`` (n,).

    Returns the frame before (n, frames), the frame after, and the weight of the latter in [0, 1) float32. One
    instant is the middle of the clip. Whole-number arithmetic: instants that meet a frame have weight 0 exactly, so
    that resampling a clip to its own length changes nothing.
    """
    last = np.asarray(lengths, np.int64)[:, None] - 1
    steps, parts = (np.arange(frames), frames - 1) if frames > 1 else (np.ones(1, np.int64), 2)
    low, rest = np.divmod(last * steps, parts)
    return low, low + (rest > 0), (rest / parts).astype(np.float32)


class Scratch:
    """Arrays by name, whose memory is used again: fresh memory for every step costs more than the arithmetic."""

    def __init__(self) -> None:
        self._buffers: dict[str, np.ndarray] = {}

    def array(self, name: str, shape: tuple[int, ...], kind: str | np.dtype = "f4") -> np.ndarray:
        """An array of that shape and type with arbitrary content, valid until the name is asked for again."""
        size = math.prod(shape) * np.dtype(kind).itemsize
        if name not in self._buffers or self._buffers[name].nbytes < size:
            self._buffers[name] = np.empty(size, np.uint8)
        return self._buffers[name][:size].view(kind).reshape(shape)


def blend(low: np.ndarray, high: np.ndarray, low_scores: np.ndarray, high_scores: np.ndarray, weight: np.ndarray,
          scratch: Scratch) -> None:
    """Overwrite keypoints ``high`` (..., T, V, C) and ``high_scores`` (..., T, V) with those between two frames.

    ``weight`` (..., T) is that of the later frame. Linear where both frames see the joint; otherwise the nearer frame
    (the earlier in a tie) decides: its joint as it is when seen, else missing. All are float32, missing ones are 0.
    """
    by_joint = scratch.array("by_joint", high_scores.shape)
    np.copyto(by_joint, weight[..., None])
    both = np.minimum(low_scores, high_scores, out=scratch.array("both", high_scores.shape))
    alone = np.flatnonzero(both == 0)
    by_joint.reshape(-1)[alone] = by_joint.reshape(-1)[alone] > 0.5
    by_coordinate = scratch.array("by_coordinate", high.shape)
    for axis in range(high.shape[-1]):
        by_coordinate[..., axis] = by_joint
    # low + (high - low) * weight is exact where one of the two is missing, that is 0, and the weight is 0 or 1.
    for before, after, share in ((low, high, by_coordinate), (low_scores, high_scores, by_joint)):
        after -= before
        after *= share
        after += before
    clear_missing(high, high_scores)


def clear_missing(keypoints: np.ndarray, scores: np.ndarray) -> None:
    """Set the coordinates of missing joints to 0; both arrays are contiguous."""
    keypoints.reshape(-1, keypoints.shape[-1])[np.flatnonzero(scores == 0)] = 0


def fit_persons(keypoints: np.ndarray, scores: np.ndarray, persons: int) -> tuple[np.ndarray, np.ndarray]:
    """Clips (N, M, T, V, C) and (N, M, T, V) with exactly ``persons``: absent ones are zeros, surplus ones go.

    Those with the most seen joints stay, in their old order (the earlier wins a tie).
    """
    have = keypoints.shape[1]
    if have < persons:
        pad = ((0, 0), (0, persons - have))
        return np.pad(keypoints, (*pad, (0, 0), (0, 0), (0, 0))), np.pad(scores, (*pad, (0, 0), (0, 0)))
    if have > persons:
        seen = np.count_nonzero(scores, axis=(2, 3))
        keep = np.sort(np.argsort(-seen, axis=1, kind="stable")[:, :persons], axis=1)[:, :, None, None]
        return np.take_along_axis(keypoints, keep[..., None], 1), np.take_along_axis(scores, keep, 1)
    return keypoints, scores
