"""How well tracks keep persons apart: IDF1 and identity switches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment


@dataclass(frozen=True)
class Identity:
    """``idf1`` in [0, 1]; ``switches`` times at which a person went on as another track than before."""

    idf1: float
    switches: int


def identity(truth: np.ndarray, found: np.ndarray, least: float = 0.5, aside: np.ndarray | None = None) -> Identity:
    """Compare the boxes of G persons (G, T, 4) x1 y1 x2 y2 with those of H tracks (H, T, 4), nan where absent.

    IDF1 is the harmonic mean of precision and recall when each person is given the one track that serves best (Ristani
    et al., "Performance measures and a data set for multi-target, multi-camera tracking", 2016); a box counts from an
    IoU of ``least``. For the switches, a person keeps a track as long as it fits, and is otherwise given the best of
    those left (Bernardin and Stiefelhagen, "Evaluating multiple object tracking performance", 2008). A found box that
    fits nobody but one of ``aside`` (K, T, 4), persons too little in view to be asked for, is neither right nor wrong.
    """
    fits = _overlaps(truth, found)
    fits[~(fits >= least)] = 0
    if aside is not None:
        alone = np.asarray((_overlaps(aside, found) >= least).any(0) & ~(fits > 0).any(0))
        found = np.where(alone[..., None], np.nan, found)
    together = (fits > 0).sum(-1)
    hits = int(together[linear_sum_assignment(-together)].sum())
    boxes = sum(int(np.isfinite(x).all(-1).sum()) for x in (truth, found))
    return Identity(2 * hits / boxes if boxes else 1.0, _switches(fits))


def _switches(fits: np.ndarray) -> int:
    """Changes of track over the frames of ``fits`` (G, H, T), nought where a person and a track do not match."""
    current: dict[int, int] = {}
    switches = 0
    for frame in np.moveaxis(fits, -1, 0):
        frame = frame.copy()
        for person, track in current.items():
            if frame[person, track] > 0:
                frame[person, track] += 2  # beats any other choice
        for person, track in zip(*linear_sum_assignment(-frame), strict=True):
            if frame[person, track] > 0:
                switches += current.get(person, track) != track
                current[person] = track
    return switches


def _overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU (G, H, T) of boxes (G, T, 4) and (H, T, 4); nan where either is absent."""
    one, other = a[:, None], b[None]
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    common = np.maximum(sides, 0).prod(-1)
    areas = (one[..., 2:] - one[..., :2]).prod(-1) + (other[..., 2:] - other[..., :2]).prod(-1)
    return np.asarray(common / np.maximum(areas - common, 1e-9))
