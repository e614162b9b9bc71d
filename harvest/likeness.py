"""How alike two tracks are, joint by joint, after the best alignment in time: the proof that one copies the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harvest.descriptor import Running, body, joints, running
from skelcore.sequence import PoseSequence

CALM = 0.2  # a motion so small (variance in squared body sizes) proves little
HOPELESS = 0.35  # an alignment of the windows alone that scores so much below what is asked is not followed up
STEEPEST = 1.6  # tempo of a copy at most
_SAMPLES, _FINAL = 32, 128  # instants compared in the search, and for the final score
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
    while True:
        begin, end = _refined(first, second, (lo, hi), (begin, end), step, bound)
        (lo, hi), (begin, end) = _inside((lo, hi), (begin, end), bound.second)
        if tried == 0 and _score(first, second, (lo, hi), (begin, end), _SAMPLES) < least - HOPELESS:
            return Likeness(-np.inf, 0.0)
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
             bound: _Bound) -> tuple[float, float]:
    """Both ends in the second track, moved in ever smaller steps to where the joints lie closest."""
    share = np.linspace(0, 1, _samples(here, _SAMPLES) + 1)
    fixed = first.means(here[0] + (here[1] - here[0]) * share)
    begin, end = there
    for number in range(_ROUNDS):
        moves = _NEAR if number else _FAR
        begins, ends = begin + step * moves[0], end + step * moves[1]
        allowed = bound.allows(here[1] - here[0], begins, ends)
        if allowed.any():
            begins, ends = begins[allowed], ends[allowed]
            moved = second.means(begins[:, None] + (ends - begins)[:, None] * share)
            best = int(_fitted(*fixed, *moved).cost.argmin())
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


@dataclass(frozen=True)
class _Fit:
    """N pairs of motions laid over one another: squared distances and weights (N, K, V), motion and cost (N,)."""

    distance: np.ndarray
    weight: np.ndarray
    motion: np.ndarray
    cost: np.ndarray


def _fitted(a: np.ndarray, seen_a: np.ndarray, b: np.ndarray, seen_b: np.ndarray) -> _Fit:
    """Lay motions (N, K, V, 2) over a (K, V, 2) by a shift and a scale each; lengths in body sizes."""
    weight = np.sqrt(seen_a * seen_b)[..., None]
    total = np.maximum(weight.sum((-3, -2, -1), keepdims=True), _TINY)
    a, b = (x - (x * weight).sum((-3, -2), keepdims=True) / total for x in (a, b))
    square_a, square_b = ((x * x * weight).sum((-3, -2, -1), keepdims=True) / total for x in (a, b))
    b = b * np.sqrt(square_a / np.maximum(square_b, _TINY))
    at_once, over_time = (np.maximum(weight.sum(axis, keepdims=True), _TINY) for axis in (-2, -3))
    inside = ((x * weight).sum(-2, keepdims=True) ** 2 / at_once for x in (a, b))
    steady = ((x * weight).sum(-3, keepdims=True) ** 2 / over_time for x in (a, b))
    square = (2 * square_a)[..., 0, 0, 0]
    count = total[..., 0, 0, 0]
    size = np.maximum((square - sum(x.sum((-3, -2, -1)) for x in inside) / count) / 2, _TINY)
    motion = (square - sum(x.sum((-3, -2, -1)) for x in steady) / count) / size
    distance = ((a - b) ** 2).sum(-1) / size[..., None, None]
    seen = weight[..., 0]
    cost = (distance * seen).sum((-2, -1)) / count / np.maximum(seen.mean((-2, -1)), 0.01)
    return _Fit(distance, seen, motion, cost)


def _score(first: Running, second: Running, here: tuple[float, float], there: tuple[float, float], most: int) -> float:
    share = np.linspace(0, 1, _samples(here, most) + 1)
    fit = _fitted(*first.means(here[0] + (here[1] - here[0]) * share),
                  *second.means(there[0] + (there[1] - there[0]) * share))
    distance, weight = fit.distance.ravel(), fit.weight.ravel()
    if not weight.any():
        return -np.inf
    order = np.argsort(distance)
    sums = np.cumsum(weight[order])
    middle = float(distance[order][np.searchsorted(sums, sums[-1] / 2)])
    return float(1 - np.sqrt(middle / (max(float(fit.motion), 0) + CALM)))
