"""Track: one person over time, as poses at ticks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from harvest.oks import SEEN


@dataclass(eq=False)
class Track:
    """``ticks`` at which one person was seen, and for each keypoints (V, 2), scores (V,), presence and whether the
    detector agreed (None between its passes)."""

    ticks: list[int] = field(default_factory=list)
    keypoints: list[np.ndarray] = field(default_factory=list)
    scores: list[np.ndarray] = field(default_factory=list)
    presence: list[float] = field(default_factory=list)
    detected: list[bool | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ticks)

    @property
    def first(self) -> int:
        return self.ticks[0]

    @property
    def last(self) -> int:
        return self.ticks[-1]

    @property
    def agreement(self) -> float:
        """Share of the detector's passes that agreed; 1 where there was none."""
        passes = [agreed for agreed in self.detected if agreed is not None]
        return float(np.mean(passes)) if passes else 1.0

    def add(self, tick: int, keypoints: np.ndarray, scores: np.ndarray, presence: float, detected: bool | None) -> None:
        self.ticks.append(tick)
        self.keypoints.append(keypoints)
        self.scores.append(scores)
        self.presence.append(presence)
        self.detected.append(detected)

    def step(self, index: int) -> np.ndarray:
        """Pixels a tick (2,) that the whole body moved from the pose before ``index`` to that one."""
        both = (self.scores[index] > SEEN) & (self.scores[index - 1] > SEEN)
        if not both.any():
            return np.zeros(2)
        moved = np.median((self.keypoints[index] - self.keypoints[index - 1])[both], 0)
        return np.asarray(moved / (self.ticks[index] - self.ticks[index - 1]))

    def pace(self, indices: Iterable[int]) -> np.ndarray:
        """Median of the steps to the poses ``indices``; nought where there are none."""
        steps = [self.step(index) for index in indices]
        return np.asarray(np.median(steps, 0)) if steps else np.zeros(2)


def joined(tracks: list[Track]) -> Track:
    """One track of several that follow one another."""
    whole = Track()
    for track in tracks:
        whole.ticks += track.ticks
        whole.keypoints += track.keypoints
        whole.scores += track.scores
        whole.presence += track.presence
        whole.detected += track.detected
    return whole


def merged(tracks: list[Track]) -> Track:
    """One track of the poses of several; of those at one tick, that of the first of them."""
    places = {track.ticks[i]: (track, i) for track in reversed(tracks) for i in range(len(track))}
    whole = Track()
    for tick, (track, i) in sorted(places.items(), key=lambda place: place[0]):
        whole.add(tick, track.keypoints[i], track.scores[i], track.presence[i], track.detected[i])
    return whole


def part(track: Track, indices: list[int]) -> Track:
    """The poses ``indices`` of a track."""
    some = Track()
    for i in indices:
        some.add(track.ticks[i], track.keypoints[i], track.scores[i], track.presence[i], track.detected[i])
    return some


def common(a: Track, b: Track) -> tuple[np.ndarray, np.ndarray]:
    """Where in ``a`` and in ``b`` the ticks lie at which both were seen."""
    _, here, there = np.intersect1d(a.ticks, b.ticks, assume_unique=True, return_indices=True)
    return here, there
