"""Thumbs: the first seconds of tracks, thinned and quantised, for a page that has to hold thousands of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from skelcore.draw import unit_view
from skelcore.sequence import PoseSequence

GRID, MISSING = 4095, 65535  # the finest step of the coordinates, and what stands for a joint that was not seen
_RATE = 8.0  # frames a second, between which the page interpolates
_SECONDS = 4.0
_USUAL_FPS = 15.0


@dataclass(frozen=True)
class Thumbs:
    """Poses of k tracks one after the other: track i is ``frames[i] * persons[i]`` skeletons of V joints.

    ``xy`` (S, V, 2) uint16 lie in the unit square times ``GRID``, y down, or are ``MISSING``; ``scores`` (S, V) uint8;
    all persons of a frame come before the next frame. ``frames``, ``persons`` (k,) int32, ``fps`` (k,) float32.
    """

    frames: np.ndarray
    persons: np.ndarray
    fps: np.ndarray
    xy: np.ndarray
    scores: np.ndarray


def pack(sequences: Iterable[PoseSequence], joints: int) -> Thumbs:
    """The first 4 seconds of each sequence, of each its own square, at about 8 frames a second."""
    rows, xy, scores = [], [np.zeros((0, joints, 2), np.uint16)], [np.zeros((0, joints), np.uint8)]
    for sequence in sequences:
        fps = sequence.fps or _USUAL_FPS
        step = max(1, round(fps / _RATE))
        chosen = slice(0, max(1, round(fps * _SECONDS)), step)
        seen = sequence.scores[:, chosen]
        grid = np.clip(np.rint(unit_view(sequence)[:, chosen] * GRID), 0, GRID)
        grid = np.where((seen > 0)[..., None], grid, MISSING).astype(np.uint16)
        rows.append((seen.shape[1], seen.shape[0], fps / step))
        xy.append(grid.swapaxes(0, 1).reshape(-1, joints, 2))
        scores.append(np.rint(seen * 255).astype(np.uint8).swapaxes(0, 1).reshape(-1, joints))
    frames, persons, rates = np.array(rows, np.float64).reshape(-1, 3).T
    return Thumbs(frames.astype(np.int32), persons.astype(np.int32), rates.astype(np.float32), np.concatenate(xy),
                  np.concatenate(scores))


def sample(strata: np.ndarray, most: int) -> np.ndarray:
    """Positions, rising, of at most ``most`` of n items, evenly spread within each of their ``strata`` (n,) int >= 0.

    A stratum's share goes with the square root of its size, so that what is rare can be seen; a small one is whole.
    """
    sizes = np.bincount(strata) if len(strata) else np.zeros(0, np.int64)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    rank = np.arange(len(owner)) - (np.cumsum(sizes) - sizes)[owner]
    # The n-th of a stratum is asked for after n-ths of larger ones: the first ``most`` are the shares.
    first = np.argsort((rank + 0.5) / np.sqrt(sizes[owner]), kind="stable")[:most]
    members = np.split(np.argsort(strata, kind="stable"), np.cumsum(sizes)[:-1]) if len(sizes) else []
    shares = np.bincount(owner[first], minlength=len(sizes))
    chosen = [those[np.linspace(0, len(those) - 1, share).round().astype(int)]
              for those, share in zip(members, shares.tolist(), strict=True) if share]
    return np.sort(np.concatenate([np.zeros(0, np.int64), *chosen]))
