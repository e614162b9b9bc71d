"""The official benchmarks of NTU RGB+D as rules on sample names.

Shahroudy et al., "NTU RGB+D", CVPR 2016: cross-subject by the official training performers, cross-view with cameras 2
and 3 for training. Liu et al., "NTU RGB+D 120", TPAMI 2019: cross-subject, cross-setup with even setups for training.
The rules take the samples that the data have; ``Split.unlike(COUNTS[name])`` says where these differ from the official.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from adapt.splits.record import Split
from skelcore.errors import InputError
from skelcore.ntu import parse_name, splits

COUNTS = {"ntu60_xsub": {"train": 40_091, "test": 16_487}, "ntu60_xview": {"train": 37_646, "test": 18_932},
          "ntu120_xsub": {"train": 63_026, "test": 50_919}, "ntu120_xset": {"train": 54_468, "test": 59_477}}
ACTIONS = {"ntu60": 60, "ntu120": 120}
RULES = {"xsub": "the official training performers train", "xview": "cameras 2 and 3 train, camera 1 tests",
         "xset": "even setups train, odd ones test"}

_VIEW = re.compile(r"(S\d{3})C\d{3}(P\d{3}R\d{3}A\d{3})")


def split(name: str, ids: Iterable[str], missing: Sequence[str] = ()) -> Split:
    """Parts ``train`` and ``test`` of an official benchmark; other actions' and ``missing`` samples are left out.

    ``missing`` is the official list of samples with missing skeletons, for data that still hold them. Raises
    InputError for an unknown benchmark, an id that is no NTU name, and data without a sample for a part.
    """
    if name not in COUNTS:
        raise InputError(f"{name}: not an NTU benchmark; known are {', '.join(COUNTS)}")
    data, rule = name.split("_")
    lost = frozenset(missing)
    kept = [each for each in ids if each not in lost and parse_name(each).action < ACTIONS[data]]
    found = splits(kept)
    parts = {"train": tuple(found[f"{rule}_train"]), "test": tuple(found[f"{rule}_val"])}
    if empty := [part for part, members in parts.items() if not members]:
        raise InputError(f"{name}: the data have no {empty[0]} sample ({RULES[rule]}); give the whole data set")
    text = f"actions A001 to A{ACTIONS[data]:03d} of NTU RGB+D; {RULES[rule]}; no sample of the missing-skeleton list"
    return Split(name, text, None, parts)


def action_code(name: str) -> str:
    """The action of a sample as written in its name: A001 to A120."""
    return f"A{parse_name(name).action + 1:03d}"


def view_group(name: str) -> str:
    """The performance that a sample shows: its name without the camera, so that simultaneous views are equal.

    Words around the name (``..._rgb``, a folder) are dropped; an id without an NTU name is its own group.
    """
    match = _VIEW.search(name)
    return match[1] + match[2] if match else name
