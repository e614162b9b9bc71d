import numpy as np
import pytest

from harvest import decode, shots
from harvest.decode import Chunk
from tests.harvest import fakes
from tests.paths import DATA, need


def scene(seed, frames, pan=0.0):
    """A still (or panned) scenery of coloured blocks (T, 96, 160, 3) with a little noise."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 255, (6, 40, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    noise = rng.integers(0, 8, (frames, 96, 160, 3), np.uint8)
    return np.stack([blocks[:, round(pan * t):round(pan * t) + 160] // 2 for t in range(frames)]) + noise


def cuts(pictures, length=16):
    chunks = [Chunk(pictures[i:i + length], i, 15.0, (96, 160), (1.0, 1.0)) for i in range(0, len(pictures), length)]
    found = list(shots.marked(iter(chunks)))
    assert [chunk for chunk, _ in found] == chunks  # none lost, none reordered
    assert all(chunk.first <= cut < chunk.first + len(chunk.frames) for chunk, at in found for cut in at)
    return [cut for _, at in found for cut in at]


@pytest.mark.parametrize("length", [3, 16, 100])
def test_cuts_are_found_wherever_chunks_end(length):
    video = np.concatenate([scene(0, 20), scene(1, 12), scene(2, 28), scene(3, 5)])
    assert cuts(video, length) == [20, 32, 60]


def test_a_sweep_a_walker_and_a_fade_are_no_cuts():
    assert cuts(scene(0, 60, pan=4)) == []
    assert cuts(fakes.walk(4, persons=3)) == []
    fade = np.linspace(0, 1, 30)[:, None, None, None]
    assert cuts((scene(0, 30) * (1 - fade) + scene(1, 30) * fade).astype(np.uint8)) == []


def test_short_videos():
    assert cuts(scene(0, 1)) == [] and cuts(scene(0, 4)) == []
    assert list(shots.marked(iter([]))) == []


def test_it_holds_back_one_chunk_only():
    taken = []

    def chunks():
        for i in range(5):
            taken.append(i)
            yield Chunk(scene(0, 8), 8 * i, 15.0, (96, 160), (1.0, 1.0))

    marked = shots.marked(chunks())
    for i in range(4):
        next(marked)
        assert len(taken) == i + 2


@pytest.mark.parametrize(("name", "seconds"), [
    ("videos/mmaction2_test_video_structuralize.mp4", []),  # a camera that is swept round
    ("videos/mmaction2fork_test1.mp4", [1.87]),
    ("videos_negative/cosmos_clip10s.mp4", [8.93]),  # fades besides
])
def test_cuts_that_a_viewer_sees_in_real_footage(name, seconds):
    chunks = decode.chunks(need(DATA / name), 15, short_side=128)
    assert [cut / 15 for _, at in shots.marked(chunks) for cut in at] == pytest.approx(seconds, abs=0.01)
