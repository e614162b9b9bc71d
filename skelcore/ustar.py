"""POSIX ustar archives: written deterministically, read strictly from any stream."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from typing import IO

from skelcore.errors import InputError

_SECTOR = 512


def write(file: IO[bytes], members: Iterable[tuple[str, bytes]]) -> None:
    """Write an archive whose bytes depend on nothing but the members (name, data)."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)  # mtime 0, uid and gid 0, mode 0644, no user names
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def members(file: IO[bytes], name: str, limit: int) -> Iterator[tuple[str, int, bytes]]:
    """Name, data offset and data of each member of an archive of at most ``limit`` bytes; ``file`` need not seek.

    Knows regular files in the archive's root and refuses all else with an InputError. The standard library's reader
    follows links, extended headers and sparse maps and takes a damaged header for the end of the archive; here each
    of these is an error.
    """
    position = 0
    while True:
        header = file.read(_SECTOR)
        position += _SECTOR
        if len(header) == _SECTOR and not any(header):
            return
        member, size = _parse(header, name)
        padded = -(-size // _SECTOR) * _SECTOR
        data = file.read(padded) if position + padded <= limit else b""
        if len(data) < padded:
            raise InputError(f"{name}: truncated in member {member!r}; fetch or harvest the shard again")
        yield member, position, data[:size]
        position += padded


def _parse(header: bytes, name: str) -> tuple[str, int]:
    """Member name and size."""
    if len(header) < _SECTOR:
        raise InputError(f"{name}: truncated; fetch or harvest the shard again")
    try:
        member = header[:100].rstrip(b"\0").decode("ascii")
        size, checksum = (int(header[part].rstrip(b"\0 "), 8) for part in (slice(124, 136), slice(148, 156)))
    except ValueError:
        raise InputError(f"{name}: damaged tar header; fetch or harvest the shard again") from None
    if sum(header[:148]) + 8 * ord(" ") + sum(header[156:]) != checksum or header[257:263] != b"ustar\0" or size < 0:
        raise InputError(f"{name}: damaged tar header; fetch or harvest the shard again")
    if header[156:157] != b"0" or any(header[157:257]) or any(header[345:500]) or "/" in member:
        raise InputError(f"{name}: refused member {member!r}: not a plain file in the archive's root")
    return member, size
