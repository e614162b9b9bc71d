"""ATTRIBUTION.csv: whose videos the shards are made from, and under which licences."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from harvest import holdings
from skelcore import shards
from skelcore.files import atomic
from skelcore.page import printable

FILE = "ATTRIBUTION.csv"
_PARTS = "attribution"  # the folder of the lines of each shard
HEADER = ("id", "url", "licence", "uploader_sha256", "extractor", "video", "tracks", "shard")
# What a spreadsheet takes for the beginning of a formula, full-width forms included.
_FORMULA = tuple("=+-@＝＋－＠")


def write(folder: Path) -> None:
    """Bring ``ATTRIBUTION.csv`` in an output folder in line with its shards: a line for each block, in their order.

    The lines of each shard are kept under ``attribution/``, so that only shards that changed are read again; with
    nothing changed, nothing is written. Raises InputError for a damaged shard.
    """
    tars = holdings.tars(folder)
    names = {tar.stem for tar in tars}
    for part in (folder / _PARTS).glob("*.csv"):
        if part.stem not in names:
            part.unlink()
    for tar in tars:
        renew(folder, tar)
    merge(folder)


def renew(folder: Path, tar: Path) -> None:
    """Bring the lines that are kept of one shard in line with it; raises InputError for a damaged shard."""
    part, manifest = folder / _PARTS / f"{tar.stem}.csv", tar.with_suffix(".manifest.json")
    # The manifest is written last of a shard, and only ever before its part.
    if part.exists() and part.stat().st_mtime_ns > manifest.stat().st_mtime_ns:
        return
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows(tar))
    with atomic(part) as file:
        file.write(text.getvalue().encode())


def merge(folder: Path) -> None:
    """Write ``ATTRIBUTION.csv`` from the lines that are kept of all shards, if any of them changed."""
    whole, parts = folder / FILE, folder / _PARTS
    parts.mkdir(parents=True, exist_ok=True)
    # Whatever is added, replaced or removed in a folder changes its time.
    if whole.exists() and whole.stat().st_mtime_ns > parts.stat().st_mtime_ns:
        return
    with atomic(whole) as file:
        file.write((",".join(HEADER) + "\n").encode())
        for part in sorted(parts.glob("*.csv")):
            file.write(part.read_bytes())


def rows(tar: Path) -> Iterator[list[str]]:
    """A line for each block of a shard, in its order."""
    store = shards.read(tar)
    for key, tracks in groupby(range(len(store)), store.groups.__getitem__):
        document = store.document(next(tracks))
        yield row(key, document.source, len(document.tracks), tar.stem)


def row(key: str, source: Mapping[str, Any], tracks: int, shard: str) -> list[str]:
    """The line of one block; what its source does not say is empty."""
    address = source.get("url") or source.get("file", "")
    said = (source.get(name) or "" for name in HEADER[2:6])
    return [_cell(value) for value in (key, address, *said, tracks, shard)]


def _cell(value: object) -> str:
    """A value that a spreadsheet shows as it is: in one line, and no formula."""
    text = printable(str(value)).strip()
    return f"'{text}" if text.startswith(_FORMULA) else text
