"""What an answer of a host, or an exception on the way to it, means: a VideoError with its named reason."""

from __future__ import annotations

import errno
import http.client
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from urllib.parse import urlsplit

import urllib3.exceptions as urllib3

from harvest.reasons import VideoError
from skelcore import files

_STATUS = {401: "forbidden", 403: "forbidden", 404: "gone", 407: "network", 408: "network", 410: "gone",
           429: "rate_limited", 451: "forbidden"}
# Sites, and yt-dlp's downloader, say these only in prose; the first match counts.
_PHRASES = {
    "disk": ("no space left", "disk quota"),
    "incomplete": ("more expected",),
    "bot_check": ("not a bot", "captcha", "for up to an hour"),
    "no_format": ("requested format is not available",),
    "drm": ("drm protect", "use drm"),
    "unsupported": ("no longer supported since",),
    "geo": ("in your country", "in your location", "in your region"),
    "live": ("live event will begin", "premieres in", "is offline", "live stream"),
    "unavailable": ("private video", "video is private", "video unavailable", "been removed", "been terminated",
                    "been deleted", "no longer available", "members-only", "join this channel", "not available",
                    "age-restricted", "confirm your age", "registered users", "only available for", "copyright"),
    "network": ("[download] got error",),
    "invalid": ("is not a valid url",),
    "download": ("got more than 100 headers",),
}
FULL = files.FULL | {errno.EROFS}
_URL = re.compile(r"https?://[^\s'\"<>]+", re.IGNORECASE)


def explain(error: BaseException, *hidden: str) -> VideoError:
    """The failure behind an exception of urllib3, requests or yt-dlp.

    The types in its chain of causes decide; the text counts only where sites tell no type. ``hidden`` are words, such
    as a scratch folder, that the detail must not show.
    """
    from yt_dlp.networking.exceptions import HTTPError

    chain = list(_chain(error))
    detail = plain(str(error) or type(error).__name__, *hidden)
    for link in chain:
        if isinstance(link, VideoError):
            return link
        if isinstance(link, HTTPError):
            if link.redirect_loop:
                return VideoError("redirect", detail)
            return answered(link.status, link.response.headers)
        if isinstance(link, OSError) and link.errno in FULL:
            return VideoError("disk", detail)
    for reason, types in _sure().items():
        if any(isinstance(link, types) for link in chain):
            return VideoError(reason, detail)
    text = str(error).lower()
    if match := re.search(r"http error (\d{3})", text):
        return answered(int(match[1]), {})
    for reason, phrases in _PHRASES.items():
        if any(phrase in text for phrase in phrases):
            return VideoError(reason, detail)
    for what, types in _network().items():
        if any(isinstance(link, types) for link in chain):
            return VideoError("network", f"{what}: {detail}")
    return VideoError("download", detail)


def answered(status: int, headers: Mapping[str, str]) -> VideoError:
    """What an HTTP status that is no success means, with the wait that Retry-After asks for."""
    detail, wait = f"HTTP {status}", retry_after(headers.get("Retry-After"))
    if headers.get("cf-mitigated") == "challenge":
        return VideoError("bot_check", f"{detail} with a challenge", wait)
    return VideoError(_STATUS.get(status, "server" if status >= 500 else "download"), detail, wait)


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds to wait, from a Retry-After header in seconds or as a date (RFC 9110, 10.2.3), or None."""
    text = (value or "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        date = parsedate_to_datetime(text)
        return max((date.replace(tzinfo=date.tzinfo or UTC) - (now or datetime.now(UTC))).total_seconds(), 0.0)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def plain(text: str, *hidden: str) -> str:
    """One printable line of at most 300 characters, without ids of videos, query strings and credentials."""
    for word in hidden:
        text = text.replace(word, "")
    text = re.split(r".? please report this issue", text.removeprefix("ERROR: "))[0]
    text = _URL.sub(lambda match: bare(match[0]), text)
    text = re.sub(r"^\[([\w:.+-]+)\] [^\s:]+: ", r"[\1] ", text)
    return line(text, 300)


def line(text: str, most: int = 200) -> str:
    """What a stranger wrote, as one printable line of at most ``most`` characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:most]


def bare(url: str) -> str:
    """The URL without credentials, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(a URL)"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes, as yt-dlp (exc_info, cause), urllib3 (args) and Python keep them."""
    waiting, seen = [error], set()
    while waiting:
        link = waiting.pop(0)
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        held = getattr(link, "exc_info", None)
        inner = [held[1] if isinstance(held, tuple) else None, getattr(link, "cause", None), *link.args]
        waiting += [cause for cause in inner if isinstance(cause, BaseException)]
        waiting += [link.__cause__, link.__context__]


@cache
def _sure() -> dict[str, tuple[type[BaseException], ...]]:
    """Types that settle the reason whatever the text says."""
    from requests.exceptions import InvalidSchema
    from yt_dlp.networking.exceptions import IncompleteRead, UnsupportedRequest
    from yt_dlp.utils import ContentTooShortError, GeoRestrictedError, UnavailableVideoError, UnsupportedError

    return {
        "incomplete": (IncompleteRead, ContentTooShortError, urllib3.IncompleteRead, urllib3.InvalidChunkLength,
                       http.client.IncompleteRead),
        "geo": (GeoRestrictedError,),
        "unsupported": (UnsupportedError,),
        "unavailable": (UnavailableVideoError,),
        "redirect": (InvalidSchema,),
        "invalid": (UnsupportedRequest, urllib3.LocationValueError, http.client.InvalidURL, UnicodeError),
        "download": (http.client.LineTooLong,),
    }


@cache
def _network() -> dict[str, tuple[type[BaseException], ...]]:
    """Kinds of a failed connection, the most telling first."""
    from yt_dlp.networking.exceptions import SSLError, TransportError

    return {
        "no such host": (urllib3.NameResolutionError, socket.gaierror),
        "refused": (ConnectionRefusedError,),
        "no secure connection": (SSLError, urllib3.SSLError, ssl.SSLError),
        "proxy": (urllib3.ProxyError,),
        "no connection": (urllib3.NewConnectionError,),
        "timed out": (urllib3.TimeoutError, TimeoutError),
        "connection lost": (TransportError, ConnectionError, urllib3.HTTPError),
    }
