"""The clips of one store in the shape that a batch has them: resampled, of so many persons, in one layout."""

from __future__ import annotations

import math

import numpy as np

from skelcore.errors import InputError
from skelcore.layouts import Layout
from skelcore.mixture import Mixture
from skelcore.resample import Scratch, blend, fit_persons, neighbours
from skelcore.sequence import PoseSequence
from skelcore.store import Batched, Store, Subset

_STEP = 256


class Reader:
    """The clips of one store that is no mixture, resampled and converted; in memory if they fit ``room`` bytes."""

    def __init__(self, store: Store, shape: tuple[int, int], layout: Layout, channels: int, room: int) -> None:
        if not store.layout.matrix_to(layout).any():
            raise InputError(f"layout={layout.name}: the data, in {store.layout.name}, give none of its joints")
        self._base, self._positions = _unwrap(store)
        (self._persons, self._frames), self._layout, self._channels = shape, layout, channels
        self._cache: tuple[np.ndarray, np.ndarray] | None = None
        self.cached_bytes = 0
        size = len(store) * math.prod(shape) * len(layout) * (channels + 1) * 4
        if not isinstance(self._base, Batched) and size <= room:
            parts = [self.read(part) for part in np.split(np.arange(len(store)), range(_STEP, len(store), _STEP))]
            self._cache = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
            self.cached_bytes = size

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints (N, persons, frames, V, channels) and scores (N, persons, frames, V); N is at least 1."""
        if self._cache is not None:
            return self._cache[0][rows], self._cache[1][rows]
        positions = self._positions[rows]
        if isinstance(self._base, Batched):
            keypoints, scores = self._base.clips(positions, self._frames)
        else:
            keypoints, scores = _resample([self._base[i] for i in positions.tolist()], self._frames)
        keypoints, scores = fit_persons(keypoints[..., :self._channels], scores, self._persons)
        if self._layout != self._base.layout:
            keypoints, scores = convert(keypoints, scores, self._base.layout, self._layout)
        return np.ascontiguousarray(keypoints), scores


def sources(store: Store) -> list[tuple[Store, np.ndarray]]:
    """The stores that a mixture, or a subset of one, reads from, and where in it their clips stand."""
    base, positions = _unwrap(store)
    if not isinstance(base, Mixture):
        return [(store, np.arange(len(store)))]
    number, position = base.locate(positions)
    return [(Subset(base.stores[i], position[number == i]), np.flatnonzero(number == i))
            for i in np.unique(number).tolist()]


def convert(keypoints: np.ndarray, scores: np.ndarray, source: Layout, target: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (..., V, C) and scores (..., V) in another layout, as ``PoseSequence.to_layout`` does for one clip."""
    weights = source.matrix_to(target)
    converted = np.zeros((*scores.shape[:-1], len(target)), np.float32)
    for row, used in enumerate(weights > 0):
        if used.any():
            converted[..., row] = scores[..., used].min(-1)
    moved = np.matmul(weights, keypoints)
    moved[converted == 0] = 0
    return moved, converted


def _resample(sequences: list[PoseSequence], frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (N, M, frames, V, C) and scores (N, M, frames, V), M the most persons in a sequence."""
    low, high, weight = neighbours(np.array([sequence.frames for sequence in sequences], np.int64), frames)
    most = max(sequence.persons for sequence in sequences)

    def gather(where: np.ndarray, field: str) -> np.ndarray:
        first = getattr(sequences[0], field)
        found = np.zeros((len(sequences), most, frames, *first.shape[2:]), np.float32)
        for clip, sequence, instants in zip(found, sequences, where, strict=True):
            clip[:sequence.persons] = getattr(sequence, field)[:, instants]
        return found

    keypoints, scores = gather(high, "keypoints"), gather(high, "scores")
    weights = np.repeat(weight[:, None], most, axis=1)
    blend(gather(low, "keypoints"), keypoints, gather(low, "scores"), scores, weights, Scratch())
    return keypoints, scores


def _unwrap(store: Store) -> tuple[Store, np.ndarray]:
    """The store beneath any ``Subset``, and the positions in it, which allow batched reading."""
    positions = np.arange(len(store))
    while type(store) is Subset:  # a subclass does more than choose
        positions, store = np.asarray(store.indices)[positions], store.store
    return store, positions
