"""Percentage of correct keypoints: how near estimated joints lie to the truth (Yang and Ramanan, PAMI 2013)."""

from __future__ import annotations

import numpy as np

from skelcore.sequence import PoseSequence

LIMBS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")


def limb_joints(sequence: PoseSequence) -> list[int]:
    """Positions of the twelve shoulder, elbow, wrist, hip, knee and ankle joints."""
    return sequence.layout.index(*(f"{side}_{part}" for part in LIMBS for side in ("left", "right")))


def correct_keypoints(estimate: PoseSequence, truth: PoseSequence,
                      alpha: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Which limb joints (T, 12) of the estimate's first person lie within ``alpha`` torsos of the truth; which count.

    The torso is the mean distance from a shoulder to the opposite hip in the true pose of that frame, in pixels. A
    joint counts where the truth fully sees it (score 1); a missing estimate of it is wrong. Frames are matched by time
    (``meta["start"]`` in seconds, and fps).
    """
    times = float(estimate.meta.get("start", 0.0)) + np.arange(estimate.frames) / (estimate.fps or 1.0)
    rows = np.rint(times * (truth.fps or 1.0)).astype(int)
    inside = (rows >= 0) & (rows < truth.frames)
    joints = limb_joints(truth)
    expected, seen = truth.keypoints[0, rows[inside]], truth.scores[0, rows[inside]] == 1
    left_shoulder, right_shoulder, left_hip, right_hip = truth.layout.index(
        "left_shoulder", "right_shoulder", "left_hip", "right_hip")
    torso = (np.linalg.norm(expected[:, left_shoulder] - expected[:, right_hip], axis=-1)
             + np.linalg.norm(expected[:, right_shoulder] - expected[:, left_hip], axis=-1)) / 2
    distance = np.linalg.norm(estimate.keypoints[0, inside][:, joints] - expected[:, joints], axis=-1)
    found = estimate.scores[0, inside][:, joints] > 0
    return (distance <= alpha * torso[:, None]) & found, seen[:, joints]


def pck(estimate: PoseSequence, truth: PoseSequence, alpha: float = 0.2) -> float:
    """Share of the truly visible limb joints that are correct; nan when none is visible."""
    correct, counts = correct_keypoints(estimate, truth, alpha)
    return float(correct[counts].mean()) if counts.any() else float("nan")
