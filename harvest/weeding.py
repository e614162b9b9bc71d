"""Weeding: the list of copies of an output folder, kept in line with its shards, and their rejection on demand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Literal

from harvest import copies, duplicates, holdings, judged, parts, pool, regate, workspace
from harvest.descriptor import VERSION
from harvest.gates import judge
from harvest.judged import Id
from harvest.ledger import Ledger
from harvest.plan import Plan
from harvest.workspace import Workspace
from skelcore.files import write_text
from skelcore.gallery import Copy

Mode = Literal["mark", "drop"]


def weed(space: Workspace, planned: Plan, ledger: Ledger, mode: Mode, threshold: float = duplicates.THRESHOLD) -> None:
    """``mark`` or ``drop`` the copies of a finished harvest, unless that was the last thing done to its files.

    A killed search is completed by the next. Raises InputError for damaged shards.
    """
    same = same_videos(planned, ledger)
    if _done(space.root) == _state(space.root, mode, threshold, same):
        return
    found = mark(space, planned, ledger, threshold)
    if mode == "drop":
        reject(space, planned, ledger, found)
    note(space, planned, ledger, mode, threshold)


def mark(space: Workspace, planned: Plan, ledger: Ledger, threshold: float = duplicates.THRESHOLD) -> list[Copy]:
    """Bring ``duplicates.jsonl`` in line with the shards of an output folder and give it: tracks, and then videos.

    Raises what ``pool.of_harvest`` raises.
    """
    parts.sweep(space.root)
    tracks = duplicates.find(pool.of_harvest(space.root), threshold)
    begin = max((copy.group + 1 for copy in tracks), default=0)
    videos = [Copy(begin + copy.group, copy.id, copy.of, copy.score) for copy in same_videos(planned, ledger)]
    found = [*tracks, *videos]
    copies.write(space.root / copies.FILE, found)
    return found


def same_videos(planned: Plan, ledger: Ledger) -> list[Copy]:
    """The groups of rejected sources whose files are the same, byte for byte; there are no poses to compare."""
    rejected = (index for index in range(len(planned)) if ledger.status(index) == "rejected")
    entries = (ledger.entry(index) for index in rejected)
    return copies.same_content({entry.id: entry.content for entry in entries if entry and entry.content})


def reject(space: Workspace, planned: Plan, ledger: Ledger, found: Sequence[Copy]) -> None:
    """Reject the tracks that are copies, for the reason ``duplicate``; the gates come first.

    What an earlier search rejected and this one does not comes back. Raises InputError while shards are open. A killed
    run is completed by the next.
    """
    gates = workspace.settled(space.root).gates
    chosen: Container[Id] = {(copies.video(copy.id), int(copy.id.rpartition("/")[2]))
                             for copy in found if "/" in copy.id}
    for shard in regate.closed(str(space.root), planned, ledger):
        tracks = judged.read(space.root, shard)
        reasons = {}
        for id, (_, numbers) in tracks.tracks.items():
            reason = judge(numbers, gates) or (pool.REASON if id in chosen else None)
            if reason:
                reasons[id] = reason
        regate.move(space, shard, tracks, reasons, planned, ledger)


def note(space: Workspace, planned: Plan, ledger: Ledger, mode: Mode, threshold: float) -> None:
    """Write down for what files the list stands, so that it is not made again while they are as they are."""
    write_text(_record(space.root), _state(space.root, mode, threshold, same_videos(planned, ledger)) + "\n")


def _state(root: Path, mode: Mode, threshold: float, same: Sequence[Copy]) -> str:
    """A digest of all that decides the list, and of the list itself."""
    shards = {f"{part}/{tar.name}": holdings.manifest(tar).sha256
              for part in ("shards", "rejected") for tar in holdings.tars(root, part)}
    path = root / copies.FILE
    told = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
    gates = workspace.settled(root).gates.model_dump(mode="json")
    of = [VERSION, mode, threshold, gates, shards, [(copy.id, copy.of) for copy in same], told]
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()


def _done(root: Path) -> str | None:
    path = _record(root)
    return path.read_text("utf-8", "replace").strip() if path.is_file() else None


def _record(root: Path) -> Path:
    return root / parts.FOLDER / "searched"
