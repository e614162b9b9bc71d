"""Poses of videos by content, the person that a video is about, windows of a track, and what is drawn."""

from dataclasses import replace

import av
import numpy as np
import pytest

import harvest.extract
from adapt import annotate, library, windows
from adapt.annotate import Person
from adapt.library import Library, Poses
from adapt.windows import Answer
from skelcore import layouts
from skelcore.errors import InputError
from skelcore.sequence import PoseSequence
from tests.adapt.clips import moving_joint
from tests.harvest import fakes

BLOBS = Poses(estimator="tests.harvest.fakes:Blobs")
CLASSES = ("a", "b")


def answer(start, stop, *probabilities, novelty=0.5, limit=1.0):
    return Answer(start, stop, np.array(probabilities), novelty, CLASSES, limit)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return fakes.write(tmp_path_factory.mktemp("video") / "walk.mp4", fakes.walk(2, persons=2))


def alike(ours, theirs):
    return len(ours) == len(theirs) and all(
        np.array_equal(a.keypoints, b.keypoints) and np.array_equal(a.scores, b.scores)
        and (a.id, a.size, a.fps, a.meta, a.layout) == (b.id, b.size, b.fps, b.meta, b.layout)
        for a, b in zip(ours, theirs, strict=True))


def test_a_second_look_is_taken_from_the_cache(video, tmp_path, monkeypatch):
    found = Library(BLOBS, tmp_path).tracks(video)
    assert alike(found, harvest.extract.extract(video, fakes.Blobs())) and len(found) == 2
    copy = tmp_path / "other name.mp4"
    copy.write_bytes(video.read_bytes())
    with monkeypatch.context() as context:
        context.setattr(harvest.extract, "extract", lambda *_, **__: pytest.fail("extracted again"))
        assert alike(Library(BLOBS, tmp_path).tracks(copy), found)
    monkeypatch.setattr(harvest.extract, "extract", lambda *_, **__: [])
    assert Library(BLOBS.model_copy(update={"fps": 10.0}), tmp_path).tracks(video) == []  # other settings, other poses


def test_damaged_poses_are_extracted_again(video, tmp_path, capsys):
    found = Library(BLOBS, tmp_path).tracks(video)
    entry, = tmp_path.glob("*.npz")
    whole = entry.read_bytes()
    for damage in (whole[:len(whole) // 2], b"", whole[:300] + bytes([whole[300] ^ 255]) + whole[301:]):
        entry.write_bytes(damage)
        assert alike(Library(BLOBS, tmp_path).tracks(video), found)
        assert "damaged poses in the cache" in capsys.readouterr().err
    assert alike(Library(BLOBS, tmp_path).tracks(video), found) and not capsys.readouterr().err


def test_nobody_is_kept_too(tmp_path, monkeypatch):
    empty = fakes.write(tmp_path / "empty.mp4", np.zeros((20, 96, 160, 3), np.uint8))
    assert Library(BLOBS, tmp_path).tracks(empty) == []
    monkeypatch.setattr(harvest.extract, "extract", lambda *_, **__: pytest.fail("extracted again"))
    assert Library(BLOBS, tmp_path).tracks(empty) == []


def test_an_estimator_of_another_layout_is_refused(video, tmp_path):
    with pytest.raises(InputError, match="answers in layout coco17, not penn13"):
        Library(Poses(estimator="tests.adapt.test_library:Stubborn", layout="penn13"), tmp_path).tracks(video)


class Stubborn(fakes.Blobs):
    def __init__(self, layout):
        super().__init__("coco17")


def test_the_main_person_is_the_largest_for_longest():
    def person(height, frames, seen=1.0):
        points = np.zeros((1, frames, 17, 2)) + np.linspace(0, height, 17)[:, None]
        scores = np.ones((1, frames, 17)) * (np.arange(frames) < seen * frames)[:, None]
        return PoseSequence(points, scores, layouts.get("coco17"), (480, 640), 15.0)

    assert library.main_person([person(100, 30), person(40, 60)]) == 0
    assert library.main_person([person(100, 20), person(40, 60)]) == 1
    assert library.main_person([person(100, 60, seen=0.2), person(40, 60)]) == 1


def test_classes_are_folders_of_videos(tmp_path):
    for name in ("b/2.mp4", "b/1.AVI", "b/notes.txt", "a/x.mkv", ".git/y.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = library.classes(tmp_path)
    assert {name: [file.name for file in files] for name, files in found.items()} == {
        "a": ["x.mkv"], "b": ["1.AVI", "2.mp4"]}
    (tmp_path / "c").mkdir()
    with pytest.raises(InputError, match="no video in class folder 'c'"):
        library.classes(tmp_path)
    with pytest.raises(InputError, match="holds 0 class folders; at least two"):
        library.classes(tmp_path / "c")
    with pytest.raises(InputError, match="no such folder"):
        library.classes(tmp_path / "d")


def test_long_tracks_are_cut_into_windows_to_the_end():
    track = moving_joint(0, 0, frames=100)  # 15 frames a second
    assert windows.cut(track, 5.0) == [(0, 100)]
    assert windows.cut(track, 2.0) == [(0, 30), (15, 45), (30, 60), (45, 75), (60, 90), (70, 100)]
    unseen = track.scores.copy()
    unseen[:, 24:75] = 0
    assert windows.cut(replace(track, scores=unseen), 2.0) == [(0, 30), (15, 45), (60, 90), (70, 100)]
    part = windows.part(track, (15, 45))
    assert np.array_equal(part.keypoints, track.keypoints[:, 15:45]) and part.frames == 30


def test_windows_of_one_answer_become_a_segment():
    told = [answer(0, 2, 0.9, 0.1), answer(1, 3, 0.7, 0.3), answer(2, 4, 0.2, 0.8), answer(3, 5, 0.3, 0.7, novelty=3)]
    found = windows.merged(told)
    assert [(each.name, each.start, each.stop) for each in found] == [("a", 0, 2.5), ("b", 2.5, 3.5),
                                                                       ("unknown", 3.5, 5)]
    assert found[0].confidence == pytest.approx(0.8)
    assert windows.merged([answer(0, 2, 1, 0), answer(6, 8, 0, 1)])[0].stop == 6 and windows.merged([]) == []
    whole = windows.mean(told)
    assert (whole.start, whole.stop, whole.name) == (0, 5, "unknown") and whole.confidence == pytest.approx(0.525)


def test_unknown_is_a_matter_of_the_limit():
    assert answer(0, 1, 0.2, 0.8, novelty=1.5).name == "unknown"
    assert answer(0, 1, 0.2, 0.8, novelty=1.5, limit=2.0).name == "b"
    assert answer(0, 1, 0.2, 0.8, novelty=99, limit=None).name == "b"
    assert answer(0, 1, 0.2, 0.8, novelty=1.5).ranked == [("b", 0.8), ("a", 0.2)]


def test_the_annotated_video_shows_each_person_while_it_is_there(tmp_path):
    early, late = (replace(moving_joint(0, seed, frames=15), size=(120, 160),
                           meta={"start": start}) for seed, start in ((0, 0.0), (1, 1.0)))
    people = [Person(early, [answer(0, 0.5, 1, 0), answer(0.5, 1, 0, 1)]),
              Person(late, [answer(1, 2, 1, 0, novelty=2)])]
    grey = [np.full((121, 161, 3), 90, np.uint8)] * 40
    annotate.write(tmp_path / "v.mp4", ((frame, 15.0) for frame in grey), people, "a note")
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert stream.average_rate == 15 and len(shown) == 40 and shown[0].shape == (120, 160, 3)
    assert np.abs(shown[5].astype(int) - 90).max() > 60 < np.abs(shown[20].astype(int) - 90).max()
    assert np.abs(shown[35][:80].astype(int) - 90).max() < 20 < np.abs(shown[35][80:].astype(int) - 90).max()
    assert not list(tmp_path.glob("*.tmp"))


def test_labels_change_with_the_segments_and_do_not_cover_each_other():
    track = replace(moving_joint(0, 0, frames=30), size=(120, 160), meta={"start": 0.0})
    image = np.full((120, 160, 3), 90, np.uint8)
    first, second = answer(0, 1, 1, 0), answer(1, 2, 0, 1)
    pictures = {name: annotate.drawn(image, t, [Person(track, segments)])
                for name, t, segments in (("first", 3, [first, second]), ("second", 3, [second]))}
    assert np.array_equal(pictures["first"], annotate.drawn(image, 3, [Person(track, [first])]))
    assert not np.array_equal(pictures["first"], pictures["second"])
    assert (image == 90).all()
    alone, both = (annotate.drawn(image, 3, [Person(track, [first])] * count) for count in (1, 2))
    assert (both != alone).any()  # the second label stands elsewhere


def test_any_script_can_be_written_and_long_names_do_not_leave_the_picture():
    track = replace(moving_joint(0, 0, frames=3), size=(120, 160), meta={"start": 0.0})
    for name in ("Kniebeuge ä", "приседание", "x" * 300):
        told = Answer(0, 1, np.array([1.0]), 0.0, (name,))
        assert annotate.drawn(np.zeros((120, 160, 3), np.uint8), 0, [Person(track, [told])]).any()
