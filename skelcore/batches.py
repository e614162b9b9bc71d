"""Batches of clips: an exact, seeded, resumable order that is the same for any number of processes, and a loader."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from skelcore import layouts
from skelcore.errors import InputError, RunError
from skelcore.layouts import Layout
from skelcore.mixture import Mixture
from skelcore.reader import Reader, sources
from skelcore.store import Store, group_codes

# Resampling is deterministic, so a set in memory whose clips take no more than this is resampled once.
_CACHE_BYTES = 256 << 20
_ORDER = ("lengths", "weights", "batch_size", "seed")  # what decides the order of the clips


@dataclass(frozen=True)
class Batch:
    """N clips: ``keypoints`` (N, M, T, V, C) float32 in the store's units, ``scores`` (N, M, T, V) in [0, 1] with 0 =
    missing, ``labels`` (N,) int64 with -1 = none, ``index`` (N,) int64 positions in the store, ``video`` (N,) int64
    equal for clips of one video, in any order, run or process (see ``store.group_codes``)."""

    keypoints: Tensor
    scores: Tensor
    labels: Tensor
    index: Tensor
    video: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def part(self, number: int, of: int) -> Batch:
        """Every ``of``-th clip from the ``number``-th on."""
        return self if of == 1 else Batch(*(tensor[number::of] for tensor in vars(self).values()))

    def to(self, device: torch.device | str) -> Batch:
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in vars(self).values()))

    def pin_memory(self) -> Batch:
        return Batch(*(tensor.pin_memory() for tensor in vars(self).values()))


class ClipSampler(Sampler[list[int]]):
    """The batches of one process, of ``world``, as lists of positions in a data set of sources of ``lengths`` clips.

    ``batch_size`` is that of all processes together: the clips of step s, united over the processes, do not depend on
    ``world``. An epoch shows weight * length clips of a source, rounded but at least one: as many whole passes as that
    holds, and for the rest a part of it drawn anew each time. Epoch e is a permutation of them drawn from (seed, e),
    cut into batches of which process ``rank`` takes every ``world``-th clip. Every process has the same number of
    batches; with ``drop_last=False`` every clip of weight 1 occurs once an epoch, and the last batch may be smaller, or
    empty, in some processes. ``epoch`` and ``step`` say what comes next: iterating starts there and does not move them,
    ``advance`` does, so that what a loader prefetches does not count. Raises InputError for a weight that is not
    positive and for a batch size that ``world`` does not divide or that exceeds the epoch.
    """

    def __init__(self, lengths: int | Sequence[int], batch_size: int, seed: int, rank: int = 0, world: int = 1,
                 shuffle: bool = True, drop_last: bool = True, weights: Sequence[float] | None = None) -> None:
        if not 0 <= rank < world:
            raise InputError(f"rank {rank} is not one of {world} processes")
        if batch_size < 1 or batch_size % world:
            raise InputError(f"batch_size={batch_size} must be a positive multiple of the number of processes, {world}")
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.shuffle, self.drop_last = shuffle, drop_last
        self.epoch = self.step = 0
        self.weights = [1.0] * np.size(lengths) if weights is None else list(weights)
        self.resize(lengths)

    def resize(self, lengths: int | Sequence[int]) -> None:
        """Take sources that have grown from the epoch on that begins now; an epoch under way cannot change."""
        if self.step:
            raise ValueError(f"step {self.step} of an epoch: its length cannot change any more")
        self.lengths: list[int] = np.atleast_1d(lengths).tolist()
        if not self.lengths or min(self.lengths) < 1:
            raise InputError("no clips to sample from; check data= and the split")
        if not all(0 < weight < math.inf for weight in self.weights):
            raise InputError(f"weights {self.weights} must be positive")
        self._counts = [max(1, round(weight * length))
                        for weight, length in zip(self.weights, self.lengths, strict=True)]
        if self.drop_last and self.batch_size > self.length:
            raise InputError(f"batch_size={self.batch_size} exceeds the {self.length} clips; lower it")

    @property
    def length(self) -> int:
        """Clips in a whole epoch."""
        return sum(self._counts)

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return self.length // self.batch_size if self.drop_last else -(-self.length // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order()
        for step in range(self.step, len(self)):
            yield order[step * self.batch_size:(step + 1) * self.batch_size][self.rank::self.world].tolist()

    def _order(self) -> np.ndarray:
        generator = np.random.default_rng([self.seed, self.epoch])
        parts, begin = [], 0
        for length, count in zip(self.lengths, self._counts, strict=True):
            passes, rest = divmod(count, length)
            parts.append(np.tile(np.arange(begin, begin + length), passes))
            if rest:
                parts.append(begin + np.sort(generator.choice(length, rest, replace=False, shuffle=False)))
            begin += length
        order = np.concatenate(parts)
        return generator.permutation(order) if self.shuffle else order

    def advance(self) -> None:
        """Count a batch as used."""
        self.step += 1

    def next_epoch(self) -> None:
        self.epoch, self.step = self.epoch + 1, 0

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; the epoch that is under way continues where it is."""
        if epoch != self.epoch:
            self.epoch, self.step = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("epoch", "step", *_ORDER)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``epoch`` and ``step``; raises InputError when the state is of another order of clips."""
        for name in _ORDER:
            if state.get(name, getattr(self, name)) != getattr(self, name):
                raise InputError(f"the saved order has {name}={state[name]}, this run {getattr(self, name)}; "
                                 "resume with the same data, batch size and seed")
        if not (state["epoch"] >= 0 and 0 <= state["step"] <= len(self)):
            raise InputError(f"the saved order is at step {state['step']} of an epoch that has {len(self)}")
        self.epoch, self.step = state["epoch"], state["step"]


class ClipDataset(Dataset[Batch]):
    """The clips of a store, each resampled to ``frames`` evenly spread instants (see ``resample``) of ``persons``.

    ``layout`` converts joints: a joint that is averaged from several has their lowest score, one that the store's
    layout lacks is missing. ``channels`` = 2 drops the depth of 3D joints. Reads whole batches, of a mixture one from
    each source: ``Batched`` stores without a Python object a track, sets in memory by ``store[i]``, once if their clips
    fit 256 MB. Raises InputError for channels that the store lacks.
    """

    def __init__(self, store: Store, frames: int, persons: int = 1, layout: str | Layout | None = None,
                 channels: int | None = None) -> None:
        self.store, self.frames, self.persons = store, frames, persons
        self.layout = store.layout if layout is None else layouts.get(layout)
        self.channels = channels or store.channels
        if self.channels > store.channels:
            raise InputError(f"channels={channels}, but the data have {store.channels} coordinates a joint")
        if frames < 1 or persons < 1:
            raise InputError(f"frames={frames} and persons={persons} must be at least 1")
        self._labels, self._videos = np.asarray(store.labels, np.int64), group_codes(store)
        self._readers: list[Reader] = []
        self._reader, self._row = np.zeros(len(store), np.int32), np.zeros(len(store), np.int64)
        room = _CACHE_BYTES
        for number, (part, where) in enumerate(sources(store)):
            self._reader[where], self._row[where] = number, np.arange(len(where))
            self._readers.append(Reader(part, (persons, frames), self.layout, self.channels, room))
            room -= self._readers[-1].cached_bytes

    @property
    def lengths(self) -> tuple[int, ...]:
        """Clips of each source, for the sampler."""
        return self.store.lengths if isinstance(self.store, Mixture) else (len(self),)

    @property
    def weights(self) -> tuple[float, ...]:
        """How often an epoch shows the clips of each source, for the sampler."""
        return self.store.weights if isinstance(self.store, Mixture) else (1.0,)

    def refresh(self, state: Mapping[str, Any] | None = None) -> ClipDataset | None:
        """The data set with what ``Mixture.refresh`` finds; None when that is nothing new."""
        grown = self.store.refresh(state) if isinstance(self.store, Mixture) else None
        if grown is None:
            return None
        return ClipDataset(grown, self.frames, self.persons, self.layout, self.channels)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """One batch of the clips at those positions; DataLoader calls this instead of ``__getitem__``."""
        where = np.asarray(indices, np.int64)
        keypoints, scores = self._clips(self._reader[where], self._row[where])
        return Batch(*map(torch.from_numpy, (keypoints, scores, self._labels[where], where, self._videos[where])))

    def _clips(self, readers: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        used = np.unique(readers).tolist()
        if len(used) == 1:
            return self._readers[used[0]].read(rows)
        shape = (len(rows), self.persons, self.frames, len(self.layout))
        keypoints, scores = np.empty((*shape, self.channels), np.float32), np.empty(shape, np.float32)
        for number in used:  # none in the share of a process in a last batch smaller than the world
            here = readers == number
            keypoints[here], scores[here] = self._readers[number].read(rows[here])
        return keypoints, scores


class Loader:
    """Batches from the sampler's position to the end of its epoch; each one handed out advances the sampler.

    When an epoch has run out the sampler stands at the next, so iterating again goes on with that.
    """

    def __init__(self, dataset: ClipDataset, sampler: ClipSampler, workers: int) -> None:
        self.dataset, self.sampler = dataset, sampler
        # A generator of its own: the DataLoader would otherwise draw from torch's global one at each epoch.
        self._loader = DataLoader(_Reported(dataset), batch_sampler=sampler, num_workers=workers, collate_fn=_as_it_is,
                                  pin_memory=torch.cuda.is_available(), persistent_workers=workers > 0,
                                  generator=torch.Generator())

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            if isinstance(batch, Exception):
                raise batch
            self.sampler.advance()
            yield batch
        self.sampler.next_epoch()


class _Reported(Dataset[Any]):
    """A data set whose errors are handed out, because DataLoader would wrap those of its workers in a traceback."""

    def __init__(self, dataset: ClipDataset) -> None:
        self._dataset = dataset

    def __getitems__(self, indices: Sequence[int]) -> Batch | Exception:
        try:
            return self._dataset.__getitems__(indices)
        except (InputError, RunError) as error:
            return error


def loader(dataset: ClipDataset, sampler: ClipSampler, workers: int = 0) -> Loader:
    """An iterable of the batches that the sampler names, read by ``workers`` processes (0 = in this one)."""
    return Loader(dataset, sampler, workers)


def _as_it_is(batch: Any) -> Any:
    return batch
