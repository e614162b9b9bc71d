"""The names of many clips without a Python string for each: made when asked for, and numbered by what they say."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

# FNV-1a with 64 bits: Fowler, Noll, Vo; RFC 9923.
_BASIS, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


class LazyNames(Sequence[str]):
    """A sequence of strings that are made when asked for; a subclass gives ``__len__`` and ``_name``."""

    @abstractmethod
    def _name(self, index: int) -> str:
        """The string at a position from 0 to ``len - 1``."""

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        positions = range(len(self))[index]
        return self._name(positions) if isinstance(positions, int) else [self._name(i) for i in positions]

    def __iter__(self) -> Iterator[str]:
        return (self._name(i) for i in range(len(self)))


class PickedNames(LazyNames):
    """Those of ``names`` that stand at ``positions`` (n,)."""

    def __init__(self, names: Sequence[str], positions: np.ndarray) -> None:
        self._names, self._positions = names, positions

    def __len__(self) -> int:
        return len(self._positions)

    def _name(self, index: int) -> str:
        return self._names[int(self._positions[index])]


def numbers(names: np.ndarray) -> np.ndarray:
    """A number (n,) int64 for each of ``names`` (n,) bytes, equal for equal names and the same in any set of names.

    Two of a million different names share one with a chance of 3e-8.
    """
    letters = np.ascontiguousarray(names).view(np.uint8).reshape(len(names), names.dtype.itemsize)
    found = np.full(len(names), _BASIS)
    for column in letters.T:
        np.multiply(found ^ column, _PRIME, out=found, where=column > 0)  # zeros only fill up shorter names
    return found.view(np.int64)
