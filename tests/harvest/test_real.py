"""The harvest of real footage with the embedded pose model, through Ray."""

import json

import numpy as np
import pytest

from harvest import decode, run
from harvest.estimators import build
from harvest.extract import extract
from skelcore import shards
from skelcore.errors import RunError
from tests.paths import DATA, need

# A whole person can be seen in each of these; in the others only parts of one, or nobody.
WHOLE = ("6arrows", "Baseball", "felix", "mediapipe_pose", "mmaction2_S001", "mmaction2_test_video", "mmhuman3d",
         "mmpose_demo", "mmskel", "openpose", "correct_", "wrong_", "pyskl", "stgcn")
CLOSE = ("mediapipe_dobrii", "mmaction2_demo", "mmaction2_test-", "mmaction2fork_test1", "paddle", "cosmos",
         "mmaction2fork_24306", "torchcodec")


@pytest.fixture(scope="module")
def harvested(tmp_path_factory):
    videos = need(DATA / "videos"), need(DATA / "videos_negative")
    try:
        build("blazepose")
    except RunError as error:
        pytest.skip(str(error))
    output = tmp_path_factory.mktemp("harvest")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        assert run.main([f"sources=[{videos[0]}, {videos[1]}]", f"output={output}"]) == 0
    return output


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_every_video_is_accounted_for_and_judged_as_a_viewer_would(harvested):
    summary = json.loads((harvested / "summary.json").read_text())
    assert (summary["sources"], summary["failed"], summary["pending"]) == (43, 0, 0)
    entries = {row["id"]: row for row in rows(harvested / "ledger.jsonl") if "id" in row}
    status = {name: entries[name]["status"] for name in entries}
    pool = [name for name in status if name.startswith("mmaction2_part")]
    assert [entries[name]["reason"] for name in pool] == ["no_person"] * 2
    assert {name for name, s in status.items() if s == "ok"} == {name for name in status if name.startswith(WHOLE)}
    close = [name for name in status if name.startswith(CLOSE)]
    assert len(close) == 8 and all(status[name] == "rejected" for name in close)
    # Rejected for numbers that are kept, not silently.
    rejected = rows(harvested / "rejected" / "000000.jsonl")
    assert {row["source"] for row in rejected} >= set(close)
    assert all({"reason", "score", "presence", "height", "seconds"} <= row.keys() for row in rejected)


@pytest.mark.slow
def test_a_shard_holds_what_extract_gives(harvested):
    store = shards.read(harvested / "shards")
    here, = extract(need(DATA / "videos" / "mmpose_demo.mp4"), build("blazepose"))
    there = store[next(i for i, name in enumerate(store.ids) if name.startswith("mmpose_demo"))]
    assert np.abs(here.keypoints - there.keypoints).max() < 0.05
    assert np.abs(here.scores - there.scores).max() < 0.005


@pytest.mark.slow
def test_skeletons_lie_where_another_detector_sees_the_person(harvested):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = onnxruntime.InferenceSession(str(need(DATA / "models" / "yolox_nano_416_coco80.onnx")), options)
    store = shards.read(harvested / "shards")
    files = {row["id"]: row["address"] for row in rows(harvested / "plan.jsonl")}
    agree = []
    for group in dict.fromkeys(store.groups):
        tracks = [store[i] for i, other in enumerate(store.groups) if other == group]
        track = max(tracks, key=lambda t: t.frames)
        middle = np.flatnonzero(track.scores[0].max(1) > 0.5)[track.frames // 3]
        tick = round(track.meta["start"] * track.fps) + middle
        frame = next(c.frames[tick - c.first] for c in decode.chunks(files[group], 15, short_side=10**6)
                     if c.first <= tick < c.first + len(c.frames))
        joints = track.keypoints[0, middle][track.scores[0, middle] > 0.5]
        boxes = people(model, frame)
        inside = [((joints >= box[:2] - 8) & (joints <= box[2:] + 8)).all(1).mean() for box in boxes]
        agree.append(max(inside, default=0.0) >= 0.8)
    # YOLOX-nano itself misses people who lie down; the rest must agree.
    assert len(agree) == 33 and np.mean(agree) >= 0.8, agree


def people(model, frame, side=416):
    """Person boxes (P, 4) of YOLOX-nano: BGR letterbox filled with 114, strides 8, 16, 32."""
    import cv2

    scale = side / max(frame.shape[:2])
    small = cv2.resize(frame, None, fx=scale, fy=scale)
    canvas = np.full((side, side, 3), 114, np.uint8)
    canvas[: small.shape[0], : small.shape[1]] = small
    raw = model.run(None, {"images": canvas[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32)})[0][0]
    strides = (8, 16, 32)
    grid = np.concatenate([np.mgrid[: side // s, : side // s][::-1].reshape(2, -1).T for s in strides])
    stride = np.concatenate([np.full(((side // s) ** 2, 1), s) for s in strides])
    centre, size = (raw[:, :2] + grid) * stride / scale, np.exp(raw[:, 2:4]) * stride / scale
    sure = raw[:, 4] * raw[:, 5] > 0.3
    return np.concatenate([centre - size / 2, centre + size / 2], 1)[sure]
