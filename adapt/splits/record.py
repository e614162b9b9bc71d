"""What a split was: its rule, its seed, the ids of each part and their sha256, kept as ``splits.json``.

The file holds ``schema`` 1 and ``splits``, a list of ``name``, ``rule`` (a sentence), ``seed`` (null where nothing was
drawn) and ``parts``, which maps a part's name to its ``sha256`` (of the sorted ids, one a line) and its ``ids``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapt.order import digest
from skelcore.errors import InputError
from skelcore.files import write_text

SCHEMA: Literal[1] = 1


@dataclass(frozen=True)
class Split:
    """A rule carried out: ``parts`` maps names such as support, query and base to ids (of samples, or of classes).

    Parts may overlap (1 % of the labels lies in 5 %), but no part holds an id twice, which raises InputError.
    """

    name: str
    rule: str
    seed: int | None
    parts: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        for part, ids in self.parts.items():
            if len(set(ids)) < len(ids):
                twice = next(each for each, count in Counter(ids).items() if count > 1)
                raise InputError(f"{self.name}: {twice!r} is twice in part {part!r}; ids must be unique")

    @property
    def sha256(self) -> dict[str, str]:
        """The hash of each part, whatever the order of its ids."""
        return {part: digest(ids) for part, ids in self.parts.items()}

    def unlike(self, expected: Mapping[str, int]) -> str | None:
        """One line with both numbers where a part has another count than expected, else None."""
        found = {part: len(self.parts[part]) for part in expected}
        wrong = [f"{found[part]:,} {part} (expected {count:,})"
                 for part, count in expected.items() if found[part] != count]
        return f"{self.name}: the data give {', '.join(wrong)}" if wrong else None


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    sha256: str
    ids: list[str]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    name: str
    rule: str
    seed: int | None
    parts: dict[str, _Part]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    schema_: Literal[1] = Field(alias="schema")
    splits: list[_Record]


def write(path: str | Path, splits: Sequence[Split]) -> None:
    """Write ``splits.json``, one split a line."""
    lines = (json.dumps(_plain(split), ensure_ascii=False, separators=(",", ":")) for split in splits)
    write_text(path, f'{{"schema": {SCHEMA}, "splits": [\n' + ",\n".join(lines) + "\n]}\n")


def read(path: str | Path) -> list[Split]:
    """The splits of a file, every hash verified.

    Raises InputError for a file that is missing or no ``splits.json``, and names the part whose ids were changed.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read the splits: {error.strerror}") from None
    try:
        file = _File.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(f"{path}: {where}: {first['msg']}; this is not a splits.json of schema {SCHEMA}") from None
    return [_verified(record, path) for record in file.splits]


def verify(split: Split, present: Iterable[str]) -> None:
    """Raise InputError where a part has ids that the data lack: how many, of which part, and one of them."""
    known = set(present)
    for part, ids in split.parts.items():
        if lost := [each for each in ids if each not in known]:
            raise InputError(f"{split.name}: the data lack {len(lost):,} of the {len(ids):,} ids of part {part!r}, "
                             f"such as {lost[0]!r}; give the data that the split was made for, or make it anew")


def _plain(split: Split) -> dict[str, object]:
    hashes = split.sha256
    return {"name": split.name, "rule": split.rule, "seed": split.seed,
            "parts": {part: {"sha256": hashes[part], "ids": ids} for part, ids in split.parts.items()}}


def _verified(record: _Record, path: str | Path) -> Split:
    split = Split(record.name, record.rule, record.seed,
                  {part: tuple(content.ids) for part, content in record.parts.items()})
    for part, found in split.sha256.items():
        if found != record.parts[part].sha256:
            raise InputError(f"{path}: the ids of part {part!r} of {record.name} are not those of its sha256: the file "
                             "was changed or cut; make the split anew")
    return split
