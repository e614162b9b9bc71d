"""Descriptors of whole shards, kept beside them: a set that has grown is described only where it is new.

``OUTPUT/duplicates/SHA256.npz`` holds those of the shard of that content, so whatever rewrites a shard makes its part
stale, and ``sweep`` removes it.
"""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import numpy as np

from harvest.descriptor import VERSION, Windows, describe
from skelcore import shard_index
from skelcore.files import atomic
from skelcore.shard_store import ShardStore

FOLDER = "duplicates"
_BATCH = 256  # tracks described at a time


def windows(store: ShardStore, tracks: np.ndarray, folder: Path | None = None) -> Windows:
    """The windows of some tracks of a store, one at least; ``track`` are positions in ``tracks``.

    With the store of one shard and a ``folder``, they are taken from the part that is there, and else left there, whole
    or not at all. Where nothing can be written, they are made every time. Vectors are rounded to float16.
    """
    if folder is None:
        return _described(store, tracks)
    (sha256,) = store.shards.values()
    path = folder / f"{sha256}.npz"
    found = _load(path, len(tracks))
    if found is None:
        found = _described(store, tracks)
        _save(path, found)
    return found


def sweep(root: Path) -> None:
    """Remove the parts of an output folder that belong to no shard of it any more."""
    parts = list((root / FOLDER).glob("*.npz"))
    if parts:
        manifests = (path for name in ("shards", "rejected") for path in (root / name).glob("*.manifest.json"))
        known = {shard_index.parse_manifest(path.read_bytes(), str(path)).sha256 for path in manifests}
        for part in parts:
            if part.stem not in known:
                part.unlink(missing_ok=True)


def _described(store: ShardStore, tracks: np.ndarray) -> Windows:
    found = []
    for begin in range(0, len(tracks), _BATCH):
        part = describe([store[i] for i in tracks[begin:begin + _BATCH].tolist()])
        found.append((part.vectors.astype(np.float16), part.track.astype(np.int32) + begin, part.span))
    return Windows(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))


def _save(path: Path, windows: Windows) -> None:
    file = io.BytesIO()
    np.savez(file, version=np.array(VERSION), vectors=windows.vectors, track=windows.track, span=windows.span)
    with suppress(OSError), atomic(path) as target:  # a folder that may only be read is searched all the same
        target.write(file.getvalue())


def _load(path: Path, tracks: int) -> Windows | None:
    """What ``_save`` wrote for so many tracks, or None; numpy meets a damaged file with many kinds of error."""
    with suppress(Exception), np.load(path, allow_pickle=False) as file:
        found = Windows(file["vectors"], file["track"], file["span"])
        n = len(found)
        if (int(file["version"]) == VERSION and found.vectors.ndim == 2 and found.vectors.dtype == np.float16
                and found.track.shape == (n,) and found.track.dtype == np.int32 and found.span.shape == (n, 2)
                and found.span.dtype == np.float64 and np.isfinite(found.span).all()
                and (n == 0 or 0 <= found.track.min() <= found.track.max() < tracks)):
            return found
    return None
