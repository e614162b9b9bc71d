"""The two sidecars of a shard: the manifest, which makes it trusted, and the index, which makes access O(1)."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from skelcore import layouts, shard_format
from skelcore.errors import InputError

logger = logging.getLogger(__name__)

# Columns of the index and their types: first those with a row a block, then those with a row a track.
_BLOCK = {"key": "S", "json_offset": "i8", "json_size": "i8", "fps": "f8", "size": "i4", "label": "U", "split": "U"}
_TRACK = {"block": "i4", "offset": "i8", "frames": "i4", "persons": "i4", "start": "f8"}


class Manifest(BaseModel):
    """``NAME.manifest.json``: written last, so that a shard that has one is whole."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of NAME.tar")
    bytes: NonNegativeInt
    blocks: NonNegativeInt
    tracks: NonNegativeInt
    frames: NonNegativeInt = Field(description="person-frames: frames times persons, summed over tracks")
    layout: str | None = Field(description="None for a shard without blocks")


def parse_manifest(data: bytes, name: str) -> Manifest:
    """The manifest in those bytes; raises InputError when they are none, or of another schema version."""
    shard_format.check_version(shard_format.load_json(data, name), name)
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise InputError(f"{name}: {shard_format.one_line(error)}; harvest the shard again") from None


@dataclass(frozen=True)
class Index:
    """Tables over the b blocks and the n tracks of one shard; offsets and sizes are bytes in the tar.

    ``fps`` is NaN and ``size`` (b, 2) is 0 where a block has none, ``label`` and ``split`` are empty where its source
    names none; ``quality`` (n, q) holds the numbers called ``quality_names``, NaN where a track lacks one.
    """

    sha256: np.ndarray
    layout: np.ndarray
    key: np.ndarray
    json_offset: np.ndarray
    json_size: np.ndarray
    fps: np.ndarray
    size: np.ndarray
    label: np.ndarray
    split: np.ndarray
    block: np.ndarray
    offset: np.ndarray
    frames: np.ndarray
    persons: np.ndarray
    start: np.ndarray
    quality_names: np.ndarray
    quality: np.ndarray

    def save(self, file: IO[bytes]) -> None:
        np.savez(file, **vars(self))

    def fits(self, manifest: Manifest) -> bool:
        """Whether the tables are of the manifest's tar and stay inside it."""
        if str(self.sha256) != manifest.sha256 or str(self.layout) != (manifest.layout or ""):
            return False
        for columns, rows in ((_BLOCK, manifest.blocks), (_TRACK, manifest.tracks)):
            for name, kind in columns.items():
                column = getattr(self, name)
                expected = (rows, 2) if name == "size" else (rows,)
                if column.shape != expected or column.dtype.kind != np.dtype(kind).kind:
                    return False
        if self.quality.shape != (manifest.tracks, len(self.quality_names)) or self.quality.dtype.kind != "f":
            return False
        return self._stays_inside(manifest) if manifest.tracks else manifest.blocks == 0

    def _stays_inside(self, manifest: Manifest) -> bool:
        record = shard_format.record_type(len(layouts.get(str(self.layout)))).itemsize
        # In floats, because the product of hostile integers may wrap around.
        rows = self.frames.astype(np.float64) * self.persons
        ends = max((self.offset + rows * record).max(), (self.json_offset + self.json_size).max())
        starts = min(self.offset.min(), self.json_offset.min(), self.json_size.min())
        return bool(starts >= 0 and ends <= manifest.bytes and self.frames.min() > 0 and self.persons.min() > 0
                    and rows.sum() == manifest.frames and self.block[0] == 0
                    and self.block[-1] == manifest.blocks - 1 and np.isin(np.diff(self.block), (0, 1)).all())


def scan(file: IO[bytes], name: str, size: int, sha256: str) -> Index:
    """The index of a tar of ``size`` bytes, read front to back.

    Raises InputError where the tar departs from the format, repeats a key, or mixes layouts.
    """
    blocks: list[tuple[Any, ...]] = []
    tracks: list[tuple[Any, ...]] = []
    numbers: list[dict[str, float]] = []
    seen: set[str] = set()
    layout = ""
    for entry in shard_format.walk(file, name, size):
        document, source = entry.document, entry.document.source
        if entry.key in seen:
            raise InputError(f"{name}: key {entry.key!r} occurs twice")
        if layout not in ("", document.layout):
            raise InputError(f"{name}: layouts {layout} and {document.layout} in one shard")
        seen.add(entry.key)
        layout = document.layout
        for track in document.tracks:
            offset = entry.pose_offset + track.offset * entry.records.itemsize
            tracks.append((len(blocks), offset, track.frames, track.persons, track.start))
            numbers.append({k: float(v) for k, v in track.quality.items() if isinstance(v, int | float)})
        blocks.append((entry.key, entry.json_offset, entry.json_size, document.fps or np.nan, document.size or (0, 0),
                       source.get("label", ""), source.get("split", "")))
    names = sorted({name for quality in numbers for name in quality})
    tables = {**_columns(_BLOCK, blocks), **_columns(_TRACK, tracks)}
    tables["size"] = tables["size"].reshape(-1, 2)
    quality = np.array([[row.get(name, np.nan) for name in names] for row in numbers], "f4")
    return Index(np.array(sha256), np.array(layout), **tables, quality_names=np.array(names, "U"),
                 quality=quality.reshape(len(numbers), len(names)))


def load(path: Path, tar: Path, manifest: Manifest) -> Index:
    """The index at ``path``, or one rebuilt from the tar when it is missing or does not fit the manifest.

    Raises InputError when the tar itself contradicts its manifest.
    """
    with suppress(Exception):  # zipfile, zlib and numpy meet a damaged or hostile file with many kinds of error
        with np.load(path, allow_pickle=False) as tables:
            index = Index(**{field.name: tables[field.name] for field in fields(Index)})
        if index.fits(manifest):
            return index
    logger.warning("%s is missing or stale: rebuilding the index from the tar", path)
    with tar.open("rb") as file:
        index = scan(file, str(tar), manifest.bytes, manifest.sha256)
    if not index.fits(manifest):
        raise InputError(f"{tar}: {len(index.key)} blocks and {len(index.block)} tracks contradict the manifest, which "
                         f"counts {manifest.blocks} and {manifest.tracks}; fetch or harvest the shard again")
    return index


def _columns(kinds: dict[str, str], rows: list[tuple[Any, ...]]) -> dict[str, np.ndarray]:
    columns = zip(*rows, strict=True) if rows else ([] for _ in kinds)
    return {name: np.array(values, kind) for (name, kind), values in zip(kinds.items(), columns, strict=True)}
