"""Getting a source's video file: local files as they are, URLs through yt-dlp."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harvest import scratch
from harvest.config import FORMAT, Fetch, Limits
from harvest.plan import Source
from harvest.reasons import TRANSIENT, VideoError

_STATUS = {401: "forbidden", 403: "forbidden", 404: "gone", 410: "gone", 429: "rate_limited", 451: "forbidden"}
# Sites, and yt-dlp's downloader, say these only in prose; the first match counts.
_PHRASES = {
    "incomplete": ("more expected",),
    "bot_check": ("not a bot", "captcha", "for up to an hour"),
    "no_format": ("requested format is not available",),
    "unavailable": ("private video", "video unavailable", "has been removed", "members-only", "not available",
                    "age-restricted", "confirm your age"),
    "network": ("[download] got error", "timed out"),
}


@dataclass(frozen=True)
class Fetched:
    """A video file on this machine, and what its site says of it."""

    path: Path
    info: dict[str, str]


@contextmanager
def fetched(source: Source, fetch: Fetch, limits: Limits) -> Iterator[Fetched]:
    """The source's file; a download is deleted on leaving the context. Raises VideoError with a named reason."""
    if not source.is_url:
        yield Fetched(_local(Path(source.address), limits), {})
        return
    if not _is_web(source.address):
        raise VideoError("invalid", "only http:// and https:// addresses are fetched")
    with scratch.folder() as folder:
        yield _patiently(source.address, Path(folder), fetch, limits)


def _local(path: Path, limits: Limits) -> Path:
    try:
        if not path.is_file():
            raise VideoError("missing", f"{path.name} is not there")
        _check_size(path, limits)
        path.open("rb").close()
    except OSError as error:
        reason = "invalid" if error.errno == errno.ENAMETOOLONG else "unreadable"
        raise VideoError(reason, f"{path.name[:100]}: {error.strerror}") from None
    return path


def _is_web(url: str) -> bool:
    try:
        url.encode()
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _patiently(url: str, folder: Path, fetch: Fetch, limits: Limits) -> Fetched:
    for attempt in range(fetch.retries + 1):
        try:
            return _download(url, folder, fetch, limits)
        except VideoError as error:
            if error.reason not in TRANSIENT or attempt == fetch.retries:
                raise
        time.sleep(fetch.wait_seconds * 2**attempt)
    raise AssertionError("unreachable")


def _download(url: str, folder: Path, fetch: Fetch, limits: Limits) -> Fetched:
    from yt_dlp import YoutubeDL
    from yt_dlp.utils import YoutubeDLError

    log = _Log()
    refused: list[VideoError] = []

    def admit(info: dict[str, Any], *, incomplete: bool = False) -> str | None:
        # yt-dlp asks about a playlist before it walks through its items, and only then with this key.
        if "playlist_count" in info:
            refused.append(VideoError("unsupported", "a playlist, not one video"))
        elif info.get("is_live"):
            refused.append(VideoError("live"))
        elif (info.get("duration") or 0) > limits.max_seconds:
            refused.append(VideoError("too_long", f"{info['duration']:.0f} s, more than {limits.max_seconds:g} s"))
        return refused[-1].reason if refused else None

    def watch(status: dict[str, Any]) -> None:
        if (status.get("downloaded_bytes") or 0) > limits.max_bytes:
            raise VideoError("too_large")

    options = {
        "format": FORMAT, "format_sort": ["+res:360", "+size", "+br", "vcodec:h264"], "noplaylist": True,
        "cachedir": False, "retries": 1, "fragment_retries": 3, "extractor_retries": 2, "file_access_retries": 2,
        "skip_unavailable_fragments": False, "socket_timeout": 20, "geo_bypass": False, "fixup": "never",
        "concurrent_fragment_downloads": 1, **fetch.options,
        # The rest is what the harvest relies on.
        "outtmpl": "video.%(ext)s", "paths": {"home": str(folder), "temp": str(folder)}, "logger": log, "quiet": True,
        "noprogress": True, "progress_hooks": [watch], "match_filter": admit, "ignoreerrors": False,
        "max_filesize": limits.max_bytes, "postprocessors": [], "enable_file_urls": False,
    }
    try:
        with YoutubeDL(options) as downloader:
            info = downloader.extract_info(url, download=True)
    except VideoError:
        raise
    except (YoutubeDLError, OSError, ValueError) as error:
        reason = reason_of(error)
        raise VideoError(reason, _words(error, folder)) from None
    if refused:
        raise refused[0]
    # max_filesize leaves no file and no error.
    files = [path for path in folder.iterdir() if path.is_file() and path.suffix not in (".part", ".ytdl")]
    if not files:
        raise VideoError("too_large" if "max-filesize" in log.text else "download", "no file was written")
    path = max(files, key=lambda file: file.stat().st_size)
    _check_size(path, limits)
    return Fetched(path, _kept(info or {}))


def reason_of(error: BaseException) -> str:
    """The named reason of what yt-dlp raised, from the chain of causes rather than from the wrapper's text."""
    from yt_dlp.networking.exceptions import HTTPError, IncompleteRead, TransportError
    from yt_dlp.networking.exceptions import UnsupportedRequest as BadRequest
    from yt_dlp.utils import ContentTooShortError, GeoRestrictedError, UnsupportedError

    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, HTTPError):
            return _STATUS.get(link.status, "server" if link.status >= 500 else "download")
        if isinstance(link, IncompleteRead | ContentTooShortError):
            return "incomplete"
        if isinstance(link, GeoRestrictedError):
            return "geo"
        if isinstance(link, UnsupportedError):
            return "unsupported"
        if isinstance(link, BadRequest):
            return "invalid"
    text = str(error).lower()
    for reason, phrases in _PHRASES.items():
        if any(phrase in text for phrase in phrases):
            return reason
    if any(isinstance(link, TransportError | TimeoutError | ConnectionError) for link in chain):
        return "network"
    if "is not a valid url" in text:
        return "invalid"
    return "download"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes, as yt-dlp (exc_info, cause) and Python (__cause__, __context__) keep them."""
    waiting, seen = [error], set()
    while waiting:
        link = waiting.pop(0)
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        held = getattr(link, "exc_info", None)
        cause = getattr(link, "cause", None)
        waiting += [held[1] if isinstance(held, tuple) else None, cause if isinstance(cause, BaseException) else None,
                    link.__cause__, link.__context__]


def _check_size(path: Path, limits: Limits) -> None:
    size = os.path.getsize(path)
    if size > limits.max_bytes:
        raise VideoError("too_large", f"{size} bytes, more than {limits.max_bytes}")


def _kept(info: dict[str, Any]) -> dict[str, str]:
    """What goes into a block: who offers the video and under which licence; the uploader only as a hash."""
    kept = {"extractor": info.get("extractor_key"), "video": info.get("id"), "licence": info.get("license"),
            "uploaded": info.get("upload_date")}
    uploader = info.get("channel_id") or info.get("uploader_id")
    if uploader:
        kept["uploader_sha256"] = hashlib.sha256(str(uploader).encode()).hexdigest()
    return {key: str(value) for key, value in kept.items() if value}


def _words(error: BaseException, folder: Path) -> str:
    return " ".join(str(error).replace(str(folder), "").removeprefix("ERROR:").split())[:300]


class _Log:
    """Takes yt-dlp's messages instead of the terminal."""

    def __init__(self) -> None:
        self.text = ""

    def debug(self, message: str) -> None:
        self.text += message + "\n"

    info = warning = error = debug
