"""Benchmarks: rules that say which clips are support, queries and base, each by name; `skelshot adapt --list`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np

from adapt import tasks
from adapt.episodes import Budget, Episodes, Parts, draw, draw_from, from_lists
from adapt.order import order
from adapt.splits import classes as class_rule
from adapt.splits import gym, ntu, one_shot
from adapt.splits.id_lists import read_ids
from adapt.splits.record import Split
from adapt.tasks import Tasks
from skelcore.errors import InputError
from skelcore.store import Store

if TYPE_CHECKING:
    from adapt.config import AdaptConfig


@dataclass(frozen=True)
class Novel:
    """Episodes on classes that nothing was trained on: ``tasks`` by k index ``clips`` (n,), positions in the store."""

    classes: tuple[str, ...]
    ids: tuple[str, ...]
    clips: np.ndarray
    labels: np.ndarray
    base: np.ndarray
    tasks: dict[int, Tasks]

    @property
    def learned(self) -> np.ndarray:
        """Positions of the clips whose unlabelled statistics may be used: those of the base classes."""
        return self.base

    @property
    def used(self) -> np.ndarray:
        """Positions of all clips in question, the base first."""
        return np.concatenate([self.base, self.clips])

    @property
    def rows(self) -> np.ndarray:
        """Where each novel clip (n,) is in ``used``."""
        return len(self.base) + np.arange(len(self.clips))


@dataclass(frozen=True)
class Trial:
    """What a benchmark asks of a store: nested draws or N-way episodes, the rule, and what the user should know.

    ``budgets`` are the k, and shares of the labels, that it is asked at.
    """

    name: str
    rule: str
    asked: Episodes | Novel
    budgets: tuple[Budget, ...]
    splits: tuple[Split, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """``prepare(store, config)`` carries the rule out; ``about`` tells of it in a line."""

    about: str
    prepare: Callable[[Store, AdaptConfig, str], Trial]


def prepare(store: Store, config: AdaptConfig) -> Trial:
    """Carry out the configured benchmark's rule; raises InputError where the data do not allow it."""
    if config.lists and config.benchmark != "splits":
        raise InputError(f"lists= goes with benchmark=splits, not with {config.benchmark}; leave one of them out")
    return BENCHMARKS[config.benchmark].prepare(store, config, config.benchmark)


def check_name(name: str) -> str:
    """The name of a benchmark; raises ValueError, with the nearest, for another."""
    if name not in BENCHMARKS:
        near = get_close_matches(name, BENCHMARKS, 1)
        raise ValueError(f"no benchmark {name!r}; " + (f"did you mean {near[0]!r}?" if near else
                                                       f"there are: {', '.join(BENCHMARKS)}"))
    return name


def listing() -> str:
    """Every benchmark in a line."""
    width = max(map(len, BENCHMARKS))
    return "\n".join(f"{name:{width}}  {benchmark.about}" for name, benchmark in BENCHMARKS.items())


def _own_splits(store: Store, config: AdaptConfig, name: str) -> Trial:
    if config.lists:
        drawn = from_lists(store, {path: read_ids(path) for path in config.lists}, config.query)
        return _draws(name, f"support from {len(config.lists)} published lists, queries from split {config.query!r}",
                      store, config.seed, drawn, [drawn.draws.shape[2]])
    drawn = draw(store, config.support, config.query, config.k_shot, config.draws, config.seed, _shares(config),
                 config.scarce)
    few = gym.remark({each: int((drawn.draws[0, i] >= 0).sum()) for i, each in enumerate(drawn.classes)},
                     max(config.k_shot))
    return _draws(name, f"support drawn from split {config.support!r} by sha256 of seed and id, one clip a video; "
                        f"queries from split {config.query!r}", store, config.seed, drawn, config.budgets, few)


def _official(store: Store, config: AdaptConfig, name: str) -> Trial:
    split = ntu.split(name.replace("-", "_"), store.ids)
    where = _positions(store)
    parts = Parts(where(split.parts["train"]), where(split.parts["test"]), support="train", query="test",
                  groups=[ntu.view_group(each) for each in store.ids])
    drawn = draw_from(store, parts, config.k_shot, config.draws, config.seed, _shares(config), config.scarce)
    wrong = split.unlike(ntu.COUNTS[split.name])
    return _draws(name, f"{split.rule}; support drawn from the training part by sha256 of seed and id, one view of a "
                        "performance", store, config.seed, drawn, config.budgets, wrong)


def _one_shot(store: Store, config: AdaptConfig, name: str) -> Trial:
    split = one_shot.split(store.ids, config.auxiliary, leak_free=name.endswith("leak-free"))
    where = _positions(store)
    groups = None
    if name.endswith("resampled"):
        novel = where([*split.parts["support"], *split.parts["query"]])
        pool = queries = np.sort(novel)
        draws, groups = config.draws, [ntu.view_group(each) for each in store.ids]
    else:
        pool, queries, draws = where(split.parts["support"]), where(split.parts["query"]), 1
    parts = Parts(pool, queries, where(split.parts["base"]), "exemplars", "novel classes", groups)
    drawn = draw_from(store, parts, [1], draws, config.seed)
    wrong = split.unlike(one_shot.counts(config.auxiliary, name.endswith("leak-free")))
    return _draws(name, split.rule if groups is None else
                  f"{split.rule}; exemplars drawn {draws} times by sha256 of seed and id", store, config.seed, drawn,
                  [1], wrong)


def _episodes(store: Store, config: AdaptConfig, name: str) -> Trial:
    """Classes are split by published names: action codes of NTU, class numbers of Gym99; else by those of the data."""
    present = np.unique(store.labels[store.labels >= 0])
    if name == "gym99-episodes":
        names, split = [str(i) for i in present], gym.class_split(len(store.classes))
    else:
        names = [f"A{i + 1:03d}" if name == "ntu120-episodes" else store.classes[i] for i in present.tolist()]
        split = class_rule.split(name, names, *_CLASS_COUNTS.get(name, class_rule.shares(len(names))))
    novel, base = (np.flatnonzero(np.isin(store.labels, present[np.isin(names, split.parts[part])]))
                   for part in ("novel", "base"))
    if not len(base):
        raise InputError(f"benchmark={name}: the data have no clip of a base class, from which statistics are learnt")
    novel = _one_a_video(store, novel)
    found, labels = np.unique(store.labels[novel], return_inverse=True)
    classes, budgets = tuple(store.classes[i] for i in found.tolist()), tuple(sorted(config.k_shot))
    drawn = {k: tasks.sample(labels, config.way, k, config.episode_queries, config.episodes, config.seed, classes)
             for k in budgets}
    asked = Novel(classes, tuple(store.ids), novel, labels, base, drawn)
    positions = "; ".join(f"{k}-shot {each.sha256[:16]}" for k, each in drawn.items())
    rule = (f"{split.rule}; {config.episodes} {config.way}-way episodes on the novel classes, one clip a video, "
            f"{config.episode_queries} queries a class; sha256 of their positions: {positions}")
    parts = {part: tuple(store.ids[i] for i in clips.tolist()) for part, clips in (("novel", novel), ("base", base))}
    return Trial(name, rule, asked, budgets, (Split(name, rule, config.seed, parts),))


def _one_a_video(store: Store, novel: np.ndarray) -> np.ndarray:
    """Of the clips of each video, or the cameras of an NTU performance, the first by sha256 of its id.

    Otherwise a query may show what an episode's support shows.
    """
    ids = [store.ids[i] for i in novel.tolist()]
    first: dict[str, int] = {}
    for i in order(ids, 0):
        view = ntu.view_group(ids[i])  # the id itself where it is no NTU name
        first.setdefault(store.groups[int(novel[i])] if view == ids[i] else view, i)
    return novel[np.sort(list(first.values()))]


def _draws(name: str, rule: str, store: Store, seed: int, drawn: Episodes, budgets: Sequence[Budget],
           wrong: str | None = None) -> Trial:
    """A trial of nested draws, with the record of every one of them."""
    def ids(positions: np.ndarray) -> tuple[str, ...]:
        return tuple(store.ids[i] for i in positions)

    parts = {f"{budget if isinstance(budget, str) else f'{budget}-shot'}/{each}": ids(drawn.pool[row])
             for budget in budgets for each, row in zip(drawn.seeds, drawn.support(budget), strict=True)}
    parts |= {"query": ids(drawn.queries)} | ({"base": ids(drawn.base)} if len(drawn.base) else {})
    return Trial(name, rule, drawn, tuple(budgets), (Split(name, rule, seed, parts),),
                 (f"note: {wrong}",) if wrong else ())


def _shares(config: AdaptConfig) -> list[str]:
    return [each for each in config.budgets if isinstance(each, str)]


def _positions(store: Store) -> Callable[[Sequence[str]], np.ndarray]:
    """Ids -> positions (n,) in the store."""
    where = {name: i for i, name in enumerate(store.ids)}
    return lambda ids: np.array([where[each] for each in ids], np.int64)


_CLASS_COUNTS = {"ntu120-episodes": (80, 20), "kinetics-episodes": (240, 80)}  # base, validation

BENCHMARKS = {
    "splits": Benchmark("the data's own splits (support=, query=), or published id lists (lists=)", _own_splits),
    "ntu60-xsub": Benchmark("NTU RGB+D 60, cross-subject: 40,091 / 16,487 clips", _official),
    "ntu60-xview": Benchmark("NTU RGB+D 60, cross-view: 37,646 / 18,932", _official),
    "ntu120-xsub": Benchmark("NTU RGB+D 120, cross-subject: 63,026 / 50,919", _official),
    "ntu120-xset": Benchmark("NTU RGB+D 120, cross-setup: 54,468 / 59,477", _official),
    "ntu120-one-shot": Benchmark("NTU RGB+D 120, official exemplars, 18,924 queries; base of auxiliary= classes",
                                 _one_shot),
    "ntu120-one-shot-leak-free": Benchmark("the same without other views of an exemplar, 18,884 queries", _one_shot),
    "ntu120-one-shot-resampled": Benchmark("the same with exemplars drawn anew, for an interval", _one_shot),
    "gym99-episodes": Benchmark("FineGYM Gym99, N-way episodes on the 24 test classes of the RGB few-shot split",
                                _episodes),
    "ntu120-episodes": Benchmark("N-way episodes on 20 of the 120 classes, 80 base and 20 validation ones apart; "
                                 "classes by sha256 of seed and name", _episodes),
    "kinetics-episodes": Benchmark("the same on 80 of 400 classes, 240 base and 80 validation ones apart", _episodes),
    "episodes": Benchmark("N-way episodes on a fifth of any data's classes, chosen by sha256 of seed and name",
                          _episodes),
}
