"""A mixture: several sources of clips as one store in a common layout."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from skelcore import layouts
from skelcore.config import Config, build
from skelcore.errors import InputError
from skelcore.layouts import Layout
from skelcore.names import LazyNames, numbers
from skelcore.sequence import PoseSequence
from skelcore.sources import Part, Source, open_part
from skelcore.store import group_codes


class SourceState(Config):
    """What of a source was in use: its content and, for shards, their names and sha256 in order."""

    fingerprint: str
    shards: dict[str, str] | None


class MixtureState(Config):
    """``Mixture.state_dict`` as it comes back from a checkpoint."""

    sources: tuple[SourceState, ...]


def open_sources(sources: Sequence[Source], layout: str | Layout | None = None,
                 state: Mapping[str, Any] | None = None) -> Mixture:
    """Open sources as one store in ``layout``, by default their own; ``state`` goes back to ``Mixture.state_dict``.

    Raises InputError for sources that do not go together, for one without clips and for content other than that of
    ``state``; RunError when a shard of ``state`` has vanished or was replaced.
    """
    if not sources:
        raise InputError("data: no sources")
    shards = [None] * len(sources) if state is None else [entry.shards for entry in _saved(state, len(sources))]
    mixture = Mixture([open_part(source, only) for source, only in zip(sources, shards, strict=True)], layout)
    if state is not None:
        mixture.check(state)
    return mixture


class Mixture:
    """The clips of several sources, one source after the other, as a ``Store`` in a common layout.

    A joint that a source lacks is missing from its clips. ``lengths`` and ``weights`` say how many clips each source
    has and how often an epoch shows each. Classes are joined by name. Raises InputError for layouts without a common
    joint and for 2D beside 3D poses.
    """

    def __init__(self, parts: Sequence[Part], layout: str | Layout | None) -> None:
        self.parts = tuple(parts)
        self.stores = [part.store for part in parts]
        self.layout = _common_layout(self.parts, layout)
        self.channels = self.stores[0].channels
        for part in parts:
            if part.store.channels != self.channels:
                raise InputError(f"data={part.source.uri}: {part.store.channels}D poses, but {parts[0].source.uri} has "
                                 f"{self.channels}D ones; give the 3D source `project: true`")
        self.lengths = tuple(len(store) for store in self.stores)
        self.weights = tuple(part.source.weight for part in parts)
        self._starts = np.cumsum([0, *self.lengths[:-1]])
        self.classes = list(dict.fromkeys(name for store in self.stores for name in store.classes))
        self.splits: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return sum(self.lengths)

    def __getitem__(self, index: int) -> PoseSequence:
        index = range(len(self))[index]
        (number,), (position,) = (found.tolist() for found in self.locate(np.array([index])))
        label = int(self.labels[index])
        sequence = self.stores[number][position].to_layout(self.layout)
        return replace(sequence, id=self.ids[index], label=None if label < 0 else label)

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source (n,) of the clips at ``positions`` (n,), and their positions (n,) in it."""
        number = np.searchsorted(self._starts, positions, "right") - 1
        return number, positions - self._starts[number]

    @property
    def ids(self) -> Sequence[str]:
        return _Joined(self, "ids", list(range(len(self.stores))))

    @property
    def groups(self) -> Sequence[str]:
        return _Joined(self, "groups", self._places())

    @property
    def group_codes(self) -> np.ndarray:
        """See ``store.group_codes``; the videos of different places are different."""
        return np.concatenate([group_codes(store) ^ _salt(place)
                               for store, place in zip(self.stores, self._places(), strict=True)])

    @cached_property
    def labels(self) -> np.ndarray:
        tables = [np.array([*map(self.classes.index, store.classes), -1]) for store in self.stores]
        return np.concatenate([table[np.asarray(store.labels)]
                               for table, store in zip(tables, self.stores, strict=True)], dtype=np.int64)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256("\n".join(store.fingerprint for store in self.stores).encode()).hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """What is in use, for ``open_sources`` and ``refresh``: plain strings, lists and dicts."""
        return {"sources": [{"fingerprint": part.store.fingerprint, "shards": part.shards} for part in self.parts]}

    def refresh(self, state: Mapping[str, Any] | None = None) -> Mixture | None:
        """The mixture with the shards that are there now, or were in ``state``; None when they are those in use.

        Raises RunError when a shard in use has vanished or was replaced.
        """
        if state is None:
            parts = [part.grown() or part for part in self.parts]
        else:
            parts = [part if part.store.fingerprint == entry.fingerprint else open_part(part.source, entry.shards)
                     for part, entry in zip(self.parts, _saved(state, len(self.parts)), strict=True)]
        if all(new is old for new, old in zip(parts, self.parts, strict=True)):
            return None
        mixture = Mixture(parts, self.layout)
        if state is not None:
            mixture.check(state)
        return mixture

    def check(self, state: Mapping[str, Any]) -> None:
        """Raise InputError unless these are the clips, in the order, of ``state``."""
        for part, entry in zip(self.parts, _saved(state, len(self.parts)), strict=True):
            if entry.fingerprint != part.store.fingerprint:
                raise InputError(f"data={part.source.uri}: not the clips of the run that was saved; restore them, or "
                                 "begin a new run")

    def _places(self) -> list[int]:
        """For each source the first that reads the same data, which may differ in split or thresholds."""
        uris = [part.source.uri for part in self.parts]
        return [uris.index(uri) for uri in uris]


class _Joined(LazyNames):
    """The names of all sources; those of several are told apart by the number of their source."""

    def __init__(self, mixture: Mixture, field: str, prefixes: list[int]) -> None:
        self._mixture, self._prefixes = mixture, prefixes
        self._names: list[Sequence[str]] = [getattr(store, field) for store in mixture.stores]

    def __len__(self) -> int:
        return len(self._mixture)

    def _name(self, index: int) -> str:
        (number,), (position,) = (found.tolist() for found in self._mixture.locate(np.array([index])))
        name = self._names[number][position]
        return name if len(self._names) == 1 else f"{self._prefixes[number]}:{name}"


def _common_layout(parts: Sequence[Part], layout: str | Layout | None) -> Layout:
    found = {part.store.layout.name: part.store.layout for part in parts}
    if layout is None and len(found) > 1:
        raise InputError(f"data: the sources are in layouts {', '.join(found)}; name the one to train in with layout=")
    target = layouts.get(layout) if layout is not None else next(iter(found.values()))
    given = [part.store.layout.matrix_to(target).any(axis=1) for part in parts]
    for part, joints in zip(parts, given, strict=True):
        if not joints.any():
            raise InputError(f"layout={target.name}: data={part.source.uri}, in {part.store.layout.name}, give none of "
                             "its joints")
    if not np.logical_and.reduce(given).any():
        raise InputError(f"layout={target.name}: no joint of it is in all of {', '.join(found)}; leave one source out")
    return target


def _salt(place: int) -> np.int64:
    """What makes the numbers of one source's videos differ from those of all others."""
    return numbers(np.array([str(place).encode()]))[0] if place else np.int64(0)


def _saved(state: Mapping[str, Any], count: int) -> tuple[SourceState, ...]:
    saved = build(MixtureState, state, "the saved state of the data").sources
    if len(saved) != count:
        raise InputError(f"data: {count} sources, but the run that was saved had {len(saved)}; begin a new run")
    return saved
