"""The command, from videos of moving rectangles to answers."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from adapt import predict
from skelcore import checkpoint, cli
from skelcore.encoders import build
from tests.harvest import fakes
from tests.paths import DATA, need

FRAMES = 30
EMPTY = np.zeros((20, 96, 160, 3), np.uint8)


def move(kind, seed, frames=FRAMES, persons=1, like=None):
    """A rectangle that widens and narrows (`widen`), or that shrinks and grows (`grow`)."""
    rng = np.random.default_rng([seed, len(kind)])
    phase, rate, x = like or (rng.uniform(0, 6), rng.uniform(3, 4), rng.integers(30, 40))
    pictures = np.zeros((frames, 96, 160, 3), np.uint8)
    for t, picture in enumerate(pictures):
        swing = np.sin(phase + rate * t / 15)
        for person in range(persons):
            left, half = x + 70 * person, 12 + round(9 * swing if kind == "widen" else 0)
            top = 30 + round(22 * swing if kind == "grow" else 0)
            picture[top:84, left - half:left + half] = 255
    return pictures


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A support of 2 and 3 videos, queries, and an encoder that has learnt nothing."""
    folder = tmp_path_factory.mktemp("place")
    for kind, count in (("widen", 2), ("grow", 3)):
        for seed in range(count):
            write(folder / "support" / kind / f"{kind}{seed}.mp4", move(kind, seed))
    for kind in ("widen", "grow"):
        write(folder / "query" / f"{kind}.mp4", move(kind, 7))
    write(folder / "query" / "empty.mp4", EMPTY)
    (folder / "query" / "broken.mp4").write_bytes(b"no video")
    (folder / "query" / "readme.txt").write_text("no video either")
    torch.manual_seed(0)
    checkpoint.save_encoder(folder / "checkpoint.pt", build("stgcn++", "coco17", width=8), frames=16, stream="joint",
                            fill=0.3)
    return folder


def write(path, pictures):
    path.parent.mkdir(parents=True, exist_ok=True)
    return fakes.write(path, pictures)


def run(place, output, *words, support="support", query="query", given=None):
    source = given or ["--support", str(place / support), "--checkpoint", str(place / "checkpoint.pt"),
                       "poses.estimator=tests.harvest.fakes:Blobs"]
    return predict.main([*source, "--query", str(place / query), f"output={output}", f"cache={place / 'cache'}",
                         "device=cpu", *words])


def read(output):
    answers = json.loads((output / "predictions.json").read_text())
    return answers, {video["video"].rpartition("/")[2]: video for video in answers["videos"]}


def test_queries_are_classified_and_the_model_file_says_exactly_the_same(place, tmp_path, capsys):
    assert run(place, tmp_path / "a", "unknown=null") == 0
    answers, videos = read(tmp_path / "a")
    assert (answers["classes"], answers["calibration"]["left_out"]) == (["grow", "widen"], 5)
    assert videos["widen.mp4"]["answer"] == "widen" and videos["grow.mp4"]["answer"] == "grow"
    for video in (videos["widen.mp4"], videos["grow.mp4"]):
        assert video["confidence"] == video["ranked"][0]["confidence"] > 0.5 and not video["in_support"]
        assert sum(each["confidence"] for each in video["ranked"]) == pytest.approx(1, abs=1e-5)
        track, = video["tracks"]
        assert track["main"] and (track["start"], track["stop"]) == (0, 2) and len(track["segments"]) == 1
    assert (videos["empty.mp4"]["answer"], videos["empty.mp4"]["note"]) == (None, "nobody in view")
    assert videos["broken.mp4"]["answer"] is None and videos["broken.mp4"]["note"].startswith("cannot be read: corrupt")
    said = capsys.readouterr().out
    assert "widen.mp4: widen, " in said and "empty.mp4: nobody in view" in said
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        "model.pt", "predictions.json", "predictions.csv", "widen.mp4", "grow.mp4", "empty.mp4"}

    given = ["--model", str(tmp_path / "a" / "model.pt")]
    assert run(place, tmp_path / "b", given=given) == 2  # the estimator is code, which a file must not choose
    assert "poses.estimator=tests.harvest.fakes:Blobs says that you trust it" in capsys.readouterr().err
    trusted = [*given, "poses.estimator=tests.harvest.fakes:Blobs"]
    assert run(place, tmp_path / "b", "unknown=null", given=trusted) == 0
    again, _ = read(tmp_path / "b")
    assert again["videos"] == answers["videos"]
    tables = [(tmp_path / name / "predictions.csv").read_text() for name in ("a", "b")]
    assert tables[0] == tables[1]
    rows = list(csv.DictReader(tables[0].splitlines()))
    assert [row["answer"] for row in rows] == ["", "", "grow", "widen"]
    assert float(rows[3]["p(widen)"]) == pytest.approx(videos["widen.mp4"]["confidence"], abs=1e-6)


def test_one_clip_a_class_is_enough_and_a_known_video_is_told(place, tmp_path):
    for kind in ("widen", "grow"):
        (tmp_path / "support" / kind).mkdir(parents=True)
        shutil.copy(place / "support" / kind / f"{kind}0.mp4", tmp_path / "support" / kind / "only.mp4")
    query = tmp_path / "widen again.mp4"
    shutil.copy(place / "support" / "widen" / "widen0.mp4", query)
    assert run(place, tmp_path / "out", "annotate=false", support=tmp_path / "support", query=query) == 0
    answers, videos = read(tmp_path / "out")
    video = videos["widen again.mp4"]
    assert answers["calibration"]["left_out"] == 0
    assert (video["answer"], video["in_support"]) == ("widen", True) and video["novelty"] < 1e-6
    assert not (tmp_path / "out" / "widen again.mp4").exists()


def test_a_long_video_has_segments_and_everyone_a_track(place, tmp_path):
    whole_turns = (0, 6 * np.pi / 5, 35)  # so that one movement goes over into the other
    pictures = np.concatenate([move(kind, 7, 75, like=whole_turns) for kind in ("widen", "grow")])
    write(tmp_path / "long.mp4", pictures)
    write(tmp_path / "pair.mp4", move("widen", 8, persons=2))
    assert run(place, tmp_path / "out", "unknown=null", "annotate=false", query=tmp_path) == 0
    _, videos = read(tmp_path / "out")
    told = [(each["answer"], each["start"], each["stop"]) for each in videos["long.mp4"]["tracks"][0]["segments"]]
    assert [name for name, _, _ in told] == ["widen", "grow"]
    assert told[0][1] == 0 and told[0][2] == told[1][1] == pytest.approx(5, abs=1) and told[1][2] == 10
    assert [track["answer"] for track in videos["pair.mp4"]["tracks"]] == ["widen", "widen"]
    assert [track["main"] for track in videos["pair.mp4"]["tracks"]].count(True) == 1


def test_unknown_can_be_moved(place, tmp_path):
    words = {"strict": "unknown=0", "lax": "unknown=1e9"}
    for name, word in words.items():
        assert run(place, tmp_path / name, word, "annotate=false", query="query/widen.mp4") == 0
    strict, lax = (read(tmp_path / name)[1]["widen.mp4"] for name in words)
    assert (strict["answer"], lax["answer"]) == ("unknown", "widen")
    assert strict["ranked"] == lax["ranked"] and strict["tracks"][0]["segments"][0]["answer"] == "unknown"


def test_a_class_in_whose_videos_nobody_is_seen_is_named_with_them(place, tmp_path, capsys):
    shutil.copytree(place / "support", tmp_path / "support")
    write(tmp_path / "support" / "widen" / "void.mp4", EMPTY)
    assert run(place, tmp_path / "out", "annotate=false", support=tmp_path / "support") == 0
    assert "widen/void.mp4: nobody is seen for 0.5 s; left out" in capsys.readouterr().err
    for name in ("one", "two"):
        write(tmp_path / "support" / "ghost" / f"{name}.mp4", EMPTY)
    assert run(place, tmp_path / "out", support=tmp_path / "support") == 2
    assert "in any video of class 'ghost' (one.mp4, two.mp4)" in capsys.readouterr().err


def test_what_cannot_be_learnt_from_is_said_in_one_line(place, tmp_path, capsys):
    def refused(*words, **change):
        assert run(place, tmp_path / "out", *words, **change) == 2
        line, = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        return line

    support = tmp_path / "support"
    shutil.copytree(place / "support", support)
    (support / "widen" / "torn.mp4").write_bytes(b"torn")
    assert "widen/torn.mp4: cannot be read: corrupt" in refused(support=support)
    (support / "widen" / "torn.mp4").unlink()
    (support / "unknown").mkdir()
    (support / "unknown" / "x.mp4").touch()
    assert "cannot be called 'unknown'" in refused(support=support)
    shutil.rmtree(support / "unknown")
    shutil.rmtree(support / "grow")
    assert "1 class folders; at least two" in refused(support=support)
    assert "no such file or folder" in refused(query="nothing.mp4")
    assert "holds no video" in refused(query="support")
    assert "leave those out" in refused(given=["model=a.pt", "support=b"])
    assert "or model" in refused(given=["support=b"])
    assert "no such file" in refused(given=["model=a.pt"])
    assert "no model of `skelshot predict`" in refused(given=[f"model={place / 'checkpoint.pt'}"])
    write(tmp_path / "same" / "a.mp4", move("widen", 1))
    assert "would replace the queries" in refused(f"output={tmp_path / 'same'}", query=tmp_path / "same")
    shutil.copy(tmp_path / "same" / "a.mp4", tmp_path / "same" / "a.avi")
    assert "several videos are called 'a'" in refused(query=tmp_path / "same")


def test_queries_that_cannot_be_read_at_all_are_a_failure(place, tmp_path, capsys):
    assert run(place, tmp_path / "out", query="query/broken.mp4") == 1
    assert "no video in it can be read" in capsys.readouterr().err
    assert read(tmp_path / "out")[1]["broken.mp4"]["answer"] is None


def test_the_plan_and_the_help_touch_nothing(place, tmp_path, capsys):
    assert run(place, tmp_path / "out", "--dry-run", "configs/adapt/predict.yaml") == 0
    said = capsys.readouterr().out
    assert "learns grow (3 videos), widen (2 videos)" in said and "classifies 4 videos" in said
    assert not (tmp_path / "out").exists()
    assert cli.main(["predict", "--help"]) == 0
    assert "poses.estimator: str" in capsys.readouterr().out


@pytest.mark.slow
def test_real_push_ups_are_told_from_tai_chi(place, tmp_path):
    videos = need(DATA / "videos")
    for name, files in (("push-up", ["pushup/correct_correct1.mp4"]), ("other", ["stgcn_ta_chi.mp4"])):
        (tmp_path / "support" / name).mkdir(parents=True)
        for file in files:
            shutil.copy(videos / file, tmp_path / "support" / name)
    (tmp_path / "query").mkdir()
    for file in ("pushup/correct_correct10.mp4", "mmaction2_part_0.mp4"):
        shutil.copy(videos / file, tmp_path / "query")
    assert predict.main([f"support={tmp_path / 'support'}", f"query={tmp_path / 'query'}", f"output={tmp_path / 'out'}",
                         f"checkpoint={place / 'checkpoint.pt'}", f"cache={tmp_path / 'cache'}", "device=cpu"]) == 0
    _, found = read(tmp_path / "out")
    assert found["correct_correct10.mp4"]["ranked"][0]["class"] == "push-up"
    assert found["mmaction2_part_0.mp4"]["note"] == "nobody in view"
