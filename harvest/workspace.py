"""The output folder: who may write to it, the videos finished but not yet in a shard, and the closing of shards."""

from __future__ import annotations

import fcntl
import io
import json
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from harvest import scratch
from harvest.config import Harvest
from harvest.ledger import Ledger
from harvest.plan import Source
from harvest.video import Outcome
from skelcore import layouts, shards
from skelcore.errors import InputError, RunError
from skelcore.files import atomic, write_text
from skelcore.sequence import PoseSequence
from skelcore.shards import Block


class Workspace:
    """One output folder, open to one harvest at a time.

    ``plan.jsonl``, ``ledger.jsonl``, ``summary.json``, ``settings.json``, ``shards/``, ``rejected/``, and ``work/``
    with the finished videos of open shards. Raises RunError when another harvest writes there, InputError when the
    folder holds a harvest with other settings.
    """

    def __init__(self, config: Harvest) -> None:
        self.root = Path(config.output)
        self.plan, self.ledger = self.root / "plan.jsonl", self.root / "ledger.jsonl"
        self.summary = self.root / "summary.json"
        self._work = self.root / "work"
        self._folders = (self._work, self.root / "shards", self.root / "rejected")
        try:
            for folder in self._folders:
                folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.root / ".lock", "w")  # noqa: SIM115 - held until the workspace is left
        except OSError as error:
            raise InputError(f"output={config.output}: cannot be written: {error.strerror}") from None
        try:
            # The kernel releases it when this process dies, however it dies.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"another harvest is writing to {self.root}; wait for it or choose another output") from None
        try:
            self._settle_settings(config.settings())
        except InputError:
            self._lock.close()
            raise
        self._sweep()

    def keep(self, source: Source, outcome: Outcome) -> None:
        """Store what a finished video gave until its shard is closed."""
        if outcome.sequences or outcome.rejected:
            with atomic(self._path(source)) as file:
                file.write(_pack(outcome))
        else:
            # A run killed before it could note the video in the ledger may have left an earlier attempt's tracks.
            self._path(source).unlink(missing_ok=True)

    def holds(self, source: Source) -> bool:
        return self._path(source).exists()

    def close(self, shard: int, sources: list[Source], ledger: Ledger) -> None:
        """Assemble a shard whose sources are all settled, note it in the ledger, and let go of its videos."""
        finished = {source.id: _unpack(self._path(source).read_bytes()) for source in sources
                    if ledger.entries[source.id].gave_tracks}
        blocks = [Block(key, found.sequences, [sequence.meta["quality"] for sequence in found.sequences], found.origin,
                        found.provenance) for key, found in sorted(finished.items()) if found.sequences]
        rejected = [track for _, found in sorted(finished.items()) for track in found.rejected]
        write_text(self.root / "rejected" / f"{shard:06d}.jsonl",
                   "".join(json.dumps(track, sort_keys=True) + "\n" for track in rejected))
        name = f"shards/{shard:06d}.tar"
        if blocks:
            shards.write(self.root / name, blocks)
        ledger.close_shard(shard, name if blocks else None)
        for source in sources:
            self._path(source).unlink(missing_ok=True)

    def discard_all_but(self, ids: set[str]) -> None:
        """Delete the stored videos of other sources: their shards are closed."""
        for path in self._work.glob("*.npz"):
            if path.stem not in ids:
                path.unlink()

    def _path(self, source: Source) -> Path:
        return self._work / f"{source.id}.npz"

    def _settle_settings(self, settings: dict[str, Any]) -> None:
        """Blocks of one folder must be comparable, so what decides their content is fixed by its first run."""
        path = self.root / "settings.json"
        if not self.ledger.exists() or not self.ledger.stat().st_size:
            self.discard_all_but(set())
            write_text(path, json.dumps(settings, indent=1, sort_keys=True) + "\n")
            return
        try:
            before = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            before = None
        if not isinstance(before, dict):
            raise InputError(f"{path}: missing or not a JSON object; restore it or use another output")
        for key, value in settings.items():
            if before.get(key) != value:
                raise InputError(f"{key}={value} differs from {before.get(key)} in {path}: "
                                 "keep the old value or use another output")

    def _sweep(self) -> None:
        """Remove what killed runs left half-written, and no other program's files."""
        ours = [self.root.glob(f".{name}.*.tmp") for name in ("plan.jsonl", "settings.json", "summary.json")]
        ours += [folder.glob(".*.tmp") for folder in self._folders]
        for path in chain.from_iterable(ours):
            path.unlink(missing_ok=True)
        scratch.sweep()

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._lock.close()


def _pack(outcome: Outcome) -> bytes:
    """A finished video as an npz of plain arrays and one JSON text."""
    about = {
        "status": outcome.status, "origin": outcome.origin, "provenance": outcome.provenance,
        "rejected": outcome.rejected,
        "tracks": [{"layout": s.layout.name, "size": s.size, "fps": s.fps, "id": s.id, "meta": s.meta}
                   for s in outcome.sequences],
    }
    arrays: dict[str, Any] = {f"keypoints{i}": sequence.keypoints for i, sequence in enumerate(outcome.sequences)}
    arrays |= {f"scores{i}": sequence.scores for i, sequence in enumerate(outcome.sequences)}
    file = io.BytesIO()
    np.savez(file, about=np.array(json.dumps(about)), **arrays)
    return file.getvalue()


def _unpack(data: bytes) -> Outcome:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        about = json.loads(str(file["about"]))
        sequences = [PoseSequence(file[f"keypoints{i}"], file[f"scores{i}"], layouts.get(track["layout"]),
                                  tuple(track["size"]), track["fps"], track["id"], meta=track["meta"])
                     for i, track in enumerate(about["tracks"])]
    return Outcome(about["status"], sequences=sequences, origin=about["origin"], provenance=about["provenance"],
                   rejected=about["rejected"])
