import numpy as np
import pytest

from harvest import extract, video
from harvest.config import Harvest
from harvest.fetch import Fetched
from harvest.sources import Source
from tests.harvest import fakes
from tests.harvest.fakes import Blobs


def harvested(path, **settings):
    config = Harvest.model_validate({"sources": ["x"], "output": "out", **settings})
    outcome = video.estimate(Source("v", str(path), {"label": "wave"}), Fetched(path, {}), config, Blobs())
    assert outcome.status != "failed", outcome.detail
    return outcome


def three_shots(folder):
    """Two persons, then one for a moment, then one."""
    frames = np.concatenate([fakes.walk(2, persons=2), fakes.walk(0.4), fakes.walk(1.5, seed=3)])
    person = frames > 128
    for begin, end, colour in ((0, 30, [10, 90, 20]), (30, 36, [90, 20, 60]), (36, 58, [20, 40, 110])):
        frames[begin:end] = np.where(person[begin:end], 255, colour)
    return fakes.write(folder / "v.mp4", frames)


def test_every_track_has_its_number_and_those_rejected_their_poses(tmp_path):
    outcome = harvested(three_shots(tmp_path))
    assert [sequence.meta["quality"]["track"] for sequence in outcome.sequences] == [0, 1, 3]
    dropped, = outcome.dropped
    assert outcome.reasons == ["too_short"] and dropped.meta["start"] == 2.0
    assert dropped.meta["quality"]["track"] == 2 and dropped.frames == 6 and dropped.scores.any()
    assert all(each.meta["quality"]["crowd"] == 2 for each in [*outcome.sequences, *outcome.dropped])


def test_a_block_says_where_its_video_cuts(tmp_path):
    assert harvested(three_shots(tmp_path)).origin == {"file": "v.mp4", "label": "wave", "cuts": [2.0, 2.4]}
    whole = fakes.write(tmp_path / "whole.mp4", fakes.walk(1))
    assert harvested(whole).origin == {"file": "whole.mp4", "label": "wave"}


def test_what_is_rejected_is_told_and_kept_apart(tmp_path):
    outcome = harvested(three_shots(tmp_path), gates={"min_seconds": 9})
    assert (outcome.status, outcome.reason, outcome.sequences) == ("rejected", "too_short", [])
    assert [each.meta["quality"]["track"] for each in outcome.dropped] == [0, 1, 2, 3]
    assert outcome.reasons == ["too_short"] * 4
    assert harvested(three_shots(tmp_path), gates="all").dropped == []


@pytest.mark.parametrize(("interactions", "persons"), [("together", [2]), ("apart", [1, 1])])
def test_persons_who_stay_close(tmp_path, interactions, persons):
    frames = np.zeros((45, 96, 160, 3), np.uint8)
    sway = np.round(4 * np.sin(np.arange(45) / 5)).astype(int)
    for frame, x in zip(frames, 30 + sway, strict=True):
        frame[20:80, x:x + 20] = frame[20:80, x + 28:x + 48] = 255
    outcome = harvested(fakes.write(tmp_path / "v.mp4", frames), interactions=interactions)
    assert [sequence.persons for sequence in outcome.sequences] == persons


def test_errors_come_back_as_data(tmp_path, monkeypatch):
    def stumble(*_, **__):
        raise ZeroDivisionError("by chance")

    monkeypatch.setattr(extract, "scan", stumble)
    config = Harvest.model_validate({"sources": ["x"], "output": "out"})
    outcome = video.estimate(Source("v", "/v.mp4"), Fetched(tmp_path / "v.mp4", {}), config, Blobs())
    assert (outcome.status, outcome.reason) == ("failed", "error") and "ZeroDivisionError: by chance" in outcome.detail


def test_a_clip_is_harvested_and_nothing_around_it(tmp_path):
    """The middle shot of three, by times of the whole video; its length is what the limits count."""
    path = three_shots(tmp_path)
    source = Source("v", f"{path}#t=2,2.4")
    config = Harvest.model_validate({"sources": ["x"], "output": "out", "gates": "all", "limits": {"max_seconds": 1}})
    outcome = video.estimate(source, Fetched(path, {}), config, Blobs())
    sequence, = outcome.sequences
    assert (outcome.frames, sequence.frames, sequence.meta["start"]) == (6, 6, 2.0)
    assert outcome.origin == {"file": "v.mp4"} and outcome.seconds == pytest.approx(0.4)
    beyond = video.estimate(Source("v", f"{path}#t=90,95"), Fetched(path, {}), config, Blobs())
    assert (beyond.status, beyond.reason) == ("failed", "invalid")
