import numpy as np
import pytest

from harvest.track import Tracker, boxes, distinct, iou, oks, sigmas
from skelcore import layouts
from tests.harvest.fakes import LAYOUT, TEMPLATE

RATE = 15.0


def person(x, y=100.0, width=40.0, height=120.0):
    return np.array([x, y]) + TEMPLATE * [width, height]


def follow(paths, order=None, drop=lambda t, p: False, noise=0.0, seed=0):
    """Tracks of persons on ``paths`` (one x position or None a frame); returns (tracks, true person of each pose)."""
    rng = np.random.default_rng(seed)
    tracker, truth = Tracker(LAYOUT, RATE), {}
    for t in range(len(paths[0])):
        present = [p for p, path in enumerate(paths) if path[t] is not None and not drop(t, p)]
        present = [present[i] for i in rng.permutation(len(present))]
        poses = np.array([person(paths[p][t], 100 + 9 * p) for p in present]).reshape(-1, 17, 2)
        poses += rng.normal(0, noise, poses.shape)
        for pose, p in zip(poses, present, strict=True):
            truth[t, pose.tobytes()] = p
        tracker.update(t, poses, np.full((len(poses), 17), 0.9), np.ones(len(poses)))
    tracks = tracker.finish()
    return tracks, [[truth[t, k.tobytes()] for t, k in zip(tr.ticks, tr.keypoints, strict=True)] for tr in tracks]


def test_crossing_persons_keep_their_tracks():
    paths = [list(np.linspace(50, 350, 60)), list(np.linspace(350, 50, 60))]
    tracks, owners = follow(paths, noise=0.5)
    assert len(tracks) == 2
    assert all(len(set(owner)) == 1 and len(owner) == 60 for owner in owners)


@pytest.mark.parametrize("seed", range(5))
def test_drop_outs_break_no_track(seed):
    rng = np.random.default_rng(seed)
    missing = rng.random((90, 3)) < 0.2
    paths = [list(x + 25 * np.sin(np.arange(90) / 9)) for x in (60, 180, 300)]
    tracks, owners = follow(paths, drop=lambda t, p: missing[t, p], noise=1.0, seed=seed)
    assert len(tracks) == 3 and all(len(set(owner)) == 1 for owner in owners)
    # Nothing invented in the gaps.
    assert sum(map(len, owners)) == (~missing).sum()


def test_a_person_who_leaves_for_long_comes_back_as_another_track():
    path = [100.0] * 20 + [None] * 20 + [100.0] * 20
    tracks, _ = follow([path, [300.0] * 60])
    assert [(t.ticks[0], t.ticks[-1]) for t in tracks] == [(0, 19), (0, 59), (40, 59)]
    short = [100.0] * 20 + [None] * 10 + [100.0] * 20
    assert len(follow([short])[0]) == 1


def test_entering_persons_are_born_after_three_poses():
    late = [None] * 30 + [200.0] * 30
    blink = [None] * 10 + [300.0] * 2 + [None] * 48
    tracks, owners = follow([[50.0] * 60, late, blink])
    assert [set(owner) for owner in owners] == [{0}, {1}]
    assert tracks[1].ticks[0] == 30


def test_two_frames_are_enough_for_a_video_of_two():
    assert len(follow([[50.0] * 2])[0]) == 1


def test_a_jump_across_the_frame_starts_a_new_track():
    assert len(follow([[50.0] * 20 + [400.0] * 20])[0]) == 2


def test_oks_against_a_plain_loop():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 100, (3, 17, 2)), rng.uniform(0, 100, (2, 17, 2))
    a_scores, b_scores = rng.random((3, 17)), rng.random((2, 17))
    result, sigma = oks(a, a_scores, b, b_scores, sigmas(LAYOUT)), sigmas(LAYOUT)
    for i in range(3):
        for j in range(2):
            areas = []
            for pose, scores in ((a[i], a_scores[i]), (b[j], b_scores[j])):
                seen = pose[scores > 0.3]
                areas.append(np.prod(seen.max(0) - seen.min(0)))
            terms = [np.exp(-((a[i, v] - b[j, v]) ** 2).sum() / (2 * np.mean(areas) * (2 * sigma[v]) ** 2))
                     for v in range(17) if a_scores[i, v] > 0.3 and b_scores[j, v] > 0.3]
            assert result[i, j] == pytest.approx(np.mean(terms), rel=1e-9)
    assert oks(a, a_scores, a, a_scores, sigma).diagonal() == pytest.approx(1)


def test_boxes_and_iou():
    box = np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 20, 20]])
    assert iou(box, box)[0] == pytest.approx([1, 1 / 3, 0])
    assert boxes(person(0)[None], np.zeros((1, 17))).tolist() == [[0, 0, 0, 0]]


def test_one_person_found_twice_is_kept_once():
    poses = np.stack([person(100), person(103), person(200)])
    assert distinct(poses, np.full((3, 17), 0.9), np.array([0.5, 0.9, 0.7]), LAYOUT).tolist() == [1, 2]
    empty = np.zeros((0, 17, 2))
    assert len(distinct(empty, empty[..., 0], np.zeros(0), LAYOUT)) == 0


def test_every_layout_has_constants():
    for layout in layouts.LAYOUTS.values():
        assert len(sigmas(layout)) == len(layout) and (sigmas(layout) > 0).all()
