"""The plan: every source once, with an id and a shard that never change again."""

from __future__ import annotations

import csv
import glob
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from skelcore.errors import InputError
from skelcore.files import write_text

VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".flv",
                  ".wmv", ".3gp", ".ogv"}
LIST_SUFFIXES = {".txt", ".csv", ".jsonl"}
_PORTS = {"http": 80, "https": 443}
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True, slots=True)
class Source:
    """One video: ``address`` is a URL or an absolute path, ``meta`` what its list says of it (label, licence ...)."""

    id: str
    address: str
    meta: dict[str, Any] = field(default_factory=dict)
    shard: int = -1

    @property
    def is_url(self) -> bool:
        return _URL.match(self.address) is not None


def update(path: Path, sources: Iterable[Source], shard_size: int) -> list[Source]:
    """The frozen plan at ``path``, first extended by the (expanded) sources that it lacks.

    New sources get new shards in the order of their addresses; what was planned before keeps id and shard. Raises
    InputError for a damaged plan and for one id with two addresses.
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
    fresh = []
    for source in sources:
        known = planned.get(source.id)
        if known is None:
            fresh.append(source)
        elif known.address != source.address:
            raise InputError(f"id {source.id!r} stands for {known.address} in {path}, now for {source.address}: "
                             "choose another id or another output")
    fresh.sort(key=lambda source: (source.address, source.id))
    first = 1 + max((source.shard for source in planned.values()), default=-1)
    new = [Source(s.id, s.address, s.meta, first + i // shard_size) for i, s in enumerate(fresh)]
    return [*planned.values(), *new], bool(new)


def read(path: Path) -> list[Source]:
    """The plan as written; raises InputError where it is damaged."""
    sources = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            sources.append(Source(str(row["id"]), str(row["address"]), dict(row["meta"]), int(row["shard"])))
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path}, line {number}: not a line of a plan; restore the file or use "
                             "another output") from None
    return sources


def expand(sources: Iterable[str]) -> list[Source]:
    """Every source once, unplanned: the same set whatever the order and however often one is named.

    Raises InputError for sources that do not exist, lists that cannot be read, and one id for two addresses.
    """
    found: dict[str, Source] = {}
    for source in _rows(sources):
        known = found.get(source.id)
        if known is None or (known.address == source.address and not known.meta):
            found[source.id] = source
        elif known.address != source.address:
            raise InputError(f"id {source.id!r} stands for two sources: {known.address} and {source.address}")
        elif source.meta and source.meta != known.meta:
            raise InputError(f"{source.address} is listed twice with different columns: {known.meta} and {source.meta}")
    return list(found.values())


def canonical(url: str) -> str:
    """One spelling for a URL: lower-case scheme and host, no default port, no fragment."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        return url.strip()
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    user = parts.netloc.rpartition("@")[0]
    location = (f"{user}@" if user else "") + host + (f":{port}" if port and port != _PORTS.get(parts.scheme) else "")
    return urlunsplit((parts.scheme.lower(), location, parts.path or "/", parts.query, ""))


def identify(address: str) -> str:
    """A readable id of letters, digits, ``_`` and ``-`` that is a function of the address alone."""
    if _URL.match(address):
        _, _, rest = address.partition("://")
        text = _slug(rest.rpartition("@")[2] if "@" in rest.split("/")[0] else rest)[-48:]
    else:
        text = _slug(Path(address).stem)[:48]
    return f"{text.strip('-') or 'video'}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")


def _source(text: str, folder: Path, meta: dict[str, Any] | None = None, name: str | None = None) -> Source:
    address = canonical(text) if _URL.match(text) else os.path.abspath(folder / os.path.expanduser(text))
    if name is None:
        return Source(identify(address), address, meta or {})
    safe = re.fullmatch(r"[A-Za-z0-9_-]{1,90}", name)
    return Source(name if safe else identify(name), address, meta or {})


def _rows(sources: Iterable[str]) -> Iterator[Source]:
    here = Path.cwd()
    for text in sources:
        path = Path(os.path.expanduser(text))
        if _URL.match(text):
            yield _source(text, here)
        elif path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
            if not inside:
                raise InputError(f"sources: the folder {text} holds no video ({' '.join(sorted(VIDEO_SUFFIXES))})")
            yield from (_source(str(p), here) for p in inside)
        elif path.suffix.lower() in LIST_SUFFIXES and path.is_file():
            yield from _listed(path)
        elif path.exists():
            yield _source(text, here)
        elif any(mark in text for mark in "*?["):
            matches = sorted(glob.glob(str(path), recursive=True))
            if not matches:
                raise InputError(f"sources: nothing matches {text}")
            yield from _rows(m for m in matches if not Path(m).is_dir())
        else:
            raise InputError(f"sources: no such file or folder: {text}")


def _listed(path: Path) -> Iterator[Source]:
    """The rows of a list file; relative paths in it start from its own folder."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read the list: {error}") from None
    if path.suffix.lower() == ".txt":
        lines = (line.strip() for line in text.splitlines())
        yield from (_source(line, path.parent) for line in lines if line and not line.startswith("#"))
        return
    for number, row in _json_rows(path, text) if path.suffix.lower() == ".jsonl" else _csv_rows(path, text):
        row = {key: str(value) if key in ("label", "split") else value for key, value in row.items()
               if value not in (None, "")}
        url, file, name = row.pop("url", None), row.pop("path", None), row.pop("id", None)
        if (url is None) == (file is None):
            raise InputError(f"{path}, line {number}: needs either url or path")
        if url is not None and not _URL.match(str(url)):
            raise InputError(f"{path}, line {number}: url {url!r} has no scheme such as https://")
        yield _source(str(url or file), path.parent, row, None if name is None else str(name))


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(text.splitlines(), restkey="", strict=True)
    if not {"url", "path"} & set(reader.fieldnames or ()):
        raise InputError(f"{path}: the first line must name a column url or path")
    try:
        for row in reader:
            if "" in row:
                raise InputError(f"{path}, line {reader.line_num}: more fields than the first line names")
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_refuse)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: not a JSON object")
        yield number, row
