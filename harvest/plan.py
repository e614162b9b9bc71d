"""The plan: every source once, with an id and a shard that never change again."""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harvest.address import VIDEO_SUFFIXES, canonical, identify, is_url
from skelcore.errors import InputError
from skelcore.files import write_text

LIST_SUFFIXES = {".txt", ".csv", ".jsonl"}
_DEEPEST = 20


@dataclass(frozen=True, slots=True)
class Source:
    """One video: ``address`` is a URL or an absolute path, ``meta`` what its list says of it (label, licence ...)."""

    id: str
    address: str
    meta: dict[str, Any] = field(default_factory=dict)
    shard: int = -1

    @property
    def is_url(self) -> bool:
        return is_url(self.address)


def update(path: Path, sources: Iterable[Source], shard_size: int) -> list[Source]:
    """The frozen plan at ``path``, first extended by the (expanded) sources that it lacks.

    New sources get new shards in the order of their addresses; what was planned before keeps id and shard. Raises
    InputError for a damaged plan and for one id with two addresses. A source planned before keeps its id.
    """
    plan, extended = merge(path, sources, shard_size)
    if extended:
        lines = (json.dumps({"id": s.id, "address": s.address, "shard": s.shard, "meta": s.meta}, sort_keys=True)
                 for s in plan)
        write_text(path, "".join(f"{line}\n" for line in lines))
    return plan


def merge(path: Path, sources: Iterable[Source], shard_size: int) -> tuple[list[Source], bool]:
    """What ``update`` would write, and whether it differs from what is there."""
    planned = {source.id: source for source in read(path)} if path.exists() else {}
    addresses = {source.address for source in planned.values()}
    fresh = []
    for source in sources:
        if source.address in addresses:
            continue
        known = planned.get(source.id)
        if known is None:
            fresh.append(source)
        else:
            raise InputError(f"id {source.id!r} stands for {known.address} in {path}, now for {source.address}: "
                             "choose another id or another output")
    fresh.sort(key=lambda source: (source.address, source.id))
    first = 1 + max((source.shard for source in planned.values()), default=-1)
    new = [Source(s.id, s.address, s.meta, first + i // shard_size) for i, s in enumerate(fresh)]
    return [*planned.values(), *new], bool(new)


def read(path: Path) -> list[Source]:
    """The plan as written; raises InputError where it is damaged."""
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read the plan: {error}; restore the file or use another output") from None
    sources = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            row = json.loads(line)
            sources.append(Source(str(row["id"]), str(row["address"]), dict(row["meta"]), int(row["shard"])))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise InputError(f"{path}, line {number}: not a line of a plan; restore the file or use "
                             "another output") from None
    return sources


def expand(sources: Iterable[str]) -> list[Source]:
    """Every source once, unplanned: the same set whatever the order and however often one is named.

    The id and columns that a list gives a source hold wherever else it is named. Raises InputError for sources that
    do not exist, lists that cannot be read, one id for two addresses, and rows that differ over one address.
    """
    found: dict[str, Source] = {}
    for source in _rows(sources):
        known = found.get(source.address)
        found[source.address] = source if known is None else _united(known, source)
    addresses: dict[str, str] = {}
    for source in found.values():
        other = addresses.setdefault(source.id, source.address)
        if other != source.address:
            raise InputError(f"id {source.id!r} stands for two sources: {other} and {source.address}")
    return list(found.values())


def _united(a: Source, b: Source) -> Source:
    """One source from two mentions of its address."""
    if a.meta and b.meta and a.meta != b.meta:
        raise InputError(f"{a.address} is listed twice with different columns: {a.meta} and {b.meta}")
    given = sorted({a.id, b.id} - {identify(a.address)})
    if len(given) > 1:
        raise InputError(f"{a.address} is listed under two ids: {given[0]!r} and {given[1]!r}")
    return Source(given[0] if given else a.id, a.address, a.meta or b.meta)


def _source(text: str, folder: Path, meta: dict[str, Any] | None = None, name: str | None = None) -> Source:
    address = canonical(text) if is_url(text) else os.path.abspath(folder / os.path.expanduser(text))
    if name is None:
        return Source(identify(address), address, meta or {})
    safe = re.fullmatch(r"[A-Za-z0-9_-]{1,90}", name)
    return Source(name if safe else identify(name), address, meta or {})


def _rows(sources: Iterable[str]) -> Iterator[Source]:
    here = Path.cwd()
    for text in sources:
        path = Path(os.path.expanduser(text))
        if is_url(text):
            yield _source(text, here)
        # Unlike their namesakes in pathlib, these take an impossible name for an absent one.
        elif os.path.isdir(path):
            inside = sorted(_videos(path))
            if not inside:
                raise InputError(f"sources: the folder {text} holds no video ({' '.join(sorted(VIDEO_SUFFIXES))})")
            yield from (_source(name, here) for name in inside)
        elif path.suffix.lower() in LIST_SUFFIXES and os.path.isfile(path):
            listed = list(_listed(path))
            if not listed:
                raise InputError(f"{path}: no source in this list")
            yield from listed
        elif os.path.exists(path):
            yield _source(text, here)
        elif any(mark in text for mark in "*?["):
            matches = sorted(m for m in glob.glob(str(path), recursive=True) if not os.path.isdir(m))
            if not matches:
                raise InputError(f"sources: nothing matches {text}")
            yield from _rows(matches)
        else:
            raise InputError(f"sources: no such file or folder: {text}")


def _videos(folder: Path) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise InputError(f"sources: cannot read the folder {error.filename}: {error.strerror}")

    for parent, _, names in os.walk(folder, onerror=refuse):
        yield from (os.path.join(parent, name) for name in names if Path(name).suffix.lower() in VIDEO_SUFFIXES)


def _listed(path: Path) -> Iterator[Source]:
    """The rows of a list file; relative paths in it start from its own folder."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read the list: {error}") from None
    if path.suffix.lower() == ".txt":
        lines = (line.strip() for line in text.split("\n"))
        yield from (_source(line, path.parent) for line in lines if line and not line.startswith("#"))
        return
    for number, row in _json_rows(path, text) if path.suffix.lower() == ".jsonl" else _csv_rows(path, text):
        row = {key: str(value) if key in ("label", "split") else value for key, value in row.items()
               if value not in (None, "")}
        url, file, name = row.pop("url", None), row.pop("path", None), row.pop("id", None)
        if (url is None) == (file is None):
            raise InputError(f"{path}, line {number}: needs either url or path")
        if url is not None and not is_url(str(url)):
            raise InputError(f"{path}, line {number}: url {url!r} has no scheme such as https://")
        yield _source(str(url or file), path.parent, row, None if name is None else str(name))


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="", strict=True)
    try:
        if not {"url", "path"} & set(reader.fieldnames or ()):
            raise InputError(f"{path}: the first line must name a column url or path")
        for row in reader:
            if "" in row:
                raise InputError(f"{path}, line {reader.line_num}: more fields than the first line names")
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.reader.line_num}: {error}") from None


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            # What cannot be written later must not come in: infinite numbers, lone surrogates, a pit of brackets.
            json.dumps(row, allow_nan=False, ensure_ascii=False).encode()
            fine = isinstance(row, dict) and _depth(row) <= _DEEPEST
        except (ValueError, RecursionError):
            fine = False
        if not fine:
            raise InputError(f"{path}, line {number}: not a JSON object of valid text and finite numbers, "
                             f"at most {_DEEPEST} levels deep")
        yield number, row
