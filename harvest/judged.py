"""The judged tracks of a shard: the kept in shards/, the rejected, with their poses and reasons, in rejected/."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harvest.config import Gates
from harvest.gates import judge
from skelcore import shard_format, shards
from skelcore.errors import InputError
from skelcore.files import write_text
from skelcore.sequence import PoseSequence
from skelcore.shards import Block

Id = tuple[str, int]  # a video's key, and the number of the track in it


@dataclass
class Judged:
    """Tracks of one shard by id, their numbers, the ids of the kept ones, and the reasons of the rejected ones.

    ``quality["track"]`` is the number of a track in its video; it stays what it is when others come and go, and so
    tells a track. ``videos`` gives the origin and the provenance of each video. ``torn``: a kill left files that do not
    belong together.
    """

    tracks: dict[Id, tuple[PoseSequence, dict[str, Any]]] = field(default_factory=dict)
    videos: dict[str, tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=dict)
    kept: set[Id] = field(default_factory=set)
    rejected: dict[Id, str] = field(default_factory=dict)
    torn: bool = False

    def add(self, block: Block) -> list[Id]:
        """Take in the tracks of a video, without a verdict; raises KeyError where they are not numbered."""
        self.videos[block.key] = (block.source, block.provenance)
        ids = [(block.key, int(quality["track"])) for quality in block.quality]
        self.tracks.update(zip(ids, zip(block.sequences, block.quality, strict=True), strict=True))
        return ids

    def drop(self, key: str) -> None:
        """Let go of all tracks of a video, if there are any."""
        self.videos.pop(key, None)
        for id in [id for id in self.tracks if id[0] == key]:
            del self.tracks[id]
            self.kept.discard(id)
            self.rejected.pop(id, None)

    def verdicts(self, gates: Gates) -> dict[Id, str]:
        """Why tracks are rejected, by their numbers; what was rejected as a copy of another track stays so."""
        found = {id: "duplicate" if self.rejected.get(id) == "duplicate" else judge(numbers, gates)
                 for id, (_, numbers) in self.tracks.items()}
        return {id: reason for id, reason in found.items() if reason is not None}

    def judge(self, gates: Gates) -> None:
        """Give every track its verdict."""
        self.rejected = self.verdicts(gates)
        self.kept = set(self.tracks).difference(self.rejected)


def write(root: Path, shard: int, found: Judged) -> str | None:
    """Write all files of a shard; the name of the one in shards/, None where no track is kept."""
    write_rejected(root, shard, found, found.rejected)
    return write_kept(root, shard, found, found.kept)


def write_kept(root: Path, shard: int, found: Judged, kept: Iterable[Id]) -> str | None:
    """Write ``shards/NNNNNN.tar``, or remove it where there is nothing for it; its name, or None."""
    name = f"shards/{shard:06d}.tar"
    return name if _store(root / name, found, kept) else None


def write_rejected(root: Path, shard: int, found: Judged, reasons: Mapping[Id, str]) -> None:
    """Write ``rejected/NNNNNN.tar`` (no file where there is nothing for it) and the rows of ``rejected/NNNNNN.jsonl``.

    A row is ``{source, track, reason, start, numbers ...}``.
    """
    _store(root / "rejected" / f"{shard:06d}.tar", found, reasons, reasons)
    write_text(_list(root, shard), _rows(found, reasons))


def read(root: Path, shard: int) -> Judged:
    """What ``write`` wrote.

    A kill may have left a track in both places, which then counts as kept, or a tar without its manifest, whose tracks
    are read and count as neither. Raises InputError for damaged files, and for tracks of a release that did not number
    them.
    """
    found = Judged()
    for folder in ("rejected", "shards"):
        path = root / folder / f"{shard:06d}.tar"
        whole = _manifest(path).exists()
        found.torn |= not whole and (path.exists() or _index(path).exists())
        for block in _blocks(path):
            reasons = [str(quality.pop("reason", "")) for quality in block.quality]
            try:
                ids = found.add(block)
            except (KeyError, TypeError, ValueError):
                raise InputError(f"{path}: {block.key}: its tracks have no numbers, as an earlier release wrote them; "
                                 "harvest again into another output") from None
            if whole and folder == "shards":
                found.kept.update(ids)
            elif whole:
                found.rejected.update(zip(ids, reasons, strict=True))
    both = found.kept & found.rejected.keys()
    for id in both:
        del found.rejected[id]
    found.torn |= bool(both) or _rows(found, found.rejected) != _told(root, shard)
    return found


def keys(root: Path, shard: int) -> set[str]:
    """The videos of which there are tracks in the files of a shard; raises InputError for damaged files."""
    return {block.key for folder in ("rejected", "shards") for block in _blocks(root / folder / f"{shard:06d}.tar")}


def _store(path: Path, found: Judged, ids: Iterable[Id], reasons: Mapping[Id, str] | None = None) -> bool:
    videos: dict[str, list[Id]] = {}
    for id in sorted(ids):
        videos.setdefault(id[0], []).append(id)
    if videos:
        shards.write(path, [Block(key, [found.tracks[id][0] for id in chosen],
                                  [found.tracks[id][1] | ({"reason": reasons[id]} if reasons else {}) for id in chosen],
                                  *found.videos[key]) for key, chosen in videos.items()])
    else:
        # The manifest first: without it readers trust nothing.
        for old in (_manifest(path), path, _index(path)):
            old.unlink(missing_ok=True)
    return bool(videos)


def _blocks(path: Path) -> Iterator[Block]:
    if not path.exists():
        return
    if _manifest(path).exists():
        # A damaged tar must not get a new manifest.
        shards.verify(path)
    with path.open("rb") as file:
        for entry in shard_format.walk(file, str(path), path.stat().st_size):
            yield shard_format.decode(entry)


def _rows(found: Judged, reasons: Mapping[Id, str]) -> str:
    """What ``rejected/NNNNNN.jsonl`` holds, which is there to be read by others."""
    rows = [{"source": id[0], "reason": reasons[id], "start": found.tracks[id][0].meta["start"], **found.tracks[id][1]}
            for id in sorted(reasons)]
    return "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)


def _told(root: Path, shard: int) -> str | None:
    path = _list(root, shard)
    return path.read_text("utf-8") if path.exists() else None


def _list(root: Path, shard: int) -> Path:
    return root / "rejected" / f"{shard:06d}.jsonl"


def _index(path: Path) -> Path:
    return path.with_suffix(".index.npz")


def _manifest(path: Path) -> Path:
    return path.with_suffix(".manifest.json")
