"""One GET over HTTP(S): how we introduce ourselves, and redirects followed one checked hop at a time."""

from __future__ import annotations

import io
import os
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

import urllib3

from harvest.causes import explain
from harvest.config import Fetch
from harvest.reasons import VideoError
from skelcore.errors import InputError

_HOPS = 10
_SILENCE = 20.0  # seconds without a byte after which a host is given up


@dataclass(frozen=True)
class Reply:
    """An open answer: ``url`` is where the redirects ended."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: urllib3.BaseHTTPResponse

    def chunks(self) -> Iterator[bytes]:
        """The body's bytes as they arrive, however few; raises VideoError where the connection breaks."""
        try:
            while chunk := self.body.read1(1 << 16, decode_content=False):
                yield chunk
        except urllib3.exceptions.HTTPError as error:
            raise VideoError("incomplete", explain(error).detail) from None

    def start(self, most: int, seconds: float) -> bytes:
        """At most ``most`` bytes of the body, in about ``seconds`` at most; raises VideoError."""
        end, data = time.monotonic() + seconds, b""
        for chunk in self.chunks():
            data += chunk
            if len(data) >= most:
                break
            if time.monotonic() > end:
                raise VideoError("network", f"timed out: not read within {seconds:g} s")
        return data[:most]


@contextmanager
def get(url: str, fetch: Fetch, visit: Callable[[str], None] = lambda url: None,
        headers: Mapping[str, str] | None = None) -> Iterator[Reply]:
    """The answer to a GET, whatever its status, after at most ten redirects.

    ``visit`` sees each address before it is asked, and may refuse it. Raises VideoError: ``invalid``, ``redirect``,
    ``network``.
    """
    seen: set[str] = set()
    while len(seen) <= _HOPS:
        if not fetchable(url):
            raise VideoError("redirect" if seen else "invalid", "only http:// and https:// addresses are fetched")
        if url in seen:
            raise VideoError("redirect", "a circle of redirects")
        visit(url)
        seen.add(url)
        body = _ask(url, fetch, headers or {})
        try:
            target = body.get_redirect_location()
            if not target:
                yield Reply(url, body.status, body.headers, body)
                return
            url = urljoin(url, target)
        except ValueError:
            raise VideoError("redirect", "to no valid address") from None
        finally:
            # What is left of a body may be gigabytes: the connection goes rather than wait for them.
            body.close()
    raise VideoError("redirect", f"more than {_HOPS} redirects")


def fetchable(url: str) -> bool:
    """Whether this is a valid http:// or https:// address; no host's name holds what cannot be printed."""
    try:
        url.encode()
        parts = urlsplit(url)
        name = parts.hostname or ""
        return parts.scheme in ("http", "https") and name != "" and name.isprintable() and parts.port != 0
    except ValueError:
        return False


@lru_cache(maxsize=4)
def cookies(path: str | None) -> str:
    """The text of a cookie file, empty without one: each user works on a copy, since yt-dlp writes its jar back.

    Raises InputError for a file that cannot be read.
    """
    try:
        return Path(os.path.expanduser(path)).read_text("utf-8") if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"fetch.cookies: cannot read {path}: {error}; name a cookie file in Netscape format") from None


def _ask(url: str, fetch: Fetch, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    own = {"User-Agent": fetch.user_agent, "Accept": "*/*", "Accept-Encoding": "identity", **headers}
    if at:
        own |= urllib3.make_headers(basic_auth=unquote(user))
    url = urlunsplit(parts._replace(netloc=host, fragment=""))
    if fetch.cookies and (crumbs := _crumbs(url, fetch.cookies)):
        own["Cookie"] = crumbs
    try:
        return _pool(fetch.proxy or _ambient(parts.scheme, host)).request(
            "GET", url, headers=own, redirect=False, retries=False, preload_content=False)
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise explain(error) from None


def _crumbs(url: str, path: str) -> str | None:
    from yt_dlp.cookies import YoutubeDLCookieJar
    from yt_dlp.utils import YoutubeDLError

    jar = YoutubeDLCookieJar(io.StringIO(cookies(path)))
    try:
        jar.load()
    except (OSError, YoutubeDLError) as error:
        raise InputError(f"fetch.cookies: {path} is no cookie file in Netscape format: {error}") from None
    return jar.get_cookie_header(url)


def _ambient(scheme: str, host: str) -> str | None:
    """The proxy that the environment names, as yt-dlp takes it."""
    proxy = urllib.request.getproxies().get(scheme)
    return None if proxy is None or urllib.request.proxy_bypass(host) else proxy


@lru_cache(maxsize=8)
def _pool(proxy: str | None) -> urllib3.PoolManager:
    timeout = urllib3.Timeout(connect=_SILENCE, read=_SILENCE)
    if proxy is None:
        return urllib3.PoolManager(timeout=timeout)
    try:
        return urllib3.ProxyManager(proxy if "://" in proxy else f"http://{proxy}", timeout=timeout)
    except urllib3.exceptions.ProxySchemeUnknown:
        raise InputError("fetch.proxy: direct downloads need an http:// or https:// proxy") from None
