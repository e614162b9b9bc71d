"""Folder: a run's output, on this machine or at any fsspec URL, whose files are at all times whole."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from skelcore.errors import InputError
from skelcore.files import atomic
from skelcore.remote import reaching


class Folder:
    """The files directly in a folder, by name; raises InputError for a place that cannot be written to.

    Every file appears under its name only when it is complete. On a remote file system it is made in a temporary
    folder here, copied beside its place, and moved there.
    """

    def __init__(self, uri: str, field: str = "output") -> None:
        self.uri, self.field = uri, field
        with reaching(f"{field}={uri}", "cannot be reached"):
            self._files, self._root = fsspec.core.url_to_fs(uri)

    @property
    def local(self) -> Path | None:
        """The path on this machine, or None."""
        return Path(self._root) if isinstance(self._files, LocalFileSystem) else None

    def create(self) -> None:
        """Make the folder; raises InputError where that is not possible."""
        if self.local is not None:
            try:
                self.local.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{self.field}={self.uri}: cannot be written: {error.strerror}") from None
        else:
            with reaching(f"{self.field}={self.uri}", "cannot be written"):
                self._files.makedirs(self._root, exist_ok=True)

    def write(self, name: str, writer: Callable[[Path], None]) -> None:
        """Put what ``writer`` writes to the path that it is given (whole or not at all) under ``name``."""
        if self.local is not None:
            writer(self.local / name)
            return
        with tempfile.TemporaryDirectory() as here:
            writer(Path(here) / name)
            with reaching(self.place(name), "cannot be written"):
                part = self._path(f".{name}.{uuid.uuid4().hex}.tmp")
                self._files.put_file(str(Path(here) / name), part)
                self._files.mv(part, self._path(name))

    def read(self, name: str, reader: Callable[[Path], object]) -> object:
        """What ``reader`` makes of the file, handed to it as a path on this machine."""
        if self.local is not None:
            return reader(self.local / name)
        with tempfile.TemporaryDirectory() as here:
            with reaching(self.place(name)):
                self._files.get_file(self._path(name), str(Path(here) / name))
            return reader(Path(here) / name)

    def names(self) -> list[str]:
        """The names of the files, sorted; none for a folder that is not there."""
        with reaching(f"{self.field}={self.uri}", "cannot be listed"):
            self._files.invalidate_cache()
            if not self._files.isdir(self._root):
                return []
            return sorted(path.rstrip("/").rpartition("/")[2] for path in self._files.ls(self._root, detail=False))

    def copy(self, name: str, to: str) -> None:
        """Put a file under a second name, too."""
        self.write(to, lambda path: self._copy(name, path))

    def remove(self, name: str) -> None:
        """Delete a file."""
        with reaching(self.place(name), "cannot be deleted"):
            self._files.rm_file(self._path(name))

    def place(self, name: str) -> str:
        """Where the file is, for people to read."""
        return f"{self.uri.rstrip('/')}/{name}"

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _copy(self, name: str, path: Path) -> None:
        if self.local is not None:
            path.unlink(missing_ok=True)
            try:
                path.hardlink_to(self.local / name)
            except OSError:  # no hard links there, as on many network drives
                with (self.local / name).open("rb") as source, atomic(path) as target:
                    shutil.copyfileobj(source, target)
        else:
            self._files.get_file(self._path(name), str(path))
