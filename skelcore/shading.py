"""Draws round parts with light, folds and a depth buffer, and tells what they hide."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

_FOLDS = 64


@dataclass(frozen=True)
class Capsules:
    """The parts of all persons as the camera sees them, over T frames and P parts.

    ``ends`` (T, P, 2, 2) pixels, ``radii`` (T, P, 2) pixels, ``depths`` (T, P, 2) metres from the camera, ``thickness``
    (P,) metres, ``colours`` (P, 3) RGB, ``cloth`` (P,).
    """

    ends: np.ndarray
    radii: np.ndarray
    depths: np.ndarray
    thickness: np.ndarray
    colours: np.ndarray
    cloth: np.ndarray

    def hidden(self, points: np.ndarray, depths: np.ndarray, tolerance: np.ndarray) -> np.ndarray:
        """Whether some part lies before each point (T, J, 2) at ``depths`` (T, J) by more than ``tolerance`` (J,) m."""
        start, way = self.ends[:, :, 0], self.ends[:, :, 1] - self.ends[:, :, 0]
        out = np.zeros(depths.shape, bool)
        for j in range(points.shape[1]):
            offset = points[:, j, None] - start
            along = (offset * way).sum(-1) / np.maximum((way * way).sum(-1), 1e-6)
            along = np.clip(along, 0, 1)
            radius = self.radii[..., 0] + along * (self.radii[..., 1] - self.radii[..., 0])
            inside = 1 - ((offset - along[..., None] * way) ** 2).sum(-1) / radius**2
            surface = self.depths[..., 0] + along * (self.depths[..., 1] - self.depths[..., 0])
            surface = surface - np.sqrt(np.maximum(inside, 0)) * self.thickness
            out[:, j] = ((inside > 0) & (surface < depths[:, j, None] - tolerance[j])).any(1)
        return out


class Painter:
    """Draws `Capsules` on frames of one size, lit by ``light`` (3,): right, down, away from the viewer, unit length."""

    def __init__(self, size: tuple[int, int], capsules: Capsules, light: np.ndarray, ambient: float,
                 rng: np.random.Generator) -> None:
        self._capsules, self._ambient = capsules, np.float32(ambient)
        self._light = light.astype(np.float32)
        height, width = size
        self._x, self._y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
        self._depth, self._shade = np.empty(size, np.float32), np.zeros(size, np.float32)
        self._part = np.empty(size, np.uint8)
        folds = cv2.GaussianBlur(rng.normal(size=(_FOLDS, _FOLDS)), (0, 0), 2.0)
        folds = (folds / folds.std()).clip(-2, 2) / 2
        self._folds = (1 + capsules.cloth[:, None, None] * folds * 0.8).astype(np.float32)
        self._palette = np.concatenate([capsules.colours, np.zeros((1, 3))]).astype(np.float32)

    def paint(self, frame: np.ndarray, index: int) -> None:
        """Draw the persons at frame number ``index`` over ``frame`` (H, W, 3) uint8, in place."""
        caps = self._capsules
        ends, radii, depths = (a[index].astype(np.float32) for a in (caps.ends, caps.radii, caps.depths))
        height, width = self._part.shape
        low = np.floor((ends - radii[..., None]).min(1)).astype(int).clip(0, (width, height))
        high = (np.ceil((ends + radii[..., None]).max(1)).astype(int) + 1).clip(0, (width, height))
        seen = np.flatnonzero((high > low).all(-1))
        if not len(seen):
            return
        (left, top), (right, bottom) = low[seen].min(0), high[seen].max(0)
        whole = slice(top, bottom), slice(left, right)
        self._depth[whole], self._part[whole] = np.inf, len(caps.thickness)
        for p in map(int, seen):
            box = slice(low[p, 1], high[p, 1]), slice(low[p, 0], high[p, 0])
            self._capsule(p, box, ends[p], radii[p], depths[p])
        part = self._part[whole]
        colour = np.take(self._palette, part, axis=0)
        colour *= self._shade[whole][..., None]
        body = np.minimum(colour, 255).astype(np.uint8)
        np.copyto(frame[whole], body, where=(part < len(caps.thickness))[..., None])

    def _capsule(self, p: int, box: tuple[slice, slice], ends: np.ndarray, radii: np.ndarray, depths: np.ndarray
                 ) -> None:
        (ax, ay), (dx, dy) = ends[0], ends[1] - ends[0]
        x, y = self._x[box[1]] - ax, self._y[box[0]] - ay
        scale = 1 / max(dx * dx + dy * dy, np.float32(1e-6))
        along = np.clip(x * (dx * scale) + y * (dy * scale), 0, 1)
        inverse = 1 / (radii[0] + along * (radii[1] - radii[0]))
        right, down = (x - along * dx) * inverse, (y - along * dy) * inverse
        facing = 1 - right * right - down * down
        inside = facing > 0
        facing = np.sqrt(np.maximum(facing, 0))
        depth = depths[0] + along * (depths[1] - depths[0]) - facing * np.float32(self._capsules.thickness[p])
        buffer = self._depth[box]
        nearer = inside & (depth < buffer)
        lit = right * self._light[0] + down * self._light[1] - facing * self._light[2]
        # Grazing surfaces go darker, which separates limbs of one colour.
        shade = (self._ambient + np.maximum(lit, 0)) * (np.float32(0.7) + np.float32(0.3) * facing)
        row, column = (along * (_FOLDS - 1)).astype(np.intp), ((right + 1) * (_FOLDS / 2 - 1)).astype(np.intp)
        shade *= self._folds[p].ravel().take(row * _FOLDS + column, mode="clip")
        np.copyto(buffer, depth, where=nearer)
        np.copyto(self._shade[box], shade, where=nearer)
        np.copyto(self._part[box], np.uint8(p), where=nearer)
