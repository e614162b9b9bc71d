"""Pose models behind one small interface: find people, then estimate their keypoints."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from harvest.estimators.config import FILES, BlazePoseConfig, EstimatorConfig, MMPoseConfig, OnnxConfig
from skelcore.errors import InputError
from skelcore.layouts import Layout


@dataclass(frozen=True)
class People:
    """Where P persons are in one frame, in pixels.

    ``boxes`` (P, 4) x1 y1 x2 y2; ``scores`` (P,) in [0, 1]; ``regions`` (P, 4) centre x, centre y, side, rotation in
    radians: the square that a top-down model looks at, or None for a model that takes boxes.
    """

    boxes: np.ndarray
    scores: np.ndarray
    regions: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class Poses:
    """The keypoints of P persons in one frame: ``keypoints`` (P, V, 2) pixels, ``scores`` (P, V) in [0, 1].

    ``presence`` (P,) in [0, 1] is the model's belief that a person is there at all; ``people`` is where to look for
    the same persons in the next frame.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    presence: np.ndarray
    people: People

    def __len__(self) -> int:
        return len(self.keypoints)


class Estimator(Protocol):
    """A pose model. Frames are (B, H, W, 3) uint8 RGB; results are one object a frame.

    A model that is as good on boxes from elsewhere as on the ``people`` of its own last poses may say ``sequential`` =
    False, and is then asked for many frames at once.
    """

    layout: Layout
    provenance: dict[str, Any]

    def detect(self, frames: np.ndarray) -> list[People]: ...

    def estimate(self, frames: np.ndarray, people: list[People]) -> list[Poses]: ...


def build(estimator: str | EstimatorConfig, layout: str = "coco17") -> Estimator:
    """The estimator of that name or configuration, answering in ``layout``; raises InputError for an unknown one.

    ``module:Class`` names an estimator of the user's own, found from the current folder and called with the layout.
    """
    config = BlazePoseConfig() if estimator == "blazepose" else estimator
    if isinstance(config, str):
        if ":" in config:
            return _imported(config)(layout)
        if config in ("onnx", "mmpose"):
            raise InputError(f"estimator={config}: its models must be named: estimator: {{name: {config}, detector: "
                             f"FILE_OR_URL, {'pose' if config == 'onnx' else 'config: NAME, checkpoint'}: ...}}")
        raise InputError(f"estimator={config}: unknown; known: blazepose, onnx, mmpose, or module:Class for your own")
    # Only what is asked for is imported: each backend brings a runtime of its own.
    if isinstance(config, OnnxConfig):
        from harvest.estimators.onnx_models import onnx

        return onnx(config, layout)
    if isinstance(config, MMPoseConfig):
        from harvest.estimators.mmpose_models import mmpose

        return mmpose(config, layout)
    from harvest.estimators.blazepose import BlazePose

    return BlazePose(layout, config.tiles)


def pinned(estimator: str | EstimatorConfig) -> str | EstimatorConfig:
    """The estimator with the hash of each of its model files, so that no other file at that path can stand for it.

    Raises InputError for a file that cannot be read, or is of another hash than is given.
    """
    if isinstance(estimator, str):
        return estimator
    from harvest.estimators.download import load

    paths = {field: place for field in FILES if (place := getattr(estimator, field, None)) and "://" not in place}
    return estimator.model_copy(update={f"{field}_sha256": load(place, getattr(estimator, f"{field}_sha256")).sha256
                                        for field, place in paths.items()})


def check_frames(frames: np.ndarray) -> np.ndarray:
    """The frames, contiguous; InputError if they are not (B, H, W, 3) uint8."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape[1:3]:
        raise InputError(f"frames are {frames.dtype} {frames.shape}: they must be uint8 (B, H, W, 3) RGB")
    return np.ascontiguousarray(frames)


def _imported(name: str) -> Callable[[str], Estimator]:
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"estimator={name}: {error}") from None
    if not callable(found):
        raise InputError(f"estimator={name}: not a class or function")
    return found
