"""Rotated square regions (centre x, centre y, side, rotation in radians): what a top-down model looks at.

A point of the crop is given in units of the crop's side, so (0, 0) is its upper left and (1, 1) its lower right
corner. Rotation is clockwise on the screen (y points down) and zero for an upright person.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

MARGIN = 1.25  # side of a region over the diameter of the circle that holds the person


def around(centre: np.ndarray, rim: np.ndarray) -> np.ndarray:
    """Regions (P, 4) of persons whose body circle has these centres (P, 2) and points (P, 2) on the rim, in pixels.

    The rim point lies beyond the head along the spine, so it turns the region upright.
    """
    across, down = (rim - centre).T
    side = 2 * MARGIN * np.hypot(across, down)
    return np.stack([*centre.T, side, np.arctan2(across, -down)], -1).astype(np.float32)


def upright(boxes: np.ndarray) -> np.ndarray:
    """Regions (P, 4) of persons of whom only boxes (P, 4) x1 y1 x2 y2 are known: assumes that they stand upright."""
    low, high = boxes[:, :2], boxes[:, 2:]
    side = MARGIN * (high - low).max(1)
    return np.concatenate([(low + high) / 2, side[:, None], np.zeros_like(side)[:, None]], 1).astype(np.float32)


def whole(height: int, width: int) -> np.ndarray:
    """The region (4,) that holds a whole frame and letterboxes it."""
    return np.array([width / 2, height / 2, max(height, width), 0], np.float32)


def tiles(height: int, width: int) -> list[np.ndarray]:
    """Square regions of an oblong frame's short side that cover it, end to end; none for a frame about square."""
    side, long = min(height, width), max(height, width)
    count = math.ceil(long / side - 0.1)
    if count < 2:
        return []
    along = np.linspace(side / 2, long - side / 2, count)
    centres = [(x, height / 2) for x in along] if width > height else [(width / 2, y) for y in along]
    return [np.array([x, y, side, 0], np.float32) for x, y in centres]


def boxes(regions: np.ndarray, height: int, width: int) -> np.ndarray:
    """Boxes (P, 4) x1 y1 x2 y2 of the persons in the regions, without the margin, clipped to the frame."""
    half = regions[:, 2:3] / (2 * MARGIN)
    return clip(np.concatenate([regions[:, :2] - half, regions[:, :2] + half], 1), height, width)


def clip(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Boxes (P, 4) cut at the frame's border."""
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float32)).astype(np.float32)


def matrix(region: np.ndarray) -> np.ndarray:
    """The affine map (2, 3) from crop units to frame pixels."""
    x, y, side, rotation = (float(value) for value in region)
    cos, sin = side * math.cos(rotation), side * math.sin(rotation)
    return np.array([[cos, -sin, x - (cos - sin) / 2], [sin, cos, y - (sin + cos) / 2]])


def crop(frame: np.ndarray, region: np.ndarray, size: int, border: int) -> np.ndarray:
    """The region of a frame (H, W, 3) uint8 as an image (size, size, 3); ``border`` is OpenCV's border mode."""
    to_frame = matrix(region)
    to_frame[:, :2] /= size
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(frame, to_frame, (size, size), flags=flags, borderMode=border)


def project(points: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Points (..., 2) in crop units -> frame pixels, float32."""
    to_frame = matrix(region).astype(np.float32)
    return points @ to_frame[:, :2].T + to_frame[:, 2]
