"""Getting a source's video file: local files as they are, buckets through fsspec, the web directly or by yt-dlp."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from harvest import direct, ytdlp
from harvest.address import is_bucket
from harvest.causes import explain, plain
from harvest.config import Harvest
from harvest.law import OptOut, Permit
from harvest.meter import Meter
from harvest.reasons import VideoError
from harvest.sources import Source
from harvest.web import cookies, fetchable
from skelcore.remote import missing

_ONE_HOST = {"youtu.be": "youtube.com", "youtube-nocookie.com": "youtube.com"}
_PIECE = 1 << 20


@dataclass(frozen=True)
class Fetched:
    """A video file on this machine, and what its site says of it."""

    path: Path
    info: dict[str, str]


def fetch(source: Source, folder: Path, config: Harvest) -> Fetched:
    """The source's file: where it lies if it is local, else as ``folder / "video"``.

    One attempt, without a pause. Raises VideoError with a named reason, and InputError for a cookie file or an opt-out
    list that cannot be read.
    """
    address = source.location
    if not source.is_url:
        return Fetched(_local(Path(address), config), {})
    path = folder / "video"
    if fetchable(address):
        return Fetched(path, _from_web(source, path, config))
    if is_bucket(address):
        _from_bucket(address, path, config)
        return Fetched(path, {})
    raise VideoError("invalid", "only http://, https:// and bucket addresses are fetched")


def host(address: str) -> str | None:
    """The host that must be asked politely: one name for all that are one site, None for local files and buckets."""
    if not fetchable(address):
        return None
    name = (urlsplit(address).hostname or "").lower().rstrip(".")
    for prefix in ("www.", "m.", "music."):
        if name.removeprefix(prefix) in ("youtube.com", "youtube-nocookie.com") or prefix == "www.":
            name = name.removeprefix(prefix)
    return _ONE_HOST.get(name, name)


def check(config: Harvest) -> None:
    """Raises InputError for files named in the configuration that no download could use."""
    cookies(config.fetch.cookies)
    OptOut.read(config.law.opt_out)


def _local(path: Path, config: Harvest) -> Path:
    try:
        if not path.is_file():
            raise VideoError("missing", f"{path.name} is not there")
        Meter(config).announced(path.stat().st_size)
        path.open("rb").close()
    except OSError as error:
        reason = "invalid" if error.errno == errno.ENAMETOOLONG else "unreadable"
        raise VideoError(reason, f"{path.name[:100]}: {error.strerror}") from None
    return path


def _from_web(source: Source, path: Path, config: Harvest) -> dict[str, str]:
    """A site's own extractor first; else the address is opened, and only a page is left to yt-dlp."""
    permit, url = Permit(source, config), source.location
    permit.begin()
    if ytdlp.knows(url):
        permit.visit(url)
    else:
        try:
            return direct.download(url, path, config, permit)
        except direct.Page as page:
            url = page.url
    path.unlink(missing_ok=True)
    return ytdlp.download(url, path, host(url), config, permit, source.clip)


def _from_bucket(address: str, path: Path, config: Harvest) -> None:
    import fsspec

    meter = Meter(config)
    try:
        system, name = fsspec.url_to_fs(address)
        meter.announced(system.size(name))
        with system.open(name, "rb") as stored, path.open("wb") as file:
            while piece := stored.read(_PIECE):
                file.write(piece)
                meter.received(file.tell())
    except VideoError:
        raise
    except FileNotFoundError as error:
        raise VideoError("missing" if missing(error) else "network", plain(str(error))) from None
    except PermissionError as error:
        raise VideoError("unreadable", plain(str(error))) from None
    except (ImportError, ValueError, IsADirectoryError) as error:
        raise VideoError("invalid", plain(str(error))) from None
    except Exception as error:  # every remote file system has its own kinds of error
        found = explain(error, str(path.parent))
        raise VideoError("network", found.detail) if found.reason == "download" else found from None
