"""Crops of persons for top-down pose models, and keypoints from what the models answer.

Crops are MMPose's: the box, widened to the aspect of the model's input and by a padding of 1.25. ``udp`` crops as
Huang et al., "The Devil is in the Details: Delving into Unbiased Data Processing" (CVPR 2020), who count pixel
distances instead of pixels. Scores are the lesser of the two maxima of SimCC, or the maximum of the heatmap, clipped
to [0, 1]; where a maximum is not above zero the joint is missing and its score 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

PADDING = 1.25
_CORNERS = np.array([[0, 0], [-1, 0], [-1, 1]])  # three points of a crop, in half widths from its centre


@dataclass(frozen=True)
class Crops:
    """N crops of one frame for a model input of ``size`` (height, width): ``centre`` and ``extent`` (N, 2) pixels."""

    centre: np.ndarray
    extent: np.ndarray
    size: tuple[int, int]
    udp: bool = False

    @classmethod
    def of(cls, boxes: np.ndarray, size: tuple[int, int], padding: float = PADDING, udp: bool = False) -> Crops:
        """The crops of persons in boxes (N, 4) x1 y1 x2 y2."""
        aspect = size[1] / size[0]
        sides = (boxes[:, 2:] - boxes[:, :2]) * padding
        width = np.maximum(np.maximum(sides[:, 0], sides[:, 1] * aspect), 1e-3)
        return cls((boxes[:, :2] + boxes[:, 2:]) * 0.5, np.stack([width, width / aspect], 1), size, udp)

    def cut(self, frame: np.ndarray) -> np.ndarray:
        """The crops (N, height, width, 3) of a frame (H, W, 3) uint8, black beyond its border."""
        height, width = self.size
        images = np.empty((len(self.centre), height, width, 3), np.uint8)
        for i, (centre, extent) in enumerate(zip(self.centre, self.extent, strict=True)):
            cv2.warpAffine(frame, self._matrix(centre, extent), (width, height), dst=images[i], flags=cv2.INTER_LINEAR)
        return images

    def to_frame(self, points: np.ndarray) -> np.ndarray:
        """Points (N, V, 2) in pixels of the crops -> pixels of the frame."""
        size = np.array(self.size[::-1])
        return points / size * self.extent[:, None] + (self.centre - self.extent / 2)[:, None]

    def _matrix(self, centre: np.ndarray, extent: np.ndarray) -> np.ndarray:
        """The affine map (2, 3) from frame to crop."""
        size = np.array(self.size[::-1])
        if self.udp:
            scale = (size - 1) / extent
            shift = (size - 1) / 2 - scale * centre
            return np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]], np.float32)
        source = centre + extent[0] / 2 * _CORNERS
        target = size / 2 + size[0] / 2 * _CORNERS
        return cv2.getAffineTransform(source.astype(np.float32), target.astype(np.float32))


def simcc(x: np.ndarray, y: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, V, 2) in crop pixels and scores (N, V) from SimCC rows x (N, V, K * width) and y (N, V, K * height).

    Li et al., "SimCC: a Simple Coordinate Classification Perspective for Human Pose Estimation" (ECCV 2022).
    """
    points = np.stack([x.argmax(-1) * (size[1] / x.shape[-1]), y.argmax(-1) * (size[0] / y.shape[-1])], -1)
    return points.astype(np.float32), np.clip(np.minimum(x.max(-1), y.max(-1)), 0, 1)


def heatmaps(maps: np.ndarray, size: tuple[int, int], how: str) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, V, 2) in crop pixels and scores (N, V) from heatmaps (N, V, H, W).

    ``how`` finer than a cell: ``quarter`` of one towards the higher neighbour (Newell et al. 2016); ``dark`` to the
    top of the Gaussian that the neighbours tell of (Zhang et al., "Distribution-Aware Coordinate Representation",
    CVPR 2020); ``udp`` the same with UDP's steps and scale.
    """
    height, width = maps.shape[2:]
    flat = maps.reshape(-1, height, width)
    rows, columns = np.divmod(flat.reshape(len(flat), -1).argmax(1), width)
    scores = flat[np.arange(len(flat)), rows, columns]
    shift = _quarter(flat, rows, columns) if how == "quarter" else _newton(flat, rows, columns, how == "udp")
    cells = np.stack([columns, rows], 1) + shift
    spans = (width - 1, height - 1) if how == "udp" else (width, height)
    points = cells * (np.array(size[::-1]) / spans)
    shape = maps.shape[:2]
    return points.reshape(*shape, 2).astype(np.float32), np.clip(scores, 0, 1).reshape(shape)


def _quarter(flat: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    height, width = flat.shape[1:]
    padded, at = np.pad(flat, ((0, 0), (1, 1), (1, 1))), np.arange(len(flat))
    across = padded[at, rows + 1, columns + 2] - padded[at, rows + 1, columns]
    down = padded[at, rows + 2, columns + 1] - padded[at, rows, columns + 1]
    # Where a neighbour is beyond the border there is nothing to compare; the first inner cells count as border too.
    across = np.where((columns > 1) & (columns < width - 1) & (rows > 0), across, 0)
    down = np.where((rows > 1) & (rows < height - 1) & (columns > 0), down, 0)
    shift: np.ndarray = 0.25 * np.sign(np.stack([across, down], 1))
    return shift


def _newton(flat: np.ndarray, rows: np.ndarray, columns: np.ndarray, udp: bool) -> np.ndarray:
    """Shifts (K, 2) in cells from the maxima of maps (K, H, W) to the tops of their logarithms, one Newton step."""
    height, width = flat.shape[1:]
    logs = np.log(np.clip(_smooth(flat), 1e-3 if udp else 1e-10, 50 if udp else None))
    reach = 1 if udp else 2  # of the second differences
    padded, at = np.pad(logs, ((0, 0), (reach, reach), (reach, reach)), "edge"), np.arange(len(flat))

    def near(dx: int, dy: int) -> np.ndarray:
        value: np.ndarray = padded[at, rows + reach + dy, columns + reach + dx]
        return value

    here = near(0, 0)
    slope = np.stack([near(1, 0) - near(-1, 0), near(0, 1) - near(0, -1)], 1) / 2
    xx = (near(reach, 0) - 2 * here + near(-reach, 0)) / reach ** 2
    yy = (near(0, reach) - 2 * here + near(0, -reach)) / reach ** 2
    if udp:
        xy = (near(1, 1) - near(1, 0) - near(0, 1) + 2 * here - near(-1, 0) - near(0, -1) + near(-1, -1)) / 2
    else:
        xy = (near(1, 1) - near(1, -1) - near(-1, 1) + near(-1, -1)) / 4
    determinant = xx * yy - xy ** 2
    shift = -np.stack([yy * slope[:, 0] - xy * slope[:, 1], xx * slope[:, 1] - xy * slope[:, 0]], 1)
    shift /= np.where(determinant == 0, 1, determinant)[:, None]
    usable = determinant != 0
    if not udp:
        usable &= (columns > 1) & (columns < width - 2) & (rows > 1) & (rows < height - 2)
    return np.where(usable[:, None], shift, 0)


def _smooth(flat: np.ndarray) -> np.ndarray:
    """Maps (K, H, W) under the Gaussian with which their peaks were trained, of the same height as before."""
    width = 11 if flat.shape[1] <= 64 else 17  # sigma 2 in maps of 64 x 48, 3 in those of 96 x 72
    smooth = np.stack([cv2.GaussianBlur(each, (width, width), 0, borderType=cv2.BORDER_CONSTANT) for each in flat])
    before, after = flat.max((1, 2)), smooth.max((1, 2))
    return smooth * np.where(after > 0, before / np.where(after > 0, after, 1), 1)[:, None, None]
