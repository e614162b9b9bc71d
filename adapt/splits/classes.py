"""Base, validation and novel classes of any data set by a rule of ours, for episodes on classes never trained on.

Where a field's class split was never published as a list, or users bring their own classes, this one can be: it needs
the class names and a seed only.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from adapt.order import order
from adapt.splits.record import Split
from skelcore.errors import InputError

PARTS = ("base", "validation", "novel")


def split(name: str, classes: Sequence[str], base: int, validation: int, seed: int = 0) -> Split:
    """Classes in the order of ``sha256(seed:class)``: the first ``base``, the next ``validation``, and the novel rest.

    The parts hold class names, sorted. Raises InputError for a class named twice and when no base or novel class
    is left.
    """
    if base < 1 or validation < 0 or base + validation >= len(classes):
        raise InputError(f"{name}: base={base} and validation={validation} leave no base or novel class of "
                         f"{len(classes)}; their sum must be below it")
    if len(set(classes)) < len(classes):
        raise InputError(f"{name}: two classes have the same name; the class split needs one name for each")
    ordered = [classes[i] for i in order(classes, seed)]
    cuts = pairwise((0, base, base + validation, len(classes)))
    return Split(name, f"{len(classes)} classes by sha256 of seed and name: first {base} base, next {validation} "
                       "validation, rest novel", seed,
                 {part: tuple(sorted(ordered[start:end])) for part, (start, end) in zip(PARTS, cuts, strict=True)})


def shares(count: int) -> tuple[int, int]:
    """How many of ``count`` classes are base (60 %) and validation (20 %) where nobody says otherwise."""
    return count * 3 // 5, count // 5
