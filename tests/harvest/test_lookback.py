"""Who is found between two passes of the detector is followed back to where they came into view."""

import numpy as np
import pytest

from harvest.estimators import People, Poses
from harvest.extract import extract
from harvest.lookback import Birth, look_back
from harvest.track import Track
from skelcore import layouts
from tests.harvest import fakes
from tests.harvest.fakes import TEMPLATE, Blobs


class Overlooking(Blobs):
    """Sees nobody in the passes of the detector that are named."""

    def __init__(self, sequential, passes):
        super().__init__()
        self.sequential, self.passes, self.count = sequential, passes, 0

    def detect(self, frames):
        found = super().detect(frames)
        for i in range(len(found)):
            if self.count in self.passes:
                found[i] = People(np.zeros((0, 4)), np.zeros(0), None)
            self.count += 1
        return found


def tracks(tmp_path, frames, sequential, passes=()):
    return extract(fakes.write(tmp_path / "v.mp4", frames), Overlooking(sequential, passes))


@pytest.mark.parametrize("sequential", [True, False])
def test_a_track_begins_where_the_person_came_into_view(tmp_path, sequential):
    frames = fakes.walk(2)
    frames[:8] = 0
    one, = tracks(tmp_path, frames, sequential)
    assert one.meta["start"] == pytest.approx(8 / 15, abs=1e-3) and one.frames == 22 and (one.scores > 0).all()
    boxes = np.array([Blobs()._boxes(frame)[0] for frame in frames[8:]])
    truth = boxes[:, None, :2] + TEMPLATE * (boxes[:, None, 2:] - boxes[:, None, :2])
    assert np.abs(one.keypoints[0] - truth).max() < 2


@pytest.mark.parametrize("sequential", [True, False])
def test_a_person_overlooked_at_first_is_there_from_the_first(tmp_path, sequential):
    one, = tracks(tmp_path, fakes.walk(2), sequential, passes=(0,))
    assert one.meta["start"] == 0 and one.frames == 30
    # The detector looked six times and saw the person five times: it is not believed to have agreed.
    assert one.meta["quality"]["detected"] == pytest.approx(5 / 6, abs=1e-4)


@pytest.mark.parametrize("sequential", [True, False])
def test_nobody_is_followed_back_beyond_a_cut(tmp_path, sequential):
    frames = fakes.walk(3)
    other = np.random.default_rng(0).integers(0, 90, frames[0].shape)
    frames[:17] = np.where(frames[:17] > 128, 255, other)
    # In the scene before, whoever is there is overlooked in all four passes.
    one, = tracks(tmp_path, frames, sequential, passes=(0, 1, 2, 3))
    assert one.meta["start"] == pytest.approx(17 / 15, abs=1e-3) and one.frames == 28


class Script:
    """Answers for the frame whose first pixel is t: a person at ``places[t]``, None for nobody."""

    layout = layouts.get("coco17")

    def __init__(self, places, presence):
        self.places, self.presence = places, presence

    def estimate(self, frames, people):
        t = int(frames[0, 0, 0, 0])
        if self.places[t] is None:
            return [Poses(np.zeros((0, 17, 2)), np.zeros((0, 17)), np.zeros(0), People(np.zeros((0, 4)), np.zeros(0)))]
        return [Poses(pose(self.places[t])[None], np.ones((1, 17)), np.array([self.presence[t]]), people[0])]


def pose(x):
    return TEMPLATE * [60, 200] + [x, 100]


def track(first, xs):
    made = Track()
    for tick, x in enumerate(xs, first):
        made.add(tick, pose(x), np.ones(17), 1.0, None)
    return made


@pytest.mark.parametrize(("places", "presence", "others", "ticks"), [
    ([70, 76, 82, 88, 94], [1] * 5, [], [0, 1, 2, 3, 4]),
    ([70, 76, None, 88, 94], [1] * 5, [], [3, 4]),
    ([70, 76, 82, 88, 94], [1, 1, 1, 0.4, 1], [], [4]),
    ([70, 400, 82, 88, 94], [1] * 5, [], [2, 3, 4]),
    ([70, 76, 82, 88, 94], [1] * 5, [track(0, [300, 300, 300, 120, 120, 120])], [4]),
    ([70, 76, 82, 88, 94], [1] * 5, [track(0, [110] * 3), track(6, [100] * 3)], [3, 4]),
], ids=["all", "nobody", "unsure", "another place", "beside another", "others elsewhen"])
def test_it_ends_where_the_person_is_not_surely_seen(places, presence, others, ticks):
    frames = np.zeros((5, 4, 4, 3), np.uint8)
    frames[:, 0, 0, 0] = range(5)
    born = track(5, [100, 106, 112, 118])
    if others and ticks == [4]:
        others[0].keypoints[4] = pose(300)
    birth = Birth(born, People(np.zeros((1, 4)), np.ones(1)))
    found = look_back(Script(places, presence), birth, frames, 0, (1.0, 1.0), others, True)
    assert found.ticks == ticks and born.ticks == [5, 6, 7, 8]
    assert found.detected == [False if tick == 0 else None for tick in ticks]
