"""The command with an estimator given as a mapping: two ONNX models that find dots of a joint's colour each."""

import json

import numpy as np
import pytest
import torch

from adapt import predict
from skelcore import checkpoint
from skelcore.encoders import build
from tests.harvest import fakes
from tests.harvest.graphs import Boxes, Dots, dotted, export

GRID = np.stack(np.meshgrid(np.arange(4), np.arange(5)), -1).reshape(-1, 2)
REST = GRID[np.random.default_rng(1).permutation(20)[:17]]


def move(kind, seed, frames=20):
    """A dotted person who widens and narrows, or shrinks and grows, where the detector always sees somebody."""
    rng = np.random.default_rng([seed, len(kind)])
    swing = 0.8 + 0.2 * np.sin(rng.uniform(0, 6) + rng.uniform(3, 4) * np.arange(frames) / 15)
    scale = np.stack([swing, np.ones(frames)] if kind == "widen" else [np.ones(frames), swing], -1)
    return [dotted((REST - [1.5, 2]) * [20, 24] * each + [160, 68], (200, 200), radius=6) for each in scale]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    for kind in ("widen", "grow"):
        (folder / "support" / kind).mkdir(parents=True)
        (folder / "query").mkdir(exist_ok=True)
        for seed in range(2):
            fakes.write(folder / "support" / kind / f"{seed}.mp4", move(kind, seed))
        fakes.write(folder / "query" / f"{kind}.mp4", move(kind, 7))
    (folder / "detector.onnx").write_bytes(export(Boxes(), (1, 3, 100, 100), outputs=2).content)
    (folder / "pose.onnx").write_bytes(export(Dots("heatmap"), (1, 3, 256, 192)).content)
    torch.manual_seed(0)
    checkpoint.save_encoder(folder / "checkpoint.pt", build("stgcn++", "coco17", width=8), frames=16, stream="joint",
                            fill=0.3)
    return folder


def named(folder, detector="detector.onnx", pose="pose.onnx", **options):
    return "poses.estimator=" + json.dumps({"name": "onnx", "detector": str(folder / detector), "min_score": 0.6,
                                            "pose": str(folder / pose), "providers": ["cpu"], **options})


def run(place, output, *words):
    return predict.main(["--query", str(place / "query"), f"output={output}", f"cache={output}.cache", "device=cpu",
                         "annotate=false", "unknown=null", *words])


@pytest.fixture(scope="module")
def learnt(place):
    """A folder of answers, with the model that gave them."""
    output = place / "learnt"
    assert run(place, output, "--support", str(place / "support"), "--checkpoint", str(place / "checkpoint.pt"),
               named(place)) == 0
    return output


def answers(output):
    return [{**video, "video": ""} for video in json.loads((output / "predictions.json").read_text())["videos"]]


def test_a_mapping_reads_the_poses(learnt):
    assert [video["answer"] for video in answers(learnt)] == ["grow", "widen"]


def test_the_model_file_tells_which_files_they_were_and_not_where(place, learnt):
    kept = checkpoint.load(learnt / "model.pt")["classifier"]["poses"]["estimator"]
    assert (kept["detector"], kept["pose"]) == ("detector.onnx", "pose.onnx")
    assert len(kept["detector_sha256"]) == len(kept["pose_sha256"]) == 64
    assert str(place).encode() not in (learnt / "model.pt").read_bytes()


def test_the_same_files_may_lie_elsewhere_and_run_otherwise(place, learnt, tmp_path):
    for name in ("detector", "pose"):
        (tmp_path / f"my {name}.onnx").write_bytes((place / f"{name}.onnx").read_bytes())
    again = named(tmp_path, "my detector.onnx", "my pose.onnx", threads=2, batch=3)
    assert run(place, tmp_path / "out", "--model", str(learnt / "model.pt"), again) == 0
    assert answers(tmp_path / "out") == answers(learnt)


def refused(capsys, place, output, *words):
    assert run(place, output, *words) == 2
    line, = capsys.readouterr().err.splitlines()
    return line


def test_another_estimator_is_refused(place, learnt, tmp_path, capsys):
    model = "--model", str(learnt / "model.pt")
    said = refused(capsys, place, tmp_path / "out", *model)
    assert "name the same under poses.estimator" in said and '"pose": "pose.onnx"' in said
    (tmp_path / "detector.onnx").write_bytes((place / "detector.onnx").read_bytes())
    (tmp_path / "pose.onnx").write_bytes(export(Dots("heatmap", stride=8), (1, 3, 256, 192)).content)
    assert "another estimator" in refused(capsys, place, tmp_path / "out", *model, named(tmp_path))
    assert "another estimator" in refused(capsys, place, tmp_path / "out", *model, named(place, nms=0.9))
    assert "another estimator" in refused(capsys, place, tmp_path / "out", *model,
                                          "poses.estimator=tests.harvest.fakes:Blobs")
    assert "cannot read the model file" in refused(capsys, place, tmp_path / "out", *model, named(tmp_path / "absent"))
    content = checkpoint.load(learnt / "model.pt")
    content["classifier"]["poses"]["estimator"] = "blazepose"
    torch.save(content, tmp_path / "plain.pt")
    said = refused(capsys, place, tmp_path / "out", "--model", str(tmp_path / "plain.pt"), named(place))
    assert said.endswith("was made with the estimator blazepose")
    wrong = named(place, pose_sha256="0" * 64)
    assert "sha256 is" in refused(capsys, place, tmp_path / "out", *model, wrong)


@pytest.mark.parametrize("estimator", [
    {"name": "mmpose", "detector": "detector.onnx", "config": "evil.py", "checkpoint": "pose.onnx"},
    {"name": "onnx", "detector": "http://127.0.0.1:9/a.onnx", "detector_sha256": "0" * 64, "pose": "pose.onnx"},
    "evil:Model"])
def test_a_model_file_chooses_no_code_and_no_files(place, learnt, tmp_path, monkeypatch, capsys, estimator):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("open('ran', 'w')\nraise SystemExit\n")
    content = checkpoint.load(learnt / "model.pt")
    content["classifier"]["poses"]["estimator"] = estimator
    torch.save(content, tmp_path / "evil.pt")
    said = refused(capsys, place, tmp_path / "out", "--model", str(tmp_path / "evil.pt"))
    assert "poses.estimator" in said and not (tmp_path / "ran").exists()


def test_a_replaced_model_is_asked_anew(place, tmp_path):
    """Poses are kept by what the model files hold, not by where they lie."""
    from adapt.library import Library, Poses

    for name in ("detector", "pose"):
        (tmp_path / f"{name}.onnx").write_bytes((place / f"{name}.onnx").read_bytes())
    video = place / "query" / "grow.mp4"

    def read(**options):
        estimator = json.loads(named(tmp_path, **options).partition("=")[2])
        return Library(Poses.model_validate({"estimator": estimator}), tmp_path / "cache").tracks(video)

    first = read()
    assert len(first) == 1 and len(read(threads=2)) == 1 and len(list((tmp_path / "cache").iterdir())) == 1
    (tmp_path / "pose.onnx").write_bytes(export(Dots("heatmap", stride=8), (1, 3, 256, 192)).content)
    second = read()
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert np.abs(first[0].keypoints - second[0].keypoints).max() > 0.5
