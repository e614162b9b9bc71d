"""ShardStore: random access to the tracks of many shards through memory maps."""

from __future__ import annotations

import hashlib
import mmap
import os
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from skelcore import layouts, shard_format
from skelcore.errors import InputError, RunError
from skelcore.layouts import Layout
from skelcore.names import LazyNames, numbers
from skelcore.resample import Scratch, blend, clear_missing, neighbours
from skelcore.sequence import PoseSequence
from skelcore.shard_format import LOW, SPAN, TOP
from skelcore.shard_index import Index, Manifest

# Clips resampled at a time: enough to spread the cost of the calls, few enough for the processor's cache.
_STEP = 64
# Mapped pages count as resident memory, and the kernel maps some ten times what is read; after this many bytes read
# they are given back (to the page cache, not to the disk).
_RESIDENT = 32 << 20
_MOST_MAPS = 1024


@dataclass(frozen=True)
class Shard:
    """One trusted shard on this machine."""

    path: Path
    manifest: Manifest
    index: Index
    name: str  # where it was listed, which for a remote shard is not where its copy lies
    modified: int  # of the tar, in nanoseconds


class Names(LazyNames):
    """The ids ``KEY/0000`` of all tracks or, without their ``numbers``, their keys."""

    def __init__(self, keys: np.ndarray, block: np.ndarray, numbers: np.ndarray | None = None) -> None:
        self._keys, self._block, self._numbers = keys, block, numbers

    def __len__(self) -> int:
        return len(self._block)

    def _name(self, index: int) -> str:
        key: str = self._keys[self._block[index]].decode()
        return key if self._numbers is None else f"{key}/{self._numbers[index]:04d}"


class ShardStore:
    """The tracks of many shards, a ``Store``: blocks are groups, ``source["label"]`` and ``["split"]`` label them.

    Beside the protocol: ``frames``, ``persons`` (n,) and ``start`` (n,) seconds of the tracks, ``quality`` (name ->
    (n,) float32, NaN where absent), ``shards`` (name -> sha256) in their order, ``ignored`` (file -> why it was not
    read). Memory is the index, some 44 bytes a track; it pickles to other processes, which map the files anew. Raises
    InputError for shards in different layouts, for a key in two shards and for a set without tracks; reading raises
    RunError for a shard that has vanished or changed since it was opened.
    """

    channels = 2

    def __init__(self, shards: Sequence[Shard], ignored: dict[str, str]) -> None:
        self.ignored = ignored
        self.shards = {shard.name: shard.manifest.sha256 for shard in shards}
        self.fingerprint = hashlib.sha256("".join(shard.manifest.sha256 for shard in shards).encode()).hexdigest()
        shards = [shard for shard in shards if shard.manifest.tracks]
        if not shards:
            raise InputError("the shards hold no tracks; see the harvest's summary for the reasons")
        self.layout = _common_layout(shards)
        self._record = shard_format.record_type(len(self.layout))
        self._paths = [shard.path for shard in shards]
        self._bytes = [shard.manifest.bytes for shard in shards]
        self._modified = [shard.modified for shard in shards]
        indexes = [shard.index for shard in shards]
        counts = [len(index.key) for index in indexes]
        self._shard = np.repeat(np.arange(len(shards), dtype=np.int32), counts)
        self._key = np.concatenate([index.key for index in indexes])
        self._check_keys()
        self._json = np.stack([np.concatenate([getattr(index, name) for index in indexes])
                               for name in ("json_offset", "json_size")], axis=-1)
        self._size = np.concatenate([index.size for index in indexes])
        self._fps = np.concatenate([index.fps for index in indexes])
        firsts = np.cumsum([0, *counts[:-1]])
        self._block = np.concatenate([index.block + first for index, first in zip(indexes, firsts, strict=True)],
                                     dtype=np.int32, casting="same_kind")
        self._offset = np.concatenate([index.offset for index in indexes])
        self.frames = np.concatenate([index.frames for index in indexes])
        self.persons = np.concatenate([index.persons for index in indexes])
        self.start = np.concatenate([index.start for index in indexes])
        self.quality = _quality(indexes)
        self.classes, block_label = _codes([index.label for index in indexes])
        self.labels = block_label[self._block]
        self.split_names, self._split = _codes([index.split for index in indexes])
        told = self.quality.get("track", np.full(len(self), np.nan, np.float32))
        self.ids = Names(self._key, self._block, shard_format.track_numbers(told, self._block).astype(np.int32))
        self.groups = Names(self._key, self._block)
        self._maps: dict[int, tuple[mmap.mmap, np.ndarray]] = {}
        self._scratch, self._read = Scratch(), 0

    def __len__(self) -> int:
        return len(self._block)

    def __getitem__(self, index: int) -> PoseSequence:
        index = range(len(self))[index]
        block = self._block[index]
        size = (int(self._size[block, 0]), int(self._size[block, 1])) if self._size[block, 0] else None
        keypoints, scores = shard_format.dequantise(self.records(index), size)
        label = int(self.labels[index])
        fps = float(self._fps[block])
        return PoseSequence(keypoints, scores, self.layout, size, None if np.isnan(fps) else fps, self.ids[index],
                            None if label < 0 else label, {"start": float(self.start[index])})

    @cached_property
    def splits(self) -> dict[str, list[str]]:
        return {name: [self.ids[i] for i in self.in_split(name).tolist()] for name in self.split_names}

    def in_split(self, name: str) -> np.ndarray:
        """Positions of the tracks in one of ``split_names``."""
        return np.flatnonzero(self._split[self._block] == self.split_names.index(name))

    @property
    def group_codes(self) -> np.ndarray:
        """See ``store.group_codes``."""
        return numbers(self._key)[self._block]

    def check(self) -> None:
        """Raise RunError unless every shard still lies where it was opened, unchanged."""
        for shard, path in enumerate(self._paths):
            try:
                self._check(shard, path.stat())
            except OSError as error:
                raise _gone(path, error) from None

    def records(self, index: int) -> np.ndarray:
        """A track as stored, (persons, frames) records of ``xy`` (V, 2) uint16 and ``score`` (V,) uint8: no copy."""
        shape = (int(self.persons[index]), int(self.frames[index]))
        buffer, _ = self._map(int(self._shard[self._block[index]]))
        found: np.ndarray = np.ndarray(shape, self._record, buffer, int(self._offset[index]))
        self._count(found.nbytes)
        return found

    def document(self, index: int) -> shard_format.Document:
        """``KEY.json`` of the block that a track belongs to: quality, source and provenance."""
        block = self._block[index]
        offset, size = self._json[block].tolist()
        shard = int(self._shard[block])
        data = self._map(shard)[0][offset:offset + size]
        return shard_format.parse(data, f"{self._paths[shard]}: {self.groups[index]}.json")

    def clips(self, indices: Sequence[int] | np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Whole tracks resampled evenly in time: keypoints (N, M, frames, V, 2), scores (N, M, frames, V) float32.

        M is the most persons in any of the tracks; absent persons are zeros. See ``resample.blend``.
        """
        indices = np.asarray(indices, np.int64)
        persons = self.persons[indices]
        most = int(persons.max(initial=1))
        clip, person = np.nonzero(np.arange(most) < persons[:, None])
        shape = (frames, len(self.layout))
        keypoints, scores = np.empty((len(clip), *shape, 2), np.float32), np.empty((len(clip), *shape), np.float32)
        for begin in range(0, len(clip), _STEP):
            step = slice(begin, begin + _STEP)
            self._resample(indices[clip[step]], person[step], keypoints[step], scores[step])
        if most == 1:
            return keypoints[:, None], scores[:, None]
        all_keypoints, all_scores = (np.zeros((len(indices), most, *array.shape[1:]), np.float32)
                                     for array in (keypoints, scores))
        all_keypoints[clip, person], all_scores[clip, person] = keypoints, scores
        return all_keypoints, all_scores

    def _resample(self, tracks: np.ndarray, persons: np.ndarray, keypoints: np.ndarray, scores: np.ndarray) -> None:
        """Fill keypoints (k, T, V, 2) and scores (k, T, V) with one person of each of k tracks."""
        lengths = self.frames[tracks].astype(np.int64)
        low, high, weight = neighbours(lengths, scores.shape[1])
        block = self._block[tracks]
        shards, begin = self._shard[block], (self._offset[tracks] + persons * lengths * self._record.itemsize)[:, None]
        self._gather(shards, begin + high * self._record.itemsize, keypoints, scores)
        if weight.any():
            before = self._scratch.array("xy", keypoints.shape), self._scratch.array("score", scores.shape)
            self._gather(shards, begin + low * self._record.itemsize, *before)
            blend(before[0], keypoints, before[1], scores, weight, self._scratch)
        keypoints += np.float32(LOW)
        size = np.where(self._size[block] > 0, self._size[block], 1)[:, ::-1].astype(np.float32)
        flat = keypoints.reshape(*scores.shape[:2], -1)
        flat *= np.tile(size, len(self.layout))[:, None]  # (k, 1, 2 V), because short inner loops are slow
        clear_missing(keypoints, scores)

    def _gather(self, shards: np.ndarray, offsets: np.ndarray, keypoints: np.ndarray, scores: np.ndarray) -> None:
        """Fill in the records at byte ``offsets`` (k, T) of ``shards`` (k,), keypoints as fractions of the margin."""
        size = self._record.itemsize
        raw = self._scratch.array("raw", offsets.shape, f"V{size}")
        for row, shard in enumerate(shards.tolist()):
            raw[row] = self._map(shard)[1][offsets[row]]
        found = raw.view(self._record)
        np.multiply(found["xy"], np.float32(SPAN / TOP), out=keypoints)
        np.divide(found["score"], np.float32(255), out=scores)
        self._count(raw.nbytes)

    def _count(self, size: int) -> None:
        self._read += size
        if self._read > _RESIDENT:
            self._read = 0
            for found, _ in self._maps.values():
                found.madvise(mmap.MADV_DONTNEED)

    def _map(self, shard: int) -> tuple[mmap.mmap, np.ndarray]:
        """A tar's bytes, and the same seen as overlapping records, one for each byte, for they may begin at any."""
        if shard not in self._maps:
            # First in, first out: random access gains nothing from knowing which map was used last.
            while len(self._maps) >= _map_limit():
                del self._maps[next(iter(self._maps))]
            path = self._paths[shard]
            try:
                with path.open("rb") as file:
                    self._check(shard, os.fstat(file.fileno()))
                    found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise _gone(path, error) from None
            size = self._record.itemsize
            self._maps[shard] = found, np.ndarray((len(found) - size + 1,), f"V{size}", found, strides=(1,))
        return self._maps[shard]

    def _check(self, shard: int, now: os.stat_result) -> None:
        if now.st_size != self._bytes[shard] or now.st_mtime_ns != self._modified[shard]:
            raise RunError(f"{self._paths[shard]}: changed while in use ({now.st_size} bytes, "
                           f"{self._bytes[shard]} when it was opened); put the old one back, or begin a new run")

    def __getstate__(self) -> dict[str, Any]:
        """Another process maps the files by itself."""
        state = {**vars(self), "_maps": {}, "_scratch": Scratch(), "_read": 0}
        state.pop("splits", None)
        return state

    def _check_keys(self) -> None:
        keys, first = np.unique(self._key, return_index=True)
        if len(keys) < len(self._key):
            again = np.setdiff1d(np.arange(len(self._key)), first)[0]
            here = np.flatnonzero(self._key == self._key[again])
            raise InputError(f"{self._paths[self._shard[here[1]]]}: key {self._key[again].decode()!r} is also in "
                             f"{self._paths[self._shard[here[0]]]}; read only one of the two")


def _gone(path: Path, error: Exception) -> RunError:
    if isinstance(error, FileNotFoundError):
        return RunError(f"{path}: the shard has vanished; restore it, then start again")
    return RunError(f"{path}: cannot be read any more ({error}); restore it, then start again")


def _map_limit() -> int:
    """How many tars a store keeps mapped: each holds a descriptor, and a store takes a quarter of a process's."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_MAPS if descriptors == resource.RLIM_INFINITY else max(1, min(_MOST_MAPS, descriptors // 4))


def _common_layout(shards: Sequence[Shard]) -> Layout:
    first = shards[0]
    for shard in shards:
        if shard.manifest.layout != first.manifest.layout:
            raise InputError(f"{shard.path}: layout {shard.manifest.layout}, but {first.path} has "
                             f"{first.manifest.layout}; read them one at a time")
    return layouts.get(str(first.manifest.layout))


def _codes(columns: list[np.ndarray]) -> tuple[list[str], np.ndarray]:
    """The distinct names, sorted, and the position (b,) int64 of each row's name in them, -1 for the empty name."""
    names, codes = np.unique(np.concatenate(columns), return_inverse=True)
    empty = int(len(names) > 0 and names[0] == "")
    return names[empty:].tolist(), codes.astype(np.int64) - empty


def _quality(indexes: list[Index]) -> dict[str, np.ndarray]:
    names = sorted({str(name) for index in indexes for name in index.quality_names})
    quality = {name: np.full(sum(len(index.block) for index in indexes), np.nan, np.float32) for name in names}
    begin = 0
    for index in indexes:
        for column, name in enumerate(index.quality_names):
            quality[str(name)][begin:begin + len(index.block)] = index.quality[:, column]
        begin += len(index.block)
    return quality
