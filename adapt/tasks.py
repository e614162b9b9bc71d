"""N-way k-shot episodes as positions in features, drawn and evaluated many at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adapt.methods import METHODS
from skelcore.errors import InputError

_VALUES = 1 << 20  # features that an evaluation gathers at a time: few enough for the cache


@dataclass(frozen=True)
class Tasks:
    """E episodes: ``classes`` (E, W) are labels; ``support`` (E, W, shot) and ``queries`` (E, W, Q) are positions."""

    classes: np.ndarray
    support: np.ndarray
    queries: np.ndarray

    @property
    def sha256(self) -> str:
        """Hash of all positions, as little-endian integers of 64 bits: support, then queries."""
        return hashlib.sha256(self.support.astype("<i8").tobytes() + self.queries.astype("<i8").tobytes()).hexdigest()


def sample(labels: np.ndarray, way: int, shot: int, query: int, count: int, seed: int,
           classes: Sequence[str] = ()) -> Tasks:
    """Draw ``count`` episodes of ``way`` classes, ``shot`` + ``query`` clips each, without replacement in an episode.

    ``labels`` (n,) are classes of the clips; those below 0 are left out. The draws rest on the raw bits of a PCG64
    only, so every version of numpy gives the same. Raises InputError, with the name in ``classes``, for fewer classes
    than ``way``, and for a class of fewer clips than an episode takes.
    """
    names, sizes = np.unique(labels[labels >= 0], return_counts=True)
    if len(names) < way:
        raise InputError(f"way={way}: only {len(names)} classes have labelled clips; lower way to at most that")
    if sizes.min() < shot + query:
        fewest = int(names[sizes.argmin()])
        raise InputError(f"k_shot={shot}, episode_queries={query}: class {classes[fewest] if classes else fewest!r} "
                         f"has only {sizes.min()} clips; lower k_shot or episode_queries, or leave the class out")
    bits = np.random.PCG64(seed)
    ordered = np.argsort(labels, kind="stable")[np.sum(labels < 0):]
    first = np.cumsum(sizes) - sizes
    chosen = np.argsort(bits.random_raw((count, len(names))), 1)[:, :way]
    clips = ordered[first[chosen][..., None] + _distinct(bits, sizes[chosen], shot + query)]
    return Tasks(names[chosen], clips[..., :shot], clips[..., shot:])


def _distinct(bits: np.random.PCG64, sizes: np.ndarray, count: int) -> np.ndarray:
    """``count`` different integers (..., count) below each of ``sizes`` (...), all orders equally likely.

    Floyd's algorithm (Bentley & Floyd 1987), a step for all rows at once, draws the set; a shuffle forgets its order.
    """
    drawn = np.empty((*sizes.shape, count), np.int64)
    for step in range(count):
        last = sizes - count + step
        pick = (bits.random_raw(sizes.shape) >> np.uint64(32)) * (last + 1).astype(np.uint64) >> np.uint64(32)
        taken = (drawn[..., :step] == pick.astype(np.int64)[..., None]).any(-1)
        drawn[..., step] = np.where(taken, last, pick)
    return np.take_along_axis(drawn, np.argsort(bits.random_raw(drawn.shape), -1), -1)


@torch.no_grad()
def accuracy(method: str, tasks: Tasks, features: Tensor) -> np.ndarray:
    """Accuracy (E,) float64 of a head in each episode, on features (n, F)."""
    (way, shot), query = tasks.support.shape[1:], tasks.queries.shape[2]
    targets = torch.eye(way).to(features).repeat_interleave(shot, 0)
    truth = torch.arange(way, device=features.device).repeat_interleave(query)
    chunk = max(1, _VALUES // (way * (shot + query) * features.shape[1]))
    parts = (torch.from_numpy(each).to(features.device).flatten(1).split(chunk)
             for each in (tasks.support, tasks.queries))
    right = []
    for known, asked in zip(*parts, strict=True):
        scores = METHODS[method](_rows(features, known), targets)(_rows(features, asked))
        right.append((scores.argmax(-1) == truth).double().mean(1))
    return torch.cat(right).cpu().numpy()


def _rows(features: Tensor, positions: Tensor) -> Tensor:
    """Features (D, S, F) at positions (D, S)."""
    return features.index_select(0, positions.flatten()).view(*positions.shape, -1)
