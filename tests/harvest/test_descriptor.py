"""Descriptors of motion: alike for copies whatever was done to them, and as a plain loop says."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harvest import descriptor, likeness
from harvest.descriptor import describe, joints, mirrored
from harvest.nearest import Nearest
from skelcore import layouts, mannequin
from skelcore.sequence import PoseSequence

CALLS = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def track(number, seconds=3.0, fps=15.0, layout="coco17"):
    action = mannequin.ACTIONS[number % len(mannequin.ACTIONS)]
    return mannequin.perform(action, number, number, seconds=seconds, fps=fps).sequence().to_layout(layouts.get(layout))


def moved(sequence, scale, shift):
    return replace(sequence, keypoints=sequence.keypoints * scale + np.asarray(shift, np.float32))


def seen_in_mirror(sequence, width=640):
    order = sequence.layout.mirror
    return replace(sequence, keypoints=(sequence.keypoints * [-1, 1] + [width, 0])[:, :, order],
                   scores=sequence.scores[:, :, order])


def cosines(a, b):
    """For each window of ``a``, the likest of ``b``."""
    return (a.vectors @ b.vectors.T).max(1)


@CALLS
@given(number=st.integers(0, 11), scale=st.floats(0.2, 4), x=st.floats(-500, 500), y=st.floats(-500, 500),
       layout=st.sampled_from(["coco17", "penn13", "ntu25"]))
def test_neither_place_nor_size_counts(number, scale, x, y, layout):
    one = track(number, layout=layout)
    before, after = describe([one]), describe([moved(one, scale, (x, y))])
    np.testing.assert_allclose(after.vectors, before.vectors, atol=2e-3)
    np.testing.assert_array_equal(after.span, before.span)
    np.testing.assert_allclose(np.linalg.norm(before.vectors, axis=1), 1, atol=1e-5)
    assert before.vectors.shape[1] <= descriptor.DIMENSIONS and before.vectors.dtype == np.float32


@CALLS
@given(number=st.integers(0, 11))
def test_a_mirror_permutes_a_descriptor(number):
    one = track(number)
    found = describe([seen_in_mirror(one)])
    np.testing.assert_allclose(mirrored(describe([one]).vectors, one.layout), found.vectors, atol=1e-3)
    np.testing.assert_allclose(mirrored(mirrored(found.vectors, one.layout), one.layout), found.vectors, atol=1e-6)


@CALLS
@given(number=st.integers(0, 11), tempo=st.sampled_from([0.8, 1.25]), begin=st.integers(0, 5))
def test_a_window_is_found_at_another_tempo_and_in_a_part(number, tempo, begin):
    one = track(number, seconds=4.0)
    fast = replace(one, fps=one.fps * tempo)
    part = replace(one, keypoints=one.keypoints[:, begin:-5], scores=one.scores[:, begin:-5])
    assert cosines(describe([fast]), describe([one])).max() > 0.99
    assert cosines(describe([part]), describe([one])).max() > 0.95


def test_vectors_are_those_of_a_plain_loop():
    one = track(3, seconds=0.5, fps=16.0)
    found = describe([one])
    places, weights = joints(one)
    trunk = one.to_layout(layouts.get("penn13")).layout.index("left_shoulder", "right_shoulder", "left_hip",
                                                              "right_hip")
    for vector, (begin, end) in zip(found.vectors, found.span, strict=True):
        phases = []
        for phase in range(8):
            low, high = (begin + (end - begin) * at / 8 for at in (phase, phase + 1))
            total, amount = np.zeros((13, 2)), np.zeros(13)
            for frame in range(len(places)):
                share = max(0.0, min(high, frame + 1) - max(low, frame))
                middle = np.average(places[frame, trunk], axis=0, weights=weights[frame, trunk])
                total += share * weights[frame, :, None] * (places[frame] - middle)
                amount += share * weights[frame]
            phases.append(total / amount[:, None])
        posture = np.mean(phases, 0)
        expected = np.ravel([posture + descriptor.STRESS * (phase - posture) for phase in phases])
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-4)


def test_tracks_described_together_are_those_described_alone():
    tracks = [track(number, seconds=0.3 + number) for number in range(4)]
    together = describe(tracks)
    for number, one in enumerate(tracks):
        alone = describe([one])
        np.testing.assert_allclose(together.vectors[together.track == number], alone.vectors, atol=1e-4)
        np.testing.assert_array_equal(together.span[together.track == number], alone.span)


def test_what_is_not_seen_does_not_count():
    one = track(1)
    noise = np.random.default_rng(0).normal(0, 1e4, one.keypoints.shape)
    hidden = np.arange(one.frames) % 4 == 0
    broken = replace(one, keypoints=np.where(hidden[None, :, None, None], noise, one.keypoints),
                     scores=np.where(hidden[None, :, None], 0.1, one.scores))
    assert (cosines(describe([broken]), describe([one])) > 0.97).all()
    nobody = replace(one, scores=np.zeros_like(one.scores))
    assert len(describe([nobody])) == 0 and len(describe([])) == 0


def test_a_hand_is_described_by_all_its_joints():
    rng = np.random.default_rng(0)
    hand = PoseSequence(rng.normal(0, 1, (1, 30, 21, 2)).cumsum(1), np.ones((1, 30, 21)), layouts.get("hand21"))
    found = describe([hand])
    assert len(found) and found.vectors.shape[1] == 2 * 21 * 6
    np.testing.assert_allclose(describe([moved(hand, 3, (5, 7))]).vectors, found.vectors, atol=1e-3)


def scored(one, other, mirror=False, least=0.0):
    """The best likeness from the likest windows: one alone may lie in another cycle of the motion."""
    a, b = describe([one]), describe([other])
    alike = a.vectors @ (mirrored(b.vectors, other.layout) if mirror else b.vectors).T
    found = [likeness.compare(likeness.moving(one), likeness.moving(other, mirror), a.span[here],
                              b.span[alike[here].argmax()], (one.fps, other.fps), least)
             for here in np.argsort(-alike.max(1))[:8]]
    return max((each for each in found if each.overlap >= 0.5), key=lambda each: each.score, default=found[0])


@CALLS
@given(number=st.integers(0, 11), scale=st.floats(0.3, 3), x=st.floats(-200, 200), tempo=st.floats(0.75, 1.3),
       mirror=st.booleans())
def test_a_copy_scores_near_one_whatever_was_done_to_it(number, scale, x, tempo, mirror):
    one = track(number, seconds=4.0)
    other = moved(seen_in_mirror(one) if mirror else one, scale, (x, -x))
    found = scored(one, replace(other, fps=one.fps * tempo), mirror)
    assert found.score > 0.97 and found.overlap > 0.95


def test_a_part_overlaps_in_full_and_another_motion_scores_less():
    one, other = track(0, seconds=4.0), track(1, seconds=4.0)
    part = replace(one, keypoints=one.keypoints[:, 10:45], scores=one.scores[:, 10:45])
    found = scored(one, part)
    assert found.score > 0.97 and found.overlap > 0.95
    assert scored(one, other).score < 0.8
    assert scored(one, replace(one, scores=np.zeros_like(one.scores) + 0.31), least=0.9).score > 0.97


def test_few_vectors_are_searched_exactly_and_many_nearly_so():
    rng = np.random.default_rng(0)
    vectors = rng.normal(0, 1, (6000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    asked = vectors[:200]
    expected = np.argsort(-(asked @ vectors.T), axis=1)[:, :5]
    cosine, found = Nearest(vectors).search(asked, 5)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(cosine, np.take_along_axis(asked @ vectors.T, expected, 1), atol=1e-5)
    coarse = Nearest(vectors, exact=100)
    again = Nearest(vectors, exact=100).search(asked, 5)[1]
    found = coarse.search(asked, 5)[1]
    np.testing.assert_array_equal(found, again)
    assert np.mean([len(np.intersect1d(a, b)) / 5 for a, b in zip(found, expected, strict=True)]) > 0.8
    assert (Nearest(vectors[:2]).search(asked, 5)[1] == -1).sum(1).tolist() == [3] * 200


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_the_shortest_tracks_have_one_window(frames):
    one = track(2)
    short = replace(one, keypoints=one.keypoints[:, :frames], scores=one.scores[:, :frames])
    found = describe([short])
    assert len(found) == 1 and found.span.tolist() == [[0, frames]]
