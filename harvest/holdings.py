"""Holdings: the shards that an output folder has, in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from skelcore import shard_index
from skelcore.errors import InputError
from skelcore.shard_index import Index, Manifest

_MANIFEST = ".manifest.json"


@dataclass
class Holdings:
    """``seconds`` are person-seconds: the lengths of all tracks, times the persons in each."""

    shards: int = 0
    bytes: int = 0
    blocks: int = 0
    tracks: int = 0
    seconds: float = 0.0


def count(folder: Path) -> Holdings:
    """What lies under ``folder/shards``; takes some 2 ms a shard. Raises what ``load`` raises."""
    holdings = Holdings()
    for tar in tars(folder):
        manifest, index = load(tar)
        holdings.shards += 1
        holdings.bytes += manifest.bytes
        holdings.blocks += manifest.blocks
        holdings.tracks += manifest.tracks
        holdings.seconds += float(np.nansum(index.frames / index.fps[index.block] * index.persons))
    return holdings


def tars(folder: Path, part: str = "shards") -> list[Path]:
    """The shards of an output folder, or those of its ``rejected`` tracks, that have a manifest, by name."""
    found = sorted((folder / part).glob(f"*{_MANIFEST}"))
    return [path.with_name(path.name.removesuffix(_MANIFEST) + ".tar") for path in found]


def load(tar: Path) -> tuple[Manifest, Index]:
    """The sidecars of a shard; raises InputError where its manifest or tar is damaged or gone."""
    told = manifest(tar)
    try:
        return told, shard_index.load(tar.with_name(tar.name.removesuffix(".tar") + ".index.npz"), tar, told)
    except OSError as error:
        raise _unreadable(error) from None


def manifest(tar: Path) -> Manifest:
    """The manifest of a shard; raises InputError where it is damaged or gone."""
    path = tar.with_name(tar.name.removesuffix(".tar") + _MANIFEST)
    try:
        return shard_index.parse_manifest(path.read_bytes(), str(path))
    except OSError as error:
        raise _unreadable(error) from None


def _unreadable(error: OSError) -> InputError:
    return InputError(f"{error.filename}: cannot be read: {error.strerror}; restore it, or delete the shard with its "
                      "sidecars")
