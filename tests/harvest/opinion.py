"""An independent opinion on where people are: MoveNet's pose inside the boxes that YOLOX finds."""

import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from harvest.estimators import People, Poses
from harvest.estimators.detectors import Detector
from harvest.estimators.download import load
from harvest.estimators.session import Session
from skelcore import layouts
from tests.paths import DATA, need


class MoveNet:
    """An Estimator of the two small models in the shared data."""

    def __init__(self, layout="coco17"):
        self.layout = layouts.get(layout)
        self.provenance = {"estimator": "movenet"}
        self._detector = Detector(Session(load(str(need(DATA / "models" / "yolox_nano_416_coco80.onnx")))))
        self._model = Interpreter(str(need(DATA / "models" / "movenet_lightning_192_int8.tflite")), num_threads=1)
        self._model.allocate_tensors()

    def detect(self, frames):
        return [People(boxes, scores) for boxes, scores in self._detector(frames)]

    def estimate(self, frames, people):
        return [self._poses(frame, found.boxes) for frame, found in zip(frames, people, strict=True)]

    def _poses(self, frame, boxes):
        found = np.zeros((len(boxes), 17, 3))
        for i, box in enumerate(boxes):
            side = 1.25 * max(box[2] - box[0], box[3] - box[1], 8)
            corner = (box[:2] + box[2:] - side) / 2
            matrix = np.array([[192 / side, 0, -corner[0] * 192 / side], [0, 192 / side, -corner[1] * 192 / side]])
            self._model.set_tensor(self._model.get_input_details()[0]["index"],
                                   cv2.warpAffine(frame, matrix, (192, 192))[None])
            self._model.invoke()
            answer = self._model.get_tensor(self._model.get_output_details()[0]["index"])[0, 0]
            found[i] = np.c_[answer[:, 1::-1] * side + corner, answer[:, 2]]
        points, scores = found[..., :2], np.clip(found[..., 2], 0, 1)
        presence = np.where(scores > 0.3, scores, 0).max(1, initial=0)
        low, high = points.min(1, initial=1e9), points.max(1, initial=-1e9)
        ahead = np.concatenate([low, high], 1)
        return Poses(points, scores, presence, People(ahead, presence))
