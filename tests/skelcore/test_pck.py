"""PCK against a naive loop and by construction."""

from dataclasses import replace

import numpy as np
import pytest

from skelcore import mannequin
from skelcore.pck import LIMBS, pck


def naive(estimate, truth, alpha):  # type: ignore[no-untyped-def]
    names = truth.layout.joints
    joints = [names.index(f"{side}_{part}") for part in LIMBS for side in ("left", "right")]
    right, count = 0, 0
    for t in range(truth.frames):
        pose = {name: truth.keypoints[0, t, i] for i, name in enumerate(names)}
        torso = 0.5 * (np.linalg.norm(pose["left_shoulder"] - pose["right_hip"])
                       + np.linalg.norm(pose["right_shoulder"] - pose["left_hip"]))
        for j in joints:
            if truth.scores[0, t, j] == 1:
                count += 1
                near = np.linalg.norm(estimate.keypoints[0, t, j] - truth.keypoints[0, t, j]) <= alpha * torso
                right += bool(near and estimate.scores[0, t, j] > 0)
    return right / count


@pytest.mark.parametrize("seed", range(4))
def test_equals_a_naive_loop(seed: int) -> None:
    truth = mannequin.perform("kick", seed, seed, seconds=1, fps=10).sequence()
    rng = np.random.default_rng(seed)
    estimate = replace(truth, keypoints=truth.keypoints + rng.normal(0, 12, truth.keypoints.shape),
                       scores=truth.scores * (rng.random(truth.scores.shape) > 0.1))
    found = pck(estimate, truth)
    assert 0.1 < found < 1 and found == pytest.approx(naive(estimate, truth, 0.2))


def test_truth_is_perfect_and_a_late_track_is_matched_by_time() -> None:
    truth = mannequin.perform("wave", 1, 1, seconds=2, fps=10).sequence()
    assert pck(truth, truth) == 1
    late = replace(truth, keypoints=truth.keypoints[:, 5:], scores=truth.scores[:, 5:], meta={"start": 0.5})
    assert pck(late, truth) == 1
    assert pck(replace(late, keypoints=late.keypoints + 100), truth) == 0
