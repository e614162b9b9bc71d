"""Store: random access to pose sequences, whatever file they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

import fsspec
import numpy as np

from skelcore.errors import InputError
from skelcore.layouts import Layout
from skelcore.names import PickedNames, numbers
from skelcore.sequence import PoseSequence
from skelcore.shard_store import ShardStore


class Store(Protocol):
    """An indexed collection of pose sequences in one layout.

    ``ids`` are unique; ``labels`` (n,) int64 index ``classes``, -1 = no label; ``groups`` name the video that a
    sequence comes from (sequences of one video are never each other's negatives); ``splits`` maps a split's name to
    the ids in it; ``channels`` is 2 or 3; ``fingerprint`` is a sha256 of the content. A store may also have ``clips``
    (see ``Batched``) and, where ``groups`` would be slow to walk through, ``group_codes``.
    """

    @property
    def layout(self) -> Layout: ...

    @property
    def channels(self) -> int: ...

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def labels(self) -> np.ndarray: ...

    @property
    def classes(self) -> Sequence[str]: ...

    @property
    def groups(self) -> Sequence[str]: ...

    @property
    def splits(self) -> dict[str, list[str]]: ...

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> PoseSequence: ...


@runtime_checkable
class Batched(Protocol):
    """A store that reads many sequences in one call, without an object for each."""

    def clips(self, indices: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Whole sequences resampled evenly in time: keypoints (N, M, frames, V, C), scores (N, M, frames, V) float32.

        M is the most persons in any of them; absent persons and missing joints are zeros. See ``resample.blend``.
        """


def open_store(uri: str, layout: str | None = None, only: Mapping[str, str] | None = None) -> Store:
    """Open a PYSKL pickle, a folder of NTU ``.skeleton`` files, pose shards (folder, glob, URL) or procedural clips.

    ``layout`` is only needed for pickles whose joint count does not tell it; ``only`` restricts shards, see
    ``shards.read``. Raises InputError for anything else, and RunError for a server that does not answer.
    """
    from skelcore import annotations, procedural, shards

    if uri.startswith("procedural:"):
        return procedural.read(uri)
    if uri.startswith(("file://", "local://")):
        uri = fsspec.core.url_to_fs(uri)[1]
    path = Path(uri)
    suffix = PurePosixPath(urlsplit(uri).path if "://" in uri else uri).suffix  # a URL may end in a ?query
    if suffix in (".pkl", ".pickle") or (path.is_dir() and next(path.glob("*.skeleton"), None)):
        return annotations.read(uri, layout)
    if uri.endswith(".tar") or path.is_dir() or "*" in uri or "://" in uri:
        return shards.read(uri, only)
    if not path.exists():
        raise InputError(f"data={uri}: no such file or folder")
    raise InputError(f"data={uri}: expected a PYSKL pickle (.pkl), a folder of .skeleton files, or pose shards (.tar)")


def indices_of(store: Store, split: str | None) -> np.ndarray:
    """Positions (n,) of a split's sequences, in the store's order; all of them for None.

    Raises InputError for an unknown split or for ids that the store lacks.
    """
    if split is None:
        return np.arange(len(store))
    names = store.split_names if isinstance(store, ShardStore) else list(store.splits)
    if split not in names:
        raise InputError(f"no split {split!r} in the data; it has: {', '.join(names) or 'none'}")
    if isinstance(store, ShardStore):
        return store.in_split(split)
    wanted = set(store.splits[split])
    found = np.array([i for i, name in enumerate(store.ids) if name in wanted], np.int64)
    if len(found) != len(wanted):
        missing = sorted(wanted.difference(store.ids))
        raise InputError(f"split {split!r} names {len(missing)} ids that the data lack, such as {missing[0]!r}")
    return found


def group_codes(store: Store) -> np.ndarray:
    """Numbers (n,) int64, equal for sequences of one video; they stay the same when a set grows."""
    codes: np.ndarray | None = getattr(store, "group_codes", None)
    return numbers(np.array([group.encode() for group in store.groups], "S")) if codes is None else codes


@dataclass(frozen=True)
class Subset:
    """The part of a store at ``indices``, itself a store."""

    store: Store
    indices: np.ndarray

    @property
    def layout(self) -> Layout:
        return self.store.layout

    @property
    def channels(self) -> int:
        return self.store.channels

    @property
    def ids(self) -> Sequence[str]:
        return PickedNames(self.store.ids, self.indices)

    @property
    def labels(self) -> np.ndarray:
        return self.store.labels[self.indices]

    @property
    def classes(self) -> Sequence[str]:
        return self.store.classes

    @property
    def groups(self) -> Sequence[str]:
        return PickedNames(self.store.groups, self.indices)

    @property
    def group_codes(self) -> np.ndarray:
        return group_codes(self.store)[self.indices]

    @property
    def splits(self) -> dict[str, list[str]]:
        return {}

    @property
    def fingerprint(self) -> str:
        chosen = np.asarray(self.indices, "<i8").tobytes()
        return hashlib.sha256(self.store.fingerprint.encode() + chosen).hexdigest()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> PoseSequence:
        return self.store[int(self.indices[index])]
