"""Videos on pages, through yt-dlp: one extraction a video, judged before its first byte is asked for."""

from __future__ import annotations

import hashlib
import io
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harvest.address import Clip
from harvest.causes import explain, line
from harvest.config import FORMAT, Fetch, Harvest
from harvest.law import Permit
from harvest.meter import Meter
from harvest.reasons import VideoError
from harvest.web import cookies

_MOST_SITES = 8
_LIVE = {"is_live", "is_upcoming", "post_live"}
_OPEN = {None, "public", "unlisted"}


def knows(url: str) -> bool:
    """Whether yt-dlp has an extractor made for this address; asks for nothing."""
    from yt_dlp.extractor import gen_extractor_classes

    return next((kind.ie_key() != "Generic" for kind in gen_extractor_classes() if kind.suitable(url)), False)


def download(url: str, path: Path, host: str | None, config: Harvest, permit: Permit,
             clip: Clip | None = None) -> dict[str, str]:
    """Write the video of a page to ``path`` and return what its site says of it; raises VideoError.

    The smallest stream of at least 360 lines, without sound. A playlist is refused before any item is asked for. The
    whole video comes even where only a ``clip`` of it is wanted, but its length may then be any.
    """
    from yt_dlp.utils import YoutubeDLError

    order = _Order(path, config, permit, Meter(config), clip or (0.0, math.inf))
    with _site(host, config.fetch) as site:
        try:
            info = site.download(url, order)
        except (YoutubeDLError, OSError, ValueError) as error:
            raise explain(error, str(path.parent)) from None
    if not path.is_file():
        raise VideoError("download", "no file was written")
    order.meter.announced(path.stat().st_size)
    return _kept(info or {}, permit)


def options(fetch: Fetch) -> dict[str, Any]:
    """yt-dlp's options for whatever a site is asked for."""
    chosen: dict[str, Any] = {
        "cachedir": False, "retries": 3, "extractor_retries": 2, "socket_timeout": 20, "geo_bypass": False,
        **fetch.options,
        # The rest is what the harvest relies on.
        "logger": _Silence(), "quiet": True, "noprogress": True, "ignoreerrors": False, "enable_file_urls": False,
    }
    if fetch.proxy:
        chosen["proxy"] = fetch.proxy
    if fetch.cookies:
        chosen["cookiefile"] = io.StringIO(cookies(fetch.cookies))
    return chosen


@dataclass(frozen=True)
class _Order:
    """One video to get, and the rules for it."""

    path: Path
    config: Harvest
    permit: Permit
    meter: Meter
    clip: Clip

    def admit(self, info: dict[str, Any], *, incomplete: bool = False) -> None:
        """Judge what yt-dlp knows so far; while that is ``incomplete``, what is missing is no fault."""
        self.meter.tick()
        # yt-dlp asks about a playlist before it walks through its items, and only then with this key.
        if "playlist_count" in info:
            raise VideoError("unsupported", "a playlist, not one video")
        self.permit.video(info)
        if info.get("is_live") or info.get("live_status") in _LIVE:
            raise VideoError("live")
        seconds = min(info.get("duration") or 0, self.clip[1]) - self.clip[0]
        if seconds > (most := self.config.limits.max_seconds):
            raise VideoError("too_long", f"{seconds:.0f} s, more than {most:g} s")
        if (info.get("age_limit") or 0) >= 18:
            raise VideoError("unavailable", "for adults only")
        if info.get("availability") not in _OPEN:
            raise VideoError("unavailable", str(info["availability"])[:100])
        if not incomplete:
            self.permit.licence(info.get("license"))

    def watch(self, status: dict[str, Any]) -> None:
        """yt-dlp's progress: bytes so far and, where known, in all."""
        self.meter.announced(status.get("total_bytes"))
        self.meter.received(status.get("downloaded_bytes") or 0)


class _Site:
    """A YoutubeDL that serves one video after another, so that what it learned of a site is not asked for again."""

    def __init__(self, fetch: Fetch) -> None:
        from yt_dlp import YoutubeDL

        self._order: _Order | None = None
        # The later take precedence: what users may choose, their choices, and what the harvest relies on.
        self._downloader = YoutubeDL({
            "format": FORMAT, "format_sort": ["+res:360", "+size", "+br", "vcodec:h264"], "noplaylist": True,
            "fragment_retries": 3, "file_access_retries": 2, "skip_unavailable_fragments": False, "fixup": "never",
            "concurrent_fragment_downloads": 1, "ratelimit": fetch.rate_bytes, **options(fetch),
            "progress_hooks": [self._watch], "match_filter": self._admit, "postprocessors": [],
        })

    def download(self, url: str, order: _Order) -> dict[str, Any] | None:
        self._order = order
        folder = str(order.path.parent)
        self._downloader.params.update(paths={"home": folder, "temp": folder}, outtmpl={"default": order.path.name})
        info: dict[str, Any] | None = self._downloader.extract_info(url, download=True)
        return info

    def close(self) -> None:
        self._downloader.close()

    def _admit(self, info: dict[str, Any], *, incomplete: bool = False) -> None:
        assert self._order is not None
        self._order.admit(info, incomplete=incomplete)

    def _watch(self, status: dict[str, Any]) -> None:
        assert self._order is not None
        self._order.watch(status)


_idle: OrderedDict[tuple[str | None, str], _Site] = OrderedDict()
_lock = threading.Lock()


@contextmanager
def _site(host: str | None, fetch: Fetch) -> Iterator[_Site]:
    """The host's downloader, for one thread at a time; a second thread gets a fresh one."""
    key = (host, fetch.model_dump_json())
    with _lock:
        site = _idle.pop(key, None)
    site = site or _Site(fetch)
    try:
        yield site
    finally:
        with _lock:
            spare = [old for old in (_idle.pop(key, None),) if old]
            _idle[key] = site
            while len(_idle) > _MOST_SITES:
                spare.append(_idle.popitem(last=False)[1])
        for old in spare:
            old.close()


def _kept(info: dict[str, Any], permit: Permit) -> dict[str, str]:
    """What goes into a block: who offers the video and under which licence; the uploader only as a hash, no title."""
    from yt_dlp.version import __version__

    kept = {"extractor": info.get("extractor_key"), "video": info.get("id"), "uploaded": info.get("upload_date"),
            "licence": permit.licence(info.get("license")), "yt_dlp": __version__}
    if uploader := info.get("channel_id") or info.get("uploader_id"):
        kept["uploader_sha256"] = hashlib.sha256(str(uploader).encode(errors="replace")).hexdigest()
    return {key: line(str(value)) for key, value in kept.items() if value}


class _Silence:
    """Takes yt-dlp's messages instead of the terminal; failures come as exceptions."""

    def debug(self, message: str) -> None:
        pass

    info = warning = error = debug
