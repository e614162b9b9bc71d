"""An output folder in an object store, and the copy on this machine in which a harvest works."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path

import fsspec

from harvest.address import identify
from skelcore.errors import RunError
from skelcore.files import atomic, cache_folder, write_text
from skelcore.remote import missing, reaching

_PARTS = "ledger"  # the folder of what the ledger says of each shard
_OWNER = ".owner"
_ACCOUNTS = ("plan.jsonl", "settings.json", "summary.json", "ATTRIBUTION.csv", "report.html", "duplicates.jsonl")
# All that is ever taken from there: what else lies in a bucket, under whatever name, has no say over this machine.
_OURS = re.compile(r"(?:shards|rejected)/[0-9]{6,12}\.(?:tar|index\.npz|manifest\.json|jsonl)"
                   r"|ledger/[0-9]{6,12}\.jsonl")
_PIECE = 1 << 20


class Mirror:
    """The output at ``url``, on any file system that fsspec knows, and its copy under ``root`` in the user's cache.

    All is written under ``root`` first. What others may rely on goes up when a shard is closed: the plan before any
    shard, a shard's manifest after its tar and its index, and last what the ledger says of the shard. What is under way
    stays here. Where the copy is lost, or is that of another machine, all that went up comes down again. Raises
    RunError where the store fails, and when another harvest has taken the output over; InputError for a wrong URL.
    """

    def __init__(self, url: str) -> None:
        self._url, self.root = url, cache_folder() / "outputs" / identify(url)
        with reaching(f"output={url}"):
            self._files, self._base = fsspec.core.url_to_fs(url)
        self._sent: dict[str, tuple[int, int]] = {}
        self._token = ""

    def peek(self, name: str, folder: Path) -> Path:
        """A file of the output as it is there, copied into a folder; nothing is there where it lacks it."""
        with reaching(f"{self._url}/{name}"):
            content = self._read(name)
        if content is not None:
            (folder / name).write_bytes(content)
        return folder / name

    def open(self) -> None:
        """Make the copy the one that counts, after it has been brought up to date where it was not that before."""
        path = self.root / _OWNER
        with reaching(f"output={self._url}"):
            self._files.invalidate_cache()
            owner = self._read(_OWNER)
            here = path.read_bytes() if path.exists() else None
            if owner is None or owner != here:
                path.unlink(missing_ok=True)
                self._fetch()
                here = uuid.uuid4().hex.encode()
                self._files.pipe_file(self._at(_OWNER), here)
                write_text(path, here.decode())
        self._token = here.decode()

    def send_shard(self, shard: int, ledger: Iterable[str]) -> None:
        """Bring a shard's files up as they are here, gone ones too, and then these lines of the ledger."""
        with reaching(f"output={self._url}", "cannot be written"):
            self._check_owner()
            self._send_changed("plan.jsonl")
            self._send_changed("settings.json")
            for folder in ("rejected", "shards"):
                self._send_tar(f"{folder}/{shard:06d}")
            self._send_changed(f"rejected/{shard:06d}.jsonl")
            self._files.pipe_file(self._at(f"{_PARTS}/{shard:06d}.jsonl"), "".join(ledger).encode())

    def send_accounts(self) -> None:
        """Bring up plan, settings, summary, attribution and report, where they have changed."""
        with reaching(f"output={self._url}", "cannot be written"):
            self._check_owner()
            for name in _ACCOUNTS:
                self._send_changed(name)

    def _send_tar(self, stem: str) -> None:
        manifest = self.root / f"{stem}.manifest.json"
        here, there = manifest.read_bytes() if manifest.exists() else None, self._read(f"{stem}.manifest.json")
        if here == there:
            return
        # An old manifest must never vouch for a new tar.
        names = [f"{stem}{suffix}" for suffix in (".manifest.json", ".tar", ".index.npz")]
        if there is not None:
            for name in names if here is None else names[:1]:
                self._files.rm_file(self._at(name))
        if here is not None:
            for name in [*names[1:], names[0]]:
                self._files.put_file(str(self.root / name), self._at(name))

    def _send_changed(self, name: str) -> None:
        path = self.root / name
        if not path.exists():
            return
        stat = path.stat()
        state = stat.st_size, stat.st_mtime_ns
        if self._sent.get(name) != state:
            self._files.put_file(str(path), self._at(name))
            self._sent[name] = state

    def _check_owner(self) -> None:
        if (self._read(_OWNER) or b"").decode(errors="replace") != self._token:
            raise RunError(f"output={self._url}: another harvest has taken it over; let that one finish")

    def _fetch(self) -> None:
        """Replace the copy by what is there; the ledger is put together from its parts."""
        for path in self.root.iterdir():
            if path.name != ".lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        found = self._files.find(self._base) if self._files.exists(self._base) else []
        prefix = self._base.rstrip("/") + "/"
        names = sorted(path.removeprefix(prefix) for path in found if path.startswith(prefix))
        names = [name for name in names if name in _ACCOUNTS or _OURS.fullmatch(name)]
        for name in names:
            with atomic(self.root / name) as target, self._files.open(self._at(name), "rb") as source:
                shutil.copyfileobj(source, target, _PIECE)
        parts = [self.root / name for name in names if name.startswith(f"{_PARTS}/")]
        if parts:
            with atomic(self.root / "ledger.jsonl") as target:
                for path in parts:
                    target.write(path.read_bytes())
        shutil.rmtree(self.root / _PARTS, ignore_errors=True)

    def _read(self, name: str) -> bytes | None:
        try:
            return bytes(self._files.cat_file(self._at(name)))
        except FileNotFoundError as error:
            if missing(error):
                return None
            raise

    def _at(self, name: str) -> str:
        return f"{self._base.rstrip('/')}/{name}"
