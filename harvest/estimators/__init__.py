"""Pose models behind one small interface: find people, then estimate their keypoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

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
    """A pose model. Frames are (B, H, W, 3) uint8 RGB; results are one object a frame."""

    layout: Layout
    provenance: dict[str, Any]

    def detect(self, frames: np.ndarray) -> list[People]: ...

    def estimate(self, frames: np.ndarray, people: list[People]) -> list[Poses]: ...


def build(name: str, layout: str = "coco17") -> Estimator:
    """The estimator of that name, answering in ``layout``; raises InputError for an unknown name."""
    if name != "blazepose":
        raise InputError(f"estimator={name}: unknown; known: blazepose")
    from harvest.estimators.blazepose import BlazePose

    return BlazePose(layout)
