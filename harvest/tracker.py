"""Tracker: the poses of single frames joined into the persons of one shot."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from harvest.oks import boxes, iou, oks, sigmas
from harvest.track import Track
from skelcore.layouts import Layout

# Seconds over which a velocity is averaged, and for which a person who is not seen is thought to go on with it.
_MEMORY, _HORIZON = 0.2, 0.5
# Likeness that continues such a person after that: where it has gone is not known, and another may stand there.
_LATE = 0.4
# Worth of a pose that resembles the last one instead: a person, or the camera, may stop at once.
_STILL = 0.7


@dataclass(eq=False)
class _Alive:
    """A track that may go on, and its velocity in pixels a tick."""

    track: Track = field(default_factory=Track)
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))

    def predict(self, tick: int, horizon: int) -> np.ndarray:
        """Where the joints (V, 2) would be if the whole body went on as before."""
        return self.track.keypoints[-1] + self.velocity * min(tick - self.track.last, horizon)

    def follow(self, memory: float) -> None:
        """Bring the velocity up to the newest pose."""
        if len(self.track) < 2:
            return
        since = self.track.last - self.track.ticks[-2]
        fresh = 1.0 if len(self.track) == 2 else 1 - math.exp(-since / memory)
        self.velocity = self.velocity + fresh * (self.track.step(-1) - self.velocity)


class Tracker:
    """Joins poses frame by frame: cost 1 - max(OKS with the predicted pose, IoU / 2), assigned optimally.

    Predicted are the last pose moved on at constant velocity and, for 0.7 of its likeness, the last pose as it is.
    Poses of presence from ``high`` up begin tracks and continue them; those from ``low`` up only continue one that was
    just seen (Zhang et al., "ByteTrack", ECCV 2022). Tracks of fewer than ``birth`` poses choose last, and count for
    nothing when they end so. A track ends when unseen for ``patience`` seconds and is never continued after that.
    """

    def __init__(self, layout: Layout, rate: float, birth: int = 3, patience: float = 1.0, least: float = 0.25,
                 high: float = 0.5, low: float = 0.1) -> None:
        self._sigma, self._birth, self._least, self._high, self._low = sigmas(layout), birth, least, high, low
        self._patience, self._horizon = max(1, round(patience * rate)), max(1, round(_HORIZON * rate))
        self._memory = _MEMORY * rate
        self._ended: list[Track] = []
        self._alive: list[_Alive] = []
        self._first: int | None = None
        self._last = -1

    def update(self, tick: int, keypoints: np.ndarray, scores: np.ndarray, presence: np.ndarray,
               detected: np.ndarray | None = None) -> list[Track | None]:
        """Take the poses of one frame: ``keypoints`` (P, V, 2), ``scores`` (P, V), ``presence`` and ``detected`` (P,).

        Ticks must increase. Returns the track that each pose is in now, if it is in any.
        """
        self._first, self._last = tick if self._first is None else self._first, tick
        self._bury(tick)
        grown = [one for one in self._alive if len(one.track) >= self._birth]
        young = [one for one in self._alive if len(one.track) < self._birth]
        sure, unsure = presence >= self._high, (presence >= self._low) & (presence < self._high)
        owner: list[_Alive | None] = [None] * len(keypoints)
        self._match(tick, grown, sure, owner, keypoints, scores)
        recent = [one for one in grown if tick - one.track.last <= self._horizon]
        self._match(tick, recent, unsure, owner, keypoints, scores)
        self._match(tick, young, sure, owner, keypoints, scores)
        for index, found in enumerate(owner):
            if found is None and sure[index]:
                owner[index] = found = _Alive()
                self._alive.append(found)
            if found is not None:
                agreed = None if detected is None else bool(detected[index])
                found.track.add(tick, keypoints[index], scores[index], float(presence[index]), agreed)
                found.follow(self._memory)
        return [None if found is None else found.track for found in owner]

    def grown(self, track: Track) -> bool:
        """Whether a track has poses enough to count."""
        return len(track) >= self._birth

    @property
    def alive(self) -> list[Track]:
        """The tracks that may go on."""
        return [one.track for one in self._alive]

    def finish(self) -> list[Track]:
        """All tracks with enough poses, in order of birth; in a shot shorter than that, those seen throughout."""
        length = 0 if self._first is None else self._last - self._first + 1
        found = [*self._ended, *(one.track for one in self._alive)]
        return sorted((track for track in found if len(track) >= min(self._birth, length)), key=lambda t: t.first)

    def _bury(self, tick: int) -> None:
        """Set aside the tracks that have been unseen for too long, and forget those that never grew up."""
        gone = [one.track for one in self._alive if tick - one.track.last > self._patience]
        self._alive = [one for one in self._alive if tick - one.track.last <= self._patience]
        self._ended += [track for track in gone if len(track) >= self._birth]

    def _match(self, tick: int, tracks: list[_Alive], free: np.ndarray, owner: list[_Alive | None],
               keypoints: np.ndarray, scores: np.ndarray) -> None:
        """Give the ``free`` poses (P,) that have no owner yet to those ``tracks`` that have no pose at ``tick``."""
        taken = {id(one) for one in owner if one is not None}
        tracks = [one for one in tracks if id(one) not in taken]
        columns = [index for index in np.flatnonzero(free).tolist() if owner[index] is None]
        if not tracks or not columns:
            return
        known = np.stack([one.track.scores[-1] for one in tracks])[:, None]
        moving, still = (self._likeness(np.stack(places)[:, None], known, keypoints[columns], scores[columns])
                         for places in ([one.predict(tick, self._horizon) for one in tracks],
                                        [one.track.keypoints[-1] for one in tracks]))
        likeness = np.maximum(moving, _STILL * still)
        late = np.array([tick - one.track.last > self._horizon for one in tracks])
        good = likeness >= np.where(late, _LATE, self._least)[:, None]
        for row, column in zip(*linear_sum_assignment(-np.where(good, likeness, 0)), strict=True):
            if good[row, column]:
                owner[columns[column]] = tracks[row]

    def _likeness(self, a: np.ndarray, a_scores: np.ndarray, b: np.ndarray, b_scores: np.ndarray) -> np.ndarray:
        """Of poses that broadcast against each other; the overlap of boxes where their joints say less."""
        return np.maximum(oks(a, a_scores, b, b_scores, self._sigma), iou(boxes(a, a_scores), boxes(b, b_scores)) / 2)
