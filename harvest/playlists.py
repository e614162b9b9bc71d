"""Playlists and channels: the URLs of their videos, through yt-dlp, page by page and without asking for any video."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from harvest.address import canonical, is_web
from harvest.causes import explain
from harvest.config import Fetch
from harvest.ytdlp import options
from skelcore.errors import InputError, RunError

if TYPE_CHECKING:
    from yt_dlp import YoutubeDL

_DEEPEST = 5  # a channel's tab of playlists is three deep


def expand(urls: Iterable[str], fetch: Fetch) -> Iterator[str]:
    """The canonical URL of every video in playlists, channels, feeds and pages of several videos, each once.

    A page is asked for when the videos of the one before are taken. Raises InputError for an address that is no http
    or https URL, and RunError where a site fails or shows no video; both name the URL.
    """
    from yt_dlp import YoutubeDL

    seen: set[bytes] = set()
    with YoutubeDL(options(fetch)) as downloader:
        for url in urls:
            if not is_web(url):
                raise InputError(f"playlists: {url}: not an http:// or https:// URL")
            empty = True
            with _reaching(url):
                for video in _Walk(downloader).follow(url):
                    empty = False
                    key = hashlib.blake2b(video.encode(errors="surrogatepass"), digest_size=16).digest()
                    if key not in seen:
                        seen.add(key)
                        yield video
            if empty:
                raise RunError(f"playlists: {url}: no video in it")


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # later pages are read by the code of one of 1,800 sites, outside yt-dlp's own net
        failure = explain(error)
        raise RunError(f"playlists: {url}: {failure.reason}: {failure.detail}") from None


class _Walk:
    """The way through one playlist and those nested in it."""

    def __init__(self, downloader: YoutubeDL) -> None:
        self._downloader = downloader
        self._visited: set[str] = set()

    def follow(self, url: str, site: str | None = None, depth: int = 0) -> Iterator[str]:
        """The videos that a URL leads to; ``site`` is the key of the extractor to use, when known."""
        if url in self._visited:
            return
        if depth > _DEEPEST:
            raise RunError(f"playlists nested deeper than {_DEEPEST}")
        self._visited.add(url)
        found = self._downloader.extract_info(url, download=False, ie_key=site, process=False) or {}
        kind = found.get("_type", "video")
        if kind in ("url", "url_transparent"):
            yield from self.follow(found["url"], found.get("ie_key"), depth + 1)
        elif kind == "playlist":
            yield from self._inside(found, found.get("extractor_key"), depth)
        else:
            yield from _address(found.get("webpage_url") or url)

    def _inside(self, playlist: dict[str, Any], site: str | None, depth: int) -> Iterator[str]:
        for entry in filter(None, playlist.get("entries") or ()):
            kind = entry.get("_type", "video")
            if kind == "playlist":
                yield from self._inside(entry, site, depth)
            elif kind in ("url", "url_transparent") and self._is_list(entry, site):
                yield from self.follow(entry["url"], entry.get("ie_key"), depth + 1)
            elif kind in ("url", "url_transparent"):
                yield from _address(_link(entry))
            else:
                # A video that the page itself holds has no page of its own, but a file.
                files = [found["url"] for found in entry.get("formats") or () if found.get("url")]
                yield from _address(entry.get("webpage_url") or entry.get("url") or (files[-1] if files else ""))

    def _is_list(self, entry: dict[str, Any], site: str | None) -> bool:
        """Whether an entry is a list in its turn, told without asking: by what its extractor is known to give.

        One that gives both is taken for a list where it made the list at hand, as a channel's tabs do.
        """
        key = entry.get("ie_key")
        gives = self._downloader.get_info_extractor(key)._RETURN_TYPE if key else None
        return gives == "playlist" or (gives == "any" and key == site)


def _link(entry: dict[str, Any]) -> str:
    """Where an entry points; a site that embeds a YouTube video often gives its id alone."""
    url = str(entry.get("url") or "")
    bare = entry.get("ie_key") == "Youtube" and not is_web(url)
    return f"https://www.youtube.com/watch?v={url}" if bare else url


def _address(url: str) -> Iterator[str]:
    """The URL, if it is one of the web: a site must have no say over files of this machine."""
    url = f"https:{url}" if url.startswith("//") else url
    if is_web(url):
        yield canonical(url)
