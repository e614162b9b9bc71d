"""The ledger: an append-only journal of what became of each source; the truth about what is settled."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from skelcore.errors import InputError

Status = Literal["ok", "rejected", "failed"]


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of one source: ``tracks`` kept, ``dropped`` tracks by gate, ``frames`` and ``seconds`` looked at."""

    id: str
    status: Status
    reason: str = ""
    detail: str = ""
    tracks: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    frames: int = 0
    seconds: float = 0.0
    attempts: int = 1

    @property
    def gave_tracks(self) -> bool:
        """Whether there is anything of this source, kept or dropped, for its shard."""
        return bool(self.tracks or self.dropped)


class Ledger:
    """Entries by source id and the set of closed shards, kept in step with the file.

    A line that a kill tore off at the end of the file is dropped; damage elsewhere raises InputError.
    """

    def __init__(self, path: Path) -> None:
        self.entries: dict[str, Entry] = {}
        self.closed: set[int] = set()
        if path.exists():
            self._load(path)
        self._file = open(path, "ab")  # noqa: SIM115 - open for the life of the ledger

    def settle(self, entry: Entry) -> None:
        """Record the outcome of a source; on disk when this returns."""
        self._append(asdict(entry))
        self.entries[entry.id] = entry

    def close_shard(self, shard: int, file: str | None) -> None:
        """Record that a shard is final; ``file`` is None when none of its sources gave poses."""
        self._append({"shard": shard, "file": file})
        self.closed.add(shard)

    def _append(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, sort_keys=True).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _load(self, path: Path) -> None:
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(path, whole)
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                row = json.loads(line)
                if "shard" in row:
                    self.closed.add(int(row["shard"]))
                else:
                    self.entries[row["id"]] = Entry(**row)
            except (ValueError, KeyError, TypeError):
                raise InputError(f"{path}, line {number}: not a line of a ledger; restore the file or use "
                                 "another output") from None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._file.close()
