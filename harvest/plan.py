"""The plan: every source once, with an id and a shard that never change again."""

from __future__ import annotations

import json
import math
import mmap
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from harvest.sources import Source, unite
from skelcore.errors import InputError, RunError
from skelcore.files import atomic

# What begins an append; the number of its sources follows.
_APPEND = b'{"sources": '
_BATCH = 1 << 16  # sources that are looked up in one call
_encode, _decode = json.JSONEncoder(sort_keys=True).encode, json.JSONDecoder().decode
# The beginning of every line that this module writes. In JSON a bare quote ends a text, so this is exact.
_HEAD = re.compile(rb'\{"address": "((?:[^"\\]|\\.)*)", "id": "([^"]*)"')


class Plan(Sequence[Source]):
    """The sources of a plan file in its order; a shard's sources stand together.

    The lines stay in the file, mapped to memory and decoded on access; resident are some 32 bytes a source.
    """

    def __init__(self, lines: mmap.mmap | bytes, starts: array[int], shards: array[int], ids: array[int],
                 addresses: array[int], size: int) -> None:
        self._lines, self._starts = lines, np.frombuffer(starts, np.int64)
        self._firsts = np.append(np.frombuffer(shards, np.int64), len(starts))
        self._ids, self._addresses = _Hashes(ids), _Hashes(addresses)
        self.size = size  # bytes of the file that count; what a kill left of an append lies behind them

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Source: ...

    @overload
    def __getitem__(self, index: slice) -> list[Source]: ...

    def __getitem__(self, index: int | slice) -> Source | list[Source]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return _source(_decode(self._line(index).decode()))

    def __iter__(self) -> Iterator[Source]:
        return (self[index] for index in range(len(self)))

    def find(self, id: str) -> int | None:
        """The index of the source of this id."""
        # Beside the 64 bits of the hash the text alone is proof enough, and ten times cheaper than to decode the line.
        text = b'"id": "%b"' % id.encode(errors="surrogatepass")
        return next((i for i in self._ids.candidates(id) if text in self._line(i) or self[i].id == id), None)

    def _line(self, index: int) -> bytes:
        start = int(self._starts[index])
        return self._lines[start : self._lines.find(b"\n", start)]

    @property
    def shards(self) -> int:
        """How many shards there are; they are numbered from 0."""
        return len(self._firsts) - 1

    def members(self, shard: int) -> range:
        """The indices of a shard's sources."""
        return range(int(self._firsts[shard]), int(self._firsts[shard + 1]))

    def lacks(self, sources: Iterable[Source]) -> Iterator[Source]:
        """Those of ``sources`` whose address is not planned; raises InputError for a planned id of another address."""
        sources = iter(sources)
        while batch := list(islice(sources, _BATCH)):
            ids = self._ids.first([source.id for source in batch])
            addresses = self._addresses.first([source.address for source in batch])
            for source, same_id, same_address in zip(batch, ids.tolist(), addresses.tolist(), strict=True):
                # Where both hashes lead to one line, 128 bits vouch for it, and no line need be decoded.
                known = same_address == same_id >= 0
                if not known and (max(same_id, same_address) < 0 or self._is_new(source)):
                    yield source

    def _is_new(self, source: Source) -> bool:
        if any(self[i].address == source.address for i in self._addresses.candidates(source.address)):
            return False
        index = self.find(source.id)
        if index is not None:
            raise InputError(f"id {source.id!r} stands for {self[index].address} in the plan, now for "
                             f"{source.address}: choose another id or another output")
        return True


class _Hashes:
    """Where keys stand, by their 64-bit hashes: candidates only, since two keys may share one."""

    def __init__(self, hashes: array[int]) -> None:
        values = np.frombuffer(hashes, np.int64)
        self._order = np.argsort(values, kind="stable").astype(np.uint32)
        self._sorted = values[self._order]

    def candidates(self, key: str) -> list[int]:
        value = hash(key)
        first = int(self._sorted.searchsorted(value))
        last = first
        while last < len(self._sorted) and self._sorted[last] == value:
            last += 1
        return [int(i) for i in self._order[first:last]]

    def first(self, keys: list[str]) -> NDArray[np.int64]:
        """The first candidate of every key, or -1."""
        values = np.fromiter(map(hash, keys), np.int64, len(keys))
        if not len(self._sorted):
            return np.full(len(keys), -1)
        places = np.minimum(self._sorted.searchsorted(values), len(self._sorted) - 1)
        return np.where(self._sorted[places] == values, self._order[places].astype(np.int64), -1)


@dataclass(frozen=True)
class Preview:
    """What an update would come to."""

    planned: int  # sources that are in the plan already
    added: int
    urls: int  # of both
    shards: int


def update(path: Path, sources: Iterable[Source], shard_size: int) -> Plan:
    """The frozen plan at ``path``, first extended by the sources that it lacks.

    New sources get new shards in the order of their addresses, whatever the order and however often they are named;
    what was planned keeps its id and its shard. The file is written once and then only appended to. Raises InputError
    for a damaged plan, for one id of two addresses, and for rows of lists that differ over one address; RunError where
    the plan cannot be written.
    """
    plan = _planned(path)
    lines = _fresh(plan, sources)
    if not lines:
        return plan
    placed = (b'%b, "shard": %d}\n' % (line[:-1], plan.shards + i // shard_size) for i, line in enumerate(lines))
    if plan.size:
        try:
            with open(path, "r+b") as file:
                file.truncate(plan.size)
                file.seek(plan.size)
                file.write(b"%b%d}\n" % (_APPEND, len(lines)))
                file.writelines(placed)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"{path}: cannot be written: {error.strerror}; what was planned before is kept: mend that "
                           "and run again") from None
    else:
        with atomic(path) as file:
            file.writelines(placed)
    return read(path)


def preview(path: Path, sources: Iterable[Source], shard_size: int) -> Preview:
    """What ``update`` would do, without doing it."""
    plan = _planned(path)
    lines = _fresh(plan, sources)
    urls = sum(source.is_url for source in chain(plan, map(_unplanned, lines)))
    return Preview(len(plan), len(lines), urls, plan.shards + math.ceil(len(lines) / shard_size))


def _planned(path: Path) -> Plan:
    return read(path) if path.exists() else _scan(path, b"", 0)


def _fresh(plan: Plan, sources: Iterable[Source]) -> list[bytes]:
    """Lines, all but the shard, of the sources that the plan lacks: each once, in the order of their addresses."""
    lines = [_line(source) for source in plan.lacks(sources)]
    lines.sort()
    count, before = 0, None
    ids = array("q")
    for line in lines:
        address, id = _head(line)
        if address == before:
            count -= 1
            line = _line(unite(_unplanned(lines[count]), _unplanned(line)))
            id = _head(line)[1]
            ids.pop()
        lines[count], before = line, address
        ids.append(hash(id))
        count += 1
    del lines[count:]
    _refuse_shared_ids(lines, np.frombuffer(ids, np.int64))
    return lines


def _refuse_shared_ids(lines: list[bytes], ids: NDArray[np.int64]) -> None:
    order = np.argsort(ids, kind="stable")
    same = np.flatnonzero(np.diff(ids[order]) == 0)
    known: dict[str, str] = {}
    for place in order[np.union1d(same, same + 1)]:
        source = _unplanned(lines[place])
        if (other := known.setdefault(source.id, source.address)) != source.address:
            raise InputError(f"id {source.id!r} stands for two sources: {other} and {source.address}")


def _line(source: Source) -> bytes:
    return _encode({"address": source.address, "id": source.id, "meta": source.meta}).encode()


def _head(line: bytes) -> tuple[bytes, bytes]:
    """Address and id of a line from ``_line``, still encoded."""
    match = _HEAD.match(line)
    assert match
    return match[1], match[2]


def _unplanned(line: bytes) -> Source:
    return Source(**json.loads(line))


def read(path: Path) -> Plan:
    """The plan as written; raises InputError where it is damaged.

    An append begins with a line that counts its sources, and one that a kill has cut short is left out as a whole: the
    next ``update`` plans its sources again.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            lines = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    except OSError as error:
        raise InputError(f"{path}: cannot read the plan: {error.strerror}; restore the file or use another "
                         "output") from None
    plan = _scan(path, lines, size)
    if size:
        lines.madvise(mmap.MADV_DONTNEED)  # type: ignore[union-attr] # else the whole file counts as resident
    return plan


def _scan(path: Path, lines: mmap.mmap | bytes, size: int) -> Plan:
    starts, shards, ids, addresses = (array("q") for _ in range(4))
    place = number = 0
    left, begun = 0, (0, 0, 0)  # sources to come of an append; its place in the file, and sources and shards before it
    while place < size:
        number += 1
        end = lines.find(b"\n", place) + 1
        if not end and (left or _APPEND.startswith(lines[place : place + len(_APPEND)])):
            break
        try:
            row = _decode(lines[place : end - 1].decode())
            if "sources" in row and not left:
                left, begun = int(row["sources"]), (place, len(starts), len(shards))
            else:
                source = _source(row)
                if not end or not 0 <= len(shards) - source.shard <= 1:
                    raise ValueError
                if source.shard == len(shards):
                    shards.append(len(starts))
                starts.append(place)
                ids.append(hash(source.id))
                addresses.append(hash(source.address))
                left -= left > 0
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise InputError(f"{path}, line {number}: not a line of a plan; restore the file or use "
                             "another output") from None
        place = end
    if left:
        place, sources, first = begun
        del starts[sources:], ids[sources:], addresses[sources:], shards[first:]
    return Plan(lines, starts, shards, ids, addresses, place)


def _source(row: dict[str, Any]) -> Source:
    return Source(str(row["id"]), str(row["address"]), dict(row["meta"]), int(row["shard"]))
