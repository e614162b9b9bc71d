"""Memory: sequences at hand as a store."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skelcore.layouts import Layout
from skelcore.sequence import PoseSequence


@dataclass(frozen=True)
class Memory:
    """A store (see ``skelcore.store.Store``) of 2D sequences without labels, in one layout, numbered as they come."""

    sequences: Sequence[PoseSequence]
    layout: Layout

    channels = 2

    @property
    def ids(self) -> list[str]:
        return [str(number) for number in range(len(self))]

    @property
    def labels(self) -> np.ndarray:
        return np.full(len(self), -1, np.int64)

    @property
    def classes(self) -> list[str]:
        return []

    @property
    def groups(self) -> list[str]:
        return self.ids

    @property
    def splits(self) -> dict[str, list[str]]:
        return {}

    @property
    def fingerprint(self) -> str:
        found = hashlib.sha256(self.layout.name.encode())
        for sequence in self.sequences:
            for part in (sequence.keypoints, sequence.scores):
                found.update(repr(part.shape).encode() + part.tobytes())
        return found.hexdigest()

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> PoseSequence:
        return self.sequences[index]
