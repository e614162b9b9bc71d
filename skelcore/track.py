"""Track: smooth cyclic curves through key values, for many clips at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skelcore.dice import Dice

KEYS = 6  # a cycle has at most so many
_SHORTEST = 0.24  # seconds between two keys, on average, at least


@dataclass(frozen=True)
class Track:
    """Cyclic curves of D channels through ``keys`` (N, K, D) at ``times`` (N, K), which are shares of a cycle.

    ``count`` (N,) of the keys are used; ``rate`` (N,) cycles a second and ``phase`` (N,) cycles make the clock.
    """

    keys: np.ndarray
    times: np.ndarray
    count: np.ndarray
    phase: np.ndarray
    rate: np.ndarray

    @classmethod
    def draw(cls, dice: Dice, keys: np.ndarray, phase: np.ndarray, rate: np.ndarray) -> Track:
        """Uneven times for two keys or more, as many as a cycle has time for."""
        room = np.maximum(np.floor(1 / (rate * _SHORTEST)), 2)
        count = np.minimum(2 + dice.choice([4, 3, 2, 1, 1]), room).astype(int)
        gaps = dice.uniform(0.4, 1.0, KEYS) * (np.arange(KEYS) < count[:, None])
        gaps /= gaps.sum(1, keepdims=True)
        return cls(keys, np.cumsum(gaps, 1) - gaps, count, phase, rate)

    def clock(self, seconds: np.ndarray) -> np.ndarray:
        """Cycles (N, T) at ``seconds`` (N, T)."""
        return np.asarray(self.phase[:, None] + self.rate[:, None] * seconds)

    def curves(self, seconds: np.ndarray) -> np.ndarray:
        """Values (D, N, T) float32 at ``seconds`` (N, T), monotone between keys and hence never beyond them.

        The slope at a key is the harmonic mean of those beside it, 0 where their signs differ (Fritsch and Butland,
        SIAM J. Sci. Stat. Comput. 5, 1984).
        """
        clips, order, used = np.arange(len(self.keys))[:, None], np.arange(KEYS), self.count[:, None]
        after, before = np.where(order + 1 < used, order + 1, 0), np.where(order > 0, order - 1, used - 1)
        width = np.where(after > 0, self.times[clips, after], 1) - self.times
        width = np.where(order < used, width, 1)
        step = self.keys[clips, after] - self.keys
        slope = step / width[..., None]
        product, total = slope * slope[clips, before], slope + slope[clips, before]
        tangent = np.where(product > 0, 2 * product / np.where(product > 0, total, 1), 0)
        leave, arrive = tangent * width[..., None], tangent[clips, after] * width[..., None]
        cubic = np.stack([self.keys, leave, 3 * step - 2 * leave - arrive, leave + arrive - 2 * step])
        cubic = np.moveaxis(cubic, -1, 1).astype(np.float32)  # (4, D, N, K): frames go innermost
        part = self.clock(seconds) % 1
        place = ((part[..., None] >= self.times[:, None]) & (order < used)[:, None]).sum(-1) - 1
        share = ((part - self.times[clips, place]) / width[clips, place]).astype(np.float32)
        constant, linear, square, cube = (coefficient[:, clips, place] for coefficient in cubic)
        return np.asarray(constant + share * (linear + share * (square + share * cube)))
