"""Untangling: who is who after persons of a shot passed in front of one another.

While one person is hidden behind another, a pose model answers with the one in front, and neither the order of the
poses nor their places say whose they are. What was seen before and after does: a body keeps its course.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.optimize import linear_sum_assignment

from harvest.oks import boxes, iou, oks, sigmas
from harvest.stitch import continuity
from harvest.track import Track, part
from skelcore.layouts import Layout

# Overlap (IoU) of boxes that meet, and seconds for which one of the two is lost when it is no mere drop-out; for so
# long may whoever is lost still stand there.
_NEAR, _LOST, _HIDDEN = 0.1, 0.2, 0.5
# Seconds over which a course is told, and the share of its size by which a body leaves it in a tick.
_COURSE, _STRAY = 0.5, 0.1
# Seconds through which a course may lead; the least continuity of two pieces (OKS), and what speaks for those of one
# track beyond that.
_GAP, _LIKE, _KEPT = 1.2, 0.1, 0.2
# Overlap (IoU) of a pose with the way between two pieces, and OKS of two poses that show one body.
_ON_THE_WAY, _COPY = 0.4, 0.5
_FEWEST = 3  # poses of a piece that has a course

_Place = tuple[int, int]  # a pose: which track, which of its poses
_Piece = tuple[int, list[int]]  # a stretch: which track, which of its poses


def untangled(tracks: list[Track], layout: Layout, rate: float) -> list[Track]:
    """The tracks, cut where they left their course as one met another and either was lost, joined again by courses.

    Of the poses between two pieces, each goes to whose way it lies on. Where no course tells, a track goes on as it
    was. In order of birth.
    """
    tangled, involved = _tangled(tracks, rate)
    if not involved:
        return tracks
    pieces = [(owner, piece) for owner, track in enumerate(tracks) for piece in _pieces(track, tangled[owner])]
    follower = _followers(tracks, involved, pieces, layout, rate)
    pool = {(owner, index) for owner, track in enumerate(tracks) for index in range(len(track))}
    pool -= {(owner, index) for owner, piece in pieces for index in piece}
    ways = []
    for begin in sorted(set(range(len(pieces))) - set(follower.values())):
        chain = [begin]
        while chain[-1] in follower:
            chain.append(follower[chain[-1]])
        ways.append(_Way(tracks, [pieces[i] for i in chain]))
    _share(tracks, ways, pool)
    _give_back(tracks, ways, pool, sigmas(layout))
    return sorted((way.track(tracks) for way in ways), key=lambda track: track.first)


class _Way:
    """One person's pieces, and where the person was between them."""

    def __init__(self, tracks: list[Track], pieces: list[_Piece]) -> None:
        self.places = {tracks[owner].ticks[i]: (owner, i) for owner, piece in pieces for i in piece}
        self.owners = [owner for owner, _ in pieces]
        self.between: dict[int, np.ndarray] = {}
        for (one, before), (other, after) in pairwise(pieces):
            ends = [(tracks[one].ticks[before[-1]], _box(tracks, (one, before[-1]))),
                    (tracks[other].ticks[after[0]], _box(tracks, (other, after[0])))]
            (first, start), (last, goal) = ends
            for tick in range(first + 1, last):
                self.between[tick] = start + (goal - start) * (tick - first) / (last - first)

    def track(self, tracks: list[Track]) -> Track:
        whole = Track()
        for tick in sorted(self.places):
            owner, index = self.places[tick]
            one = tracks[owner]
            whole.add(tick, one.keypoints[index], one.scores[index], one.presence[index], one.detected[index])
        return whole


def _tangled(tracks: list[Track], rate: float) -> tuple[list[np.ndarray], set[int]]:
    """For each track, from its first tick to its last, when it left its course in a meeting in which one was lost; and
    which tracks were in such a meeting."""
    hidden, lost = round(_HIDDEN * rate), max(1, round(_LOST * rate))
    around = [boxes(np.stack(track.keypoints), np.stack(track.scores)) for track in tracks]
    result = [np.zeros(track.last - track.first + 1, bool) for track in tracks]
    involved: set[int] = set()
    for i, one in enumerate(tracks):
        for j, other in enumerate(tracks[:i]):
            ticks = np.arange(max(one.first, other.first), min(one.last, other.last) + hidden + 1)
            if not len(ticks):
                continue
            at = [np.searchsorted(track.ticks, ticks, "right") - 1 for track in (one, other)]
            seen = [np.array(track.ticks)[k] == ticks for track, k in zip((one, other), at, strict=True)]
            near = iou(around[i][at[0]], around[j][at[1]]) > _NEAR
            for begin, end in _runs(near):
                if not any(there - gone >= lost for gone, there in _runs(~(seen[0] & seen[1])[begin:end])):
                    continue
                involved |= {i, j}
                for k in (i, j):
                    if _strays(tracks[k], around[k], int(ticks[begin]), int(ticks[end - 1]), rate):
                        start = int(ticks[begin]) - tracks[k].first
                        result[k][start:start + end - begin] = True
    return result, involved


def _strays(track: Track, around: np.ndarray, begin: int, end: int, rate: float) -> bool:
    """Whether a track leaves its course between the last pose before tick ``begin`` and the first after ``end``."""
    first, last = np.searchsorted(track.ticks, [begin, end + 1]).tolist()
    steps = max(1, round(_COURSE * rate))
    for index in range(max(first, 2), min(last + 1, len(track))):
        aside = track.step(index) - track.pace(range(max(1, index - steps), index))
        side = np.sqrt(np.maximum(around[index - 1][2:] - around[index - 1][:2], 1).prod())
        if np.hypot(*aside) * np.sqrt(track.ticks[index] - track.ticks[index - 1]) > _STRAY * side:
            return True
    return False


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _pieces(track: Track, tangled: np.ndarray) -> list[list[int]]:
    """Indices of the poses of each stretch outside tangles; of all where there is none."""
    ticks = np.array(track.ticks) - track.first
    clear = [np.flatnonzero((ticks >= begin) & (ticks < end)).tolist() for begin, end in _runs(~tangled)]
    return [piece for piece in clear if len(piece) >= _FEWEST] or [list(range(len(track)))]


def _followers(tracks: list[Track], involved: set[int], pieces: list[_Piece], layout: Layout,
               rate: float) -> dict[int, int]:
    """Which piece goes on with which: by their courses where these tell, and as in their track elsewhere."""
    cut = [part(tracks[owner], piece) for owner, piece in pieces]
    ends = {(a, b) for a in range(len(cut)) for b in range(len(cut))
            if 0 < cut[b].first - cut[a].last <= _GAP * rate
            and involved & {pieces[a][0], pieces[b][0]}}
    likeness = np.zeros((len(cut), len(cut)))
    for a, b in ends:
        likeness[a, b] = continuity(cut[a], cut[b], layout, rate, shares=(0, 1))
    likeness[likeness < _LIKE] = 0
    same = [a for a in range(len(pieces) - 1) if pieces[a][0] == pieces[a + 1][0]]
    likeness[same, [a + 1 for a in same]] += _KEPT
    follower = {int(a): int(b) for a, b in zip(*linear_sum_assignment(-likeness), strict=True) if likeness[a, b] > 0}
    led = set(follower.values())
    for a in range(len(pieces) - 1):
        if pieces[a][0] == pieces[a + 1][0] and a not in follower and a + 1 not in led:
            follower[a] = a + 1
    return follower


def _share(tracks: list[Track], ways: list[_Way], pool: set[_Place]) -> None:
    """Give each way the poses of the ``pool`` that lie on it, frame by frame."""
    at: dict[int, list[_Place]] = {}
    for owner, index in sorted(pool):
        at.setdefault(tracks[owner].ticks[index], []).append((owner, index))
    for tick, here in sorted(at.items()):
        open_ways = [way for way in ways if tick in way.between]
        if not open_ways:
            continue
        fits = iou(np.stack([way.between[tick] for way in open_ways])[:, None],
                   np.stack([_box(tracks, place) for place in here]))
        fits[fits < _ON_THE_WAY] = 0
        for row, column in zip(*linear_sum_assignment(-fits), strict=True):
            if fits[row, column] > 0:
                open_ways[row].places[tick] = here[column]
                pool.discard(here[column])


def _give_back(tracks: list[Track], ways: list[_Way], pool: set[_Place], sigma: np.ndarray) -> None:
    """Give the poses before the first and after the last piece of a track back, unless they show another's body."""
    for way in ways:
        first, last = min(way.places), max(way.places)
        for owner, index in sorted(pool):
            tick = tracks[owner].ticks[index]
            if not ((owner == way.owners[0] and tick < first) or (owner == way.owners[-1] and tick > last)):
                continue
            others = [other.places[tick] for other in ways if other is not way and tick in other.places]
            if all(_alike(tracks, (owner, index), place, sigma) <= _COPY for place in others):
                way.places[tick] = (owner, index)
                pool.discard((owner, index))


def _box(tracks: list[Track], place: _Place) -> np.ndarray:
    track, index = tracks[place[0]], place[1]
    return boxes(track.keypoints[index], track.scores[index])


def _alike(tracks: list[Track], a: _Place, b: _Place, sigma: np.ndarray) -> float:
    one, other = tracks[a[0]], tracks[b[0]]
    return float(oks(one.keypoints[a[1]], one.scores[a[1]], other.keypoints[b[1]], other.scores[b[1]], sigma))
