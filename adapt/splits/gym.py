"""FineGYM (Shao et al., CVPR 2020): the class split for episodes, and classes with few clips.

The class split of Gym99 comes from RGB few-shot work (Tang et al., "M3Net", ACM MM 2023, and its followers); no
skeleton benchmark uses another. Whether its numbers start at 0 or 1 is not documented: they are taken as they are,
like the official labels from 0.
"""

from __future__ import annotations

from collections.abc import Mapping

from adapt.splits.record import Split
from skelcore.errors import InputError

CLASSES = 99
VALIDATION = (10, 19, 32, 56, 57, 62, 66, 69, 79, 82, 95, 96)
NOVEL = (1, 5, 8, 18, 20, 31, 39, 42, 45, 50, 51, 52, 54, 60, 61, 63, 64, 65, 67, 76, 77, 81, 97, 98)
BASE = tuple(sorted(set(range(CLASSES)) - {*VALIDATION, *NOVEL}))


def class_split(classes: int) -> Split:
    """The 63 base, 12 validation and 24 novel classes of Gym99 by number: two of its 99 classes share a name.

    Raises InputError where the data have another number of ``classes``.
    """
    if classes != CLASSES:
        raise InputError(f"gym99: the class split is one of {CLASSES} classes, the data have {classes}; give Gym99")
    numbers = {"base": BASE, "validation": VALIDATION, "novel": NOVEL}
    return Split("gym99_classes", "class numbers, from 0, of the RGB few-shot split", None,
                 {part: tuple(map(str, chosen)) for part, chosen in numbers.items()})


def remark(counts: Mapping[str, int], k: int) -> str | None:
    """The sentence that belongs beside a k-shot number of Gym288, or None where every class has k clips."""
    short = sum(count < k for count in counts.values())
    return f"{short} of {len(counts)} classes have fewer than {k} clips and give all they have" if short else None
