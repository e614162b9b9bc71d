"""The backend onnx: pose models whose answers are known, and refusals."""

import pickle

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from harvest.estimators import People, build
from harvest.estimators.config import OnnxConfig
from harvest.estimators.detectors import Detector
from harvest.estimators.download import Weights
from harvest.estimators.onnx_models import OnnxPose
from harvest.estimators.session import Session
from harvest.estimators.topdown import Crops
from skelcore.errors import InputError
from tests.harvest.graphs import Boxes, Dots, dotted, export

SIZE = (256, 192)
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@pytest.fixture(scope="module")
def graphs() -> dict[str, Weights]:
    return {kind: export(Dots(kind), (1, 3, *SIZE), outputs=2 if kind == "simcc" else 1)
            for kind in ("simcc", "heatmap")}


def pose_of(weights: Weights, heatmap: str = "dark", **options) -> OnnxPose:
    return OnnxPose(Session(weights, **options), heatmap, MEAN, STD)


def estimator(tmp_path, detector: Weights, pose: Weights, **options):
    for name, weights in (("detector", detector), ("pose", pose)):
        (tmp_path / f"{name}.onnx").write_bytes(weights.content)
    return build(OnnxConfig(detector=str(tmp_path / "detector.onnx"), pose=str(tmp_path / "pose.onnx"), **options))


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
