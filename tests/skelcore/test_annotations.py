from __future__ import annotations

import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skelcore import annotations, layouts, store
from skelcore.batches import ClipDataset
from skelcore.errors import InputError
from skelcore.sequence import PoseSequence
from tests.paths import DATA, need

POSES = DATA / "poses"


def record(name: str = "a", shape: tuple[int, ...] = (1, 4, 17, 2), **more: Any) -> dict[str, Any]:
    keypoints = np.arange(1, 1 + np.prod(shape), dtype=np.float16).reshape(shape)
    return {"frame_dir": name, "label": 0, "keypoint": keypoints, "total_frames": shape[1], **more}


def save(folder: Path, content: Any, name: str = "x.pkl") -> Path:
    (folder / name).write_bytes(pickle.dumps(content, protocol=4))
    return folder / name


def fails(path: Any, layout: Any = None) -> str:
    with pytest.raises(InputError) as caught:
        annotations.read(path, layout)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("name", "count", "layout", "channels", "classes", "splits"), [
    ("penn", 2326, "penn13", 2, 15, {"train": 1258, "test": 1068}),
    ("jhmdb14", 609, "jhmdb15", 2, 14, {"train1": 433, "test1": 176, "train2": 433, "test2": 176, "train3": 434,
                                        "test3": 175}),
    ("utdmhad", 861, "kinect20", 3, 27, {"xsub_train": 431, "xsub_val": 430}),
    ("pushfit_movenet", 265, "coco17", 2, 2, {"all": 265}),
    ("samples/ucf101_coco17_sample", 1, "coco17", 2, 1, {}),
])
def test_real_files(name: str, count: int, layout: str, channels: int, classes: int, splits: dict[str, int]) -> None:
    path = need(POSES / f"{name}.pkl")
    data: store.Store = annotations.read(path)
    assert (len(data), data.layout.name, data.channels, len(data.classes)) == (count, layout, channels, classes)
    assert {split: len(ids) for split, ids in data.splits.items()} == splits
    assert data.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    with path.open("rb") as file:
        plain = pickle.load(file)  # noqa: S301
    records = plain.get("annotations", [plain])
    for i in range(0, count, 50):
        sequence, original = data[i], records[i]
        assert sequence.id == data.ids[i] == data.groups[i] == original["frame_dir"]
        assert sequence.label == data.labels[i] == original["label"]
        assert sequence.size == original.get("img_shape")
        seen = sequence.scores > 0
        np.testing.assert_array_equal(sequence.keypoints[seen], original["keypoint"].astype(np.float32)[seen])
        assert (sequence.keypoints[~seen] == 0).all()
        if "keypoint_score" in original:
            np.testing.assert_array_equal(sequence.scores, original["keypoint_score"].astype(np.float32))


def test_penn_joints_are_people() -> None:
    """The order of the joints: in standing clips the head is above the hip, and the hip above the ankle."""
    data = annotations.read(need(POSES / "penn.pkl"))
    where = {part: data.layout.index(part)[0] for part in ("head", "left_hip", "left_ankle")}
    walkers = [i for i, label in enumerate(data.labels) if data.classes[label] == "jumping_jacks"]
    for i in walkers[:20]:
        sequence = data[i]
        points, seen = sequence.keypoints[0], sequence.scores[0] > 0
        both = seen[:, where["head"]] & seen[:, where["left_ankle"]] & seen[:, where["left_hip"]]
        heights = points[both][:, [where["head"], where["left_hip"], where["left_ankle"]], 1]
        assert (np.diff(heights, axis=1) > 0).all()
        assert sequence.size is not None
        assert (points[seen] >= 0).all() and (points[seen] <= (sequence.size[1], sequence.size[0])).all()


def test_three_forms_of_a_file(tmp_path: Path) -> None:
    whole = annotations.read(save(tmp_path, {"split": {"s": ["b"]}, "annotations": [record("a"), record("b")]}))
    listed = annotations.read(save(tmp_path, [record("a"), record("b")]))
    single = annotations.read(save(tmp_path, record("a")))
    assert whole.splits == {"s": ["b"]} and listed.splits == single.splits == {}
    assert whole.ids == listed.ids == ["a", "b"] and single.ids == ["a"]
    np.testing.assert_array_equal(whole[0].keypoints, single[0].keypoints)
    assert store.indices_of(whole, "s").tolist() == [1]


def test_filename_is_the_id_when_the_first_record_has_one(tmp_path: Path) -> None:
    data = annotations.read(save(tmp_path, [record("a", filename="f1"), record("b", filename="f2")]))
    assert data.ids == ["f1", "f2"]


@pytest.mark.parametrize(("shape", "layout"), [
    ((17, 2), "coco17"), ((18, 2), "openpose18"), ((13, 2), "penn13"), ((15, 2), "jhmdb15"), ((25, 3), "ntu25"),
    ((20, 3), "kinect20"), ((33, 2), "mediapipe33"), ((33, 3), "mediapipe33"), ((21, 2), "hand21")])
def test_joint_count_tells_the_layout(tmp_path: Path, shape: tuple[int, int], layout: str) -> None:
    assert annotations.read(save(tmp_path, [record(shape=(1, 4, *shape))])).layout.name == layout


@pytest.mark.parametrize("shape", [(25, 2), (17, 3), (19, 2)])
def test_joint_count_that_tells_nothing(tmp_path: Path, shape: tuple[int, int]) -> None:
    path = save(tmp_path, [record(shape=(1, 4, *shape))])
    assert "give layout=" in fails(path)


def test_layout_is_the_argument_else_the_files(tmp_path: Path) -> None:
    flat = save(tmp_path, [record(shape=(1, 4, 25, 2))])
    assert annotations.read(flat, "ntu25").layout.name == "ntu25"
    own = layouts.Layout("own", tuple("abc"), ((1, 0), (2, 0)), 0)
    stated = save(tmp_path, {"annotations": [record(shape=(1, 4, 3, 2))], "layout": "own"}, "own.pkl")
    assert annotations.read(stated, own).layout == own
    assert "unknown layout 'own'" in fails(stated)
    assert "25 joints, but layout coco17 has 17" in fails(flat, "coco17")
    kinect = {"annotations": [record(shape=(1, 4, 25, 2))], "layout": "ntu25"}
    assert annotations.read(save(tmp_path, kinect)).layout.name == "ntu25"


def test_missing_joints_are_those_without_score_else_at_zero_else_not_finite(tmp_path: Path) -> None:
    keypoints = np.ones((2, 3, 17, 2), np.float16)
    keypoints[1, 1:] = 0  # a padded second person
    keypoints[0, 0, 3, 0] = 0  # only one coordinate: not missing
    keypoints[0, 1, 4] = np.nan
    keypoints[0, 2, 5, 1] = np.inf
    scores = np.full((2, 3, 17), 0.5, np.float16)
    scores[0, 0, 7] = 0
    scores[0, 0, 8] = np.nan
    plain = annotations.read(save(tmp_path, [record() | {"keypoint": keypoints}]))[0]
    scored = annotations.read(save(tmp_path, [record() | {"keypoint": keypoints, "keypoint_score": scores}]))[0]
    assert (plain.scores[1, 1:] == 0).all() and (plain.scores[1, 0] == 1).all()
    assert plain.scores[0, 0, 3] == 1
    assert plain.scores[0, 1, 4] == plain.scores[0, 2, 5] == scored.scores[0, 1, 4] == 0
    assert scored.scores[0, 0, 7] == scored.scores[0, 0, 8] == 0
    assert (scored.keypoints[0, 0, 7] == 0).all() and np.isfinite(plain.keypoints).all()
    assert (scored.scores[1, 1:] == 0.5).all()  # with scores, zero is a coordinate like any other


def test_records_without_a_pose_are_skipped_with_a_reason(tmp_path: Path) -> None:
    content = {"split": {"s": ["b", "a", "c"]},
               "annotations": [record("a"), record("b", (0, 4, 17, 2)), record("c", (1, 0, 17, 2))]}
    data = annotations.read(save(tmp_path, content))
    assert data.ids == ["a"] and data.splits == {"s": ["a"]}
    assert data.skipped == dict.fromkeys("bc", "no person or no frame")
    assert "no record holds a pose" in fails(save(tmp_path, [record("b", (0, 4, 17, 2))]))


def test_labels_may_be_absent(tmp_path: Path) -> None:
    bare = record("b")
    del bare["label"]
    data = annotations.read(save(tmp_path, [record("a") | {"label": np.int64(2)}, bare]))
    assert data.labels.tolist() == [2, -1] and data.labels.dtype == np.int64
    assert data[1].label is None and list(data.classes) == ["0", "1", "2"]


def test_class_names_beside_the_file(tmp_path: Path) -> None:
    path = save(tmp_path, [record() | {"label": 1}])
    sidecar = tmp_path / "x_classes.json"
    sidecar.write_text('["walk", "run", "sit"]')
    assert annotations.read(path).classes == ["walk", "run", "sit"]
    for text, said in (('["walk"]', "1 class names, but"), ("{}", "must be a JSON list"), ("[1, 2]", "must be a JSON"),
                       ("[", "cannot be read")):
        sidecar.write_text(text)
        with pytest.raises(InputError, match=said) as caught:
            annotations.read(path)
        assert "x_classes.json" in str(caught.value)


@pytest.mark.parametrize(("content", "said"), [
    ({"split": {}, "annotations": []}, "no annotations"),
    ([], "no annotations"),
    (5, "expected {'split', 'annotations'}"),
    ([1], "expected {'split', 'annotations'}"),
    ({"annotations": [record()], "split": [1]}, "'split' must map names"),
    ({"annotations": [record()], "split": {"s": 1}}, "'split' must map names"),
    ({"annotations": [record()], "split": {"s": ["a", "gone"]}}, "split 's' names 'gone', which has no record"),
    ({"annotations": [record()], "layout": 3}, "'layout' must be a name"),
    ([record("a"), record("a")], "two records have the id 'a'"),
    ([record("a"), {"keypoint": 1}], "record 1 has no 'frame_dir'"),
    ([record("a"), record("b", (1, 4, 13, 2))], "record 'b' has 13 joints"),
    ([record("a"), record("b", (1, 4, 17, 3))], "record 'b' has 17 joints of 3"),
    ([record("b", (4, 17, 2))], "record 'b': 'keypoint' must be a numeric array"),
    ([record("b", (1, 4, 17, 4))], "2 or 3 coordinates, not 4"),
    ([record("b") | {"keypoint": [[1]]}], "record 'b': 'keypoint' must be"),
    ([record("b") | {"keypoint": np.zeros((1, 4, 17, 2), "U1")}], "record 'b': 'keypoint' must be"),
    ([record("b", keypoint_score=np.ones((1, 3, 17)))], "record 'b': 'keypoint_score' must be"),
    ([record("b", keypoint_score="high")], "record 'b': 'keypoint_score' must be"),
    ([record("b", img_shape=(3,))], "record 'b': 'img_shape' must be"),
    ([record("b", img_shape=(0, 5))], "record 'b': 'img_shape' must be"),
    ([record("b", fps=-1)], "record 'b': 'fps' must be"),
    ([record("b") | {"label": [1, 2]}], "record 'b': 'label' must be one"),
    ([record("b") | {"label": -2}], "record 'b': 'label' must be one"),
    ([{"frame_dir": "b", "label": 0, "valid": {0.5: 3}, "raw_file": "k"}], "only a reference"),
])
def test_what_cannot_be_believed_is_named(tmp_path: Path, content: Any, said: str) -> None:
    assert said in fails(save(tmp_path, content))


def test_files_that_are_no_pickle(tmp_path: Path) -> None:
    assert "no such file" in fails(tmp_path / "gone.pkl")
    assert "cannot be read" in fails("nosuchprotocol://x.pkl")
    (tmp_path / "x.pkl").write_bytes(b"not a pickle")
    assert "not a readable pickle" in fails(tmp_path / "x.pkl")
    whole = save(tmp_path, [record()]).read_bytes()
    (tmp_path / "x.pkl").write_bytes(whole[:-20])
    assert "cut short" in fails(tmp_path / "x.pkl")


def test_malicious_pickle_is_refused_and_does_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "owned"),)

    assert "mkdir" in fails(save(tmp_path, {"split": {}, "annotations": [record() | {"keypoint": Evil()}]}))
    assert not (tmp_path / "owned").exists()


def test_urls(tmp_path: Path) -> None:
    content = pickle.dumps([record()])
    for name, data in (("x.pkl", content), ("x_classes.json", b'["walk"]')):
        with fsspec.open(f"memory://poses/{name}", "wb") as file:
            file.write(data)
    read = annotations.read("memory://poses/x.pkl")
    assert read.ids == ["a"] and read.classes == ["walk"]
    assert read.fingerprint == hashlib.sha256(content).hexdigest()
    assert annotations.read(save(tmp_path, [record()]).as_uri()).ids == ["a"]


def test_fingerprint_covers_what_follows_the_pickle(tmp_path: Path) -> None:
    path = save(tmp_path, [record()])
    first = annotations.read(path).fingerprint
    path.write_bytes(path.read_bytes() + b"x")
    assert annotations.read(path).fingerprint != first


@st.composite
def sequences(draw: st.DrawFn) -> list[PoseSequence]:
    layout = layouts.get(draw(st.sampled_from(["coco17", "ntu25", "penn13", "kinect20"])))
    channels = 3 if layout.name in ("ntu25", "kinect20") else 2
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    made = []
    for i in range(draw(st.integers(1, 4))):
        shape = (draw(st.integers(1, 3)), draw(st.integers(1, 6)), len(layout))
        keypoints = rng.uniform(-1, 1, (*shape, channels)) * (1000 if channels == 2 else 3)
        missing = rng.random(shape) < 0.3
        scores = np.where(missing, 0, rng.uniform(0.1, 1, shape) if channels == 2 else 1)
        made.append(PoseSequence(
            keypoints, scores, layout, id=f"clip {i} é", label=draw(st.none() | st.integers(0, 5)),
            size=draw(st.none() | st.tuples(st.integers(1, 4000), st.integers(1, 4000))) if channels == 2 else None,
            fps=draw(st.none() | st.floats(1, 120))))
    return made


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequences())
def test_what_is_written_reads_back_within_float16(tmp_path: Path, made: list[PoseSequence]) -> None:
    path = tmp_path / "w.pkl"
    split = {"train": [made[0].id], "none": []}
    annotations.write_pyskl(path, made, split, classes=list("abcdef"))
    data = annotations.read(path)
    assert data.splits == split and list(data.classes) == list("abcdef") and data.layout == made[0].layout
    for before, after in zip(made, (data[i] for i in range(len(data))), strict=True):
        assert (before.id, before.label, before.size, before.fps) == (after.id, after.label, after.size, after.fps)
        np.testing.assert_array_equal(after.keypoints, before.keypoints.astype(np.float16).astype(np.float32))
        np.testing.assert_array_equal(after.scores, before.scores.astype(np.float16).astype(np.float32))
    # A second pass changes nothing, so files do not decay.
    again = [data[i] for i in range(len(data))]
    annotations.write_pyskl(tmp_path / "v.pkl", again, data.splits)
    assert (tmp_path / "v.pkl").read_bytes() == path.read_bytes()


def test_written_files_are_the_fields_own(tmp_path: Path) -> None:
    sequence = PoseSequence(np.full((1, 3, 17, 2), 5.0), np.full((1, 3, 17), 0.5), layouts.get("coco17"),
                            size=(240, 320), id="a", label=4)
    annotations.write_pyskl(tmp_path / "w.pkl", [sequence], {"train": ["a"]}, classes=["x"] * 5)
    with (tmp_path / "w.pkl").open("rb") as file:
        content = pickle.load(file)  # noqa: S301
    assert content["split"] == {"train": ["a"]}
    only, = content["annotations"]
    assert {key: only[key] for key in ("frame_dir", "total_frames", "label", "img_shape", "original_shape")} == {
        "frame_dir": "a", "total_frames": 3, "label": 4, "img_shape": (240, 320), "original_shape": (240, 320)}
    assert type(only["keypoint"]) is np.ndarray and only["keypoint"].dtype == only["keypoint_score"].dtype == np.float16
    assert json.loads((tmp_path / "w_classes.json").read_text()) == ["x"] * 5
    assert sorted(os.listdir(tmp_path)) == ["w.pkl", "w_classes.json"]


def test_real_file_survives_a_round_trip(tmp_path: Path) -> None:
    data = annotations.read(need(POSES / "samples/ucf101_coco17_sample.pkl"))
    annotations.write_pyskl(tmp_path / "w.pkl", [data[0]], {})
    again = annotations.read(tmp_path / "w.pkl")
    np.testing.assert_array_equal(again[0].keypoints, data[0].keypoints)
    np.testing.assert_array_equal(again[0].scores, data[0].scores)


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    def sequence(name: str, layout: str = "coco17", scale: float = 1.0) -> PoseSequence:
        joints = len(layouts.get(layout))
        return PoseSequence(np.full((1, 2, joints, 2), scale), np.ones((1, 2, joints)), layouts.get(layout), id=name)

    for made, split, said in (
            ([], {}, "no sequences"),
            ([sequence("a"), sequence("a")], {}, "two records have the id 'a'"),
            ([sequence("a")], {"s": ["b"]}, "split 's' names 'b'"),
            ([sequence("a"), sequence("b", "penn13")], {}, "'b' is penn13"),
            ([sequence("a", scale=1e5)], {}, "beyond float16")):
        with pytest.raises(InputError, match=said):
            annotations.write_pyskl(tmp_path / "w.pkl", made, split, ["x"])
    assert os.listdir(tmp_path) == []


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, [record()])
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    data = annotations.read(path)
    with pytest.raises(OSError, match="disk full"):
        annotations.write_pyskl(path, [data[0]], {})
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["x.pkl"]


def test_open_store_takes_pickles_and_folders(tmp_path: Path) -> None:
    assert store.open_store(str(save(tmp_path, [record()]))).ids == ["a"]
    assert len(store.open_store(str(need(DATA / "ntu")))) == 1


def test_a_store_and_its_clips_go_to_other_processes(tmp_path: Path) -> None:
    data = annotations.read(save(tmp_path, [record("a"), record("b")]))
    copied = pickle.loads(pickle.dumps(ClipDataset(data, 4)))  # noqa: S301 - as a spawned worker gets it
    whole, again = ClipDataset(data, 4).__getitems__([1, 0]), copied.__getitems__([1, 0])
    np.testing.assert_array_equal(again.keypoints, whole.keypoints)
