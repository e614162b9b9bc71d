"""A video file behind a plain URL: streamed to disk, and resumed where the connection breaks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from harvest import web
from harvest.address import VIDEO_SUFFIXES
from harvest.causes import answered, line
from harvest.config import Fetch, Harvest
from harvest.law import Permit
from harvest.meter import Meter
from harvest.reasons import VideoError

_RESUMES = 3
# What servers call a video whose type they do not know, and the containers that may hold one.
_VAGUE = {"", "application/octet-stream", "binary/octet-stream", "application/mp4", "application/ogg",
          "application/vnd.rn-realmedia", "application/x-matroska", "application/force-download",
          "application/x-download"}
_PAGES = {"text/html", "application/xhtml+xml", "text/xml", "application/xml", "application/rss+xml",
          "application/dash+xml", "application/vnd.apple.mpegurl", "application/x-mpegurl", "audio/mpegurl",
          "audio/x-mpegurl", "video/vnd.mpeg.dash.mpd"}


class Page(Exception):
    """Not a file but a page or a playlist of segments, at ``url``: for yt-dlp."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url


def download(url: str, path: Path, config: Harvest, permit: Permit) -> dict[str, str]:
    """Write the video at ``url`` to ``path`` and return what its host says of it.

    One request where nothing breaks. Raises Page, and VideoError with the reason.
    """
    with path.open("wb") as file:
        return _Download(url, file, config, permit).run()


class _Download:
    """One file on its way: what has come, and what must still be true of the rest."""

    def __init__(self, url: str, file: IO[bytes], config: Harvest, permit: Permit) -> None:
        self.url, self.file, self.permit = url, file, permit
        self.fetch: Fetch = config.fetch
        self.meter = Meter(config)
        self.total: int | None = None
        self.validator = ""
        self.resumable = False
        self.info: dict[str, str] = {}

    def run(self) -> dict[str, str]:
        for attempt in range(_RESUMES + 1):
            try:
                self._request(first=attempt == 0)
                return self.info
            except VideoError as error:
                if attempt == _RESUMES or not self.resumable or error.reason not in ("incomplete", "network"):
                    raise
        raise AssertionError("unreachable")

    def _request(self, *, first: bool) -> None:
        have = self.file.tell()
        headers = {"Range": f"bytes={have}-"} if have else {}
        if have and self.validator:
            headers["If-Range"] = self.validator
        with web.get(self.url, self.fetch, self.permit.visit, headers) as reply:
            if reply.status == 416 and have:
                raise VideoError("incomplete", f"the file changed after {have} bytes of it had come")
            if not 200 <= reply.status < 300:
                raise answered(reply.status, reply.headers)
            if first:
                self._judge(reply)
            self._place(reply, have)
            for chunk in reply.chunks():
                self.file.write(chunk)
                self.meter.received(self.file.tell())
        if self.total is not None and self.file.tell() < self.total:
            raise VideoError("incomplete", f"{self.file.tell()} of {self.total} bytes")

    def _judge(self, reply: web.Reply) -> None:
        """Whether this is a video at all, and one that we may have."""
        headers = reply.body.headers
        self.permit.answer(headers.getlist("X-Robots-Tag"), headers.get("tdm-reservation"))
        kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        self._check_kind(kind, reply.url)
        licence = self.permit.licence(_licence(headers.getlist("Link")))
        told = {"extractor": "direct", "content_type": kind, "licence": licence}
        self.info = {key: line(value) for key, value in told.items() if value}

    def _check_kind(self, kind: str, url: str) -> None:
        named = Path(urlsplit(self.url).path).suffix.lower() in VIDEO_SUFFIXES
        if kind in _PAGES and not named:
            raise Page(url)
        if kind not in _PAGES and (kind.startswith("video/") or kind in _VAGUE):
            return
        if kind.startswith("audio/") and kind not in _PAGES:
            raise VideoError("audio_only", kind[:100])
        raise VideoError("unsupported", f"{kind[:100]}, not a video")

    def _place(self, reply: web.Reply, have: int) -> None:
        """Where in the file this answer goes, and how long the whole will be."""
        if (coding := reply.headers.get("Content-Encoding", "identity").strip().lower()) not in ("identity", ""):
            raise VideoError("unsupported", f"sent as {coding[:40]}, which was not asked for")
        length = _number(reply.headers.get("Content-Length"))
        if reply.status == 206:
            start, total = _range(reply.headers)
            if start != have or (total is not None and self.total is not None and total != self.total):
                raise VideoError("incomplete", f"the file changed after {have} bytes of it had come")
            self.total = total if total is not None else self.total
        else:
            # The whole of it (again): this host knows no ranges, or the file changed.
            self.file.seek(0)
            self.file.truncate()
            self.total = length
            self.resumable = reply.headers.get("Accept-Ranges", "").strip().lower() == "bytes"
            etag = reply.headers.get("ETag", "")
            self.validator = etag if etag.startswith('"') else reply.headers.get("Last-Modified", "")
        self.meter.announced(self.total)


def _range(headers: Mapping[str, str]) -> tuple[int | None, int | None]:
    """First byte and total of a Content-Range, None for what it does not tell."""
    match = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", headers.get("Content-Range", "").strip())
    return (int(match[1]), _number(match[2])) if match else (None, None)


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"[0-9]{1,18}", text.strip()) else None


def _licence(links: list[str]) -> str | None:
    """The target of ``Link: <...>; rel="license"`` (RFC 8288)."""
    for link in links:
        for target, parameters in re.findall(r"<([^<>]*)>([^<]*)", link):
            if re.search(r"\brel\s*=\s*(?:\"[^\"]*\blicense\b|license\b)", parameters, re.IGNORECASE):
                return str(target)
    return None
