"""The order and the hash on which every published split rests: sha256 alone, so that no version moves them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence


def digest(ids: Iterable[str]) -> str:
    """sha256 of the sorted ids joined by newlines."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()


def order(ids: Sequence[str], seed: int) -> list[int]:
    """Positions of the ids in the order in which a draw of that seed takes them."""
    keys = [(hashlib.sha256(f"{seed}:{name}".encode()).digest(), name) for name in ids]
    return sorted(range(len(ids)), key=keys.__getitem__)
