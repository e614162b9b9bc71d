"""Second thoughts about the tracks of a shot, once all of it has been seen."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from harvest.oks import boxes, oks, sigmas
from harvest.track import Track, common, joined
from skelcore.layouts import Layout

# Seconds of movement by which a track is extrapolated.
_MOVEMENT = 0.5


def stitch(tracks: list[Track], layout: Layout, rate: float, gap: float = 1.0, least: float = 0.5,
           growth: float = 1.5) -> list[Track]:
    """Tracks of which one ends and another begins as the same person, joined; in order of birth.

    Two belong together when the second begins at most ``gap`` seconds after the first ended, the poses extrapolated
    from both sides to the middle of the gap have an OKS of ``least``, and their boxes differ by less than ``growth``
    times in size. Every end has at most one beginning, chosen for the highest sum of OKS. What lies between stays
    unseen: whoever reads the poses can fill gaps, and nobody could take an invented pose out again.
    """
    first, last = (np.array([getattr(track, name) for track in tracks], int) for name in ("first", "last"))
    pause = first[None] - last[:, None]
    likeness = np.zeros(pause.shape)
    for a, b in np.argwhere((pause > 0) & (pause <= gap * rate)).tolist():
        likeness[a, b] = continuity(tracks[a], tracks[b], layout, rate, growth)
    likeness[likeness < least] = 0
    follower = {a: b for a, b in zip(*linear_sum_assignment(-likeness), strict=True) if likeness[a, b] > 0}
    chains = []
    for begin in sorted(set(range(len(tracks))) - set(follower.values()), key=lambda i: int(first[i])):
        chain = [begin]
        while chain[-1] in follower:
            chain.append(follower[chain[-1]])
        chains.append(joined([tracks[i] for i in chain]) if len(chain) > 1 else tracks[begin])
    return chains


def without_shadows(tracks: list[Track], layout: Layout, most: float = 0.6, share: float = 0.8) -> list[Track]:
    """The tracks that are not a second one of a person who has a longer track at the time.

    A shadow has ``share`` of its poses in common with the longer track, at a median OKS above ``most``.
    """
    kept: list[Track] = []
    for track in sorted(tracks, key=lambda track: -len(track)):
        if not any(_covers(other, track, sigmas(layout), most, share) for other in kept):
            kept.append(track)
    return sorted(kept, key=lambda track: track.first)


def _covers(longer: Track, shorter: Track, sigma: np.ndarray, most: float, share: float) -> bool:
    if shorter.last < longer.first or shorter.first > longer.last:
        return False
    here, there = common(longer, shorter)
    if len(there) < share * len(shorter):
        return False
    a, b = ((np.stack(t.keypoints)[i], np.stack(t.scores)[i]) for t, i in ((longer, here), (shorter, there)))
    return bool(np.median(oks(*a, *b, sigma)) > most)


def continuity(before: Track, after: Track, layout: Layout, rate: float, growth: float = 1.5,
               shares: tuple[float, ...] = (0.5,)) -> float:
    """OKS of the end of one track and the beginning of another, each moved on at its pace to where they should meet.

    That is after each of ``shares`` of the gap, of which the mean counts. 0 where the sizes do not agree.
    """
    steps = max(1, round(_MOVEMENT * rate))
    end, begin = range(max(1, len(before) - steps), len(before)), range(1, min(steps + 1, len(after)))
    sides = _side(before, [end.start - 1, *end]), _side(after, [0, *begin])
    if max(sides) >= growth * min(sides):
        return 0.0
    gap, there, here = after.first - before.last, before.pace(end), after.pace(begin)
    return float(np.mean([oks(before.keypoints[-1] + share * gap * there, before.scores[-1],
                              after.keypoints[0] - (1 - share) * gap * here, after.scores[0], sigmas(layout))
                          for share in shares]))


def _side(track: Track, indices: list[int]) -> float:
    """Root of the median area of the boxes around some of its poses."""
    around = boxes(np.stack([track.keypoints[i] for i in indices]), np.stack([track.scores[i] for i in indices]))
    return float(np.sqrt(np.median(np.maximum(around[:, 2:] - around[:, :2], 1).prod(1))))
