"""How alike two tracks are, joint by joint, after the best alignment in time: the proof that one copies the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harvest.descriptor import Running, body, joints, running
from skelcore.sequence import PoseSequence

CALM = 0.2  # a motion so small (variance in squared body sizes) proves little
POOR, HOPELESS = 0.2, 0.08  # windows that score so much less than asked, before and after the far moves, end it
STEEPEST = 1.6  # tempo of a copy at most
_SAMPLES, _FINAL = 24, 128  # instants compared in the search, and for the final score
_ROUNDS, _SHRINK = 6, 0.6
_GROWTH = 6  # times that an alignment is spread at most; each can double it
_COMMON = 0.6  # share of a window that must lie within the other track
# Moves of both ends in steps: first far, since a squeezed copy often looks better than one a little beside the right
# place, and then near.
_FAR, _NEAR = (np.stack(np.meshgrid(*[np.arange(-reach, reach + 1.0)] * 2, indexing="ij")).reshape(2, -1)
               for reach in (3, 1))
_TINY = 1e-9


@dataclass(frozen=True)
class Likeness:
    """``score`` up to 1, the same motion; ``overlap`` the share of the shorter track that both show."""

    score: float
    overlap: float


def moving(sequence: PoseSequence, mirror: bool = False) -> Running:
    """A track as ``compare`` takes it; ``mirror`` shows it in a mirror.

    Where the person stands in the image stays in it: copies move alike there too, up to one shift and one scale.
    """
    places, weights = joints(sequence)
    if mirror:
        order = body(sequence.layout).mirror
        places, weights = (places * [-1, 1])[:, order], weights[:, order]
    # Of any size near 1 and near 0, so that the running sums keep their digits.
    total = max(weights.sum(), _TINY)
    places = places - (places * weights[..., None]).sum((0, 1)) / total
    spread = np.sqrt((places**2 * weights[..., None]).sum() / total)
    return running(places / max(float(spread), _TINY), weights)


def compare(first: Running, second: Running, here: np.ndarray, there: np.ndarray, rates: tuple[float, float],
            least: float) -> Likeness:
    """The likeness of two tracks of which windows ``here`` and ``there`` (2,), in frames, look alike.

    From these windows on, the alignment is refined and spread over all that both show: the places of both ends are
    moved until the joints lie closest. The score is 1 - sqrt(m / (v + CALM)), m the median squared distance of the
    joints after one shift and one scale, v the variance of both motions, in squared body sizes. ``rates`` are frames
    a second; a pair that cannot reach ``least`` is given up early.
    """
    (lo, hi), (begin, end) = here.tolist(), there.tolist()
    bound = _Bound(len(first), len(second), rates[0] / rates[1])
    step = (end - begin) / 10
    tried = 0
    if _score(first, second, (lo, hi), (begin, end), _SAMPLES) < least - POOR:
        return Likeness(-np.inf, 0.0)
    coarse = _refined(first, second, (lo, hi), (begin, end), step, bound, rounds=1)
    if _score(first, second, *_inside((lo, hi), coarse, bound.second), _SAMPLES) < least - HOPELESS:
        return Likeness(-np.inf, 0.0)
    while True:
        begin, end = _refined(first, second, (lo, hi), (begin, end), step, bound)
        (lo, hi), (begin, end) = _inside((lo, hi), (begin, end), bound.second)
        tempo = (end - begin) / (hi - lo)
        more_before = min(lo, begin / tempo, hi - lo)
        more_after = min(len(first) - hi, (len(second) - end) / tempo, hi - lo)
        if (more_before < 0.5 and more_after < 0.5) or tried == _GROWTH:
            break
        step = (end - begin) / 20
        lo, hi = lo - more_before, hi + more_after
        begin, end = max(0.0, begin - tempo * more_before), min(float(len(second)), end + tempo * more_after)
        tried += 1
    score = _score(first, second, (lo, hi), (begin, end), _FINAL)
    return Likeness(score, min(1.0, max((hi - lo) / len(first), (end - begin) / len(second))))


@dataclass(frozen=True)
class _Bound:
    """What alignments are possible: with most of a window inside both tracks, and at no tempo beyond STEEPEST."""

    first: int
    second: int
    ratio: float  # frames of the first that last as long as one of the second

    def allows(self, length: float, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
        tempo = np.maximum(end - begin, _TINY) / length * self.ratio
        inside = np.minimum(end, self.second) - np.maximum(begin, 0)
        return (tempo < STEEPEST) & (tempo > 1 / STEEPEST) & (inside > _COMMON * (end - begin))


def _refined(first: Running, second: Running, here: tuple[float, float], there: tuple[float, float], step: float,
             bound: _Bound, rounds: int = _ROUNDS) -> tuple[float, float]:
    """Both ends in the second track, moved in ever smaller steps to where the joints lie closest."""
    share = np.linspace(0, 1, _samples(here, _SAMPLES) + 1)
    fixed = first.means(here[0] + (here[1] - here[0]) * share)
    begin, end = there
    for number in range(rounds):
        moves = _NEAR if number else _FAR
        begins, ends = begin + step * moves[0], end + step * moves[1]
        allowed = bound.allows(here[1] - here[0], begins, ends)
        if allowed.any():
            begins, ends = begins[allowed], ends[allowed]
            moved = second.means(begins[:, None] + (ends - begins)[:, None] * share)
            best = int(_costs(*fixed, *moved).argmin())
            begin, end = float(begins[best]), float(ends[best])
        step *= _SHRINK
    return begin, end


def _inside(here: tuple[float, float], there: tuple[float, float], frames: int
            ) -> tuple[tuple[float, float], tuple[float, float]]:
    """The part of an alignment that lies within the ``frames`` of the second track."""
    tempo = (there[1] - there[0]) / (here[1] - here[0])
    before, after = max(0.0, -there[0]), max(0.0, there[1] - frames)
    return (here[0] + before / tempo, here[1] - after / tempo), (there[0] + before, there[1] - after)


def _samples(span: tuple[float, float], most: int) -> int:
    return int(np.clip(span[1] - span[0], 6, most))


def _costs(a: np.ndarray, seen_a: np.ndarray, b: np.ndarray, seen_b: np.ndarray) -> np.ndarray:
    """How far N motions (N, K, V, 2) are from a (K, V, 2), each laid over it by a shift and a scale: (N,).

    The mean squared distance in body sizes, larger where less is seen. All of it from sums, since it is asked often.
    """
    weight = np.sqrt(seen_a * seen_b)
    weighted = b * weight[..., None]
    count = np.maximum(weight.sum((1, 2)), _TINY)
    at_once = np.maximum(weight.sum(2), _TINY)[..., None]
    sums = [np.einsum("nkv,kvd->nkd", weight, a), weighted.sum(2)]  # by instant
    means = [x.sum(1) / count[:, None] for x in sums]
    squares = [np.einsum("nkv,kv->n", weight, (a * a).sum(-1)), np.einsum("nkvd,nkvd->n", weighted, b)]
    first, second = (square / count - (mean**2).sum(1) for square, mean in zip(squares, means, strict=True))
    across = np.einsum("nkvd,kvd->n", weighted, a) / count - (means[0] * means[1]).sum(1)
    scale = np.sqrt(np.maximum(first, 0) / np.maximum(second, _TINY))
    # What the body's middle moves is no part of its size.
    inside = [((x - at_once * mean[:, None]) ** 2 / at_once).sum((1, 2)) / count
              for x, mean in zip(sums, means, strict=True)]
    size = np.maximum((first - inside[0] + scale**2 * (second - inside[1])) / 2, _TINY)
    return 2 * (first - scale * across) / size / np.maximum(weight.mean((1, 2)), 0.01)


def _distances(a: np.ndarray, seen_a: np.ndarray, b: np.ndarray, seen_b: np.ndarray
               ) -> tuple[np.ndarray, np.ndarray, float]:
    """Squared distances and weights (K, V) of motions (K, V, 2) so laid over one another, and the variance of both."""
    weight = np.sqrt(seen_a * seen_b)[..., None]
    total = max(float(weight.sum()), _TINY)
    a, b = (x - (x * weight).sum((0, 1)) / total for x in (a, b))
    square = float((a * a * weight).sum() / total)
    b = b * np.sqrt(square / max(float((b * b * weight).sum() / total), _TINY))
    at_once, over_time = (np.maximum(weight.sum(axis), _TINY) for axis in (1, 0))
    inside = sum(float(((x * weight).sum(1) ** 2 / at_once).sum()) for x in (a, b)) / total
    steady = sum(float(((x * weight).sum(0) ** 2 / over_time).sum()) for x in (a, b)) / total
    size = max((2 * square - inside) / 2, _TINY)
    return ((a - b) ** 2).sum(-1) / size, weight[..., 0], (2 * square - steady) / size


def _score(first: Running, second: Running, here: tuple[float, float], there: tuple[float, float], most: int) -> float:
    share = np.linspace(0, 1, _samples(here, most) + 1)
    distance, weight, motion = _distances(*first.means(here[0] + (here[1] - here[0]) * share),
                                          *second.means(there[0] + (there[1] - there[0]) * share))
    distance, weight = distance.ravel(), weight.ravel()
    if not weight.any():
        return -np.inf
    order = np.argsort(distance)
    sums = np.cumsum(weight[order])
    middle = float(distance[order][np.searchsorted(sums, sums[-1] / 2)])
    return float(1 - np.sqrt(middle / (max(motion, 0) + CALM)))
