import numpy as np
import pytest

from harvest.oks import boxes, distinct, iou, oks, sigmas
from harvest.stitch import stitch, without_shadows
from harvest.track import Track, common
from harvest.tracker import Tracker
from skelcore import layouts
from skelcore.identity import identity
from tests.harvest import figures
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


def routes(kind, frames=120, seed=0):
    """Places (G, T) of persons in a frame 500 pixels wide; nan while one is out of view."""
    t, rng = np.linspace(0, 1, frames), np.random.default_rng(seed)
    right, left, there = 60 + 380 * t, 440 - 380 * t, np.full(frames, 250.0)
    if kind == "cross":
        return np.stack([right, left, there])
    if kind == "meet":
        return np.stack([60 + 170 * np.sin(np.pi * t), 440 - 170 * np.sin(np.pi * t)])
    if kind == "crowd":
        return np.stack([250 + rng.uniform(80, 180) * np.sin(rng.uniform(3, 9) * t + rng.uniform(0, 6))
                         for _ in range(5)])
    places = np.stack([right, left, there, there])  # one leaves, one enters, one takes another's place
    places[0, 90:] = places[1, :30] = places[2, 50:] = places[3, :85] = np.nan
    return places


def measured(kind, seed, **faults):
    """Tracks and their identity, against the persons where they were detected: a gap is no error of the tracker."""
    truth = figures.walkers(routes(kind, seed=seed))
    there, answers = figures.seen(truth, seed, **faults)
    found = stitch(without_shadows(figures.tracks(answers), LAYOUT), LAYOUT, RATE)
    box = figures.boxes(truth)
    box[~there] = np.nan
    return found, identity(box, figures.track_boxes(found, truth.shape[1]))


@pytest.mark.parametrize("kind", ["cross", "meet", "enter", "crowd"])
@pytest.mark.parametrize("seed", range(3))
def test_no_switch_among_figures_that_cross_enter_and_leave(kind, seed):
    found, result = measured(kind, seed, noise=1.0)
    assert result.switches == 0 and result.idf1 > 0.99
    assert len(found) == len(routes(kind))


@pytest.mark.parametrize("kind", ["cross", "meet", "enter", "crowd"])
@pytest.mark.parametrize("seed", range(3))
def test_a_fifth_of_the_detections_may_be_missing(kind, seed):
    assert measured(kind, seed, drop=0.2, noise=2.4)[1].idf1 >= 0.95


@pytest.mark.parametrize("seed", range(3))
def test_two_who_are_one_while_they_cross_part_as_before(seed):
    found, result = measured("cross", seed, noise=2.4, merge=0.3)
    assert result.switches == 0 and result.idf1 >= 0.95 and len(found) == 3


def update(tracker, tick, xs, presence):
    poses = np.array([person(x) for x in xs]).reshape(-1, 17, 2)
    owners = tracker.update(tick, poses, np.full(poses.shape[:2], 0.9), np.array(presence))
    return [owner is not None for owner in owners]


def test_unsure_poses_continue_a_track_and_begin_none():
    tracker = Tracker(LAYOUT, RATE)
    for tick in range(5):
        assert update(tracker, tick, [50], [0.9]) == [True]
    assert update(tracker, 5, [51, 300], [0.3, 0.3]) == [True, False]
    assert update(tracker, 6, [51, 300], [0.05, 0.9]) == [False, True]
    track, = tracker.finish()
    assert track.ticks == [0, 1, 2, 3, 4, 5] and track.presence[-1] == pytest.approx(0.3)


def test_a_grown_track_chooses_before_a_ghost_that_came_later():
    tracker = Tracker(LAYOUT, RATE)
    for tick in range(6):
        update(tracker, tick, [50], [1])
    update(tracker, 6, [50, 60], [1, 1])
    update(tracker, 7, [58], [1])  # nearer to the ghost
    track, = tracker.finish()
    assert track.ticks == list(range(8))


@pytest.mark.parametrize(("gap", "tracks"), [(5, 1), (12, 2)])
def test_what_stands_where_a_person_vanished_is_less_surely_that_person_the_later_it_comes(gap, tracks):
    tracker = Tracker(LAYOUT, RATE)
    for tick in range(20):
        update(tracker, tick, [50], [1])
    for tick in range(20 + gap, 40 + gap):
        update(tracker, tick, [62], [1])
    assert len(tracker.finish()) == tracks


def test_a_person_who_stops_at_once_is_still_the_same():
    tracker = Tracker(LAYOUT, RATE)
    strides = 2 * np.arange(12)
    for tick, x in enumerate(50 + np.cumsum([*strides, *[0] * 10])):
        update(tracker, tick, [x], [1])
    track, = tracker.finish()
    assert len(track) == 22


def piece(ticks, x, height=120.0, y=100.0):
    track = Track()
    for tick in ticks:
        track.add(tick, person(x(tick), y, height / 3, height), np.full(17, 0.9), 1.0, None)
    return track


def walk(tick):
    return 50 + 6 * tick


def test_pieces_of_one_walk_are_stitched_and_their_gap_stays():
    found = stitch([piece(range(10), walk), piece(range(20, 30), walk), piece(range(35, 40), walk)], LAYOUT, RATE)
    assert [track.ticks for track in found] == [[*range(10), *range(20, 30), *range(35, 40)]]


@pytest.mark.parametrize("other", [
    piece(range(30, 40), walk),  # more than a second later
    piece(range(20, 30), lambda tick: walk(tick) + 120),  # elsewhere
    piece(range(20, 30), walk, height=190.0, y=65.0),  # of another size
    piece(range(5, 15), walk),  # at the same time
])
def test_what_is_not_stitched(other):
    assert len(stitch([piece(range(10), walk), other], LAYOUT, RATE)) == 2


def test_of_two_beginnings_each_finds_its_own_end():
    ends = [piece(range(10), walk), piece(range(10), lambda tick: walk(tick) + 25)]
    begins = [piece(range(14, 24), lambda tick: walk(tick) + 25), piece(range(14, 24), walk)]
    found = stitch(ends + begins, LAYOUT, RATE)
    jumps = [np.abs(np.diff([pose[0, 0] for pose in track.keypoints])).max() for track in found]
    assert len(found) == 2 and max(jumps) == pytest.approx(5 * 6)


def test_nothing_to_stitch():
    assert stitch([], LAYOUT, RATE) == [] and without_shadows([], LAYOUT) == []


def test_a_second_track_of_one_person_is_a_shadow_and_a_neighbour_is_none():
    longer, shadow = piece(range(40), walk), piece(range(10, 20), lambda tick: walk(tick) + 3)
    neighbour = piece(range(10, 20), lambda tick: walk(tick) + 60)
    later = piece(range(38, 60), walk)  # has but two frames in common
    assert without_shadows([shadow, longer, neighbour, later], LAYOUT) == [longer, neighbour, later]
    here, there = common(longer, later)
    assert here.tolist() == [38, 39] and there.tolist() == [0, 1]


def test_oks_against_a_plain_loop():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 100, (3, 17, 2)), rng.uniform(0, 100, (2, 17, 2))
    a_scores, b_scores = rng.random((3, 17)), rng.random((2, 17))
    sigma = sigmas(LAYOUT)
    result = oks(a[:, None], a_scores[:, None], b, b_scores, sigma)
    for i in range(3):
        for j in range(2):
            areas = []
            for pose, scores in ((a[i], a_scores[i]), (b[j], b_scores[j])):
                seen = pose[scores > 0.3]
                areas.append(np.prod(seen.max(0) - seen.min(0)))
            terms = [np.exp(-((a[i, v] - b[j, v]) ** 2).sum() / (2 * max(areas) * (2 * sigma[v]) ** 2))
                     for v in range(17) if a_scores[i, v] > 0.3 and b_scores[j, v] > 0.3]
            assert result[i, j] == pytest.approx(np.mean(terms), rel=1e-9)
    assert oks(a, a_scores, a, a_scores, sigma) == pytest.approx(1)


def test_boxes_and_iou():
    box = np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 20, 20]])
    assert iou(box[:, None], box)[0] == pytest.approx([1, 1 / 3, 0])
    assert boxes(person(0)[None], np.zeros((1, 17))).tolist() == [[0, 0, 0, 0]]


def test_one_person_found_twice_is_kept_once():
    poses = np.stack([person(100), person(103), person(200)])
    assert distinct(poses, np.full((3, 17), 0.9), np.array([0.5, 0.9, 0.7]), LAYOUT).tolist() == [1, 2]
    empty = np.zeros((0, 17, 2))
    assert len(distinct(empty, empty[..., 0], np.zeros(0), LAYOUT)) == 0


def test_every_layout_has_constants():
    for layout in layouts.LAYOUTS.values():
        assert len(sigmas(layout)) == len(layout) and (sigmas(layout) > 0).all()
