"""The backend onnx: detectors and pose models whose answers are known, a real detector, and refusals."""

import pickle
import re
from itertools import islice

import av
import cv2
import numpy as np
import onnx
import pytest
import torch
import yaml
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError

from harvest.config import Harvest
from harvest.estimators import People, build
from harvest.estimators.config import OnnxConfig
from harvest.estimators.detectors import Detector, is_raw, letterbox, suppress
from harvest.estimators.download import Weights
from harvest.estimators.onnx_models import OnnxPose
from harvest.estimators.session import Session
from harvest.estimators.topdown import Crops, heatmaps, simcc
from skelcore import config as configs
from skelcore.errors import InputError
from tests.harvest.graphs import Boxes, Dots, dotted, export
from tests.paths import DATA, ROOT, need

YOLOX = DATA / "models" / "yolox_nano_416_coco80.onnx"
SIZE = (256, 192)
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@pytest.fixture(scope="module")
def yolox() -> Weights:
    return Weights("yolox.onnx", need(YOLOX).read_bytes(), "")


@pytest.fixture(scope="module")
def graphs() -> dict[str, Weights]:
    return {kind: export(Dots(kind), (1, 3, *SIZE), outputs=2 if kind == "simcc" else 1)
            for kind in ("simcc", "heatmap")}


def frames_of(name: str, count: int, first: int = 10) -> np.ndarray:
    with av.open(str(need(DATA / "videos" / name))) as video:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in islice(video.decode(video=0), first,
                                                                               first + count)])


def pose_of(weights: Weights, heatmap: str = "dark", **options) -> OnnxPose:
    return OnnxPose(Session(weights, **options), heatmap, MEAN, STD)


def estimator(tmp_path, detector: Weights, pose: Weights, **options):
    for name, weights in (("detector", detector), ("pose", pose)):
        (tmp_path / f"{name}.onnx").write_bytes(weights.content)
    return build(OnnxConfig(detector=str(tmp_path / "detector.onnx"), pose=str(tmp_path / "pose.onnx"), **options))


# --- detectors


@given(st.integers(0, 10 ** 6), st.integers(0, 25), st.floats(0.1, 0.9))
@settings(deadline=None, max_examples=60)
def test_suppression_agrees_with_a_loop(seed, count, iou):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 50, (count, 2))
    boxes, scores = np.concatenate([corner, corner + rng.uniform(1, 40, (count, 2))], 1), rng.random(count)
    left, expected = list(np.argsort(-scores)), []
    while left:
        best = left.pop(0)
        expected.append(best)
        remaining = []
        for other in left:
            a, b = boxes[best], boxes[other]
            shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
            if shared <= iou * union:
                remaining.append(other)
        left = remaining
    assert suppress(boxes, scores, iou).tolist() == expected


@given(st.integers(1, 700), st.integers(1, 700), st.integers(32, 300), st.integers(32, 300))
@settings(deadline=None, max_examples=40)
def test_the_letterbox_is_undone_exactly(height, width, down, across):
    frame = np.full((height, width, 3), 255, np.uint8)
    image, scale = letterbox(frame, (down, across))
    white = np.argwhere((image == 255).all(-1))
    edge = white.max(0)[::-1] + 1
    np.testing.assert_allclose(edge / scale, [width, height], rtol=1e-5)
    assert (image[(image != 255).any(-1)] == 114).all()


def test_a_real_detector_finds_the_people_that_another_model_sees(yolox):
    """MoveNet, told where to look, puts its sure joints into the box that YOLOX found."""
    detector = Detector(Session(yolox))
    movenet = Interpreter(str(need(DATA / "models" / "movenet_lightning_192_int8.tflite")), num_threads=1)
    movenet.allocate_tensors()
    for frame in frames_of("stgcn_ta_chi.mp4", 2):
        (boxes, scores), = detector(frame[None])
        assert len(boxes) >= 1 and scores[0] > 0.7
        box = boxes[0]
        side = 1.2 * (box[2:] - box[:2]).max()
        corner = (box[:2] + box[2:] - side) / 2
        crop = cv2.warpAffine(frame, np.array([[192 / side, 0, -corner[0] * 192 / side],
                                               [0, 192 / side, -corner[1] * 192 / side]]), (192, 192))
        movenet.set_tensor(movenet.get_input_details()[0]["index"], crop[None])
        movenet.invoke()
        found = movenet.get_tensor(movenet.get_output_details()[0]["index"])[0, 0]
        points = found[found[:, 2] > 0.4][:, 1::-1] * side + corner
        assert len(points) >= 8
        margin = 0.05 * side
        assert ((points > box[:2] - margin) & (points < box[2:] + margin)).all(1).mean() > 0.95


def test_nobody_is_nobody(yolox):
    detector = Detector(Session(yolox))
    (boxes, scores), = detector(np.full((1, 120, 200, 3), 90, np.uint8))
    assert boxes.shape == (0, 4) and scores.shape == (0,)
    assert detector(np.zeros((0, 120, 200, 3), np.uint8)) == []


def decoded_in_graph(weights: Weights) -> Weights:
    """The same YOLOX with the arithmetic of its grid appended to the graph, as its exporter can do."""
    model = onnx.load_from_string(weights.content)
    cells, strides = [], []
    for stride in (8, 16, 32):
        n = 416 // stride
        cells += [[x, y] for y in range(n) for x in range(n)]
        strides += [[stride]] * (n * n)
    graph = model.graph
    constants = {"cells": np.array(cells, np.float32)[None], "strides": np.array(strides, np.float32)[None],
                 "c0": np.array([0]), "c2": np.array([2]), "c4": np.array([4]), "c85": np.array([85]),
                 "last": np.array([2])}
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    old = graph.output[0].name
    graph.node.extend([
        helper.make_node("Slice", [old, "c0", "c2", "last"], ["xy"]),
        helper.make_node("Slice", [old, "c2", "c4", "last"], ["wh"]),
        helper.make_node("Slice", [old, "c4", "c85", "last"], ["sure"]),
        helper.make_node("Add", ["xy", "cells"], ["xyc"]), helper.make_node("Mul", ["xyc", "strides"], ["middle"]),
        helper.make_node("Exp", ["wh"], ["ewh"]), helper.make_node("Mul", ["ewh", "strides"], ["sides"]),
        helper.make_node("Concat", ["middle", "sides", "sure"], ["decoded"], axis=2)])
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("decoded", TensorProto.FLOAT, [1, len(cells), 85]))
    return Weights("decoded.onnx", model.SerializeToString(), "")


def test_a_decoded_grid_is_told_from_a_raw_one(yolox):
    frames = frames_of("mmpose_demo.mp4", 2, 0)
    raw, decoded = Detector(Session(yolox)), Detector(Session(decoded_in_graph(yolox)))
    for (boxes, scores), (same, alike) in zip(raw(frames), decoded(frames), strict=True):
        assert len(boxes)
        np.testing.assert_allclose(boxes, same, atol=1e-2)
        np.testing.assert_allclose(scores, alike, atol=1e-5)


@given(st.integers(0, 10 ** 6))
@settings(deadline=None, max_examples=25)
def test_raw_and_decoded_rows(seed):
    rng = np.random.default_rng(seed)
    cells = np.stack(np.meshgrid(np.arange(20), np.arange(20)), -1).reshape(-1, 2).astype(np.float32)
    strides = np.full((400, 1), 8, np.float32)
    rows = rng.normal(0.5, 1.5, (400, 6))
    assert is_raw(rows, cells, strides)
    rows[:, :2] = (rows[:, :2] + cells) * strides
    assert not is_raw(rows, cells, strides)


@pytest.mark.parametrize(("kind", "sure"), [("auto", "normalised"), ("rtmdet", "normalised"), ("yolox", "plain")])
def test_dets_and_labels(kind, sure):
    """Boxes of other classes go, overlapping ones are one, the letterbox is undone, RTMDet's frames are normalised."""
    session = Session(export(Boxes(), (1, 3, 100, 100), outputs=2))
    value = {"normalised": 150, "plain": 0}[sure]
    frames = np.full((2, 200, 200, 3), value, np.uint8)
    bright = np.mean((150 - np.array([103.53, 116.28, 123.675])) / [57.375, 57.12, 58.395])
    for boxes, scores in Detector(session, kind)(frames):
        if sure == "normalised":
            order = [[140, 16, 180, 120], [16, 16, 80, 120]] if bright < 0.8 else [[16, 16, 80, 120],
                                                                                   [140, 16, 180, 120]]
            np.testing.assert_allclose(boxes, order, atol=1e-3)
            np.testing.assert_allclose(sorted(scores), sorted([0.8, bright]), atol=1e-4)
        else:
            np.testing.assert_allclose(boxes, [[140, 16, 180, 120], [20, 18, 84, 122]], atol=1e-3)


# --- geometry and decoding


@given(st.integers(0, 10 ** 6), st.booleans())
@settings(deadline=None, max_examples=40)
def test_points_of_a_crop_come_back(seed, udp):
    """The middle of what lies in a crop's pixel is, in the frame, where the crop took that pixel from."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-20, 60, (3, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 90, (3, 2))], 1)
    crops = Crops.of(boxes, SIZE, udp=udp)
    np.testing.assert_allclose(crops.extent[:, 0] / crops.extent[:, 1], SIZE[1] / SIZE[0])
    assert (crops.extent >= 1.25 * (boxes[:, 2:] - boxes[:, :2]) - 1e-6).all()
    ends = np.array([[0, 0], SIZE[::-1]]) - (np.array([[0, 0], [1, 1]]) if udp else 0)
    for centre, extent in zip(crops.centre, crops.extent, strict=True):
        matrix = np.vstack([crops._matrix(centre, extent), [0, 0, 1]])
        back = (np.linalg.inv(matrix) @ np.c_[ends, [1, 1]].T).T[:, :2]
        np.testing.assert_allclose(back, [centre - extent / 2, centre + extent / 2], atol=1e-3)


def test_simcc_agrees_with_a_loop():
    rng = np.random.default_rng(3)
    x, y = rng.normal(0, 0.5, (4, 5, 192)), rng.normal(0, 0.5, (4, 5, 256))
    x[1, 2] = -1
    points, scores = simcc(x, y, (128, 96))
    for n in range(4):
        for v in range(5):
            assert points[n, v].tolist() == [x[n, v].argmax() / 2, y[n, v].argmax() / 2]
            assert scores[n, v] == np.clip(min(x[n, v].max(), y[n, v].max()), 0, 1)
    assert scores[1, 2] == 0


def blobs(points: np.ndarray, shape: tuple[int, int], sigma: float = 2.0) -> np.ndarray:
    y, x = np.mgrid[:shape[0], :shape[1]]
    return np.exp(-((x - points[:, 0, None, None]) ** 2 + (y - points[:, 1, None, None]) ** 2) / (2 * sigma ** 2))


@pytest.mark.parametrize(("how", "within"), [("quarter", 0.26), ("dark", 0.02), ("udp", 0.02)])
def test_heatmaps_give_back_where_their_gaussians_lie(how, within):
    rng = np.random.default_rng(5)
    cells = rng.uniform([8, 8], [39, 55], (2, 17, 2))
    maps = np.stack([0.8 * blobs(each, (64, 48)) for each in cells]).astype(np.float32)
    points, scores = heatmaps(maps, (256, 192), how)
    scale = np.array([192, 256]) / [47, 63] if how == "udp" else np.array([4, 4])
    assert (np.abs(points / scale - cells) < within).all()
    assert (scores > 0.75).all() and (scores <= 0.8).all()


@pytest.mark.parametrize("how", ["quarter", "dark", "udp"])
def test_heatmaps_at_the_border_and_without_a_peak(how):
    maps = np.zeros((1, 3, 16, 12), np.float32)
    maps[0, 0, 0, 0], maps[0, 1, 15, 11] = 1, 2
    points, scores = heatmaps(maps, (64, 48), how)
    assert np.isfinite(points).all() and (points > -8).all() and (points < 72).all()
    assert scores[0].tolist() == [1, 1, 0]


# --- the whole


def people_frame(count: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A frame with that many dotted persons, their joints and their boxes."""
    rng = np.random.default_rng(1)
    frame, truth = np.zeros((240, 640, 3), np.uint8), []
    for p in range(count):
        places = np.stack(np.meshgrid(np.arange(4), np.arange(5)), -1).reshape(-1, 2)[rng.permutation(20)[:17]]
        points = places * [22, 40] + rng.uniform(-1, 1, (17, 2)) + [40 + 200 * p, 30]
        frame = np.maximum(frame, dotted(points, (240, 640)))
        truth.append(points)
    points = np.stack(truth)
    return frame, points, np.concatenate([points.min(1) - 5, points.max(1) + 5], 1)


@pytest.mark.parametrize(("kind", "within"), [("simcc", 0.8), ("heatmap", 0.8)])
def test_joints_are_found_where_they_are(tmp_path, graphs, kind, within):
    frame, truth, boxes = people_frame()
    pose = estimator(tmp_path, export(Boxes(), (1, 3, 100, 100), outputs=2), graphs[kind], heatmap="dark")
    found = pose.estimate(np.stack([frame, frame[:, ::-1]]), [People(boxes, np.ones(3)), People(boxes[:0], np.ones(0))])
    assert [len(each) for each in found] == [3, 0]
    assert pose.provenance["reading"] == ("simcc" if kind == "simcc" else "dark")
    # This heatmap model's cells are means of four pixels, whose middle lies one and a half beyond the first.
    offset = 0 if kind == "simcc" else 1.5 * Crops.of(boxes, SIZE).extent[:, None] / SIZE[::-1]
    assert np.abs(found[0].keypoints + offset - truth).max() < within
    assert (found[0].scores >= 0).all() and (found[0].scores <= 1).all()
    ahead = found[0].people.boxes
    assert (ahead[:, :2] <= truth.min(1) + 3).all() and (ahead[:, 2:] >= truth.max(1) - 3).all()


def test_all_persons_of_a_call_are_one_batch_and_change_nothing(tmp_path, graphs):
    frame, _, boxes = people_frame()
    one = estimator(tmp_path, export(Boxes(), (1, 3, 100, 100), outputs=2), graphs["simcc"])
    together = one.estimate(frame[None], [People(boxes, np.ones(3))])[0]
    calls = []
    real = one._pose._session._run
    one._pose._session._run = lambda images: (calls.append(len(images)), real(images))[1]
    one.estimate(np.stack([frame] * 4), [People(boxes, np.ones(3))] * 4)
    assert calls == [12]
    for i in range(3):
        alone = one.estimate(frame[None], [People(boxes[i:i + 1], np.ones(1))])[0]
        np.testing.assert_allclose(alone.keypoints[0], together.keypoints[i], atol=1e-4)
        np.testing.assert_allclose(alone.scores[0], together.scores[i], atol=1e-5)


@pytest.mark.parametrize("fixed", [1, 2])
def test_models_of_a_fixed_batch(graphs, fixed):
    model = export(Dots("heatmap"), (fixed, 3, *SIZE), dynamic=())
    images = np.random.default_rng(0).normal(size=(5, 3, *SIZE)).astype(np.float32)
    np.testing.assert_allclose(Session(model)(images)[0], Session(graphs["heatmap"])(images)[0], atol=1e-6)


def test_an_open_size_must_be_given():
    model = export(Dots("heatmap"), (1, 3, *SIZE), dynamic=(0, 2, 3))
    with pytest.raises(InputError, match=r"model\.onnx: the model leaves its input's height and width open.*pose_size"):
        Session(model)
    assert pose_of(model, size=(64, 48)).size == (64, 48)
    with pytest.raises(InputError, match="wants images of 256 x 192, not 64 x 48"):
        Session(export(Dots("heatmap"), (1, 3, *SIZE)), size=(64, 48))


def test_presence_is_the_mean_of_sure_joints(tmp_path, graphs):
    pose = estimator(tmp_path, export(Boxes(), (1, 3, 100, 100), outputs=2), graphs["simcc"])
    frame, _, boxes = people_frame(1)
    frames = np.stack([frame, np.zeros_like(frame)])
    seen, empty = pose.estimate(frames, [People(boxes, np.ones(1))] * 2)
    sure = seen.scores[seen.scores > 0.3]
    np.testing.assert_allclose(seen.presence, [sure.mean()], rtol=1e-5)
    assert empty.presence == [0]
    np.testing.assert_allclose(empty.people.boxes, boxes)


def test_it_travels_as_its_configuration(tmp_path, graphs):
    pose = estimator(tmp_path, export(Boxes(), (1, 3, 100, 100), outputs=2), graphs["simcc"], min_score=0.2)
    twin = pickle.loads(pickle.dumps(pose))  # noqa: S301
    frame, _, boxes = people_frame()
    one, other = (each.estimate(frame[None], [People(boxes, np.ones(3))])[0] for each in (pose, twin))
    np.testing.assert_array_equal(one.keypoints, other.keypoints)
    assert twin.provenance == pose.provenance
    assert set(pose.provenance["models"]) == {"detector detector.onnx", "pose pose.onnx"}


def test_whole_body_models_answer_with_their_first_joints(tmp_path):
    class Whole(Dots):
        def forward(self, images):
            maps = super().forward(images)
            return torch.cat([maps, torch.zeros(images.shape[0], 133 - 17, *maps.shape[2:])], 1)

    pose = estimator(tmp_path, export(Boxes(), (1, 3, 100, 100), outputs=2), export(Whole("heatmap"), (1, 3, *SIZE)))
    frame, _, boxes = people_frame(2)
    found = pose.estimate(frame[None], [People(boxes, np.ones(2))])[0]
    assert found.keypoints.shape == (2, 17, 2) and pose.layout.name == "coco17"


# --- refusals


class Odd(torch.nn.Module):
    def forward(self, images):
        return images.mean((2, 3))


@pytest.mark.parametrize(("make", "words"), [
    (lambda: Detector(Session(export(Odd(), (1, 3, 64, 64)))), r"outputs are .*\(1, 3\).*expected a YOLOX grid"),
    (lambda: Detector(Session(export(Dots("heatmap"), (1, 3, 64, 64)))), "expected a YOLOX grid"),
    (lambda: pose_of(export(Odd(), (1, 3, 64, 64))), r"in a trial \[\(1, 3\)\]; expected SimCC"),
    (lambda: pose_of(export(Boxes(), (1, 3, 64, 64), outputs=2)), "expected SimCC"),
    (lambda: Session(export(torch.nn.Identity(), (1, 64, 64, 3))), r"its inputs are input.*expected one, floats"),
    (lambda: Session(Weights("bad.onnx", b"not a model", "")), r"bad\.onnx: ONNX Runtime cannot load it"),
    (lambda: Session(Weights("bad.zip", b"PK\3\4 pretends", "")), "cannot be read as a zip archive"),
    (lambda: Session(export(Odd(), (1, 3, 64, 64)), ["cuda", "cpu"]), "onnxruntime-gpu"),
])
def test_other_models_are_refused_with_what_was_found(make, words):
    with pytest.raises(InputError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["beside", "../outside/"])
def test_weights_in_a_second_file_are_not_read(tmp_path, monkeypatch, place):
    """They would be weights that nobody checked, found wherever the process happens to stand."""
    for folder in ("here", "outside"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "weights").write_bytes(np.ones(3000, np.float32).tobytes())
    monkeypatch.chdir(tmp_path / "here")
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3000], data_location=TensorProto.EXTERNAL)
    location = "weights" if place == "beside" else f"{place}weights"
    tensor.external_data.add(key="location", value=location)
    nodes = [helper.make_node("ReduceSum", ["x"], ["s"], keepdims=1), helper.make_node("Add", ["s", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 64, 64])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    with pytest.raises(InputError, match=r"it must be one \.onnx file that holds its weights"):
        Session(Weights("two.onnx", model.SerializeToString(), ""))


def test_layouts_are_told_by_number_or_by_name(tmp_path):
    boxes = export(Boxes(), (1, 3, 100, 100), outputs=2)
    with pytest.raises(InputError, match=r"it has 13 keypoints.*`keypoints:`"):
        estimator(tmp_path, boxes, export(Dots("heatmap", joints=13), (1, 3, *SIZE)))
    with pytest.raises(InputError, match=r"layout=coco17: pose\.onnx answers in penn13"):
        estimator(tmp_path, boxes, export(Dots("heatmap", joints=13), (1, 3, *SIZE)), keypoints="penn13")
    with pytest.raises(InputError, match=r"that layout has 17 joints, pose\.onnx 13"):
        estimator(tmp_path, boxes, export(Dots("heatmap", joints=13), (1, 3, *SIZE)), keypoints="coco17")


@pytest.mark.parametrize(("estimator", "words"), [
    ({"name": "onix"}, "name is blazepose, onnx or mmpose"),
    ({"name": "onnx", "detector": "a"}, "estimator.pose: field required"),
    ({"name": "onnx", "detector": "a", "pose": "b", "posse": 1}, r"key 'estimator\.posse'; did you mean 'pose'"),
    ({"name": "onnx", "detector": "https://x.org/a.onnx", "pose": "b"}, "a URL needs detector_sha256"),
    ({"name": "mmpose", "detector": "a", "config": "c", "checkpoint": "http://x.org/a.pth"}, "checkpoint_sha256"),
    ({"name": "onnx", "detector": "a", "pose": "b", "providers": ["rocm"]}, "providers"),
    ({"name": "onnx", "detector": "a", "pose": "b", "pose_sha256": "abc"}, "pose_sha256"),
    (7, "give a name, or a mapping"),
])
def test_configurations_are_checked(estimator, words):
    with pytest.raises(InputError, match=words):
        configs.build(Harvest, {"sources": ["a"], "output": "b", "estimator": estimator}, "test")


def test_configurations_in_full():
    config = configs.build(Harvest, {"sources": ["a"], "output": "b", "estimator": {
        "name": "onnx", "detector": "a", "pose": "b"}}, "test")
    assert isinstance(config.estimator, OnnxConfig)
    assert configs.build(Harvest, config.model_dump(mode="json"), "test") == config
    own = configs.build(Harvest, {"sources": ["a"], "output": "b", "estimator": "my:Own"}, "test")
    assert own.estimator == "my:Own"
    assert "estimator.name=mmpose" in configs.schema(Harvest)
    with pytest.raises(ValidationError):
        OnnxConfig(detector="a", pose="b", detector_size=(8, 8))


def test_the_examples_of_the_documentation_are_configurations():
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "estimators.md").read_text(), re.S)
    assert [configs.build(Harvest, {"sources": ["a"], "output": "b", **yaml.safe_load(block)}, "test").estimator.name
            for block in blocks] == ["onnx", "mmpose"]


def test_how_a_model_runs_is_not_what_it_answers():
    def fingerprint(**options):
        estimator = {"name": "onnx", "detector": "a", "pose": "b", **options}
        return configs.build(Harvest, {"sources": ["a"], "output": "b", "estimator": estimator}, "test").fingerprint

    assert fingerprint() == fingerprint(threads=3, batch=2, providers=["cpu"])
    assert len({fingerprint(), fingerprint(pose="c"), fingerprint(min_score=0.5), fingerprint(heatmap="udp")}) == 4


@pytest.mark.parametrize("name", ["onnx", "mmpose", "nothing"])
def test_names_alone(name):
    with pytest.raises(InputError, match=f"estimator={name}: (its models must be named|unknown)"):
        build(name)
