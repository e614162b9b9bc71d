from __future__ import annotations

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skelcore.errors import InputError
from skelcore.layouts import LAYOUTS
from skelcore.sequence import PoseSequence

COCO, NTU = LAYOUTS["coco17"], LAYOUTS["ntu25"]
SHAPE = (2, 3, 17)


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.float32, (*SHAPE, 2), elements=st.floats(width=32)),
       arrays.arrays(np.float32, SHAPE, elements=st.floats(width=32)))
def test_whatever_comes_in_scores_are_in_range_and_missing_joints_are_zero(keypoints, scores) -> None:
    sequence = PoseSequence(keypoints, scores, COCO)
    assert sequence.keypoints.dtype == sequence.scores.dtype == np.float32
    assert ((sequence.scores >= 0) & (sequence.scores <= 1)).all()
    assert np.isfinite(sequence.keypoints).all()
    assert (sequence.keypoints[sequence.scores == 0] == 0).all()
    for m, t, v in np.ndindex(SHAPE):
        fine = np.isfinite([*keypoints[m, t, v], scores[m, t, v]]).all() and scores[m, t, v] > 0
        assert (sequence.scores[m, t, v] > 0) == fine
        if fine:
            np.testing.assert_array_equal(sequence.keypoints[m, t, v], keypoints[m, t, v])


def test_counts() -> None:
    sequence = PoseSequence(np.zeros((2, 3, 17, 3)), np.zeros(SHAPE), COCO)
    assert (sequence.persons, sequence.frames) == (2, 3)


def test_input_arrays_are_not_changed() -> None:
    keypoints, scores = np.full((*SHAPE, 2), 5.0, np.float32), np.zeros(SHAPE, np.float32)
    PoseSequence(keypoints, scores, COCO)
    assert (keypoints == 5).all()


@pytest.mark.parametrize(("keypoints", "scores", "said"), [
    ((2, 3, 17), (2, 3, 17), "must be"),
    ((2, 3, 17, 4), (2, 3, 17), "must be"),
    ((2, 3, 16, 2), (2, 3, 16), "16 joints, but layout coco17 has 17"),
    ((2, 3, 17, 2), (2, 4, 17), "do not match"),
])
def test_shapes_that_disagree_name_the_sequence(keypoints, scores, said: str) -> None:
    with pytest.raises(InputError, match=f"'clip7'.*{said}"):
        PoseSequence(np.zeros(keypoints), np.zeros(scores), COCO, id="clip7")


def test_change_of_layout_averages_and_takes_the_lowest_score() -> None:
    rng = np.random.default_rng(0)
    keypoints, scores = rng.normal(size=(*SHAPE, 2)), rng.uniform(0.2, 1, SHAPE)
    left, right = COCO.index("left_hip", "right_hip")
    scores[0, 0, left] = 0
    before = PoseSequence(keypoints, scores, COCO, size=(10, 20), fps=5.0, id="a", label=3, meta={"k": 1})
    after = before.to_layout(NTU)
    pelvis, thumb, elbow = NTU.index("pelvis", "left_thumb", "left_elbow")
    assert (after.layout, after.size, after.fps, after.id, after.label, after.meta) == (
        NTU, (10, 20), 5.0, "a", 3, {"k": 1})
    np.testing.assert_allclose(after.keypoints[1, :, pelvis], keypoints[1][:, [left, right]].mean(1), rtol=1e-5)
    np.testing.assert_allclose(after.scores[1, :, pelvis], scores[1][:, [left, right]].min(1), rtol=1e-6)
    assert after.scores[0, 0, pelvis] == 0 and (after.keypoints[0, 0, pelvis] == 0).all()
    assert (after.scores[..., thumb] == 0).all()
    np.testing.assert_array_equal(after.keypoints[..., elbow, :], before.keypoints[..., COCO.index("left_elbow")[0], :])
    assert before.to_layout(COCO) is before
