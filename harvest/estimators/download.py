"""Model files by path or URL: fetched once into the user's cache, believed only if their hash is the expected one.

A download that breaks off is kept as ``.part`` and goes on from there, in this call or the next. One process fetches
a file while the others wait for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import re
import sys
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import unquote, urlsplit

from skelcore.errors import InputError, RunError
from skelcore.files import cache_folder

CACHE_VARIABLE = "SKELSHOT_CACHE"
_TRIES, _WAIT_SECONDS, _TIMEOUT_SECONDS = 4, 1.0, 30
_MOST_BYTES = 4_000_000_000
_CHUNK = 1 << 16  # what a cut may cost


@dataclass(frozen=True)
class Weights:
    """The content of a model file, what to call it in messages, and its hash."""

    name: str
    content: bytes
    sha256: str


def load(source: str, sha256: str | None = None) -> Weights:
    """The file at a path, or at a URL by way of the cache.

    Raises InputError for a path that cannot be read, a URL of another kind than http(s) or without a hash, and a file
    of another hash; RunError when a URL cannot be fetched.
    """
    if "://" in source:
        if not source.lower().startswith(("http://", "https://")):
            raise InputError(f"{source}: model files come from paths and http or https URLs")
        if not sha256:
            raise InputError(f"{source}: a URL needs the sha256 of its file")
        path = _fetched(source, sha256.lower())
    else:
        path = Path(source).expanduser()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{source}: cannot read the model file ({error.strerror})") from None
    found = hashlib.sha256(content).hexdigest()
    if sha256 and found != sha256.lower():
        raise InputError(f"{source}: sha256 is {found}, not {sha256.lower()} as configured")
    return Weights(_name(source), content, found)


def unzipped(weights: Weights, suffix: str) -> Weights:
    """The one member of that suffix, where the file is a zip archive; the hash stays that of the archive."""
    if not weights.content.startswith(b"PK\3\4"):
        return weights
    try:
        with zipfile.ZipFile(io.BytesIO(weights.content)) as archive:
            members = [each for each in archive.namelist() if each.endswith(suffix)]
            if len(members) != 1:
                raise InputError(f"{weights.name}: the archive holds {len(members)} {suffix} files; it must hold one")
            with archive.open(members[0]) as member:
                content = member.read(_MOST_BYTES + 1)  # bounded: the declared length may be a lie
    except (OSError, EOFError, RuntimeError, NotImplementedError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{weights.name}: cannot be read as a zip archive ({error})") from None
    return Weights(weights.name, content, weights.sha256)


@contextlib.contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """One process at a time fills the cache while the others wait; RunError when the cache cannot be written."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with open(lock, "w") as file:
            # Some network file systems know no locks: then processes may download twice, and the last one wins whole.
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise RunError(f"cannot write the model cache {lock.parent} ({error.strerror}); set {CACHE_VARIABLE} to a "
                       "folder that can be written") from error


def _fetched(url: str, sha256: str) -> Path:
    path = cache_folder() / "weights" / f"{sha256[:12]}-{_name(url)}"
    if not _is(path, sha256):
        with exclusive(path.with_name(f".{path.name}.lock")):
            if not _is(path, sha256):  # another process may have fetched it while this one waited
                print(f"fetching {url} once into {path.parent}", file=sys.stderr, flush=True)
                _download(url, path, sha256)
    return path


def _download(url: str, path: Path, sha256: str) -> None:
    part = path.with_name(f"{path.name}.part")
    reason = ""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_WAIT_SECONDS * attempt)
        held = part.stat().st_size if part.exists() else 0
        refusal = _go_on(url, part, held)
        if refusal is None and _is(part, sha256):
            os.replace(part, path)
            return
        if refusal is None:
            part.unlink(missing_ok=True)
            if not held:
                raise RunError(f"{url}: the file there has another sha256 than the configured {sha256[:12]}...; "
                               "nothing of it was kept")
            refusal = "what a former download left does not fit", True
        reason, again = refusal
        if not again:
            break
    raise RunError(f"{url}: cannot be fetched ({reason}); fetch it where there is a network and put it as {path}")


def _go_on(url: str, part: Path, held: int) -> tuple[str, bool] | None:
    """Appends to ``part`` what lies beyond its ``held`` bytes; else why not, and whether to try again."""
    request = urllib.request.Request(url, headers={"User-Agent": "SkelShot", **(
        {"Range": f"bytes={held}-"} if held else {})})
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing lies beyond: the part is whole, or of another file
            return None
        return f"HTTP {error.code}", error.code >= 500 or error.code == 429
    except (OSError, HTTPException, ValueError) as error:
        return str(getattr(error, "reason", error)), True
    with answer:
        return _copy(answer, part, held)


def _copy(answer: HTTPResponse, part: Path, held: int) -> tuple[str, bool] | None:
    continues = held > 0 and answer.status == 206
    start = held if continues else 0
    if continues and not (answer.headers.get("Content-Range") or "").startswith(f"bytes {held}-"):
        part.unlink()
        return "the server answered with another part than asked for", True
    length = answer.headers.get("Content-Length") or ""
    expected = start + int(length) if length.isdigit() else None
    size = start
    with open(part, "ab" if continues else "wb") as file:
        try:
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                size += len(chunk)
                if size > _MOST_BYTES:
                    break
        except (TimeoutError, ConnectionError, HTTPException) as error:
            return f"broke off after {size} bytes: {error}", True
        finally:
            file.flush()
            os.fsync(file.fileno())
    if size > _MOST_BYTES:
        part.unlink()
        return f"more than {_MOST_BYTES} bytes", False
    if expected is not None and size < expected:
        return f"broke off after {size} of {expected} bytes", True
    return None


def _is(path: Path, sha256: str) -> bool:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False


def _name(source: str) -> str:
    """The last part of a path or URL as a plain file name."""
    last = unquote(urlsplit(source).path).rstrip("/").rsplit("/", 1)[-1] if "://" in source else Path(source).name
    return re.sub(r"[^\w.-]", "_", last)[-80:].lstrip(".") or "model"
