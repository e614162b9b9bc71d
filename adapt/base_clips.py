"""Base and validation classes of a labelled set, and their clips: what meta-training may look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from adapt import tasks
from adapt.splits import record
from adapt.tasks import Tasks
from skelcore.errors import InputError
from skelcore.store import Store, indices_of


@dataclass(frozen=True)
class BaseClips:
    """``positions`` (n,) in a store: clips of ``base`` classes, then those of ``validation`` classes; ``labels`` (n,)
    are the classes' numbers in these two lists, one after the other."""

    base: tuple[str, ...]
    validation: tuple[str, ...]
    positions: np.ndarray
    labels: np.ndarray

    def members(self, least: int) -> tuple[np.ndarray, ...]:
        """Rows of ``positions`` of each base class; raises InputError for a class of fewer than ``least`` clips."""
        found = tuple(np.flatnonzero(self.labels == i) for i in range(len(self.base)))
        for name, rows in zip(self.base, found, strict=True):
            if len(rows) < least:
                raise InputError(f"base class {name!r} has {len(rows)} clips, shot + queries take {least}; lower them, "
                                 "or name base_classes without it")
        return found

    @property
    def validation_rows(self) -> np.ndarray:
        """Rows of ``positions`` of the validation classes."""
        return np.flatnonzero(self.labels >= len(self.base))

    def looks(self, count: int, queries: int, seed: int) -> Tasks | None:
        """Episodes of one shot and up to ``queries`` queries of every validation class, as rows of
        ``validation_rows``; None where there are no such classes.

        Raises InputError for only one, and for one with a single clip.
        """
        if not self.validation:
            return None
        labels = self.labels[self.validation_rows]
        sizes = np.bincount(labels - len(self.base), minlength=len(self.validation))
        if len(sizes) < 2 or sizes.min() < 2:
            raise InputError(f"validation_classes: {self.validation[sizes.argmin()]!r} has {sizes.min()} clips, and "
                             f"there are {len(sizes)} classes; name two or more, of two clips or more")
        return tasks.sample(labels, len(sizes), 1, min(queries, int(sizes.min()) - 1), count, seed)


def choose(store: Store, split: str | None, base_of: str | None, base: Sequence[str] | None,
           validation: Sequence[str]) -> BaseClips:
    """Clips of ``split`` (None: all) in named classes.

    ``base`` None are all its classes but the validation ones. With the splits.json ``base_of`` base clips are those of
    its part `base` alone, and validation clips none of its other parts. Raises InputError for unknown classes, ones
    named twice or both base and validation, and a splits.json without base clips or of other data.
    """
    labels = np.asarray(store.labels)
    trained = watched = indices_of(store, split)
    if base_of is not None:
        part, others = _parts(store, base_of)
        trained, watched = np.intersect1d(trained, part), np.setdiff1d(watched, others)
    if base is None:
        base = [each for each in _names(store, trained) if each not in validation]
    for field, given, present in (("base_classes", base, _names(store, trained)),
                                  ("validation_classes", validation, _names(store, watched))):
        _check(field, given, present)
    if both := sorted({*base} & {*validation}):
        raise InputError(f"validation_classes: {both[0]!r} is among base_classes, too; a class that is trained on "
                         "cannot choose the step")
    number = {name: i for i, name in enumerate(store.classes)}
    groups = [*(trained[labels[trained] == number[each]] for each in base),
              *(watched[labels[watched] == number[each]] for each in validation)]
    return BaseClips(tuple(base), tuple(validation), np.concatenate([np.zeros(0, np.int64), *groups]),
                     np.repeat(np.arange(len(groups)), [len(group) for group in groups]))


def _names(store: Store, positions: np.ndarray) -> list[str]:
    """Classes of the labelled clips at those positions."""
    found = np.unique(np.asarray(store.labels)[positions])
    return [store.classes[i] for i in found[found >= 0].tolist()]


def _check(field: str, given: Sequence[str], present: Sequence[str]) -> None:
    for each in given:
        if given.count(each) > 1:
            raise InputError(f"{field}: {each!r} is named twice")
        if each not in present:
            near = get_close_matches(each, present, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(present[:20]) or 'none'}"
            raise InputError(f"{field}: no clip of a class {each!r} among those that may be used; {hint}")


def _parts(store: Store, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the base clips of a splits.json, and of what it holds back: all parts but base and validation."""
    base: set[str] = set()
    others: set[str] = set()
    for split in record.read(path):
        record.verify(split, store.ids)
        for part, ids in split.parts.items():
            (base if part == "base" else others if part != "validation" else set()).update(ids)
    if not base:
        raise InputError(f"base_of={path}: no part `base` in it; it is of a benchmark without base classes")
    first, rest = (np.array([i for i, each in enumerate(store.ids) if each in ids], np.int64)
                   for ids in (base, others))
    return first, rest
