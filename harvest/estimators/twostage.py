"""Detector, then top-down pose model: the estimator that the backends onnx and mmpose share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from harvest.estimators import People, Poses, check_frames
from harvest.estimators.config import MMPoseConfig, OnnxConfig
from harvest.estimators.topdown import Crops
from skelcore import layouts
from skelcore.errors import InputError
from skelcore.layouts import Layout

# What a number of keypoints tells; of Halpe's 26 and COCO-WholeBody's 133 the first 17 are COCO's.
LAYOUTS = {17: "coco17", 21: "hand21", 26: "coco17", 133: "coco17"}
SEEN = 0.3  # score of a joint that says something of where the person is
_GROWTH = 1.25  # a person is larger than the box around the joints


class PoseModel(Protocol):
    """A top-down model: crops (N, height, width, 3) uint8 RGB -> points (N, V, 2) in crop pixels, scores (N, V)."""

    name: str
    size: tuple[int, int]
    padding: float
    udp: bool
    joints: int

    def __call__(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...


class TwoStage:
    """The Estimator (see ``harvest.estimators``) of a detector and a pose model.

    All crops of a call go through the model together. Where nobody is found there is no person. The presence of a
    person is the mean score of the joints above ``SEEN``, and 0 without any; the person of the next frame is looked
    for in the box around those joints, grown by a quarter. Raises InputError where the model's keypoints are not of
    the asked ``layout``.
    """

    sequential = False  # it takes boxes, from wherever they are known, and many frames at once

    def __init__(self, config: OnnxConfig | MMPoseConfig, layout: str, detect: Callable[[np.ndarray], Any],
                 pose: PoseModel, provenance: dict[str, Any]) -> None:
        own = config.keypoints or LAYOUTS.get(pose.joints)
        if own is None:
            raise InputError(f"{pose.name}: it has {pose.joints} keypoints, of no layout that is known by its number; "
                             f"name the layout under `keypoints:` ({', '.join(layouts.LAYOUTS)})")
        self.layout: Layout = layouts.get(own)
        if own != layout:
            raise InputError(f"layout={layout}: {pose.name} answers in {own}")
        if len(self.layout) > pose.joints:
            raise InputError(f"keypoints={own}: that layout has {len(self.layout)} joints, {pose.name} {pose.joints}")
        self._config, self._detect, self._pose = config, detect, pose
        self.provenance = {"estimator": config.name, **provenance, "min_score": config.min_score, "nms": config.nms}

    def __reduce__(self) -> tuple[Any, ...]:
        # A model cannot travel to another process; a new one is built there.
        from harvest.estimators import build

        return build, (self._config, self.layout.name)

    def detect(self, frames: np.ndarray) -> list[People]:
        """The people in each frame (B, H, W, 3) uint8 RGB, best first."""
        return [People(boxes, scores) for boxes, scores in self._detect(check_frames(frames))]

    def estimate(self, frames: np.ndarray, people: list[People]) -> list[Poses]:
        """The poses of the people in each frame (B, H, W, 3) uint8 RGB, given one People a frame."""
        if len(frames) != len(people):
            raise InputError(f"{len(frames)} frames but {len(people)} lists of people: there must be one a frame")
        crops = [Crops.of(each.boxes, self._pose.size, self._pose.padding, self._pose.udp) for each in people]
        images = [each.cut(frame) for each, frame in zip(crops, check_frames(frames), strict=True)]
        points, scores = self._answers(np.concatenate(images)) if any(map(len, people)) else self._nothing()
        ends = np.cumsum([len(each) for each in people])[:-1]
        return [self._poses(each.to_frame(here), sure, found.boxes, frames.shape[1], frames.shape[2])
                for each, here, sure, found in zip(crops, np.split(points, ends), np.split(scores, ends), people,
                                                   strict=True)]

    def _answers(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = [self._pose(images[i:i + self._config.batch]) for i in range(0, len(images), self._config.batch)]
        points, scores = (np.concatenate(each) for each in zip(*parts, strict=True))
        return points[:, :len(self.layout)], scores[:, :len(self.layout)]

    def _nothing(self) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((0, len(self.layout), 2)), np.zeros((0, len(self.layout)))

    def _poses(self, points: np.ndarray, scores: np.ndarray, boxes: np.ndarray, height: int, width: int) -> Poses:
        points, scores = points.astype(np.float32), scores.astype(np.float32)
        seen = scores > SEEN
        presence = (scores * seen).sum(1) / np.maximum(seen.sum(1), 1)
        return Poses(points, scores, presence, People(_around(points, seen, boxes, height, width), presence))


def _around(points: np.ndarray, seen: np.ndarray, boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Boxes (P, 4) around the seen ones of points (P, V, 2), grown and cut at the frame; the old where none is."""
    low = np.where(seen[..., None], points, np.inf).min(1)
    high = np.where(seen[..., None], points, -np.inf).max(1)
    some = seen.any(1, keepdims=True)
    low, high = np.where(some, low, boxes[:, :2]), np.where(some, high, boxes[:, 2:])
    middle, half = (low + high) / 2, np.where(some, _GROWTH, 1) * (high - low) / 2
    found = np.clip(np.concatenate([middle - half, middle + half], 1), 0, [width, height, width, height])
    return found.astype(np.float32)


