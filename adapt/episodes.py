"""Nested k-shot draws that are the same on every machine.

The order of a class's clips in a draw is the order of ``sha256(seed:id)``: it depends on no random generator, no
position in a file and no other clip, so the 1-shot support lies in the 2-shot support, and so on, and a published
hash of the drawn ids can be checked anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from adapt.order import digest, order
from adapt.splits import low_label
from skelcore.errors import InputError
from skelcore.store import Store, indices_of

Budget = int | str  # clips a class, or a share of the labels such as "5%"


def _none() -> np.ndarray:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Episodes:
    """Labelled clips of one store, the draws of support from them, and the queries.

    ``pool`` (P,) and ``queries`` (Q,) are positions in the store; ``pool_labels`` and ``query_labels`` index
    ``classes``; ``draws`` (D, W, K) are positions in ``pool``, in order of preference, K the largest k, and -1 where a
    class has no more; ``asked`` (D, Q) marks the queries that count in a draw (all of them, unless support and query
    share a split). ``shares`` (D, W, K') is the same for shares of the labels. ``base`` (B,) are positions of clips of
    other classes; where there are any, statistics are learnt from them instead of the pool.
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
    shares: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0), np.int64))
    base: np.ndarray = field(default_factory=_none)
    parts: tuple[str, str] = ("support", "query")  # what pool and queries are called

    @property
    def learned(self) -> np.ndarray:
        """Positions in the store of the clips whose unlabelled statistics may be used."""
        return self.base if len(self.base) else self.pool

    @property
    def transductive(self) -> bool:
        """Whether statistics have seen queries: support and query share a split."""
        return bool(np.isin(self.queries, self.learned).any())

    @property
    def used(self) -> np.ndarray:
        """Positions in the store of all clips in question, each once: ``learned`` first, then pool, then queries."""
        everything = np.concatenate([self.learned, self.pool, self.queries])
        _, first = np.unique(everything, return_index=True)
        return everything[np.sort(first)]

    @property
    def pool_rows(self) -> np.ndarray:
        """Where each clip of the pool (P,) is in ``used``."""
        return self._rows(self.pool)

    @property
    def query_rows(self) -> np.ndarray:
        """Where each query (Q,) is in ``used``."""
        return self._rows(self.queries)

    def _rows(self, positions: np.ndarray) -> np.ndarray:
        order = np.argsort(self.used)
        return order[np.searchsorted(self.used, positions, sorter=order)]

    def first(self, count: int) -> Episodes:
        """The same with the first ``count`` draws only."""
        return replace(self, draws=self.draws[:count], shares=self.shares[:count], seeds=self.seeds[:count],
                       asked=self.asked[:count])

    def counts(self, k: Budget) -> np.ndarray:
        """Support clips of each class (W,): k, or as many as the class has; or its share of the labels."""
        if isinstance(k, int):
            return np.minimum(k, (self.draws[0] >= 0).sum(1))
        return _shares(self.pool_labels, len(self.classes), k)

    def support(self, k: Budget) -> np.ndarray:
        """Positions (D, S) in the pool of the supports, class by class."""
        drawn = self.draws if isinstance(k, int) else self.shares
        return np.concatenate([drawn[:, row, :count] for row, count in enumerate(self.counts(k))], 1)

    def labels(self, k: Budget) -> np.ndarray:
        """Classes (S,) of the support's rows."""
        return np.repeat(np.arange(len(self.classes)), self.counts(k))

    def hashes(self, k: Budget) -> list[str]:
        """sha256 of each draw's sorted ids, one a line."""
        return [digest(self.ids[self.pool[i]] for i in row) for row in self.support(k)]


def from_lists(store: Store, lists: Mapping[str, Sequence[str]], query: str) -> Episodes:
    """Published supports, one list of ids by its name each, as draws; they may differ in clips, not in clips a class.

    Raises InputError for ids that the store lacks or does not label, for a class that only the queries have, and for
    lists that differ in clips a class or hold a query.
    """
    where, labels = {name: i for i, name in enumerate(store.ids)}, np.asarray(store.labels)
    queries = indices_of(store, query)
    queries = _labelled(queries, labels, query)
    found = {}
    for path, ids in lists.items():
        lost = [name for name in ids if name not in where or labels[where[name]] < 0]
        if lost:
            raise InputError(f"{path}: {len(lost)} of its {len(ids)} ids are not among the data's labelled clips, such "
                             f"as {lost[0]!r}")
        found[path] = np.array([where[name] for name in ids])
        both = np.intersect1d(found[path], queries)
        if len(both):
            raise InputError(f"{path}: {len(both)} of its ids are queries, such as {store.ids[both[0]]!r}")
    known = np.union1d(labels[np.concatenate(list(found.values()))], labels[queries])
    classes = tuple(store.classes[i] for i in known)
    counts = {path: [int((labels[each] == i).sum()) for i in known] for path, each in found.items()}
    first = next(iter(lists))
    for path, each in counts.items():
        if min(each) == 0:
            raise InputError(f"{path}: no clip of class {classes[each.index(0)]!r}, which is asked for")
        if each != counts[first]:
            raise InputError(f"{path}: not as many clips of every class as {first}; evaluate the two apart")
    pool = np.unique(np.concatenate(list(found.values())))
    drawn = _stack([[np.searchsorted(pool, each[labels[each] == i]) for i in known] for each in found.values()])
    return Episodes(classes, tuple(store.ids), pool, np.searchsorted(known, labels[pool]), queries,
                    np.searchsorted(known, labels[queries]), drawn, tuple(range(len(lists))),
                    np.ones((len(lists), len(queries)), bool), parts=("lists", query))


def _labelled(queries: np.ndarray, labels: np.ndarray, name: str) -> np.ndarray:
    found = queries[labels[queries] >= 0]
    if not len(found):
        raise InputError(f"query={name}: the split has no labelled clip")
    return found


def _shares(pool_labels: np.ndarray, classes: int, budget: str) -> np.ndarray:
    """Clips of each class (W,) in a share of the labels such as "5%"."""
    percent = int(budget.removesuffix("%"))
    return np.array([low_label.share(count, percent) for count in np.bincount(pool_labels, minlength=classes)])


def draw(store: Store, support: str, query: str, k_shot: Sequence[int], draws: int, seed: int,
         shares: Sequence[str] = (), scarce: bool = False) -> Episodes:
    """``draw_from`` two splits of a store. Raises InputError for an unknown split, and for a clip in both."""
    pool, queries = indices_of(store, support), indices_of(store, query)
    both = np.intersect1d(pool, queries)
    if support != query and len(both):
        raise InputError(f"support={support} and query={query} share {len(both)} clips, such as "
                         f"{store.ids[both[0]]!r}; use disjoint splits")
    return draw_from(store, Parts(pool, queries, support=support, query=query), k_shot, draws, seed, shares, scarce)


@dataclass(frozen=True)
class Parts:
    """Positions in a store of the clips that may be support, of the queries, and of clips of other classes.

    ``support`` and ``query`` name the first two in messages; ``groups`` (n,) names each clip of the store's video
    where the store itself does not know it.
    """

    pool: np.ndarray
    queries: np.ndarray
    base: np.ndarray = field(default_factory=_none)
    support: str = "support"
    query: str = "query"
    groups: Sequence[str] | None = None


def draw_from(store: Store, parts: Parts, k_shot: Sequence[int], draws: int, seed: int, shares: Sequence[str] = (),
              scarce: bool = False) -> Episodes:
    """Draw ``draws`` nested supports of up to ``max(k_shot)`` clips a class, each from another video.

    Classes are those with a labelled clip among pool or queries. Where a query is in the pool, a draw's queries are
    the clips of videos that it did not draw (at the largest k, so that every k is asked the same). ``shares`` are
    stratified shares of the labelled clips, such as "5%", drawn from all clips. With ``scarce`` a class of fewer videos
    than k gives all it has. Raises InputError for no labelled queries, and for a class with fewer than k videos.
    """
    labels, groups = np.asarray(store.labels), store.groups if parts.groups is None else parts.groups
    pool, queries = parts.pool[labels[parts.pool] >= 0], _labelled(parts.queries, labels, parts.query)
    known = np.union1d(labels[pool], labels[queries])
    classes = tuple(store.classes[i] for i in known)
    pool_labels = np.searchsorted(known, labels[pool])
    members = [np.flatnonzero(pool_labels == i) for i in range(len(known))]
    ids, videos = [store.ids[i] for i in pool], [groups[i] for i in pool]
    _enough([{videos[i] for i in group} for group in members], classes, 1 if scarce else max(k_shot), parts.support)
    seeds = tuple(range(seed, seed + draws))
    orders = [[group[order([ids[i] for i in group], each)] for group in members] for each in seeds]
    drawn = _stack([[_one_a_video(group, videos)[:max(k_shot)] for group in each] for each in orders])
    whole = _stack(orders) if shares else np.zeros((draws, 0, 0), np.int64)
    taken = [np.unique(pool[np.concatenate([one[one >= 0], other[other >= 0]])])
             for one, other in zip(drawn, _largest(whole, pool_labels, shares), strict=True)]
    return Episodes(classes, tuple(store.ids), pool, pool_labels, queries, np.searchsorted(known, labels[queries]),
                    drawn, seeds, _asked(groups, taken, queries, same=bool(np.isin(queries, pool).any())), whole,
                    parts.base, (parts.support, parts.query))


def _largest(whole: np.ndarray, pool_labels: np.ndarray, shares: Sequence[str]) -> np.ndarray:
    """What the largest share takes of each draw; -1 for the rest."""
    if not shares:
        return whole
    counts = np.max([_shares(pool_labels, whole.shape[1], each) for each in shares], 0)
    return np.where(np.arange(whole.shape[2]) < counts[:, None], whole, -1)


def _stack(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Lists (D, W) of positions as one array (D, W, K), filled up with -1."""
    most = max(len(each) for row in rows for each in row)
    stacked = np.full((len(rows), len(rows[0]), most), -1)
    for i, row in enumerate(rows):
        for j, each in enumerate(row):
            stacked[i, j, :len(each)] = each
    return stacked


def _one_a_video(ordered: np.ndarray, videos: Sequence[str]) -> np.ndarray:
    """The draw's order, with only the first clip of each video: two tracks of one video are not two examples."""
    first: dict[str, int] = {}
    for i in ordered.tolist():
        first.setdefault(videos[i], i)
    return np.array(list(first.values()), np.int64)


def _enough(videos: Sequence[set[str]], classes: Sequence[str], k: int, support: str) -> None:
    count, name = min((len(group), name) for group, name in zip(videos, classes, strict=True))
    if count < k:
        remedy = f"lower k_shot to at most {count}, or scarce=true" if count else "choose another support split"
        raise InputError(f"k_shot={k}: class {name!r} has only {count} labelled videos in split {support!r}; {remedy}")


def _asked(groups: Sequence[str], taken: Sequence[np.ndarray], queries: np.ndarray, same: bool) -> np.ndarray:
    if not same:
        return np.ones((len(taken), len(queries)), bool)
    videos = np.array([groups[i] for i in queries])
    asked = np.stack([~np.isin(videos, [groups[i] for i in row]) for row in taken])
    if not asked.any(1).all():
        raise InputError("a draw takes every video of the split, so no query is left; "
                         "lower k_shot or name another query split")
    return asked
