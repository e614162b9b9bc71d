"""The tracks among which copies are searched, in an order that never changes, with their descriptors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harvest import holdings, parts, plan, workspace
from harvest.config import Gates
from harvest.descriptor import Windows, describe
from harvest.gates import judge
from skelcore import layouts, shards
from skelcore.errors import InputError
from skelcore.layouts import Layout
from skelcore.sequence import PoseSequence
from skelcore.shard_store import ShardStore
from skelcore.store import group_codes

REASON = "duplicate"


@dataclass(frozen=True)
class Pool:
    """Tracks by position: their ``names``, the number of the ``video`` (n,) that each is of, and how to ``read`` one.

    The first of several copies is the one to keep. ``windows`` lie in the order of the tracks.
    """

    names: list[str]
    video: np.ndarray
    windows: Windows
    layout: Layout
    read: Callable[[int], PoseSequence]

    def __len__(self) -> int:
        return len(self.names)


def of_store(store: ShardStore) -> Pool:
    """All tracks of a set of shards, in its order."""
    tracks = np.arange(len(store))
    video = np.unique(group_codes(store), return_inverse=True)[1]
    return Pool(list(store.ids), video, parts.windows(store, tracks), store.layout, store.__getitem__)


def of_harvest(root: str | Path) -> Pool:
    """The tracks of an output folder that pass its gates, those rejected as copies too, in the order of its plan.

    So the copies that are found do not depend on which of them an earlier search has dropped. Descriptors are kept in
    the folder. Raises InputError for what is no output folder of a harvest, and for damaged shards.
    """
    root = Path(root)
    settled, planned = workspace.settled(root), plan.read(root / "plan.jsonl")
    found: dict[str, tuple[ShardStore, int]] = {}
    pieces: list[tuple[list[str], Windows]] = []
    for store, tracks, windows in _shards(root, settled.gates):
        names = [store.ids[i] for i in tracks.tolist()]
        pieces.append((names, windows))
        for name, track in zip(names, tracks.tolist(), strict=True):
            # A kill may have left a track in both places, which then counts as kept.
            found.setdefault(name, (store, track))

    def place(name: str) -> tuple[int, int]:
        key, _, number = name.rpartition("/")
        index = planned.find(key)
        if index is None:
            raise InputError(f"{root}: {key} has tracks but is not in the plan; restore plan.jsonl")
        return index, int(number)

    names = sorted(found, key=place)
    rank = {name: position for position, name in enumerate(names)}
    keys = {key: code for code, key in enumerate(dict.fromkeys(name.rpartition("/")[0] for name in names))}
    stores = [found[name] for name in names]

    def read(index: int) -> PoseSequence:
        store, track = stores[index]
        return store[track]

    return Pool(names, np.array([keys[name.rpartition("/")[0]] for name in names]), _ordered(pieces, rank),
                layouts.get(settled.layout), read)


def join(pools: Mapping[str, Pool]) -> Pool:
    """Pools one after the other; each name gets that of its pool and a slash before it.

    Raises InputError for pools in different layouts.
    """
    (first, one), *others = pools.items()
    for name, other in others:
        if other.layout != one.layout:
            raise InputError(f"{name}: layout {other.layout.name}, but {first} has {one.layout.name}; search sets of "
                             "one layout at a time")
    every = list(pools.values())
    ends = np.cumsum([len(pool) for pool in every])
    begins = ends - [len(pool) for pool in every]
    videos = np.cumsum([0, *(int(pool.video.max(initial=-1)) + 1 for pool in every)])

    def read(index: int) -> PoseSequence:
        which = int(np.searchsorted(ends, index, "right"))
        return every[which].read(index - int(begins[which]))

    return Pool([f"{name}/{track}" for name, pool in pools.items() for track in pool.names],
                np.concatenate([pool.video + first for pool, first in zip(every, videos, strict=False)]),
                Windows(np.concatenate([pool.windows.vectors for pool in every]),
                        np.concatenate([pool.windows.track + begin for pool, begin in zip(every, begins, strict=True)]),
                        np.concatenate([pool.windows.span for pool in every])), one.layout, read)


def _shards(root: Path, gates: Gates) -> Iterator[tuple[ShardStore, np.ndarray, Windows]]:
    """Each shard of which there are tracks for the pool, which of its tracks those are, and their windows."""
    for folder in ("shards", "rejected"):
        for tar in holdings.tars(root, folder):
            store = shards.read(tar)
            tracks = np.arange(len(store)) if folder == "shards" else _dropped(store)
            if len(tracks):
                found = parts.windows(store, tracks, root / parts.FOLDER)
                if folder == "rejected":
                    tracks, found = _passing(store, tracks, found, gates)
                yield store, tracks, found


def _dropped(store: ShardStore) -> np.ndarray:
    """The tracks that an earlier search has rejected."""
    return np.array([i for i, numbers in enumerate(_numbers(store)) if numbers.get("reason") == REASON], np.int64)


def _passing(store: ShardStore, tracks: np.ndarray, windows: Windows, gates: Gates) -> tuple[np.ndarray, Windows]:
    """Those of the tracks that would be kept if they were no copies."""
    numbers = _numbers(store)
    passes = np.array([judge({k: v for k, v in numbers[i].items() if k != "reason"}, gates) is None
                       for i in tracks.tolist()])
    mine = passes[windows.track]
    return tracks[passes], Windows(windows.vectors[mine], (np.cumsum(passes) - 1)[windows.track[mine]],
                                   windows.span[mine])


def _numbers(store: ShardStore) -> list[dict[str, Any]]:
    """The stored numbers of every track, and its reason, in the order of the store."""
    last, found = "", list[dict[str, Any]]()
    for index in range(len(store)):
        if store.groups[index] != last or not found:
            last = store.groups[index]
            found.extend(track.quality for track in store.document(index).tracks)
    return found


def _ordered(pieces: Sequence[tuple[list[str], Windows]], rank: Mapping[str, int]) -> Windows:
    """The windows of all pieces in the order of the tracks; of a track that comes twice, the first."""
    if not pieces:
        return describe([])
    tracks, seen = [], set[str]()
    for names, windows in pieces:
        places = np.array([-1 if name in seen else rank[name] for name in names], np.int64)
        seen.update(names)
        tracks.append(places[windows.track])
    track = np.concatenate(tracks)
    order = np.argsort(track, kind="stable")
    order = order[track[order] >= 0]
    return Windows(np.concatenate([windows.vectors for _, windows in pieces])[order], track[order],
                   np.concatenate([windows.span for _, windows in pieces])[order])
