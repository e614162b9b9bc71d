"""Nested k-shot draws that are the same on every machine.

The order of a class's clips in a draw is the order of ``sha256(seed, id)``: it depends on no random generator, no
position in a file and no other clip, so the 1-shot support lies in the 2-shot support, and so on, and a published
hash of the drawn ids can be checked anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from skelcore.errors import InputError
from skelcore.store import Store, indices_of


@dataclass(frozen=True)
class Episodes:
    """Labelled clips of one store, the draws of support from them, and the queries.

    ``pool`` (P,) and ``queries`` (Q,) are positions in the store; ``pool_labels`` and ``query_labels`` index
    ``classes``; ``draws`` (D, W, K) are positions in ``pool``, in order of preference, K the largest k;
    ``asked`` (D, Q) marks the queries that count in a draw (all of them, unless support and query share a split).
    """

    classes: tuple[str, ...]
    ids: tuple[str, ...]
    pool: np.ndarray
    pool_labels: np.ndarray
    queries: np.ndarray
    query_labels: np.ndarray
    draws: np.ndarray
    seeds: tuple[int, ...]
    asked: np.ndarray

    @property
    def transductive(self) -> bool:
        """Whether statistics of the pool have seen queries: support and query share a split."""
        return bool(np.isin(self.queries, self.pool).any())

    @property
    def used(self) -> np.ndarray:
        """Positions in the store of the pool's clips, then of the queries that are not among them."""
        return np.concatenate([self.pool, np.setdiff1d(self.queries, self.pool)])

    @property
    def query_rows(self) -> np.ndarray:
        """Where each query (Q,) is in ``used``."""
        order = np.argsort(self.used)
        return order[np.searchsorted(self.used, self.queries, sorter=order)]

    def first(self, count: int) -> Episodes:
        """The same with the first ``count`` draws only."""
        return replace(self, draws=self.draws[:count], seeds=self.seeds[:count], asked=self.asked[:count])

    def support(self, k: int) -> np.ndarray:
        """Positions (D, W * k) in the pool of the k-shot supports, class by class."""
        return self.draws[:, :, :k].reshape(len(self.draws), -1)

    def labels(self, k: int) -> np.ndarray:
        """Classes (W * k,) of the support's rows."""
        return np.repeat(np.arange(len(self.classes)), k)

    def hashes(self, k: int) -> list[str]:
        """sha256 of each draw's sorted ids, one a line."""
        return [digest(self.ids[self.pool[i]] for i in row) for row in self.support(k)]


def digest(ids: Iterable[str]) -> str:
    """sha256 of the sorted ids joined by newlines."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()


def order(ids: Sequence[str], seed: int) -> list[int]:
    """Positions of the ids in the order in which a draw of that seed takes them."""
    keys = [(hashlib.sha256(f"{seed}:{name}".encode()).digest(), name) for name in ids]
    return sorted(range(len(ids)), key=keys.__getitem__)


def draw(store: Store, support: str, query: str, k_shot: Sequence[int], draws: int, seed: int) -> Episodes:
    """Draw ``draws`` nested supports of up to ``max(k_shot)`` clips a class, each from another video.

    Classes are those with a labelled clip in either split. When ``query`` is the support split, a draw's queries are
    the clips of videos that it did not draw (at the largest k, so that every k is asked the same). Raises InputError
    for an unknown split, a clip in both splits, no labelled queries, or a class with fewer than k videos.
    """
    pool, queries = _labelled(store, support), _labelled(store, query)
    if not len(queries):
        raise InputError(f"query={query}: the split has no labelled clip")
    both = np.intersect1d(pool, queries)
    if support != query and len(both):
        raise InputError(f"support={support} and query={query} share {len(both)} clips, such as "
                         f"{store.ids[both[0]]!r}; use disjoint splits")
    known = np.union1d(store.labels[pool], store.labels[queries])
    ids = [store.ids[i] for i in pool]
    labels = np.searchsorted(known, store.labels[pool])
    members = [np.flatnonzero(labels == i) for i in range(len(known))]
    videos = [store.groups[i] for i in pool]
    _enough([{videos[i] for i in group} for group in members], [store.classes[i] for i in known], max(k_shot), support)
    seeds = tuple(range(seed, seed + draws))
    drawn = np.array([[group[_one_a_video([ids[i] for i in group], [videos[i] for i in group], each)[:max(k_shot)]]
                       for group in members] for each in seeds])
    return Episodes(tuple(store.classes[i] for i in known), tuple(store.ids), pool, labels, queries,
                    np.searchsorted(known, store.labels[queries]), drawn, seeds,
                    _asked(store, pool[drawn.reshape(draws, -1)], queries, same=support == query))


def _labelled(store: Store, split: str) -> np.ndarray:
    found = indices_of(store, split)
    return found[np.asarray(store.labels)[found] >= 0]


def _one_a_video(ids: Sequence[str], videos: Sequence[str], seed: int) -> list[int]:
    """The draw's order, with only the first clip of each video: two tracks of one video are not two examples."""
    first: dict[str, int] = {}
    for i in order(ids, seed):
        first.setdefault(videos[i], i)
    return list(first.values())


def _enough(videos: Sequence[set[str]], classes: Sequence[str], k: int, support: str) -> None:
    count, name = min((len(group), name) for group, name in zip(videos, classes, strict=True))
    if count < k:
        remedy = f"lower k_shot to at most {count}" if count else "choose another support split"
        raise InputError(f"k_shot={k}: class {name!r} has only {count} labelled videos in split {support!r}; {remedy}")


def _asked(store: Store, support: np.ndarray, queries: np.ndarray, same: bool) -> np.ndarray:
    if not same:
        return np.ones((len(support), len(queries)), bool)
    videos = np.array([store.groups[i] for i in queries])
    asked = np.stack([~np.isin(videos, [store.groups[i] for i in row]) for row in support])
    if not asked.any(1).all():
        raise InputError("a draw takes every video of the split, so no query is left; "
                         "lower k_shot or name another query split")
    return asked
