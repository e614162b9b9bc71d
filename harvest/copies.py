"""Lists of copies: groups of tracks, or of videos, that show the same, of which the first is the one to keep."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from skelcore.errors import InputError
from skelcore.files import write_text

FILE = "duplicates.jsonl"  # the list in an output folder


@dataclass(frozen=True)
class Copy:
    """One member of a group: ``id`` is a copy of ``of``, the group's first member, which is kept.

    ``score`` is that of its surest proof, 1 for the same motion; ``group`` counts the groups in the order of ``of``.
    """

    group: int
    id: str
    of: str
    score: float


def grouped(names: Sequence[str], pairs: Sequence[tuple[int, int, float]]) -> list[Copy]:
    """The groups that pairs (position, position, score) of ``names`` connect; the first of each is kept."""
    parent = list(range(len(names)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    best: dict[int, float] = {}
    for one, other, score in pairs:
        first, second = sorted((root(one), root(other)))
        parent[second] = first
        for index in (one, other):
            best[index] = max(best.get(index, -np.inf), score)
    copies = sorted((root(index), index) for index in best if root(index) != index)
    number = {first: group for group, first in enumerate(dict.fromkeys(first for first, _ in copies))}
    return [Copy(number[first], names[index], names[first], round(best[index], 4)) for first, index in copies]


def same_content(keys: Mapping[str, str]) -> list[Copy]:
    """The groups of names that have one content key; the first named is kept. An empty key is nobody's copy."""
    names, first = list(keys), dict[str, int]()
    pairs = [(first.setdefault(key, index), index, 1.0) for index, key in enumerate(keys.values()) if key]
    return grouped(names, [pair for pair in pairs if pair[0] != pair[1]])


def write(path: str | Path, copies: Sequence[Copy]) -> None:
    """A JSON line {group, id, of, score} for each copy, whole or not at all."""
    write_text(path, "".join(json.dumps(asdict(copy), sort_keys=True) + "\n" for copy in copies))


def read(path: str | Path) -> list[Copy]:
    """What ``write`` wrote; raises InputError for a file that is not there or holds anything else."""
    copies = []
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); write it with `skelshot dedup`") from None
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            copies.append(Copy(int(row["group"]), str(row["id"]), str(row["of"]), float(row["score"])))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InputError(f"{path}, line {number}: not a line of duplicates; write it again with `skelshot dedup`"
                             ) from None
    return copies


def without(copies: Sequence[Copy], gone: Container[str]) -> list[Copy]:
    """The groups less the tracks of the videos ``gone``; where the kept one goes, the next stands in its place."""
    groups: dict[int, dict[str, float]] = {}
    for copy in copies:
        groups.setdefault(copy.group, {copy.of: copy.score})[copy.id] = copy.score
    left = ([(id, score) for id, score in members.items() if id.rpartition("/")[0] not in gone]
            for _, members in sorted(groups.items()))
    return [Copy(number, id, members[0][0], score)
            for number, members in enumerate(members for members in left if len(members) > 1)
            for id, score in members[1:]]


def tidy(root: Path, gone: Container[str]) -> None:
    """Take the tracks of the videos ``gone`` out of the list of an output folder, if there is one.

    A list that cannot be read goes as a whole: the next search writes it again.
    """
    path = root / FILE
    for half in root.glob(f".{FILE}.*.tmp"):
        half.unlink(missing_ok=True)
    if path.exists():
        try:
            copies = read(path)
        except InputError:
            path.unlink()
            return
        left = without(copies, gone)
        if left != copies:
            write(path, left)
