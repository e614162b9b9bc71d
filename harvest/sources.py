"""Sources: what the user names (files, folders, globs, URLs, lists of them) as single videos and clips."""

from __future__ import annotations

import csv
import glob
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, TextIO

import fsspec

from harvest.address import VIDEO_SUFFIXES, Clip, canonical, cut, identify, is_url, is_web, seconds, split
from skelcore.errors import InputError
from skelcore.remote import missing, reaching

LIST_SUFFIXES = {".txt", ".csv", ".jsonl"}
_DEEPEST = 20


@dataclass(frozen=True, slots=True)
class Source:
    """One video, or one clip of a video: ``meta`` is what its list says of it (label, licence ...).

    ``address`` is a URL or an absolute path, and for a clip ends in a media fragment such as ``#t=10,12.5``.
    """

    id: str
    address: str
    meta: dict[str, Any] = field(default_factory=dict)
    shard: int = -1

    @property
    def is_url(self) -> bool:
        return is_url(self.address)

    @property
    def location(self) -> str:
        """The address of the whole video."""
        return split(self.address)[0]

    @property
    def clip(self) -> Clip | None:
        """Start and end in seconds (infinite: to the end of the video), or None for the whole video."""
        return split(self.address)[1]


def expand(named: Iterable[str]) -> Iterator[Source]:
    """The unplanned sources that ``named`` stands for, one by one; ``harvest.plan`` unites those that come twice.

    Files, folders, globs and lists may lie on this machine or at any fsspec URL (s3://, gs://, hf:// ...), but what
    http:// and https:// lead to is a video. Raises InputError for what does not exist or cannot be read, naming the
    list and its line, and RunError where a remote file system fails.
    """
    for text in named:
        if is_web(text):
            yield _source(canonical(text))
        elif is_url(text):
            yield from _remote(canonical(text))
        else:
            yield from _local(text)


def unite(a: Source, b: Source) -> Source:
    """One source from two mentions of an address: the id and the columns that a list gives hold wherever else it is.

    Raises InputError for two given ids and for columns that differ.
    """
    if a.meta and b.meta and a.meta != b.meta:
        raise InputError(f"{a.address} is listed twice with different columns: {a.meta} and {b.meta}")
    given = sorted({a.id, b.id} - {identify(a.address)})
    if len(given) > 1:
        raise InputError(f"{a.address} is listed under two ids: {given[0]!r} and {given[1]!r}")
    return Source(given[0] if given else a.id, a.address, a.meta or b.meta)


def _source(location: str, start: float = 0.0, end: float = math.inf, meta: dict[str, Any] | None = None,
            name: str | None = None) -> Source:
    # On the web a fragment never reaches here; in a file's name one is part of the name.
    address = cut(location, start, end)
    if name is None:
        return Source(identify(address), address, meta or {})
    safe = re.fullmatch(r"[A-Za-z0-9_-]{1,90}", name)
    return Source(name if safe else identify(name), address, meta or {})


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _local(text: str) -> Iterator[Source]:
    path = os.path.expanduser(text)
    # Unlike their namesakes in pathlib, these take an impossible name for an absent one.
    if os.path.isdir(path):
        inside = sorted(_videos(path))
        if not inside:
            raise InputError(f"sources: the folder {text} holds no video ({' '.join(sorted(VIDEO_SUFFIXES))})")
        yield from (_source(os.path.abspath(name)) for name in inside)
    elif _suffix(path) in LIST_SUFFIXES and os.path.isfile(path):
        folder = os.path.dirname(os.path.abspath(path))

        def locate(row: str) -> str:
            return canonical(row) if is_url(row) else os.path.abspath(os.path.join(folder, os.path.expanduser(row)))

        with reaching(path), open(path, encoding="utf-8-sig", newline=_newline(path)) as lines:
            yield from _listed(path, lines, locate)
    elif os.path.exists(path):
        yield _source(os.path.abspath(path))
    elif glob.has_magic(text):
        matches = sorted(name for name in glob.glob(path, recursive=True) if not os.path.isdir(name))
        if not matches:
            raise InputError(f"sources: nothing matches {text}")
        for name in matches:
            yield from _local(name)
    else:
        raise InputError(f"sources: no such file or folder: {text}")


def _videos(folder: str) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise InputError(f"sources: cannot read the folder {error.filename}: {error.strerror}")

    for parent, _, names in os.walk(folder, onerror=refuse):
        yield from (os.path.join(parent, name) for name in names if _suffix(name) in VIDEO_SUFFIXES)


def _remote(uri: str) -> Iterator[Source]:
    if "::" in uri:
        raise InputError(f"sources: {uri}: chained file systems are not taken; name the files themselves")
    with reaching(f"sources: {uri}"):
        files, root = fsspec.core.url_to_fs(uri)
        paths = _matches(files, root, uri)
    for path in paths:
        address = _spelling(files, root, uri, path)
        if _suffix(path) not in LIST_SUFFIXES:
            yield _source(address)
            continue

        def locate(row: str, folder: str = address.rpartition("/")[0]) -> str:
            inside = PurePosixPath(row)
            if is_url(row):
                return canonical(row)
            # A list from elsewhere has no say over files of this machine or beside its own folder.
            if inside.is_absolute() or ".." in inside.parts:
                raise ValueError(f"path {row!r} leads out of the folder of the list")
            return f"{folder}/{inside}"

        with (reaching(address), files.open(path, "r", encoding="utf-8-sig", newline=_newline(path)) as lines):
            yield from _listed(address, lines, locate)


def _matches(files: fsspec.AbstractFileSystem, root: str, uri: str) -> list[str]:
    """The file, the videos below the folder, or the files that match the glob."""
    try:
        kind = files.info(root)["type"]
    except FileNotFoundError as error:
        if not missing(error) or not glob.has_magic(root):
            raise
        found = sorted(path for path, info in files.glob(root, detail=True).items() if info["type"] == "file")
        if not found:
            raise InputError(f"sources: nothing matches {uri}") from None
        return found
    if kind != "directory":
        return [root]
    found = sorted(path for path in files.find(root) if _suffix(path) in VIDEO_SUFFIXES)
    if not found:
        raise InputError(f"sources: the folder {uri} holds no video ({' '.join(sorted(VIDEO_SUFFIXES))})")
    return found


def _spelling(files: fsspec.AbstractFileSystem, root: str, uri: str, path: str) -> str:
    """The URL of a path found below ``uri``, spelt as the user spells it: some file systems leave out their host."""
    named, tail = uri.rstrip("/"), root.lstrip("/")
    if tail and not named.endswith(tail):
        return str(files.unstrip_protocol(path))
    return (named[: -len(tail)] if tail else uri) + path.lstrip("/")


def _newline(path: str) -> str:
    """How a list is split: csv fields may hold line ends of their own, elsewhere only a line feed ends a row."""
    return "" if _suffix(path) == ".csv" else "\n"


def _listed(name: str, lines: TextIO, locate: Callable[[str], str]) -> Iterator[Source]:
    """The rows of a list; ``locate`` knows where relative paths in it start."""
    empty = True
    for source in _rows(name, lines, locate):
        empty = False
        yield source
    if empty:
        raise InputError(f"{name}: no source in this list")


def _rows(name: str, lines: TextIO, locate: Callable[[str], str]) -> Iterator[Source]:
    readers = {".txt": _text_rows, ".csv": _csv_rows, ".jsonl": _json_rows}
    for number, row in readers[_suffix(name)](name, lines):
        try:
            source = _row(row, locate)
        except ValueError as error:
            raise InputError(f"{name}, line {number}: {error}") from None
        yield source


def _row(row: dict[str, Any], locate: Callable[[str], str]) -> Source:
    meta = {key: str(value) if key in ("label", "split") else value for key, value in row.items()
            if value not in (None, "")}
    url, path, name = meta.pop("url", None), meta.pop("path", None), meta.pop("id", None)
    start = seconds(meta.pop("start")) if "start" in meta else 0.0
    end = seconds(meta.pop("end")) if "end" in meta else math.inf
    if (url is None) == (path is None):
        raise ValueError("needs either url or path")
    if url is not None and not is_url(str(url)):
        raise ValueError(f"url {url!r} has no scheme such as https://")
    if start >= end:
        raise ValueError(f"the clip's start {start:g} s is not before its end {end:g} s")
    return _source(locate(str(url or path)), start, end, meta, None if name is None else str(name))


def _text_rows(name: str, lines: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text and not text.startswith("#"):
            yield number, {"path": text}


def _csv_rows(name: str, lines: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(lines, restkey="", strict=True)
    try:
        if not {"url", "path"} & set(reader.fieldnames or ()):
            raise InputError(f"{name}: the first line must name a column url or path")
        for row in reader:
            if "" in row:
                raise InputError(f"{name}, line {reader.line_num}: more fields than the first line names")
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{name}, line {reader.reader.line_num}: {error}") from None


def _json_rows(name: str, lines: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
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
            raise InputError(f"{name}, line {number}: not a JSON object of valid text and finite numbers, "
                             f"at most {_DEEPEST} levels deep")
        yield number, row


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)
