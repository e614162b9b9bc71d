"""Stores whose clips are worse than they were, or another's: what a classifier meets when its poses are not clean."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from skelcore.errors import InputError
from skelcore.sequence import PoseSequence
from skelcore.store import Store, Subset


@dataclass(frozen=True)
class Dropped(Subset):
    """The clips at ``indices`` (n,) of a store, in which a person lacks, in each frame with the probability of its clip
    (n,), one joint: any of the layout's, alike probable, with coordinates and score 0 (after Duan et al. 2022,
    PoseConv3D, who choose among the joints of the limbs).

    The draws derive from the seed and the clip's id alone, and what a smaller probability drops a larger one drops too.
    """

    probabilities: np.ndarray
    seed: int

    @property
    def fingerprint(self) -> str:
        chances = np.asarray(self.probabilities, "<f8").tobytes()
        return hashlib.sha256(f"dropped {self.seed} {super().fingerprint}".encode() + chances).hexdigest()

    def __getitem__(self, index: int) -> PoseSequence:
        return drop(super().__getitem__(index), float(self.probabilities[index]), self.seed)


def drop(clip: PoseSequence, probability: float, seed: int) -> PoseSequence:
    """A clip without one joint of each person in each frame with that probability, see ``Dropped``."""
    digest = hashlib.sha256(f"{seed}:{clip.id}".encode()).digest()
    draws = np.random.default_rng(np.frombuffer(digest, "<u4")).random((2, clip.persons, clip.frames))
    person, frame = np.nonzero(draws[0] < probability)
    scores = clip.scores.copy()
    scores[person, frame, (draws[1, person, frame] * scores.shape[2]).astype(np.int64)] = 0
    return replace(clip, scores=scores)  # which sets the coordinates of missing joints to 0


@dataclass(frozen=True)
class Substituted(Subset):
    """The clips at ``indices`` (n,) of a store; those with a position (n,) in ``other``, and not -1, as that one has
    them, in the store's layout."""

    other: Store
    positions: np.ndarray

    @property
    def fingerprint(self) -> str:
        places = np.asarray(self.positions, "<i8").tobytes()
        return hashlib.sha256(f"{super().fingerprint} {self.other.fingerprint}".encode() + places).hexdigest()

    def __getitem__(self, index: int) -> PoseSequence:
        own = super().__getitem__(index)
        if self.positions[index] < 0:
            return own
        return replace(self.other[int(self.positions[index])].to_layout(self.layout), id=own.id, label=own.label)


@dataclass(frozen=True)
class Common(Subset):
    """The part of a store at ``indices``, with what is left of its splits."""

    @property
    def splits(self) -> dict[str, list[str]]:
        kept = set(self.ids)
        return {split: [name for name in ids if name in kept] for split, ids in self.store.splits.items()}


def common(store: Store, other: Store) -> tuple[Common, np.ndarray]:
    """The clips whose ids both stores have, and their positions (n,) in ``other``; raises InputError where poses cannot
    be compared."""
    where = {name: i for i, name in enumerate(other.ids)}
    shared = np.array([i for i, name in enumerate(store.ids) if name in where], np.int64)
    if not len(shared):
        raise InputError(f"query_data: none of its ids, such as {other.ids[0]!r}, is in data, which has such as "
                         f"{store.ids[0]!r}; both must hold the same clips under the same ids")
    if store.channels != other.channels:
        raise InputError(f"query_data: {other.channels}D poses, but those of data are {store.channels}D")
    if not other.layout.matrix_to(store.layout).any():
        raise InputError(f"query_data: its layout {other.layout.name} gives no joint of data's {store.layout.name}")
    found = Common(store, shared)
    return found, np.array([where[name] for name in found.ids], np.int64)
