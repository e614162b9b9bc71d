"""Addresses: one spelling for a source, the clip of a video that it may name, and its id."""

from __future__ import annotations

import hashlib
import math
import os.path
import re
from decimal import Decimal
from urllib.parse import urlsplit, urlunsplit

import numpy as np

VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".flv",
                  ".wmv", ".3gp", ".ogv"}
Clip = tuple[float, float]

_BUCKETS = {"s3", "s3a", "gs", "gcs", "hf", "az", "abfs", "abfss", "oci", "oss", "webhdfs", "memory"}

_PORTS = {"http": 80, "https": 443}
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_WEB = re.compile(r"https?://", re.IGNORECASE)
# Millions of addresses are in their one spelling already, and to split each costs more than all else.
_CANONICAL = re.compile(r"https://www\.youtube\.com/watch\?v=[A-Za-z0-9_-]{11}"
                        r"|https?://(?![^/]*youtu)(?![^?]*\?(?:.*&)?(?:utm_|fbclid))[a-z0-9.-]+/[!\"$->@-~]*(?:\?[!\"$-~]+)?")
_YOUTUBE_HOSTS = {"youtube.com", "www.youtube.com", "m.youtube.com", "music.youtube.com", "www.youtube-nocookie.com"}
_YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_YOUTUBE_PATH = re.compile(r"/(?:shorts|embed|live|v)/([A-Za-z0-9_-]{11})/?")
_TRACKING = re.compile(r"utm_[^=]*(?:=.*)?|fbclid(?:=.*)?", re.DOTALL)
_TIME = re.compile(r"(?:(?:([0-9]{1,9}):)?([0-9]{1,9}):)?([0-9]{1,9}(?:\.[0-9]*)?)")
_FRAGMENT = re.compile(r"(.*)#t=([0-9]+(?:\.[0-9]+)?)(?:,([0-9]+(?:\.[0-9]+)?))?", re.DOTALL)


def is_url(address: str) -> bool:
    return _URL.match(address) is not None


def is_web(address: str) -> bool:
    return _WEB.match(address) is not None


def is_bucket(address: str) -> bool:
    """Whether an address is in a store of files elsewhere; others would be this machine's own files, or chains."""
    return address.partition("://")[0].lower() in _BUCKETS and "::" not in address


def canonical(url: str) -> str:
    """One spelling for a URL.

    On the web: lower-case scheme and host, no default port, no fragment, none of the parameters that only trace where
    a link was clicked, and one form for all links to a YouTube video. Elsewhere (s3://, memory:// ...) letters,
    question and number signs may belong to a file's name, so only the scheme is put in lower case.
    """
    url = url.strip()
    if _CANONICAL.fullmatch(url):
        return url
    if not is_web(url):
        scheme, mark, rest = url.partition("://")
        return scheme.lower() + mark + rest
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return url
    host = parts.hostname or ""
    if video := _youtube(host, parts.path, parts.query):
        return f"https://www.youtube.com/watch?v={video}"
    host = f"[{host}]" if ":" in host else host
    user = parts.netloc.rpartition("@")[0]
    location = (f"{user}@" if user else "") + host + (f":{port}" if port and port != _PORTS.get(parts.scheme) else "")
    query = "&".join(part for part in parts.query.split("&") if not _TRACKING.fullmatch(part))
    return urlunsplit((parts.scheme, location, parts.path or "/", query, ""))


def _youtube(host: str, path: str, query: str) -> str | None:
    """The id of the one video that a link to YouTube shows."""
    if host == "youtu.be":
        found = path[1:]
    elif host not in _YOUTUBE_HOSTS:
        return None
    elif path == "/watch":
        found = next((part[2:] for part in query.split("&") if part.startswith("v=")), "")
    else:
        match = _YOUTUBE_PATH.fullmatch(path)
        found = match[1] if match else ""
    return found if _YOUTUBE_ID.fullmatch(found) else None


def seconds(value: object) -> float:
    """A moment of a video: seconds as a number or text, ``mm:ss`` or ``hh:mm:ss``, either with decimals.

    Raises ValueError for anything else, negative and infinite numbers among it.
    """
    match = None if isinstance(value, bool) else _TIME.fullmatch(str(value).strip())
    if match is None:
        raise ValueError(f"{value!r} is no time: seconds, mm:ss or hh:mm:ss")
    hours, minutes, rest = (Decimal(part or 0) for part in match.groups())
    if (match[2] and rest >= 60) or (match[1] and minutes >= 60):
        raise ValueError(f"{value!r} is no time: sixty or more after a colon")
    return float(3600 * hours + 60 * minutes + rest)


def cut(location: str, start: float = 0.0, end: float = math.inf) -> str:
    """The address of a clip of the video at ``location``, in seconds; the whole video's is ``location`` itself.

    A clip is told by a media fragment (W3C Media Fragments URI 1.0, section 4.2.1). Where the name of a whole file
    already ends like one, ``#t=0`` follows it, so that ``split`` tells the two apart.
    """
    if math.isfinite(end):
        return f"{location}#t={_text(start)},{_text(end)}"
    return f"{location}#t={_text(start)}" if start or split(location)[0] != location else location


def split(address: str) -> tuple[str, Clip | None]:
    """What ``cut`` put together: where the video is, and the clip's start and end (infinite: to the end) in seconds."""
    match = _FRAGMENT.fullmatch(address) if "#t=" in address else None
    if match is None:
        return address, None
    clip = float(match[2]), float(match[3] or "inf")
    return match[1], None if clip == (0.0, math.inf) else clip


def _text(value: float) -> str:
    return np.format_float_positional(value, trim="-")


def identify(address: str) -> str:
    """A readable id of letters, digits, ``_`` and ``-`` that is a function of the address alone.

    That of a local file depends on its whole path, and so changes where its folder moves. Nothing else is known of
    every source when it is planned: the file may lie on the workers' machines only, reading a million costs hours,
    and the part of the path below what the user named differs with the naming. To keep results over a move, give
    ids in a list.
    """
    location, clip = split(address)
    if is_url(address):
        _, _, rest = address.partition("://")
        text = _slug(rest.rpartition("@")[2] if "@" in rest.split("/")[0] else rest)[-48:]
    else:
        text = _slug(os.path.splitext(os.path.basename(location))[0])[:48]
        text += _slug(address[len(location):])[-24:] if clip else ""
    # File names are bytes: those that are not UTF-8 arrive as lone surrogates.
    data = address.encode(errors="surrogatepass")
    return f"{text.strip('-') or 'video'}-{hashlib.sha256(data).hexdigest()[:12]}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")
