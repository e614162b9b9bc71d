"""The official one-shot benchmark of NTU RGB+D 120: 20 novel classes, one exemplar of each, 100 auxiliary classes.

Liu et al., "NTU RGB+D 120", TPAMI 2019. The validation classes are those of Memmesheimer et al., "SL-DML", ICPR 2020.
That paper also shrinks the auxiliary set to 20, 40, 60 and 80 classes, but no public code says to which; the sets here
are ours: the first n of the 80 classes that are neither novel nor for validation, in the order of ``sha256("0:A###")``;
the validation classes come last. So each set lies in the next, and only that of 100 holds the validation classes:
choose hyper-parameters with 80 or fewer, never with 100.

Two more views of each exemplar's performance are among the official queries: 40 that are ``leak_free`` without.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from adapt.order import order
from adapt.splits.ntu import action_code, view_group
from adapt.splits.record import Split
from skelcore.errors import InputError

NOVEL = tuple(f"A{action:03d}" for action in range(1, 121, 6))
VALIDATION = tuple(f"A{action:03d}" for action in range(2, 121, 6))
EXEMPLARS = tuple(f"S{'001' if code <= 'A060' else '018'}C003P008R001{code}" for code in NOVEL)
# Samples of each auxiliary set among the official ones.
BASE_COUNTS = {20: 18_964, 40: 37_969, 60: 56_984, 80: 76_013, 100: 95_001}


def auxiliary_classes(count: int) -> tuple[str, ...]:
    """The auxiliary set of 20, 40, 60, 80 or 100 classes, sorted; raises InputError for another number."""
    if count not in BASE_COUNTS:
        raise InputError(f"auxiliary={count}: choose one of {', '.join(map(str, BASE_COUNTS))} classes")
    others = sorted({f"A{action:03d}" for action in range(1, 121)} - {*NOVEL, *VALIDATION})
    return tuple(sorted([*(others[i] for i in order(others, 0)), *VALIDATION][:count]))


def split(ids: Iterable[str], auxiliary: int = 100, leak_free: bool = False) -> Split:
    """Parts ``support`` (20 exemplars), ``query``, ``base`` (auxiliary classes) and ``validation`` (its classes).

    ``leak_free`` leaves out queries that show an exemplar's performance from another camera. Raises InputError for an
    id that is no NTU name, and for absent exemplars.
    """
    members: dict[str, list[str]] = {code: [] for code in (*NOVEL, *auxiliary_classes(100))}
    for each in ids:
        members.setdefault(action_code(each), []).append(each)
    if lost := sorted({*EXEMPLARS}.difference(*members.values())):
        raise InputError(f"ntu120_one_shot: the data lack {len(lost)} of the 20 exemplars, such as {lost[0]}; "
                         "give all of NTU RGB+D 120")
    group = view_group if leak_free else str
    hidden = {group(each) for each in EXEMPLARS}
    parts = {"support": EXEMPLARS,
             "query": tuple(each for each in _of(members, NOVEL) if group(each) not in hidden),
             "base": _of(members, auxiliary_classes(auxiliary)), "validation": _of(members, VALIDATION)}
    queries = "without" if leak_free else "with"
    return Split(f"ntu120_one_shot_{auxiliary}" + "_leak_free" * leak_free,
                 f"NTU RGB+D 120 one-shot: the official exemplars of 20 novel classes, all their other samples "
                 f"{queries} other views of an exemplar, {auxiliary} auxiliary classes", None, parts)


def counts(auxiliary: int = 100, leak_free: bool = False) -> dict[str, int]:
    """The counts of ``split`` on the 113,945 official samples."""
    return {"support": 20, "query": 18_884 if leak_free else 18_924, "base": BASE_COUNTS[auxiliary],
            "validation": 18_988}


def _of(members: Mapping[str, Sequence[str]], codes: Iterable[str]) -> tuple[str, ...]:
    return tuple(each for code in codes for each in members[code])
