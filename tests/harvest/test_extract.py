import numpy as np
import pytest

from harvest import decode
from harvest.estimators import People, Poses
from harvest.extract import extract, scan
from harvest.follow import between, join
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


def found(path, estimator, **options):
    return scan(path, estimator, 15.0, 5, 720, float("inf"), 8, **options)


def two_shots():
    """Two sceneries of one second each, the person in both in the same place."""
    frames = fakes.walk(2)
    person = frames > 128
    frames[15:] = np.where(person[15:], 255, [90, 20, 60])
    frames[:15] = np.where(person[:15], 255, [10, 90, 20])
    return frames


def test_no_track_crosses_a_cut(tmp_path):
    result = found(fakes.write(tmp_path / "v.mp4", two_shots()), Blobs())
    assert result.cuts == [1.0] and result.frames == 30 and result.seconds == 2
    assert [(s.meta["start"], s.frames) for s in result.sequences] == [(0, 15), (1, 15)]
    assert len(extract(fakes.write(tmp_path / "one.mp4", fakes.walk(2)), Blobs())) == 1


def test_the_detector_looks_where_a_shot_begins(tmp_path):
    path, estimator = fakes.write(tmp_path / "v.mp4", two_shots()), Counting()
    scan(path, estimator, 15.0, 10, 720, float("inf"), 8)
    assert estimator.detected == 4  # ticks 0, 10, 15 (the cut) and 20


def test_a_clip_tells_the_time_of_the_video(tmp_path):
    path = fakes.write(tmp_path / "v.mp4", np.concatenate([fakes.walk(3), two_shots()]))
    whole, clip = found(path, Blobs()), found(path, Blobs(), clip=(2.4, 4.6))
    assert (clip.frames, clip.seconds) == (33, pytest.approx(2.2)) and clip.cuts == whole.cuts == [3.0, 4.0]
    assert [s.meta["start"] for s in clip.sequences] == [2.4, 3.0, 4.0]
    assert [s.frames for s in clip.sequences] == [9, 15, 9]
    assert np.abs(clip.sequences[0].keypoints - whole.sequences[0].keypoints[:, 36:]).max() < 2


class Batched(Counting):
    """Takes boxes, and so needs no answer before the next question."""

    sequential = False

    def __init__(self):
        super().__init__()
        self.calls = []

    def estimate(self, frames, people):
        self.calls.append(len(frames))
        return super().estimate(frames, people)


@pytest.mark.parametrize("every", [1, 4, 5, 40])
def test_all_frames_between_two_passes_are_estimated_at_once(tmp_path, every):
    path = fakes.write(tmp_path / "v.mp4", fakes.walk(4, persons=2))
    batched, one_by_one = Batched(), Blobs()
    a, b = (scan(path, each, 15.0, every, 720, float("inf"), 8) for each in (batched, one_by_one))
    assert sum(batched.calls) == 60 and max(batched.calls) == min(every, 16)
    assert len(a.sequences) == len(b.sequences) == 2
    for one, other in zip(a.sequences, b.sequences, strict=True):
        assert np.array_equal(one.keypoints, other.keypoints) and one.meta == other.meta


def test_nobody_costs_no_estimate(tmp_path):
    estimator = Batched()
    assert extract(fakes.write(tmp_path / "v.mp4", np.zeros((20, 96, 160, 3), np.uint8)), estimator) == []
    assert estimator.calls == [] and estimator.detected == 4


def test_boxes_move_to_where_the_next_pass_finds_them():
    people = People(np.array([[0.0, 0, 10, 20], [50, 0, 60, 20]]), np.ones(2), None)
    ahead = People(np.array([[4.0, 0, 14, 20]]), np.ones(1), None)
    path = between(people, ahead, 4)
    assert [p.boxes[0, 0] for p in path] == [0, 1, 2, 3]
    assert all(p.boxes[1].tolist() == [50, 0, 60, 20] for p in path)
    assert between(people, None, 2)[1].boxes.tolist() == people.boxes.tolist()


def test_a_person_carried_on_explains_one_detection():
    carried = People(np.array([[0.0, 0, 40, 100]]), np.ones(1), None)
    embrace = People(np.array([[2.0, 0, 42, 100], [12, 0, 52, 100], [200, 0, 240, 100]]), np.array([0.9, 0.8, 0.7]))
    assert join(carried, embrace, 8).boxes[:, 0].tolist() == [0, 12, 200]
    assert join(carried, embrace, 2).boxes[:, 0].tolist() == [0, 12]


def test_two_who_stay_close_are_one_sequence_if_asked_for(tmp_path):
    frames = np.zeros((45, 96, 160, 3), np.uint8)
    frames[:, 20:80, 30:50] = frames[6:, 20:80, 58:78] = 255
    path = fakes.write(tmp_path / "v.mp4", frames)
    apart = found(path, Blobs()).sequences
    assert [(s.persons, s.id) for s in apart] == [(1, "v/0000"), (1, "v/0001")]
    pair, = found(path, Blobs(), together=lambda numbers: True).sequences
    assert pair.keypoints.shape == (2, 45, 17, 2) and pair.meta["start"] == 0 and pair.id == "v/0000"
    # The second is missing until it comes.
    assert (pair.scores[1].max(1) > 0).tolist() == [False] * 6 + [True] * 39
    assert pair.meta["quality"]["frames"] == 39 and pair.meta["quality"]["crowd"] == 2
    # Where either alone, or both together, are not worth it, they stay what they are.
    for least in ({"seconds": 2.8}, {"observed": 0.95}):
        (name, value), = least.items()
        for one, other in zip(apart, found(path, Blobs(), together=lambda q, n=name, v=value: q[n] >= v).sequences,
                              strict=True):
            assert np.array_equal(one.keypoints, other.keypoints) and one.meta == other.meta


def test_estimators_see_contiguous_rgb(tmp_path):
    frames = np.zeros((4, 96, 160, 3), np.uint8)
    frames[..., 0] = 200
    chunk = next(decode.chunks(fakes.write(tmp_path / "v.mp4", frames), 15))
    assert chunk.frames.dtype == np.uint8 and chunk.frames.flags.c_contiguous
    assert chunk.frames[0].mean((0, 1)) == pytest.approx([200, 0, 0], abs=6)
    assert LAYOUT.joints[0] == "nose"
