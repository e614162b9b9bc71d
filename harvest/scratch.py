"""Folders for downloads: deleted after use, and found again when their process was killed."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "skelshot-video-"


@contextmanager
def folder() -> Iterator[str]:
    """A folder for one download, deleted on leaving the context; its name tells the host and process it belongs to."""
    # What cannot be deleted is no fault of the video; ``sweep`` tries again.
    with tempfile.TemporaryDirectory(prefix=f"{_own_prefix()}{os.getpid()}-", ignore_cleanup_errors=True) as path:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            # Some network file systems lock no folders; there the name alone protects it.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield path
        finally:
            os.close(descriptor)


def sweep() -> None:
    """Delete the download folders of processes that were killed on this host."""
    prefix = _own_prefix()
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        owner = path.name.removeprefix(prefix).partition("-")[0]
        # Containers may share a host name and this folder but not process ids, hence the lock as well.
        if owner.isdigit() and not _alive(int(owner)) and _unlocked(path):
            shutil.rmtree(path, ignore_errors=True)


def _own_prefix() -> str:
    return f"{_PREFIX}{re.sub(r'[^A-Za-z0-9]+', '_', socket.gethostname())}-"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _unlocked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
