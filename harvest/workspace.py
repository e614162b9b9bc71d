"""The output folder: who may write to it, the videos finished but not yet in a shard, and the closing of shards."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

import fsspec

from harvest import judged, scratch
from harvest.address import is_url
from harvest.config import Harvest
from harvest.ledger import Ledger
from harvest.mirror import Mirror
from harvest.plan import Plan
from harvest.sources import Source
from harvest.video import Outcome
from skelcore import shard_format, ustar
from skelcore.config import build
from skelcore.errors import InputError, RunError
from skelcore.files import atomic, write_text
from skelcore.remote import reaching
from skelcore.sequence import PoseSequence
from skelcore.shards import Block


def settled(output: str | Path) -> Harvest:
    """The configuration of the harvest whose output folder this is, but for what may differ between runs.

    Raises InputError for another folder.
    """
    name = f"{output}/settings.json"
    with reaching(name, "cannot be read; OUTPUT must be the output folder of a harvest"), fsspec.open(name) as file:
        found = _parsed(file.read(), name)
    return build(Harvest, {**found, "sources": ["none"], "output": str(output)}, name)


class Workspace:
    """One output folder, open to one harvest at a time.

    ``plan.jsonl``, ``ledger.jsonl``, ``settings.json``, ``summary.json``, ``report.html``, ``ATTRIBUTION.csv``,
    ``tensorboard/``, ``shards/``, ``rejected/``, and ``work/`` with the finished videos of open shards; of an output in
    a bucket the copy of it that is here. Raises RunError when another harvest writes there, InputError when the folder
    holds a harvest with other settings.
    """

    def __init__(self, config: Harvest) -> None:
        self._mirror = Mirror(config.output) if is_url(config.output) else None
        self.root = self._mirror.root if self._mirror else Path(config.output)
        self.plan, self.ledger = self.root / "plan.jsonl", self.root / "ledger.jsonl"
        self.summary, self.report = self.root / "summary.json", self.root / "report.html"
        self.board = self.root / "tensorboard"
        self._work, self._settings = self.root / "work", self.root / "settings.json"
        self._gates = config.gates
        self._folders = (self._work, self.root / "shards", self.root / "rejected")
        try:
            self._make_folders()
            self._lock = open(self.root / ".lock", "w")  # noqa: SIM115 - held until the workspace is left
        except OSError as error:
            raise InputError(f"output={config.output}: cannot be written: {error.strerror}") from None
        try:
            # The kernel releases it when this process dies, however it dies.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"another harvest is writing to {self.root}; wait for it or choose another output") from None
        try:
            if self._mirror:
                self._mirror.open()
                self._make_folders()
            self._settle_settings(config.settings())
        except (InputError, RunError):
            self._lock.close()
            raise
        self._sweep()

    def keep(self, source: Source, outcome: Outcome) -> None:
        """Store what a finished video gave until its shard is closed."""
        tracks = sorted([*outcome.sequences, *outcome.dropped], key=_number)
        if tracks:
            block = Block(source.id, tracks, [track.meta["quality"] for track in tracks], outcome.origin,
                          outcome.provenance)
            names = shard_format.member_names(source.id)
            with atomic(self._path(source.id)) as file:
                ustar.write(file, zip(names, shard_format.encode(block), strict=True))
        else:
            # A run killed before it could note the video in the ledger may have left an earlier attempt's tracks.
            self._path(source.id).unlink(missing_ok=True)

    def holds(self, id: str) -> bool:
        """Whether a finished video waits here for its shard to be closed."""
        return self._path(id).exists()

    def lost(self, shard: int, ids: Iterable[str]) -> list[str]:
        """Those of the settled sources of an open shard whose tracks are neither here nor in its files."""
        lost = [id for id in ids if not self.holds(id)]
        stored = judged.keys(self.root, shard) if lost else set()
        return [id for id in lost if id not in stored]

    def close(self, shard: int, plan: Plan, ledger: Ledger) -> None:
        """Assemble a shard whose sources are all settled, note it in the ledger, and let go of its videos.

        What a shard that was closed before holds of sources that are not here stays in it.
        """
        members = [(index, plan[index].id) for index in plan.members(shard)]
        wanted = {id for index, id in members if ledger.gave_tracks(index)}
        found = judged.read(self.root, shard)
        for key in set(found.videos) - wanted:
            found.drop(key)
        for id in sorted(wanted):
            if self.holds(id):
                found.drop(id)
                found.add(self._load(id))
        found.judge(self._gates)
        name = judged.write(self.root, shard, found)
        self.publish_shard(shard, plan, ledger)
        ledger.close_shard(shard, name)
        for _, id in members:
            self._path(id).unlink(missing_ok=True)

    def purge(self, shard: int, ids: Iterable[str], plan: Plan, ledger: Ledger) -> None:
        """Delete all tracks of sources that are forgotten, waiting or in the files of their open shard."""
        found = judged.read(self.root, shard)
        held = set(found.videos)
        for id in ids:
            self._path(id).unlink(missing_ok=True)
            found.drop(id)
        if held != set(found.videos):
            found.judge(self._gates)
            judged.write(self.root, shard, found)
        if self._mirror:
            # Of what is open the store knows nothing yet, but who must go has to be known wherever the harvest goes on.
            gone = [index for index in plan.members(shard) if ledger.status(index) == "forgotten"]
            self._mirror.send_shard(shard, ledger.lines(gone))

    def discard_closed(self, plan: Plan, ledger: Ledger) -> None:
        """Delete the finished videos that a killed run left behind although their shards are closed."""
        for path in self._work.glob("*.tar"):
            index = plan.find(path.stem)
            if index is None or plan[index].shard in ledger.closed:
                path.unlink()

    def resettle(self, **settings: Any) -> None:
        """Change settings of a folder whose blocks have been brought in line with them."""
        before = _settings(self._settings)
        if (after := {**before, **settings}) != before:
            self._write_settings(after)

    def publish_shard(self, shard: int, plan: Plan, ledger: Ledger) -> None:
        """Bring a complete shard, and what the ledger says of it, to where it is looked for, if that is not here."""
        if self._mirror:
            name = f"shards/{shard:06d}.tar"
            closing = shard, name if (self.root / name).exists() else None
            self._mirror.send_shard(shard, ledger.lines(plan.members(shard), closing))

    def publish(self) -> None:
        """Bring summary, attribution and report to where they are looked for, if that is not here."""
        if self._mirror:
            self._mirror.send_accounts()

    def _make_folders(self) -> None:
        for folder in self._folders:
            folder.mkdir(parents=True, exist_ok=True)

    def _load(self, id: str) -> Block:
        path = self._path(id)
        with path.open("rb") as file:
            return shard_format.decode(next(shard_format.walk(file, str(path), path.stat().st_size)))

    def _path(self, id: str) -> Path:
        return self._work / f"{id}.tar"

    def _settle_settings(self, settings: dict[str, Any]) -> None:
        """Blocks of one folder must be comparable, so what decides their content is fixed by its first run."""
        if not self.ledger.exists() or not self.ledger.stat().st_size:
            for video in self._work.glob("*.tar"):
                video.unlink()
            self._write_settings(settings)
            return
        before = _settings(self._settings)
        for key, value in settings.items():
            if before.get(key) != value:
                raise InputError(f"{key}={value} differs from {before.get(key)} in {self._settings}: "
                                 "keep the old value or use another output")

    def _write_settings(self, settings: dict[str, Any]) -> None:
        write_text(self._settings, json.dumps(settings, indent=1, sort_keys=True) + "\n")

    def _sweep(self) -> None:
        """Remove what killed runs left half-written, and no other program's files."""
        ours = [self.root.glob(f".{name}.*.tmp")
                for name in ("plan.jsonl", "settings.json", "summary.json", "report.html", "ATTRIBUTION.csv",
                             "duplicates.jsonl")]
        ours += [(self.root / name).glob(".*.tmp") for name in ("attribution", "duplicates")]
        ours += [folder.glob(".*.tmp") for folder in self._folders]
        for path in chain.from_iterable(ours):
            path.unlink(missing_ok=True)
        scratch.sweep()

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._lock.close()


def _settings(path: Path) -> dict[str, Any]:
    return _parsed(path.read_bytes() if path.exists() else b"", str(path))


def _parsed(text: bytes, name: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{name}: missing or not a JSON object; restore it or use another output")
    return found


def _number(track: PoseSequence) -> int:
    return int(track.meta["quality"]["track"])
