"""Interactions: which tracks of a shot are two persons who act together."""

from __future__ import annotations

import numpy as np

from harvest.oks import boxes
from harvest.track import Track, common


def groups(tracks: list[Track], rate: float, near: float = 0.25, share: float = 0.5,
           seconds: float = 0.6, ratio: float = 2.0) -> list[tuple[Track, ...]]:
    """The tracks as single persons and pairs, in order of birth; within a pair too.

    Two tracks are a pair when they are both there for ``seconds`` and for more than ``share`` of the time that either
    is, and in more than ``share`` of the frames that show both they are close: the gap between their boxes is under
    ``near`` times their mean height, and one is less than ``ratio`` times as high as the other. Nobody is in two pairs;
    the closest are paired first.
    """
    candidates = [(closeness, i, j) for i in range(len(tracks)) for j in range(i + 1, len(tracks))
                  if (closeness := _closeness(tracks[i], tracks[j], near, share, seconds * rate, ratio)) > share]
    partner: dict[int, int] = {}
    for _, i, j in sorted(candidates, key=lambda c: (-c[0], c[1:])):
        if i not in partner and j not in partner:
            partner |= {i: j, j: i}
    found = [tuple(tracks[k] for k in sorted({i, partner.get(i, i)})) for i in range(len(tracks))
             if partner.get(i, i) >= i]
    return [tuple(sorted(group, key=lambda track: track.first)) for group in found]


def _closeness(a: Track, b: Track, near: float, share: float, ticks: float, ratio: float) -> float:
    """Share of the common frames in which two persons are near each other; 0 where there is too little in common."""
    overlap = min(a.last, b.last) - max(a.first, b.first) + 1
    span = max(a.last, b.last) - min(a.first, b.first) + 1
    if overlap < ticks or overlap <= share * span:
        return 0.0
    here, there = common(a, b)
    if not len(here):
        return 0.0
    one, other = (boxes(np.stack(t.keypoints)[i], np.stack(t.scores)[i]) for t, i in ((a, here), (b, there)))
    apart = np.maximum(0, np.maximum(one[:, :2] - other[:, 2:], other[:, :2] - one[:, 2:]))
    # The longer side, so that a lying person is not taken for a small one.
    heights = np.stack([(box[:, 2:] - box[:, :2]).max(1) for box in (one, other)])
    alike = heights.max(0) < ratio * heights.min(0)
    return float((alike & (np.hypot(*apart.T) < near * heights.mean(0))).mean())
