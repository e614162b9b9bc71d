"""Person detectors as ONNX models: YOLOX on its raw or decoded grid, and models that end in boxes and labels.

Ge et al., "YOLOX: Exceeding YOLO Series in 2021" (arXiv 2107.08430); Lyu et al., "RTMDet" (arXiv 2212.07784). Both
look at a frame shrunk into the upper left of a grey square.
"""

from __future__ import annotations

import cv2
import numpy as np

from harvest.estimators.session import Session, planes
from skelcore.errors import InputError

_PERSON = 0  # in COCO's order of classes, and in models of persons alone
_GREY = 114
_STRIDES = ((8, 16, 32), (8, 16, 32, 64))
_MOST = 300  # candidates that enter the suppression of one frame
# What is taken off B, G, R and what divides them: RTMDet's as it was trained, and YOLOX's, which is nothing.
_NORM = np.array([[103.53, 116.28, 123.675], [57.375, 57.12, 58.395]], np.float32)
_PLAIN = np.array([[0, 0, 0], [1, 1, 1]], np.float32)


class Detector:
    """Finds people in frames; the kind of model is read from its outputs.

    One output (N, cells, 5 + classes) is a YOLOX grid: box, objectness, class scores, as logarithms on the grid or in
    pixels. Outputs (N, K, 5) and (N, K), boxes with scores and labels, are an export by MMDeploy: ``kind`` auto takes
    it for RTMDet, whose frames are normalised; ``yolox`` says that they are not. Raises InputError for another model.
    """

    def __init__(self, session: Session, kind: str = "auto", min_score: float = 0.4, nms: float = 0.5) -> None:
        self._session, self._min_score, self._nms = session, min_score, nms
        self._grid: tuple[np.ndarray, np.ndarray] | None = None
        shapes = [each.shape for each in session.trial]
        if len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][2] > 5:
            grid = _grid_of(shapes[0][1], session.size)
            if grid is not None and kind != "rtmdet":
                self._norm = _PLAIN
                self._raw = is_raw(session.trial[0][0], *grid)
                self._grid = grid
                return
        if len(shapes) == 2 and len(shapes[0]) == 3 and shapes[0][2] == 5 and shapes[1] == shapes[0][:2]:
            self._norm = _PLAIN if kind == "yolox" else _NORM
            return
        raise InputError(f"{session.name}: its outputs are {session.outputs}, in a trial {shapes}; expected a YOLOX "
                         f"grid (N, cells of strides 8, 16, 32, 5 + classes) or dets (N, K, 5) and labels (N, K)"
                         + (f" of {kind}" if kind != "auto" else ""))

    def __call__(self, frames: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each frame (B, H, W, 3) uint8 RGB the persons' boxes (P, 4) in its pixels and scores (P,), best first."""
        if not len(frames):
            return []
        boxed = [letterbox(frame, self._session.size) for frame in frames]
        images = np.stack([image for image, _ in boxed])[..., ::-1]
        outputs = self._session(planes(images, *self._norm))
        height, width = frames.shape[1:3]
        found = []
        for i, (_, scale) in enumerate(boxed):
            boxes, scores = self._read([each[i] for each in outputs])
            boxes = np.clip(boxes / np.tile(scale, 2), 0, np.array([width, height, width, height], np.float32))
            likely = np.flatnonzero((scores >= self._min_score) & (boxes[:, 2:] > boxes[:, :2]).all(1))
            kept = likely[suppress(boxes[likely], scores[likely], self._nms)]
            found.append((boxes[kept].astype(np.float32), np.clip(scores[kept], 0, 1)))
        return found

    def _read(self, outputs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (K, 4) in pixels of the letterboxed image and scores (K,) of persons."""
        if self._grid is None:
            persons = outputs[1] == _PERSON
            return outputs[0][persons, :4], outputs[0][persons, 4]
        rows = outputs[0]
        scores = rows[:, 4] * rows[:, 5 + _PERSON]
        # Decoding is for the few: most cells see nobody.
        rows, scores = rows[likely := scores >= self._min_score], scores[likely]
        middle, half = rows[:, :2], rows[:, 2:4]
        if self._raw:
            cells, strides = (each[likely] for each in self._grid)
            middle, half = (middle + cells) * strides, np.exp(half) * strides
        return np.concatenate([middle - half / 2, middle + half / 2], 1), scores


def letterbox(frame: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The frame scaled into the upper left of a grey image (height, width, 3), and the scale (2,) of its x and y.

    The sides are whole pixels, so the two scales may differ a little; dividing by them leads back exactly.
    """
    height, width = frame.shape[:2]
    ratio = min(size[0] / height, size[1] / width)
    across, down = max(1, int(width * ratio)), max(1, int(height * ratio))
    image = np.full((*size, 3), _GREY, np.uint8)
    image[:down, :across] = cv2.resize(frame, (across, down), interpolation=cv2.INTER_LINEAR)
    return image, np.array([across / width, down / height], np.float32)


def is_raw(rows: np.ndarray, cells: np.ndarray, strides: np.ndarray) -> bool:
    """Whether a YOLOX grid (cells, 5 + classes) still is to be decoded.

    Each cell speaks of a point near itself: within a few units of zero if raw, of its own place if in pixels.
    """
    raw = np.abs(rows[:, :2] - 0.5)
    decoded = np.abs(rows[:, :2] / strides - cells - 0.5)
    return bool(np.median(raw) < np.median(decoded))


def suppress(boxes: np.ndarray, scores: np.ndarray, iou: float) -> np.ndarray:
    """Which boxes (K, 4) remain, best first, when each takes away those that overlap it by more than ``iou``."""
    order = np.argsort(-scores, kind="stable")[:_MOST]
    ordered = boxes[order]
    low = np.maximum(ordered[:, None, :2], ordered[None, :, :2])
    high = np.minimum(ordered[:, None, 2:], ordered[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = (ordered[:, 2:] - ordered[:, :2]).prod(1)
    close = shared > iou * np.maximum(areas[:, None] + areas - shared, 1e-12)
    alive = np.ones(len(order), bool)
    for i in range(len(order)):
        if alive[i]:
            alive[i + 1:] &= ~close[i, i + 1:]
    return order[alive]


def _grid_of(count: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray] | None:
    """Place (cells, 2) and stride (cells, 1) of each cell of a grid with that many of them, if there is one."""
    for strides in _STRIDES:
        shapes = [(size[0] // stride, size[1] // stride) for stride in strides]
        if sum(rows * columns for rows, columns in shapes) == count:
            cells = [np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2)
                     for rows, columns in shapes]
            sides = [np.full((len(each), 1), stride) for each, stride in zip(cells, strides, strict=True)]
            return np.concatenate(cells).astype(np.float32), np.concatenate(sides).astype(np.float32)
    return None
