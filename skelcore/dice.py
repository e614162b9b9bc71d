"""Dice: many random numbers for many clips at once, where each clip's own depend on nothing but its seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri

_BLOCK = 1024


class Dice:
    """One independent stream of random numbers for each of N seeds.

    Every draw takes equally many numbers from every stream, so that a clip does not depend on the batch it is in.
    """

    def __init__(self, seeds: Sequence[tuple[int, int]]) -> None:
        self._streams = [np.random.default_rng(seed) for seed in seeds]
        self._numbers, self._used = np.empty((len(seeds), 0)), 0

    def uniform(self, low: float, high: float, *shape: int) -> np.ndarray:
        """(N, *shape) in [low, high)."""
        count = int(np.prod(shape, dtype=int))
        while self._numbers.shape[1] - self._used < count:
            fresh = np.stack([stream.random(_BLOCK) for stream in self._streams])
            self._numbers = np.concatenate([self._numbers[:, self._used:], fresh], 1)
            self._used = 0
        found = self._numbers[:, self._used:self._used + count]
        self._used += count
        return low + (high - low) * found.reshape(len(found), *shape)

    def logarithmic(self, low: float, high: float, *shape: int) -> np.ndarray:
        """(N, *shape) whose logarithms are uniform."""
        return np.exp(self.uniform(np.log(low), np.log(high), *shape))

    def normal(self, scale: float, *shape: int) -> np.ndarray:
        """(N, *shape) of mean 0, cut at three deviations."""
        return scale * ndtri(self.uniform(0.00135, 0.99865, *shape))

    def chance(self, probability: float, *shape: int) -> np.ndarray:
        """(N, *shape), true that often."""
        return self.uniform(0, 1, *shape) < probability

    def choice(self, weights: Sequence[float] | np.ndarray, *shape: int) -> np.ndarray:
        """(N, *shape) positions in ``weights``, as often as these say."""
        edges = np.cumsum(weights)
        return np.searchsorted(edges[:-1] / edges[-1], self.uniform(0, 1, *shape), side="right")
