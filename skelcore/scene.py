"""What surrounds the mannequin: the camera, the background and an occluder."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from skelcore.body import rotation

_MARGIN = 24


@dataclass(frozen=True)
class Camera:
    """A pinhole camera, slightly hand-held.

    ``yaw`` 0 sees the person from the front, ``pitch`` > 0 from above (radians); ``focal`` pixels, ``distance`` metres,
    ``centre`` (2,) pixels where the point ``target`` (3,) metres appears; ``waves`` (3, K, 3) frequency, phase, weight
    of the drift in x, y (pixels) and roll (radians).
    """

    yaw: float
    pitch: float
    focal: float
    distance: float
    centre: np.ndarray
    target: np.ndarray
    waves: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, size: tuple[int, int], crowd: bool) -> Camera:
        height, width = size
        focal = rng.uniform(1.1, 2.0) * height
        # A standing person of 1.7 m fills this share of the frame's height; arms overhead need the rest.
        share = rng.uniform(0.55, 0.74) * (0.85 if crowd else 1.0) * min(1, width / height)
        centre = np.array([width, height]) * rng.uniform([0.45, 0.48], [0.55, 0.58])
        waves = np.stack([rng.uniform(0.1, 1.2, (3, 4)), rng.uniform(0, 1, (3, 4)), rng.normal(0, 1, (3, 4))], -1)
        waves[..., 2] *= np.array([[0.006 * width], [0.004 * height], [0.004]]) * rng.uniform(0.2, 1.2)
        yaw, pitch = np.radians(rng.uniform([-65, -6], [65, 22]))
        distance = focal * 1.7 / (share * height)
        return cls(yaw, pitch, focal, distance, centre, np.array([0, 0.92, 0]), waves)

    def drift(self, seconds: np.ndarray) -> np.ndarray:
        """The image motion as affine matrices (T, 2, 3): a small shift and roll about the frame's middle."""
        frequency, phase, weight = np.moveaxis(self.waves, -1, 0)
        x, y, roll = (np.sin(2 * np.pi * (seconds[:, None, None] * frequency + phase)) * weight).sum(-1).T
        shift = np.clip(np.stack([x, y], -1), -0.6 * _MARGIN, 0.6 * _MARGIN)
        turn = np.stack([np.cos(roll), -np.sin(roll), np.sin(roll), np.cos(roll)], -1).reshape(-1, 2, 2)
        offset = self.centre - turn @ self.centre + shift
        return np.concatenate([turn, offset[..., None]], -1)

    def project(self, points: np.ndarray, drift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (T, P, 2) and depths in metres (T, P) of points (T, P, 3) in metres."""
        turn = rotation(0, np.array([self.pitch]))[0] @ rotation(1, np.array([self.yaw]))[0]
        seen = (points - self.target) @ turn.T
        depth = np.maximum(self.distance - seen[..., 2], 0.2)
        flat = self.centre + self.focal * seen[..., :2] * [1, -1] / depth[..., None]
        return np.einsum("tij,tpj->tpi", drift[:, :, :2], flat) + drift[:, None, :, 2], depth

    def horizon(self) -> float:
        """Row of the horizon in pixels."""
        return float(self.centre[1] - self.focal * np.tan(self.pitch))


def background(rng: np.random.Generator, size: tuple[int, int], floor: float) -> np.ndarray:
    """A random room, yard or noise (H, W, 3) uint8 with a margin all round; ``floor`` is a row in pixels."""
    height, width = size[0] + 2 * _MARGIN, size[1] + 2 * _MARGIN
    image: np.ndarray = np.empty((height, width, 3), np.float32)
    wall = rng.uniform(70, 210, 3) * 0.4 + rng.uniform(40, 130)
    ground = rng.uniform(50, 170, 3) * 0.5 + rng.uniform(20, 70)
    row = int(np.clip(floor + _MARGIN, 0, height))
    image[:row] = wall * np.linspace(0.85, 1.1, max(row, 1))[:row, None, None]
    image[row:] = ground * np.linspace(0.8, 1.15, max(height - row, 1))[: height - row, None, None]
    kind = rng.integers(3)
    for _ in range(int(rng.integers(2, 9)) if kind != 2 else 0):
        _furniture(rng, image, row)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.6, 3.0))
    strength = (8.0, 18.0, 38.0)[kind] * rng.uniform(0.6, 1.2)
    sideways = 1 + 0.2 * rng.uniform(-1, 1) * np.linspace(-1, 1, width)[:, None]
    image = (image + strength * _clouds(rng, height, width)) * sideways
    return image.clip(0, 255).astype(np.uint8)


def _furniture(rng: np.random.Generator, image: np.ndarray, row: int) -> None:
    height, width = image.shape[:2]
    colour = tuple(float(v) for v in rng.uniform(20, 230, 3) * 0.6 + rng.uniform(0, 90))
    w, h = rng.uniform(0.06, 0.3) * width, rng.uniform(0.08, 0.35) * height
    x, y = rng.uniform(-0.1, 1) * width, rng.uniform(0, max(row, 1))
    low = (int(x), int(y if rng.uniform() < 0.5 else row - h))
    if rng.uniform() < 0.75:
        cv2.rectangle(image, low, (int(low[0] + w), int(low[1] + h)), colour, -1)
    else:
        cv2.ellipse(image, (int(x), int(y)), (int(w / 2), int(h / 2)), rng.uniform(0, 180), 0, 360, colour, -1)


def _clouds(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Noise with the 1/f spectrum of photographs, (H, W, 3) of about unit variance, mostly grey."""
    out: np.ndarray = np.zeros((height, width, 3), np.float32)
    for cells in (3, 7, 16, 40, 110):
        coarse = rng.normal(size=(cells, cells, 1)) + 0.22 * rng.normal(size=(cells, cells, 3))
        wide = np.asarray(cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC))
        out = out + wide / cells**0.35
    return out / out.std()


def framed(image: np.ndarray, drift: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The part of a background that the camera sees under one drift matrix (2, 3): (H, W, 3) uint8."""
    matrix = drift.copy()
    matrix[:, 2] -= drift[:, :2] @ np.array([_MARGIN, _MARGIN])
    return cv2.warpAffine(image, matrix, (size[1], size[0]), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


@dataclass(frozen=True)
class Occluder:
    """A flat thing in front of the persons: ``corners`` (4, 2) pixels before drift, and the image on it."""

    corners: np.ndarray
    texture: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, box: np.ndarray, size: tuple[int, int]) -> Occluder:
        """A post beside the middle, a table before the legs or a board before one side of ``box`` (x1 y1 x2 y2)."""
        height, width = size
        (x1, y1), (x2, y2) = box.reshape(2, 2)
        kind = rng.integers(3)
        if kind == 0:
            middle, half = x1 + (x2 - x1) * rng.uniform(0.3, 0.7), 0.03 * width * rng.uniform(0.7, 1.5)
            low, high = (middle - half, -height), (middle + half, 2 * height)
        elif kind == 1:
            top = y1 + (y2 - y1) * rng.uniform(0.62, 0.8)
            low, high = (x1 - rng.uniform(0.1, 0.3) * width, top), (x2 + rng.uniform(0.1, 0.3) * width, 2 * height)
        else:
            edge = x1 + (x2 - x1) * rng.uniform(0.1, 0.35)
            low, high = (-width, y1 + (y2 - y1) * rng.uniform(0, 0.4)), (edge, 2 * height)
            if rng.integers(2):
                low, high = (x1 + x2 - edge, low[1]), (2 * width, high[1])
        corners = np.array([low, (high[0], low[1]), high, (low[0], high[1])], float)
        texture = rng.uniform(30, 200, 3) + 14 * _clouds(rng, *size)
        return cls(corners, texture.clip(0, 255).astype(np.uint8))

    def covers(self, points: np.ndarray, drift: np.ndarray) -> np.ndarray:
        """Whether each of the points (T, J, 2) lies behind it, (T, J)."""
        flat = np.einsum("tji,tpj->tpi", drift[:, :, :2], points - drift[:, None, :, 2])
        return ((flat > self.corners[0]) & (flat < self.corners[2])).all(-1)

    def paint(self, frame: np.ndarray, drift: np.ndarray) -> None:
        """Draw it over ``frame`` in place."""
        corners = self.corners @ drift[:, :2].T + drift[:, 2]
        mask = np.zeros(frame.shape[:2], np.uint8)
        cv2.fillConvexPoly(mask, np.round(corners).astype(np.int32), 1)
        np.copyto(frame, self.texture, where=mask[..., None] > 0)
