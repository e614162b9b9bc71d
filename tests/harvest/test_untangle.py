"""Who is who after persons passed in front of one another: courses, not the order of poses, decide."""

import numpy as np
import pytest

from harvest.track import Track
from harvest.untangle import untangled
from skelcore.identity import identity
from tests.harvest import crossings, fakes
from tests.harvest.fakes import LAYOUT, TEMPLATE

RATE = 15.0


def person(x, y=100.0):
    return np.array([x, y]) + TEMPLATE * [40, 120]


def piece(*stretches):
    """A track of the poses at (tick, x) of the ``stretches``, each ticks and a function of these."""
    track = Track()
    for ticks, place in stretches:
        for tick in ticks:
            track.add(tick, person(place(tick)), np.full(17, 0.9), 1.0, None)
    return track


def right(tick):
    return 50 + 8.0 * tick


def left(tick):
    return 530 - 8.0 * tick


def places(track):
    return [pose[0, 0] - person(0)[0, 0] for pose in track.keypoints]


def test_who_took_the_other_s_way_while_one_was_hidden_is_put_right():
    # From tick 28 on the first track has the poses of the second, who is in front, and ends so; the second goes on as
    # the first, whom the detector finds behind; a third begins where the second comes out.
    first = piece((range(28), right), (range(28, 34), left))
    second = piece((range(28), left), (range(33, 60), right))
    third = piece((range(38, 60), left))
    one, other = untangled([first, second, third], LAYOUT, RATE)
    for track, way in ((one, right), (other, left)):
        assert places(track) == pytest.approx([way(tick) for tick in track.ticks], abs=25)  # as near as they meet
        assert places(track)[:28] + places(track)[-20:] == [way(tick) for tick in track.ticks[:28] + track.ticks[-20:]]
    assert set(one.ticks) >= {*range(28), *range(33, 60)}
    # The poses that the first had of the one in front lie on that one's way.
    assert set(other.ticks) >= {*range(28), *range(31, 34), *range(38, 60)}
    assert len(one) + len(other) == 28 + 6 + 28 + 27 + 22


def test_persons_who_pass_and_are_both_seen_stay_as_they_are():
    tracks = [piece((range(60), right)), piece((range(60), lambda tick: left(tick) + 0.1))]
    tracks[1].keypoints = [pose + np.array([0, 30]) for pose in tracks[1].keypoints]
    assert untangled(tracks, LAYOUT, RATE) == tracks
    assert untangled([], LAYOUT, RATE) == []


def test_two_who_stay_close_lose_no_pose_where_one_is_missed_now_and_then():
    missed = np.random.default_rng(0).random(90) < 0.3
    still = piece((range(90), lambda tick: 100.0))
    other = piece(([tick for tick in range(90) if not missed[tick]], lambda tick: 125.0))
    found = untangled([still, other], LAYOUT, RATE)
    assert [track.ticks for track in found] == [still.ticks, other.ticks]
    assert [set(places(track)) for track in found] == [{100.0}, {125.0}]


def test_a_tail_on_another_body_is_nobody_s():
    # The second slides onto the first, who stands, and ends there; nobody comes out.
    stands = piece((range(60), lambda tick: 290.0))
    slides = piece((range(26), right), (range(26, 32), lambda tick: 288.0))
    one, other = untangled([stands, slides], LAYOUT, RATE)
    assert one.ticks == list(range(60)) and other.ticks[-1] < 27


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "seed"), [("cross", 2), ("three", 2)])
def test_blazepose_keeps_rendered_persons_apart_who_cross(tmp_path, kind, seed):
    from harvest.estimators import build

    frames, truth, _, partly = crossings.scene(kind, seed)
    found = crossings.found(fakes.write(tmp_path / "v.mp4", frames), build("blazepose"))
    result = identity(truth, found, aside=partly)
    assert result.switches == 0 and result.idf1 >= 0.95 and len(found) == len(truth)


def test_the_scene_hides_whoever_is_behind():
    frames, truth, visible, _ = crossings.scene("cross", 0)
    assert visible[0].min() < 0.5 and (visible[1] == 1).all() and visible[0, [0, -1]].tolist() == [1, 1]
    assert frames.shape == (75, 360, 960, 3) and truth.shape == (2, 75, 4) and np.isfinite(truth).all()
    assert identity(truth, truth).idf1 == 1
    middle = (truth[..., 0] + truth[..., 2]) / 2
    assert middle[0, 0] < middle[1, 0] and middle[0, -1] > middle[1, -1]
