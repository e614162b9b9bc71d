"""The ledger: an append-only journal of what became of each source; the truth about what is settled."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from harvest.plan import Plan
from harvest.reasons import TRANSIENT
from harvest.sources import Source
from skelcore.errors import InputError, RunError

Status = Literal["ok", "rejected", "failed", "forgotten"]
_STATUSES = get_args(Status)
_PENDING = 0
_encode, _decode = json.JSONEncoder(sort_keys=True).encode, json.JSONDecoder().decode


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of one source: ``tracks`` kept, ``dropped`` tracks by gate, ``frames`` and ``seconds`` looked at.

    ``host`` is whom it was fetched from, ``licence`` what it declares, ``time`` when it was settled in Unix seconds
    (0: stamped by the ledger), ``content`` tells the file of a rejected source. None of the four is part of a shard.
    """

    id: str
    status: Status
    reason: str = ""
    detail: str = ""
    tracks: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    frames: int = 0
    seconds: float = 0.0
    attempts: int = 1
    host: str = ""
    licence: str = ""
    time: int = 0
    content: str = ""

    @property
    def gave_tracks(self) -> bool:
        """Whether there is anything of this source, kept or dropped, for its shard."""
        return bool(self.tracks or self.dropped)


class Ledger:
    """What is known of every source of a plan, by its index, and the set of closed shards; in step with the file.

    Resident are some 11 bytes a source; the entries stay in the file. A line that a kill tore off at the end is left
    out, and cut off before the next is written; until then the file is only read. Damage elsewhere, and a source that
    is not in the plan, raise InputError. One process may write at a time.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self._path, self._plan = path, plan
        self.closed: set[int] = set()
        # What can become of a source, in the order in which the file tells; a source's code is an index into it.
        self._kinds: list[tuple[str, str]] = [("", "")]
        self._codes = np.full(len(plan), _PENDING, np.uint16)
        self._gave = np.zeros(len(plan), bool)
        self._places = np.full(len(plan), -1, np.int64)  # where a source's entry is in the file
        self._size = 0
        self._writer: int | None = None
        if path.exists():
            self._load()

    def settle(self, index: int, entry: Entry) -> None:
        """Record the outcome of a source, in place of an earlier one; on disk when this returns."""
        self.settle_many([(index, entry)])

    def settle_many(self, settled: Iterable[tuple[int, Entry]]) -> None:
        """Record the outcomes of several sources and wait for the disk once."""
        now = int(time.time())
        entries = [(index, replace(entry, time=entry.time or now)) for index, entry in settled]
        for (index, entry), place in zip(entries, self._append([asdict(e) for _, e in entries]), strict=True):
            self._note(index, entry, place)

    def close_shard(self, shard: int, file: str | None) -> None:
        """Record that a shard is final; ``file`` is None when none of its sources gave poses."""
        self._append([{"shard": shard, "file": file}])
        self.closed.add(shard)

    def forget(self, indices: Iterable[int]) -> list[int]:
        """Settle sources for ever: they count for nothing any more and are never tried again.

        Gives the shards that were closed and now are open, to be written again without them.
        """
        chosen = [index for index in indices if self.status(index) != "forgotten"]
        sources = [self._plan[index] for index in chosen]
        shards = self._reopen_shards(sources)
        self.settle_many((index, Entry(source.id, "forgotten")) for index, source in zip(chosen, sources, strict=True))
        return shards

    def reopen(self, indices: Iterable[int]) -> None:
        """Make settled sources pending again, and their shards open; those forgotten stay so."""
        chosen = [i for i in indices if self.status(i) not in (None, "forgotten")]
        sources = [self._plan[i] for i in chosen]
        # The shards first: a kill in between must not leave a closed shard of which a source is pending.
        self._reopen_shards(sources)
        self._append([{"id": source.id, "status": "pending"} for source in sources])
        for index in chosen:
            self._note(index, None, -1)

    def _reopen_shards(self, sources: Iterable[Source]) -> list[int]:
        shards = sorted({source.shard for source in sources} & self.closed)
        if shards:
            self._append([{"shard": shard, "reopened": True} for shard in shards])
        self.closed.difference_update(shards)
        return shards

    def is_settled(self, index: int) -> bool:
        return bool(self._codes[index] != _PENDING)

    def status(self, index: int) -> str | None:
        """ok, rejected, failed or forgotten; None for a pending source."""
        return self._kinds[self._codes[index]][0] or None

    def reason(self, index: int) -> str:
        """Why a source failed or was rejected, else an empty text."""
        return self._kinds[self._codes[index]][1]

    def gave_tracks(self, index: int) -> bool:
        """Whether there is anything of this source, kept or dropped, for its shard."""
        return bool(self._gave[index])

    def pending(self) -> NDArray[np.int64]:
        """The indices of the sources that are not settled."""
        return np.flatnonzero(self._codes == _PENDING)

    def select(self, names: Iterable[str]) -> list[int]:
        """The failed sources that ``retry`` names: ``all``, ``transient``, or reasons."""
        wanted = set(names)
        if "transient" in wanted:
            wanted.update(TRANSIENT)
        codes = [code for code, (status, reason) in enumerate(self._kinds)
                 if status == "failed" and ("all" in wanted or reason in wanted)]
        return [int(index) for index in np.flatnonzero(np.isin(self._codes, codes))]

    def entry(self, index: int) -> Entry | None:
        """The entry of a source, read from the file; None for a pending one."""
        return next(self._read(self._places[index : index + 1])) if self.is_settled(index) else None

    def lines(self, indices: Iterable[int], closing: tuple[int, str | None] | None = None) -> Iterator[str]:
        """What is known of these sources, and that a shard is closed with a file or none, as lines of a ledger."""
        for index in indices:
            if (entry := self.entry(index)) is not None:
                yield _encode(asdict(entry)) + "\n"
        if closing:
            yield _encode({"shard": closing[0], "file": closing[1]}) + "\n"

    def rows(self) -> Iterator[Entry]:
        """The last entry of every settled source, in the order of the file, one at a time."""
        return self._read(np.sort(self._places[self._codes != _PENDING]))

    def _read(self, places: NDArray[np.int64]) -> Iterator[Entry]:
        if not len(places):
            return  # without a file, perhaps
        with open(self._path, "rb") as file:
            for place in places:
                file.seek(place)
                yield Entry(**json.loads(file.readline()))

    def _note(self, index: int, entry: Entry | None, place: int) -> None:
        """Put ``entry`` (None: pending) in the place of what is known of a source."""
        if entry is None:
            self._codes[index], self._gave[index], self._places[index] = _PENDING, False, -1
            return
        kind = (entry.status, entry.reason)
        if kind not in self._kinds:
            self._kinds.append(kind)
        self._codes[index], self._gave[index] = self._kinds.index(kind), entry.gave_tracks
        self._places[index] = place

    def _append(self, rows: list[dict[str, Any]]) -> list[int]:
        """Write lines and wait for the disk; gives where each begins."""
        lines = [_encode(row).encode() + b"\n" for row in rows]
        places = list(accumulate(map(len, lines), initial=self._size))
        left = memoryview(b"".join(lines))
        try:
            if self._writer is None:
                self._writer = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            # What a kill or a full disk left of a line must not become the beginning of another.
            os.ftruncate(self._writer, self._size)
            while left:
                left = left[os.write(self._writer, left):]
            os.fsync(self._writer)
            self._size = places.pop()
        except OSError as error:
            raise RunError(f"{self._path}: cannot be written: {error.strerror}; what was settled before is kept: "
                           "mend that and run again") from None
        return places

    def _load(self) -> None:
        with open(self._path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                self._take(line, number)
                self._size += len(line)

    def _take(self, line: bytes, number: int) -> None:
        try:
            row = _decode(line.decode())
            if "shard" in row:
                (self.closed.discard if row.get("reopened") else self.closed.add)(int(row["shard"]))
                return
            entry = None if row["status"] == "pending" else Entry(**row)
            index = self._plan.find(row["id"])
            if entry and entry.status not in _STATUSES:
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(f"{self._path}, line {number}: not a line of a ledger; restore the file or use "
                             "another output") from None
        if index is None:
            raise InputError(f"{self._path}, line {number}: {row['id']!r} is not in the plan beside it; restore "
                             "the plan that belongs to this ledger, or use another output")
        self._note(index, entry, self._size)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._writer is not None:
            os.close(self._writer)
