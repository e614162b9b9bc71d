"""Lists of copies: groups of tracks, or of videos, that show the same, of which the first is the one to keep."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from skelcore import browse
from skelcore.errors import InputError
from skelcore.files import write_text
from skelcore.gallery import Copy

FILE = browse.COPIES  # the list in an output folder


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
    """The groups of videos that have one content key; the first named is kept. An empty key is nobody's copy."""
    names, first = list(keys), dict[str, int]()
    pairs = [(first.setdefault(key, index), index, 1.0) for index, key in enumerate(keys.values()) if key]
    return grouped(names, [pair for pair in pairs if pair[0] != pair[1]])


def write(path: str | Path, copies: Sequence[Copy]) -> None:
    """A JSON line {group, id, of, score} for each copy, whole or not at all; nothing where the file says so already."""
    text = "".join(json.dumps(asdict(copy), sort_keys=True) + "\n" for copy in copies)
    path = Path(path)
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)


def count(root: Path) -> int | None:
    """How many copies an output folder lists; None where it has no list."""
    path = root / FILE
    return path.read_bytes().count(b"\n") if path.is_file() else None


def video(id: str) -> str:
    """The id of the video that a member of a group is of, or is."""
    return id.rpartition("/")[0] or id


def without(copies: Sequence[Copy], gone: Container[str]) -> list[Copy]:
    """The groups less the videos ``gone`` and their tracks; where the kept one goes, the next stands in its place."""
    groups: dict[int, dict[str, float]] = {}
    for copy in copies:
        groups.setdefault(copy.group, {copy.of: copy.score})[copy.id] = copy.score
    left = ([(id, score) for id, score in members.items() if video(id) not in gone]
            for _, members in sorted(groups.items()))
    return [Copy(number, id, members[0][0], score)
            for number, members in enumerate(members for members in left if len(members) > 1)
            for id, score in members[1:]]


def tidy(root: Path, gone: Container[str]) -> None:
    """Take the videos ``gone`` and their tracks out of the list of an output folder, if there is one.

    A list that cannot be read is emptied: the next search writes it again.
    """
    path = root / FILE
    if path.is_file():
        try:
            write(path, without(list(browse.copies(path)), gone))
        except InputError:
            write(path, [])
