"""Batches of clips: an exact, seeded, resumable order that is the same for any number of processes, and a loader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from skelcore import layouts
from skelcore.errors import InputError
from skelcore.layouts import Layout
from skelcore.resample import Scratch, blend, fit_persons, neighbours
from skelcore.sequence import PoseSequence
from skelcore.shard_store import ShardStore
from skelcore.store import Store, Subset

# Resampling is deterministic, so a set in memory whose clips take no more than this is resampled once.
_CACHE_BYTES = 256 << 20
_STEP = 256


@dataclass(frozen=True)
class Batch:
    """N clips: ``keypoints`` (N, M, T, V, C) float32 in the store's units, ``scores`` (N, M, T, V) in [0, 1] with 0 =
    missing, ``labels`` (N,) int64 with -1 = none, ``index`` (N,) int64 positions in the store."""

    keypoints: Tensor
    scores: Tensor
    labels: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str) -> Batch:
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in vars(self).values()))

    def pin_memory(self) -> Batch:
        return Batch(*(tensor.pin_memory() for tensor in vars(self).values()))


class ClipSampler(Sampler[list[int]]):
    """The batches of one process, of ``world``, as lists of positions in a data set of ``length`` clips.

    ``batch_size`` is that of all processes together: the clips of step s, united over the processes, do not depend on
    ``world``. Epoch e is a permutation drawn from (seed, e), cut into batches of which process ``rank`` takes every
    ``world``-th clip. Every process has the same number of batches; with ``drop_last=False`` every clip occurs once an
    epoch, and the last batch may be smaller, or empty, in some processes. ``epoch`` and ``step`` say what comes next:
    iterating starts there and does not move them, ``advance`` does, so that what a loader prefetches does not count.
    Raises InputError for a batch size that ``world`` does not divide or that exceeds the data set.
    """

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, world: int = 1, shuffle: bool = True,
                 drop_last: bool = True) -> None:
        if length < 1:
            raise InputError("no clips to sample from; check data= and the split")
        if not 0 <= rank < world:
            raise InputError(f"rank {rank} is not one of {world} processes")
        if batch_size < 1 or batch_size % world:
            raise InputError(f"batch_size={batch_size} must be a positive multiple of the number of processes, {world}")
        if drop_last and batch_size > length:
            raise InputError(f"batch_size={batch_size} exceeds the {length} clips; lower it")
        self.length, self.batch_size, self.seed, self.rank, self.world = length, batch_size, seed, rank, world
        self.shuffle, self.drop_last = shuffle, drop_last
        self.epoch = self.step = 0

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return self.length // self.batch_size if self.drop_last else -(-self.length // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        for step in range(self.step, len(self)):
            yield order[step * self.batch_size:(step + 1) * self.batch_size][self.rank::self.world].tolist()

    def advance(self) -> None:
        """Count a batch as used."""
        self.step += 1

    def next_epoch(self) -> None:
        self.epoch, self.step = self.epoch + 1, 0

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; the epoch that is under way continues where it is."""
        if epoch != self.epoch:
            self.epoch, self.step = epoch, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "step": self.step, "length": self.length, "batch_size": self.batch_size,
                "seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from ``epoch`` and ``step``; raises InputError when the state is of another order of clips."""
        for name in ("length", "batch_size", "seed"):
            if state.get(name, getattr(self, name)) != getattr(self, name):
                raise InputError(f"the saved order has {name}={state[name]}, this run {getattr(self, name)}; "
                                 "resume with the same data, batch size and seed")
        if not (state["epoch"] >= 0 and 0 <= state["step"] <= len(self)):
            raise InputError(f"the saved order is at step {state['step']} of an epoch that has {len(self)}")
        self.epoch, self.step = state["epoch"], state["step"]


class ClipDataset(Dataset[Batch]):
    """The clips of a store, each resampled to ``frames`` evenly spread instants (see ``resample``) of ``persons``.

    ``layout`` converts joints: a joint that is averaged from several has their lowest score, one that the store's
    layout lacks is missing. ``channels`` = 2 drops the depth of 3D joints. Reads whole batches: from shards without a
    Python object a track, from sets in memory by ``store[i]``, once if the clips fit 256 MB. Raises InputError for
    channels that the store lacks.
    """

    def __init__(self, store: Store, frames: int, persons: int = 1, layout: str | Layout | None = None,
                 channels: int | None = None) -> None:
        self.store, self.frames, self.persons = store, frames, persons
        self.layout = store.layout if layout is None else layouts.get(layout)
        if not store.layout.matrix_to(self.layout).any():
            raise InputError(f"layout={self.layout.name}: the data, in {store.layout.name}, give none of its joints")
        self.channels = channels or store.channels
        if self.channels > store.channels:
            raise InputError(f"channels={channels}, but the data have {store.channels} coordinates a joint")
        if frames < 1 or persons < 1:
            raise InputError(f"frames={frames} and persons={persons} must be at least 1")
        self._labels = np.asarray(store.labels, np.int64)
        self._base, self._positions = _unwrap(store)
        self._cache: tuple[np.ndarray, np.ndarray] | None = None
        size = len(store) * persons * frames * len(self.layout) * (self.channels + 1) * 4
        if not isinstance(self._base, ShardStore) and size <= _CACHE_BYTES:
            parts = [self._clips(part) for part in np.split(np.arange(len(store)), range(_STEP, len(store), _STEP))]
            self._cache = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """One batch of the clips at those positions; DataLoader calls this instead of ``__getitem__``."""
        where = np.asarray(indices, np.int64)
        if self._cache is not None:
            keypoints, scores = (array[where] for array in self._cache)
        else:
            keypoints, scores = self._clips(where)
        return Batch(*map(torch.from_numpy, (keypoints, scores, self._labels[where], where)))

    def _clips(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not len(indices):  # the share of a process in a last batch smaller than the world
            shape = (0, self.persons, self.frames, len(self.layout))
            return np.zeros((*shape, self.channels), np.float32), np.zeros(shape, np.float32)
        positions = self._positions[indices]
        if isinstance(self._base, ShardStore):
            keypoints, scores = self._base.clips(positions, self.frames)
        else:
            keypoints, scores = _resample([self._base[int(i)] for i in positions], self.frames)
        keypoints, scores = fit_persons(keypoints[..., :self.channels], scores, self.persons)
        if self.layout != self.store.layout:
            keypoints, scores = convert(keypoints, scores, self.store.layout, self.layout)
        return np.ascontiguousarray(keypoints), scores


class Loader:
    """Batches from the sampler's position to the end of its epoch; each one handed out advances the sampler.

    When an epoch has run out the sampler stands at the next, so iterating again goes on with that.
    """

    def __init__(self, dataset: ClipDataset, sampler: ClipSampler, workers: int) -> None:
        self.dataset, self.sampler = dataset, sampler
        # A generator of its own: the DataLoader would otherwise draw from torch's global one at each epoch.
        self._loader = DataLoader(dataset, batch_sampler=sampler, num_workers=workers, collate_fn=_as_it_is,
                                  pin_memory=torch.cuda.is_available(), persistent_workers=workers > 0,
                                  generator=torch.Generator())

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            self.sampler.advance()
            yield batch
        self.sampler.next_epoch()


def loader(dataset: ClipDataset, sampler: ClipSampler, workers: int = 0) -> Loader:
    """An iterable of the batches that the sampler names, read by ``workers`` processes (0 = in this one)."""
    return Loader(dataset, sampler, workers)


def convert(keypoints: np.ndarray, scores: np.ndarray, source: Layout, target: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (..., V, C) and scores (..., V) in another layout, as ``PoseSequence.to_layout`` does for one clip."""
    weights = source.matrix_to(target)
    converted = np.zeros((*scores.shape[:-1], len(target)), np.float32)
    for row, used in enumerate(weights > 0):
        if used.any():
            converted[..., row] = scores[..., used].min(-1)
    moved = np.matmul(weights, keypoints)
    moved[converted == 0] = 0
    return moved, converted


def _resample(sequences: list[PoseSequence], frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (N, M, frames, V, C) and scores (N, M, frames, V), M the most persons in a sequence."""
    low, high, weight = neighbours(np.array([sequence.frames for sequence in sequences], np.int64), frames)
    most = max(sequence.persons for sequence in sequences)

    def gather(where: np.ndarray, field: str) -> np.ndarray:
        first = getattr(sequences[0], field)
        found = np.zeros((len(sequences), most, frames, *first.shape[2:]), np.float32)
        for clip, sequence, instants in zip(found, sequences, where, strict=True):
            clip[:sequence.persons] = getattr(sequence, field)[:, instants]
        return found

    keypoints, scores = gather(high, "keypoints"), gather(high, "scores")
    weights = np.repeat(weight[:, None], most, axis=1)
    blend(gather(low, "keypoints"), keypoints, gather(low, "scores"), scores, weights, Scratch())
    return keypoints, scores


def _unwrap(store: Store) -> tuple[Store, np.ndarray]:
    """The store beneath any ``Subset``, and the positions in it, which allow batched reading."""
    positions = np.arange(len(store))
    while isinstance(store, Subset):
        positions, store = np.asarray(store.indices)[positions], store.store
    return store, positions


def _as_it_is(batch: Any) -> Any:
    return batch
