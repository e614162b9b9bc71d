"""Person detectors: suppression and letterbox against loops, a real detector, both kinds of outputs."""

from itertools import islice

import av
import cv2
import numpy as np
import onnx
import pytest
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from harvest.estimators.detectors import Detector, is_raw, letterbox, suppress
from harvest.estimators.download import Weights
from harvest.estimators.session import Session
from tests.harvest.graphs import Boxes, export
from tests.paths import DATA, need

YOLOX = DATA / "models" / "yolox_nano_416_coco80.onnx"


@pytest.fixture(scope="module")
def yolox() -> Weights:
    return Weights("yolox.onnx", need(YOLOX).read_bytes(), "")


def frames_of(name: str, count: int, first: int = 10) -> np.ndarray:
    with av.open(str(need(DATA / "videos" / name))) as video:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in islice(video.decode(video=0), first,
                                                                               first + count)])


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
