"""BlazePose: person detection and 33 body landmarks for several persons a frame, on a CPU.

Bazarevsky et al., "BlazePose: On-device Real-time Body Pose Tracking", 2020 (arXiv 2006.10204), with the constants of
the graph that ships with mediapipe 0.10.21. The detector finds heads and predicts, for each, the centre and the
radius of the circle that holds the body; the landmark model looks at that circle's square, turned upright, and also
predicts the circle of the next frame.
"""

from __future__ import annotations

import struct
from importlib.metadata import version
from typing import Any

import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from harvest.estimators import People, Poses, check_frames, regions, weights
from skelcore import layouts
from skelcore.errors import InputError
from skelcore.layouts import Layout

_DETECTOR_SIDE, _LANDMARK_SIDE = 224, 256
_DETECTOR_VALUES = 12  # box centre and size, then four keypoints
_CENTRE, _RIM = slice(4, 6), slice(6, 8)  # the two keypoints of a detection that make its region
_SCORE_CLIP = 100.0  # of the logits
_NMS_IOU = 0.3
_BODY, _AUXILIARY = 33, 6
_HEATMAP_REACH, _HEATMAP_CONFIDENCE = 4, 0.5  # a 9 x 9 window; refine only where the heatmap is this sure
# Two poses are of one person when half of their landmarks lie closer than this share of the region's side.
_DUPLICATE_DISTANCE = 0.06
# The vector of output tensors in the (pinned) landmark model: landmarks, flag, mask, heatmap, world landmarks. Listing
# only the three that are read lets the runtime drop the mask's decoder, 28 % of the time.
_ALL_OUTPUTS = struct.pack("<6i", 5, 337, 342, 297, 298, 339)
_READ_OUTPUTS = struct.pack("<4i", 3, 337, 342, 298)


class BlazePose:
    """The Estimator (see ``harvest.estimators``) around the two models; ``layout`` is coco17 or mediapipe33.

    With ``tiles`` the detector looks at square tiles of an oblong frame too, and so finds smaller people. The score of
    a joint is the lesser of the model's visibility (not occluded) and presence (in the picture): either alone believes
    joints that are not there. The poses of a frame are those of the persons whose pose flag passes ``min_presence``,
    without duplicates, so they may be fewer than the people asked for. Raises InputError for another layout, RunError
    when the model files cannot be had.
    """

    def __init__(self, layout: str = "coco17", tiles: bool = True, min_score: float = 0.5,
                 min_presence: float = 0.5) -> None:
        if layout not in ("coco17", "mediapipe33"):
            raise InputError(f"layout={layout}: blazepose answers in coco17 or mediapipe33")
        self.layout: Layout = layouts.get(layout)
        self.tiles, self.min_score, self.min_presence = tiles, min_score, min_presence
        self._joints = layouts.get("mediapipe33").index(*self.layout.joints)
        self._anchors = anchors()
        self._detector = Network(weights.load(weights.DETECTOR), -1, 1)
        self._landmarks = Network(read_outputs_only(weights.load(weights.LANDMARKS)), 0, 1)
        self.provenance: dict[str, Any] = {
            "estimator": "blazepose",
            "models": {model.name: model.sha256 for model in weights.MODELS},
            "runtime": f"ai-edge-litert {version('ai-edge-litert')}",
            "tiles": tiles,
            "min_score": min_score,
            "min_presence": min_presence,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        # An interpreter cannot travel to another process; a new one is built there.
        return BlazePose, (self.layout.name, self.tiles, self.min_score, self.min_presence)

    def detect(self, frames: np.ndarray) -> list[People]:
        """The people in each frame (B, H, W, 3) uint8 RGB, best first."""
        return [self._detect(frame) for frame in check_frames(frames)]

    def estimate(self, frames: np.ndarray, people: list[People]) -> list[Poses]:
        """The poses of the people in each frame (B, H, W, 3) uint8 RGB, given one People a frame."""
        if len(frames) != len(people):
            raise InputError(f"{len(frames)} frames but {len(people)} lists of people: there must be one a frame")
        return [self._estimate(frame, found) for frame, found in zip(check_frames(frames), people, strict=True)]

    def _detect(self, frame: np.ndarray) -> People:
        height, width = frame.shape[:2]
        found, scores = weighted_nms(*self._look(frame, regions.whole(height, width), np.inf), _NMS_IOU)
        for tile in regions.tiles(height, width) if self.tiles else []:
            # A tile cuts through large people; it only adds those who are too small in the whole frame.
            more, certainty = weighted_nms(*self._look(frame, tile, tile[2]), _NMS_IOU)
            new = [not (iou(each, found) > _NMS_IOU).any() for each in more]
            found, scores = np.concatenate([found, more[new]]), np.concatenate([scores, certainty[new]])
        order = np.argsort(-scores, kind="stable")
        squares = regions.around(found[order][:, _CENTRE], found[order][:, _RIM])
        return People(regions.boxes(squares, height, width), scores[order], squares)

    def _look(self, frame: np.ndarray, view: np.ndarray, widest: float) -> tuple[np.ndarray, np.ndarray]:
        """Detections (K, 12) in frame pixels and scores (K,) in a square view, body circles up to ``widest`` pixels."""
        values, logits = self._detector(regions.crop(frame, view, _DETECTOR_SIDE, cv2.BORDER_CONSTANT))
        scores = _sigmoid(np.clip(logits[0, :, 0], -_SCORE_CLIP, _SCORE_CLIP))
        likely = np.flatnonzero(scores >= self.min_score)
        points = decode(values[0, likely], self._anchors[likely]).reshape(-1, _DETECTOR_VALUES // 2, 2)
        found = regions.project(points, view).reshape(-1, _DETECTOR_VALUES)
        fits = 2 * np.linalg.norm(found[:, _RIM] - found[:, _CENTRE], axis=1) <= widest
        return found[fits], scores[likely][fits]

    def _estimate(self, frame: np.ndarray, people: People) -> Poses:
        squares = regions.upright(people.boxes) if people.regions is None else people.regions
        points = np.empty((len(squares), _BODY + _AUXILIARY, 2), np.float32)
        scores = np.empty((len(squares), _BODY), np.float32)
        presence = np.empty(len(squares), np.float32)
        for i, square in enumerate(squares):
            values, flag, heatmaps = self._landmarks(regions.crop(frame, square, _LANDMARK_SIDE, cv2.BORDER_REPLICATE))
            values = values.reshape(_BODY + _AUXILIARY, 5)
            points[i] = regions.project(refine(values[:, :2] / _LANDMARK_SIDE, heatmaps[0]), square)
            scores[i], presence[i] = _sigmoid(values[:_BODY, 3:].min(1)), flag[0, 0]
        kept = [i for i in distinct(points[:, :_BODY], squares[:, 2], presence) if presence[i] >= self.min_presence]
        return self._poses(points[kept], scores[kept], presence[kept], frame.shape[0], frame.shape[1])

    def _poses(self, points: np.ndarray, scores: np.ndarray, presence: np.ndarray, height: int, width: int) -> Poses:
        body = points[:, :_BODY]
        boxes = regions.clip(np.concatenate([body.min(1), body.max(1)], 1), height, width)
        ahead = regions.around(points[:, _BODY], points[:, _BODY + 1])
        return Poses(body[:, self._joints], scores[:, self._joints], presence, People(boxes, presence, ahead))


class Network:
    """One model on one thread: an image (S, S, 3) uint8 in, its outputs as arrays out.

    The model sees 0 as ``low`` and 255 as ``high``.
    """

    def __init__(self, content: bytes, low: float, high: float) -> None:
        self._interpreter = Interpreter(model_content=content, num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.tensor(self._interpreter.get_input_details()[0]["index"])
        self._outputs = [detail["index"] for detail in self._interpreter.get_output_details()]
        self._scale, self._offset = np.float32((high - low) / 255), np.float32(low)

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        self._write(image)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]

    def _write(self, image: np.ndarray) -> None:
        # Straight into the model's memory; the view must be gone before the model runs.
        tensor = self._input()[0]
        np.multiply(image, self._scale, out=tensor)
        if self._offset:
            tensor += self._offset


def read_outputs_only(model: bytes) -> bytes:
    """The landmark model with only those outputs listed that are read; ValueError when it is another model."""
    if model.count(_ALL_OUTPUTS) != 1:
        raise ValueError("the landmark model does not list the five outputs of the pinned one")
    return model.replace(_ALL_OUTPUTS, _READ_OUTPUTS + _ALL_OUTPUTS[len(_READ_OUTPUTS) :])


def anchors() -> np.ndarray:
    """Anchor centres (2254, 2) x y in [0, 1]: two a cell of the 28 and 14 grids, six a cell of the 7 grid."""
    grids = []
    for cells, each in ((28, 2), (14, 2), (7, 6)):
        y, x = np.mgrid[:cells, :cells]
        grids.append(np.repeat(np.stack([x, y], -1).reshape(-1, 2), each, 0) + 0.5)
        grids[-1] /= cells
    return np.concatenate(grids).astype(np.float32)


def decode(values: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Raw detections (K, 12) at their anchors (K, 2) -> (K, 12) in units of the image: x1 y1 x2 y2, four keypoints."""
    points = values.reshape(-1, _DETECTOR_VALUES // 2, 2) / _DETECTOR_SIDE
    half = points[:, 1].copy() / 2
    points += centres[:, None]
    points[:, 1] = points[:, 0] + half
    points[:, 0] -= half
    return points.reshape(-1, _DETECTOR_VALUES)


def weighted_nms(found: np.ndarray, scores: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Merges detections (K, 12), box first, that overlap the best of them by more than ``threshold`` (IoU).

    Each group becomes the mean of its members, weighted by score, with the score of its best one
    (Bazarevsky et al., "BlazeFace", 2019, section 3.3). Returns (P, 12) and (P,), best first.
    """
    order = np.argsort(-scores, kind="stable")
    merged, best = [], []
    while len(order):
        overlaps = iou(found[order[0]], found[order]) > threshold
        overlaps[0] = True  # also where the box has no area
        group = order[overlaps]
        merged.append(scores[group] @ found[group] / scores[group].sum())
        best.append(scores[order[0]])
        order = order[~overlaps]
    return np.array(merged, np.float32).reshape(-1, found.shape[1]), np.array(best, np.float32)


def refine(points: np.ndarray, heatmaps: np.ndarray) -> np.ndarray:
    """Moves points (V, 2) in [0, 1] to the centre of mass of their heatmap (H, W, V) of logits in a 9 x 9 window.

    A point outside the heatmap, or whose window holds no confidence of 0.5, stays.
    """
    height, width, joints = heatmaps.shape
    size = np.array([width, height], np.float32)
    cells = (points * size).astype(np.int64)
    reach = np.arange(-_HEATMAP_REACH, _HEATMAP_REACH + 1)
    columns, rows = cells[:, 0, None] + reach, cells[:, 1, None] + reach
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    window = heatmaps[rows.clip(0, height - 1)[:, :, None], columns.clip(0, width - 1)[:, None, :],
                      np.arange(joints)[:, None, None]]
    window = np.where(inside, _sigmoid(window), np.float32(0))
    mass = window.sum((1, 2))
    moment = np.stack([(window.sum(1) * columns).sum(1), (window.sum(2) * rows).sum(1)], -1)
    centre = moment / np.maximum(mass, 1e-9)[:, None]
    sure = (window.max((1, 2)) >= _HEATMAP_CONFIDENCE) & (cells >= 0).all(1) & (cells < size).all(1)
    return np.where(sure[:, None], centre / size, points).astype(np.float32)


def distinct(points: np.ndarray, sides: np.ndarray, presence: np.ndarray) -> list[int]:
    """Which of the poses (P, V, 2) to keep so that each person appears once, as the pose of highest presence.

    ``sides`` (P,) are the regions' sides in pixels. Returns indices in their given order.
    """
    kept: list[int] = []
    for i in np.argsort(-presence, kind="stable"):
        apart = [np.median(np.linalg.norm(points[i] - points[j], axis=-1)) / max(sides[i], sides[j]) for j in kept]
        if all(distance > _DUPLICATE_DISTANCE for distance in apart):
            kept.append(int(i))
    return sorted(kept)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # exp(-logit) = inf gives 0, which is right
        return 1 / (1 + np.exp(-logits))


def iou(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union (K,) of one detection's box with those of others; 0 where both are empty."""
    box, boxes = one[:4], others[:, :4]
    overlap = np.clip(np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]), 0, None).prod(1)
    areas = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(1)
    union = areas + np.clip(box[2:] - box[:2], 0, None).prod() - overlap
    return overlap / np.maximum(union, 1e-12)
