"""Poses of Kinetics as PYSKL publishes them: one list of skeletons a clip, with the frame of each."""

from __future__ import annotations

import numpy as np

from skelcore.errors import InputError


def decompress(keypoints: np.ndarray, frames: np.ndarray, total_frames: int, max_person: int = 10,
               squeeze: bool = True, keep: np.ndarray | None = None,
               name: str = "record") -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (M, T, V, 2) and scores (M, T, V) of skeletons (S, V, 3) that lie in ``frames`` (S,), ascending.

    The persons of a frame are in the order of the list, not tracked; M is the most in one frame. If that exceeds
    ``max_person``, those with the highest sums of scores are taken, in every frame sorted by them. ``squeeze`` drops
    frames without anybody. ``keep`` (S,) chooses skeletons, by their box score for instance. The reference's own
    transform fails on SciPy 1.11 and later. Raises InputError, with the record's ``name``, for arrays that disagree.
    """
    keypoints, frames = _checked(keypoints, frames, total_frames, keep, name)
    if max_person < 1:
        raise InputError(f"max_person={max_person}: at least one person must be kept")
    if squeeze:
        present, frames = np.unique(frames, return_inverse=True)
        total_frames = len(present)
    slots = np.arange(len(frames)) - np.searchsorted(frames, frames)
    if slots.max() >= max_person:
        best = -keypoints[..., 2].sum(1)
        order = np.lexsort((slots, best, frames))
        keypoints = keypoints[order]
        kept = slots < max_person
        keypoints, frames, slots = keypoints[kept], frames[kept], slots[kept]
    dense = np.zeros((slots.max() + 1, total_frames, *keypoints.shape[1:]), keypoints.dtype)
    dense[slots, frames] = keypoints
    return dense[..., :2], dense[..., 2]


def _checked(keypoints: np.ndarray, frames: np.ndarray, total_frames: int, keep: np.ndarray | None,
             name: str) -> tuple[np.ndarray, np.ndarray]:
    if keypoints.ndim != 3 or keypoints.shape[2] != 3 or keypoints.dtype.kind != "f":
        raise InputError(f"{name}: 'keypoint' of the kpfile must be (skeletons, V, 3) floats, not "
                         f"{keypoints.dtype} {keypoints.shape}")
    if frames.shape != keypoints.shape[:1] or frames.dtype.kind not in "iu":
        raise InputError(f"{name}: 'frame_inds' must be one whole number for each of the {len(keypoints)} skeletons")
    if keep is not None:
        keypoints, frames = keypoints[keep], frames[keep]
    if not len(frames):
        raise InputError(f"{name}: no skeleton is left; lower the threshold of the box score or drop the clip")
    frames = frames.astype(np.int64)
    if (np.diff(frames) < 0).any():
        raise InputError(f"{name}: 'frame_inds' must not descend")
    if frames[0] < 0 or frames[-1] >= total_frames:
        raise InputError(f"{name}: 'frame_inds' runs from {frames[0]} to {frames[-1]}, but the clip has "
                         f"{total_frames} frames")
    return keypoints, frames
