"""Near-duplicate tracks, found by how people move: groups of copies, of which the first is the one to keep.

Windows that look alike (``descriptor``) name the pairs that may be copies, ``likeness`` proves them, and what is
connected by proofs is a group. Which member is kept depends on the order of the tracks alone, so a set that grew shard
by shard ends with the groups that it has when it is searched at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from harvest.copies import grouped
from harvest.descriptor import USUAL_FPS, Running, Windows, mirrored
from harvest.likeness import compare, moving
from harvest.nearest import Nearest
from harvest.pool import Pool
from skelcore.gallery import Copy
from skelcore.layouts import Layout
from skelcore.progress import Progress

THRESHOLD = 0.92
OVERLAP = 0.5  # share of the shorter track that copies must both show
_NEAREST, _LEAST = 32, 0.92  # windows looked up for each, and the cosine from which they name a pair
_PAIRS, _STARTS = 16, 3  # pairs tried for a track at least, and windows from which a pair's alignment starts
_SURE = 0.95  # a pair that scores so much is not tried from elsewhere
_APART = 0.2  # of a window, between two starts
_QUERIES = 8192
_TOLD = 20_000  # comparisons that take so long that somebody may ask how far they are


@dataclass(frozen=True)
class _Hits:
    """Windows that look alike, the surest first in each pair of tracks: all (n,), ``first`` and ``second`` tracks.

    ``here`` and ``there`` are the windows; the second is seen in a mirror where ``mirror``.
    """

    first: np.ndarray
    second: np.ndarray
    here: np.ndarray
    there: np.ndarray
    mirror: np.ndarray


def find(pool: Pool, threshold: float = THRESHOLD) -> list[Copy]:
    """The copies among the tracks of a pool, by group and then in the order of the tracks.

    A track is a copy when its motion, mirrored or not, at any constant tempo, scale and place, scores ``threshold`` or
    more over half of the shorter track. Tracks of one video are no copies of each other: people may move in step.
    """
    return grouped(pool.names, proofs(pool, threshold) if len(pool.windows) else [])


def _hits(windows: Windows, video: np.ndarray, layout: Layout) -> _Hits:
    """The pairs of tracks of different videos worth a proof, each once, with the windows to begin it from."""
    index = Nearest(windows.vectors)
    rows = []
    for begin in range(0, len(windows), _QUERIES):
        vectors = windows.vectors[begin:begin + _QUERIES].astype(np.float32)
        for mirror in (False, True):
            cosines, found = index.search(mirrored(vectors, layout) if mirror else vectors, _NEAREST)
            here = np.broadcast_to(np.arange(begin, begin + len(vectors))[:, None], found.shape)
            good = (found >= 0) & (cosines >= _LEAST)
            good &= video[windows.track[here]] != video[windows.track[found]]
            rows.append(np.stack([here[good], found[good], np.full(good.sum(), mirror), cosines[good]], -1))
    table = np.concatenate([*rows, np.zeros((0, 4))])
    here, there, mirror = table[:, :3].astype(np.int64).T
    # Whatever window found the other, a pair is written with its earlier track first.
    swap = windows.track[here] > windows.track[there]
    here, there = np.where(swap, there, here), np.where(swap, here, there)
    first, second = windows.track[here], windows.track[there]
    order = np.lexsort((there, here, mirror, -table[:, 3]))
    order = order[_rank(_starts(windows.span, first, second, here, there, mirror)[order]) == 0]
    pairs = first[order].astype(np.int64) * len(video) + second[order]
    order = order[_rank(pairs) < _STARTS]
    return _Hits(*(array[order] for array in (first, second, here, there, mirror)))


def _starts(span: np.ndarray, first: np.ndarray, second: np.ndarray, here: np.ndarray, there: np.ndarray,
            mirror: np.ndarray) -> np.ndarray:
    """A number (n,) for each hit, equal where a pair's alignment would start from nearly the same place.

    A trimmed copy looks much like a faster one, and one cycle like the next: only different starts tell which it is.
    """
    (begin, end), (other, last) = span[here].T, span[there].T
    tempo = (last - other) / (end - begin)
    shift = (other + last - tempo * (begin + end)) / 2
    keys = np.stack([first, second, mirror, np.round(np.log(tempo) / np.log(1.1)),
                     np.round(shift / (last - other) / _APART)], -1).astype(np.int64)
    return np.unique(keys, axis=0, return_inverse=True)[1].ravel()


def _rank(values: np.ndarray) -> np.ndarray:
    """How many times each value (n,) came before, in its order."""
    order = np.argsort(values, kind="stable")
    new = np.concatenate([[True], np.diff(values[order]) > 0]) if len(values) else np.zeros(0, bool)
    begin = np.maximum.accumulate(np.where(new, np.arange(len(values)), 0))
    rank = np.empty(len(values), np.int64)
    rank[order] = np.arange(len(values)) - begin
    return rank


def proofs(pool: Pool, threshold: float) -> list[tuple[int, int, float]]:
    """The pairs of positions that are copies, in order, and their scores.

    A pair is tried where it is one of the likeliest of either track.
    """
    @lru_cache(maxsize=2048)
    def seen(track: int, mirror: bool) -> tuple[Running, float]:
        sequence = pool.read(track)
        return moving(sequence, mirror), sequence.fps or USUAL_FPS

    hits, span = _hits(pool.windows, pool.video, pool.layout), pool.windows.span
    tried: dict[int, set[int]] = {}
    scores: dict[tuple[int, int], float] = {}
    rows = list(zip(*(getattr(hits, name).tolist() for name in vars(hits)), strict=True))
    progress = Progress(len(rows), "comparisons of tracks", silent=len(rows) < _TOLD)
    for first, second, here, there, mirror in rows:
        progress.update()
        if min(len(tried.get(one, set()) - {other}) for one, other in ((first, second), (second, first))) >= _PAIRS:
            continue
        tried.setdefault(first, set()).add(second)
        tried.setdefault(second, set()).add(first)
        if scores.get((first, second), -np.inf) >= _SURE:
            continue
        (a, rate_a), (b, rate_b) = seen(first, False), seen(second, bool(mirror))
        found = compare(a, b, span[here], span[there], (rate_a, rate_b), threshold)
        if found.overlap >= OVERLAP:
            scores[first, second] = max(scores.get((first, second), -np.inf), found.score)
    progress.close()
    return [(*pair, score) for pair, score in sorted(scores.items()) if score >= threshold]
