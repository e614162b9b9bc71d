"""Pose shards: write them, verify them, and read sets of them as a store with random access.

A shard is NAME.tar (see ``shard_format``) with NAME.index.npz and NAME.manifest.json beside it. Each appears whole or
not at all, the manifest last; readers trust only tars that have one.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from skelcore import shard_format, shard_index, ustar
from skelcore.errors import InputError, RunError
from skelcore.files import atomic, cache_folder
from skelcore.remote import missing, reaching
from skelcore.shard_format import Block
from skelcore.shard_index import Manifest
from skelcore.shard_store import Shard, ShardStore

__all__ = ["Block", "Manifest", "ShardStore", "listed", "read", "stream", "verify", "write"]

logger = logging.getLogger(__name__)
_CHUNK = 1 << 20
_MANIFEST = ".manifest.json"
_NO_MANIFEST = "no manifest beside it, so its writer did not finish"


def write(path: str | Path, blocks: Iterable[Block]) -> Manifest:
    """Write a shard and its sidecars; the same blocks in any order give the same bytes.

    Raises InputError for a name without ``.tar``, for a key that occurs twice, for blocks in different layouts, and
    for what ``shard_format.encode`` refuses; nothing is written then.
    """
    path = Path(path)
    if path.suffix != ".tar":
        raise InputError(f"{path}: a shard's name ends in .tar")
    members: dict[str, bytes] = {}
    layout = None
    for block in blocks:
        names = shard_format.member_names(block.key)
        if names[0] in members:
            raise InputError(f"{path}: key {block.key!r} occurs twice")
        members.update(zip(names, shard_format.encode(block), strict=True))
        if layout not in (None, block.sequences[0].layout.name):
            raise InputError(f"{path}: layouts {layout} and {block.sequences[0].layout.name} in one shard")
        layout = block.sequences[0].layout.name
    index_path, manifest_path = Path(_index(path)), Path(_manifest(path))
    with atomic(path) as file:
        hashed = _Hashed(file)
        ustar.write(cast(IO[bytes], hashed), sorted(members.items()))
        sha256, size = hashed.sha256.hexdigest(), file.tell()
        # An older shard of that name loses its manifest before its tar, or the old one would vouch for the new tar.
        if manifest_path.exists() and sha256.encode() not in manifest_path.read_bytes():
            manifest_path.unlink()
    with path.open("rb") as written:
        index = shard_index.scan(written, str(path), size, sha256)
    manifest = Manifest(schema_version=shard_format.SCHEMA, sha256=sha256, bytes=size, blocks=len(index.key),
                        tracks=len(index.block), frames=int((index.frames.astype("i8") * index.persons).sum()),
                        layout=layout)
    with atomic(index_path) as file:
        index.save(file)
    with atomic(manifest_path) as file:
        file.write(manifest.model_dump_json(indent=1).encode())
    return manifest


def read(uri: str | Path, only: Mapping[str, str] | None = None) -> ShardStore:
    """Open a shard, or all shards of a folder or glob, on this machine or at any fsspec URL.

    ``only`` is ``ShardStore.shards`` of an earlier time: exactly those are opened, in that order, told by content, so
    that they may lie elsewhere now.

    Local tars are memory-mapped. Remote ones are first fetched into the user's cache (``$SKELSHOT_CACHE``), checked
    against their manifests and named by content, so each is fetched once; ``stream`` reads them without a copy.
    Raises InputError when there is no trusted shard, when a shard named by itself has no manifest, when a manifest has
    no tar, and for a tar that is truncated; RunError when a server fails, or when one of ``only`` is not there.
    """
    files, paths, ignored = _find(str(uri))
    _warn(ignored)
    if only is not None:
        paths = _those(files, paths, only)
    local = isinstance(files, LocalFileSystem)
    return ShardStore([_open(path if local else _fetch(files, path), path) for path in paths], ignored)


def listed(uri: str | Path) -> list[str]:
    """The names of the trusted shards of a folder or glob, as ``read`` would open them now; reads none of them.

    Raises what ``read`` raises when it looks for them.
    """
    return _find(str(uri))[1]


def stream(uri: str | Path) -> Iterator[Block]:
    """The blocks of a shard, folder or glob at a path or URL, front to back, one block in memory at a time.

    Raises what ``read`` raises, and InputError at a block that departs from the format.
    """
    files, paths, ignored = _find(str(uri))
    _warn(ignored)
    for path in paths:
        with reaching(path):
            content = files.cat_file(_manifest(path))
        manifest = shard_index.parse_manifest(content, _manifest(path))
        with reaching(path), files.open(path, "rb") as file:
            for entry in shard_format.walk(file, path, manifest.bytes):
                yield shard_format.decode(entry)


def verify(path: str | Path) -> Manifest:
    """Read all of a local shard; raises InputError unless its bytes and counts are those of its manifest."""
    manifest = _open(str(path), str(path)).manifest
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != manifest.sha256:
            raise InputError(f"{path}: damaged: its sha256 is not the manifest's; fetch or harvest the shard again")
        file.seek(0)
        index = shard_index.scan(file, str(path), manifest.bytes, manifest.sha256)
    if not index.fits(manifest):
        raise InputError(f"{path}: its manifest counts other blocks, tracks or frames; harvest the shard again")
    return manifest


def _find(uri: str) -> tuple[fsspec.AbstractFileSystem, list[str], dict[str, str]]:
    """The file system, the trusted tars in it by name, and why others are not trusted."""
    with reaching(f"data={uri}", "cannot be listed"):
        files, root = fsspec.core.url_to_fs(uri)
        found = _listing(files, root)
        tars = sorted(path for path in found if path.endswith(".tar"))
        trusted = [path for path in tars if _manifest(path) in found or _present(files, _manifest(path))]
    orphans = sorted({path for path in found if path.endswith(_MANIFEST)}.difference(map(_manifest, tars)))
    if orphans:
        raise InputError(f"{orphans[0]}: a manifest without its tar: fetch the tar again, or delete the manifest"
                         + f" ({len(orphans)} such manifests)" * (len(orphans) > 1))
    ignored = {path: _NO_MANIFEST for path in sorted(set(tars).difference(trusted))}
    if not trusted:
        raise InputError(f"data={uri}: no pose shard (NAME.tar with NAME.manifest.json) is there"
                         + "".join(f"; {path} has {why}" for path, why in list(ignored.items())[:1]))
    return files, trusted, ignored


def _warn(ignored: dict[str, str]) -> None:
    for path, why in ignored.items():
        logger.warning("%s is ignored: %s", path, why)


def _those(files: fsspec.AbstractFileSystem, paths: list[str], only: Mapping[str, str]) -> list[str]:
    """Where the shards of an earlier time lie among ``paths``; the names say only what is missing."""
    found: dict[str, list[str]] = {}
    for path in paths:
        with reaching(path):
            content = files.cat_file(_manifest(path))
        found.setdefault(shard_index.parse_manifest(content, _manifest(path)).sha256, []).append(path)
    chosen = []
    for name, sha256 in only.items():
        if not found.get(sha256):
            there = PurePosixPath(name).name in {PurePosixPath(path).name for path in paths}
            raise RunError(f"{name}: the shard {'was replaced' if there else 'has vanished'} since the run was saved; "
                           "restore it, or begin a new run")
        chosen.append(found[sha256].pop(0))
    return chosen


def _listing(files: fsspec.AbstractFileSystem, root: str) -> set[str]:
    """The tars and manifests that a shard's name, a folder or a glob stands for."""
    # Only a name that ends so is asked for as a file, because over HTTP a folder is one too.
    if root.endswith(".tar") and _present(files, root):
        return {root}
    if files.isdir(root):
        found, inner = set(files.ls(root, detail=False)), f"{root.rstrip('/')}/shards"
        # The output folder of a harvest keeps its shards in a folder of that name.
        return found if any(map(_is_shard, found)) or not files.isdir(inner) else set(files.ls(inner, detail=False))
    if fsspec.core.has_magic(root):
        return {*files.glob(root), *files.glob(_manifest(root))}
    return {path for path in (_manifest(root),) if root.endswith(".tar") and _present(files, path)}


def _is_shard(path: str) -> bool:
    return path.endswith((".tar", _MANIFEST))


def _present(files: fsspec.AbstractFileSystem, path: str) -> bool:
    """Whether a file is there; unlike ``files.exists``, raises for a server that cannot say."""
    try:
        return bool(files.info(path)["type"] == "file")
    except FileNotFoundError as error:
        if missing(error):
            return False
        raise


def _open(path: str, name: str) -> Shard:
    tar = Path(path)
    try:
        manifest = shard_index.parse_manifest(Path(_manifest(path)).read_bytes(), _manifest(path))
        found = tar.stat()
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: no such file; a shard is NAME.tar with NAME.manifest.json") from None
    if found.st_size != manifest.bytes:
        raise InputError(f"{path}: {found.st_size} bytes, but its manifest says {manifest.bytes}: truncated or "
                         "replaced; fetch or harvest the shard again")
    index = shard_index.load(Path(_index(path)), tar, manifest)
    return Shard(tar, manifest, index, name, found.st_mtime_ns)


def _fetch(files: fsspec.AbstractFileSystem, path: str) -> str:
    """The path of a remote shard's copy in the cache."""
    with reaching(path):
        content = files.cat_file(_manifest(path))
    manifest = shard_index.parse_manifest(content, _manifest(path))
    copy = cache_folder() / "shards" / f"{manifest.sha256}.tar"
    if Path(_manifest(copy)).exists() and copy.exists() and copy.stat().st_size == manifest.bytes:
        return str(copy)
    logger.info("fetching %s (%.1f MB) to %s", path, manifest.bytes / 1e6, copy)
    with reaching(path, f"cannot be fetched to {copy}"):
        with atomic(copy) as target, files.open(path, "rb") as source:
            hashed = _Hashed(target)
            while chunk := source.read(_CHUNK):
                hashed.write(chunk)
            if hashed.sha256.hexdigest() != manifest.sha256:
                raise InputError(f"{path}: truncated or damaged: its sha256 is not the manifest's; upload it again")
        if files.exists(_index(path)):
            with atomic(_index(copy)) as target:
                target.write(files.cat_file(_index(path)))
        with atomic(_manifest(copy)) as target:
            target.write(content)
    return str(copy)


def _index(tar: str | Path) -> str:
    return str(tar).removesuffix(".tar") + ".index.npz"


def _manifest(tar: str | Path) -> str:
    return str(tar).removesuffix(".tar") + _MANIFEST


class _Hashed:
    """A file being written, and the sha256 of what went into it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.sha256, self.tell = file, hashlib.sha256(), file.tell

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self._file.write(data)
