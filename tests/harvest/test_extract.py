import numpy as np
import pytest

from harvest import decode
from harvest.estimators import People, Poses
from harvest.extract import extract
from tests.harvest import fakes
from tests.harvest.fakes import LAYOUT, TEMPLATE, Blobs


def truth(frames):
    """Keypoints (T, 17, 2) of the leftmost white rectangle in each frame."""
    boxes = [Blobs()._boxes(frame) for frame in frames]
    boxes = np.array([b[b[:, 0].argmin()] for b in boxes])
    return boxes[:, None, :2] + TEMPLATE * (boxes[:, None, 2:] - boxes[:, None, :2])


def test_one_walker_is_one_track_in_place(tmp_path):
    frames = fakes.walk(3)
    sequences = extract(fakes.write(tmp_path / "v.mp4", frames), Blobs())
    assert len(sequences) == 1
    sequence = sequences[0]
    assert sequence.keypoints.shape == (1, 45, 17, 2) and sequence.size == (96, 160) and sequence.fps == 15
    assert np.abs(sequence.keypoints[0] - truth(frames)).max() < 2
    assert sequence.meta["start"] == 0 and sequence.meta["quality"]["observed"] == 1
    assert sequence.meta["quality"]["detected"] == 1


def test_keypoints_are_in_source_pixels_after_scaling(tmp_path):
    frames = fakes.walk(1, size=(96, 160)).repeat(2, 1).repeat(2, 2)
    path = fakes.write(tmp_path / "v.mp4", frames)
    full, small = extract(path, Blobs())[0], extract(path, Blobs(), short_side=96)[0]
    assert full.size == small.size == (192, 320)
    assert np.abs(full.keypoints - small.keypoints).max() < 5
    assert full.keypoints.max() > 100


def test_gaps_have_score_zero_and_late_comers_a_start(tmp_path):
    frames = fakes.walk(4)
    frames[20:26, :, :] = 0
    late = fakes.walk(4, persons=2)
    frames[30:, :, 60:] = late[30:, :, 60:]
    first, second = extract(fakes.write(tmp_path / "v.mp4", frames), Blobs(), detect_every=2)
    assert (first.scores[0].max(1) == 0).sum() == pytest.approx(6, abs=1)
    assert not first.scores[0, 20:26].any() and not first.keypoints[0, 20:26].any()
    assert second.meta["start"] == pytest.approx(2, abs=0.2)


def test_nobody(tmp_path):
    assert extract(fakes.write(tmp_path / "v.mp4", np.zeros((20, 96, 160, 3), np.uint8)), Blobs()) == []


class Believer(Blobs):
    """Goes on seeing a person where one once was."""

    def _poses(self, frame, people):
        boxes = people.boxes
        keypoints = boxes[:, None, :2] + TEMPLATE * (boxes[:, None, 2:] - boxes[:, None, :2])
        return Poses(keypoints, np.full((len(boxes), 17), 0.9), np.ones(len(boxes)), People(boxes, np.ones(len(boxes))))


def test_what_the_detector_never_confirms_again_shows_in_the_numbers(tmp_path):
    frames = fakes.walk(4)
    frames[6:] = 0
    sequence, = extract(fakes.write(tmp_path / "v.mp4", frames), Believer())
    assert sequence.meta["quality"]["detected"] == pytest.approx(2 / 12, abs=1e-4)


class Counting(Blobs):
    def __init__(self):
        super().__init__()
        self.detected = self.estimated = 0

    def detect(self, frames):
        self.detected += len(frames)
        return super().detect(frames)

    def estimate(self, frames, people):
        self.estimated += len(frames)
        return super().estimate(frames, people)


@pytest.mark.parametrize(("every", "passes"), [(1, 60), (5, 12), (7, 9)])
def test_the_detector_runs_every_so_many_frames(tmp_path, every, passes):
    estimator = Counting()
    extract(fakes.write(tmp_path / "v.mp4", fakes.walk(4)), estimator, detect_every=every)
    assert (estimator.detected, estimator.estimated) == (passes, 60)


def test_no_more_persons_than_asked_for(tmp_path):
    path = fakes.write(tmp_path / "v.mp4", fakes.walk(2, persons=3, size=(96, 192)))
    assert len(extract(path, Blobs())) == 3
    assert len(extract(path, Blobs(), max_persons=2)) == 2


def test_estimators_see_contiguous_rgb(tmp_path):
    frames = np.zeros((4, 96, 160, 3), np.uint8)
    frames[..., 0] = 200
    chunk = next(decode.chunks(fakes.write(tmp_path / "v.mp4", frames), 15))
    assert chunk.frames.dtype == np.uint8 and chunk.frames.flags.c_contiguous
    assert chunk.frames[0].mean((0, 1)) == pytest.approx([200, 0, 0], abs=6)
    assert LAYOUT.joints[0] == "nose"
