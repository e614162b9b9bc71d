"""Addresses: one spelling for a source, and its id."""

from __future__ import annotations

import hashlib
import os.path
import re
from urllib.parse import urlsplit, urlunsplit

VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".flv",
                  ".wmv", ".3gp", ".ogv"}

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


def is_url(address: str) -> bool:
    return _URL.match(address) is not None


def _is_web(address: str) -> bool:
    return _WEB.match(address) is not None


def canonical(url: str) -> str:
    """One spelling for a URL.

    On the web: lower-case scheme and host, no default port, no fragment, none of the parameters that only trace where
    a link was clicked, and one form for all links to a YouTube video. Elsewhere (s3://, memory:// ...) letters,
    question and number signs may belong to a file's name, so only the scheme is put in lower case.
    """
    url = url.strip()
    if _CANONICAL.fullmatch(url):
        return url
    if not _is_web(url):
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


def identify(address: str) -> str:
    """A readable id of letters, digits, ``_`` and ``-`` that is a function of the address alone.

    That of a local file depends on its whole path, and so changes where its folder moves. Nothing else is known of
    every source when it is planned: the file may lie on the workers' machines only, reading a million costs hours,
    and the part of the path below what the user named differs with the naming. To keep results over a move, give
    ids in a list.
    """
    if is_url(address):
        _, _, rest = address.partition("://")
        text = _slug(rest.rpartition("@")[2] if "@" in rest.split("/")[0] else rest)[-48:]
    else:
        text = _slug(os.path.splitext(os.path.basename(address))[0])[:48]
    # File names are bytes: those that are not UTF-8 arrive as lone surrogates.
    data = address.encode(errors="surrogatepass")
    return f"{text.strip('-') or 'video'}-{hashlib.sha256(data).hexdigest()[:12]}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")
