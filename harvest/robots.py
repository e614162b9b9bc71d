"""What sites ask of robots: robots.txt (RFC 9309), X-Robots-Tag, and the reservation of text and data mining."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import quote, urlsplit

from harvest import causes, web
from harvest.config import Fetch
from harvest.reasons import VideoError
from skelcore.files import cache_folder, write_text

_FRESH = 24 * 3600.0
_MOST = 500 * 1024
_PATIENCE = 30.0
_NOTHING = "User-agent: *\nDisallow: /\n"
_UNWANTED = {"noai", "noimageai", "noindex", "none"}
_VALUED = {"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"}


@dataclass
class Rules:
    """The lines of a robots.txt that speak to one robot: ``allow`` and the pattern of each."""

    lines: list[tuple[bool, str]] = field(default_factory=list)

    def allows(self, path: str) -> bool:
        """Whether the robot may ask for a path with its query: the longest matching pattern decides."""
        path = _spelling(path or "/")
        matching = [(len(pattern), allow) for allow, pattern in self.lines if _matches(pattern, path)]
        return path == "/robots.txt" or max(matching, default=(0, True))[1]


def read(text: str, robot: str) -> Rules:
    """The rules of a robots.txt for the robot of this name, else those for all (``*``)."""
    found: dict[str, Rules] = {}
    group: list[Rules] = []
    naming = False
    for line in text.splitlines():
        key, colon, value = line.partition("#")[0].partition(":")
        key, value = key.strip().lower(), value.strip()
        if not colon or key not in ("user-agent", "allow", "disallow"):
            continue
        if key == "user-agent":
            rules = found.setdefault(value.lower(), Rules())
            group = [*group, rules] if naming else [rules]
        for rules in group if key != "user-agent" and value else ():
            rules.lines.append((key == "allow", _spelling(value)))
        naming = key == "user-agent"
    return found.get(robot.lower()) or found.get("*") or Rules()


def check(url: str, fetch: Fetch) -> None:
    """Raises VideoError ``robots`` for a URL that robots.txt closes, and ``network`` or ``server`` where that file
    cannot be had: then nothing may be asked for (RFC 9309, 2.3.1.4)."""
    parts = urlsplit(url)
    if not _rules(url, fetch).allows(parts.path + (f"?{parts.query}" if parts.query else "")):
        raise VideoError("robots", "robots.txt closes it to us")


def check_answer(tags: Iterable[str], reservation: str | None, fetch: Fetch) -> None:
    """Raises VideoError ``robots`` where X-Robots-Tag headers (``tags``) or tdm-reservation say no.

    A tag may speak to one robot by name (``otherbot: noindex``); then it counts only if that is ours.
    """
    for tag in tags:
        robot = _name(fetch)
        for word in tag.lower().split(","):
            name, colon, rest = word.strip().partition(":")
            if colon and name not in _VALUED:
                robot, name = name.strip(), rest.strip()
            if robot == _name(fetch) and name in _UNWANTED:
                raise VideoError("robots", f"X-Robots-Tag: {name}")
    if (reservation or "").strip() == "1":
        raise VideoError("robots", "tdm-reservation: 1")


def _rules(url: str, fetch: Fetch) -> Rules:
    parts = urlsplit(url)
    origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}".lower()
    return _parsed(_text(origin, fetch), _name(fetch))


@lru_cache(maxsize=256)
def _parsed(text: str, robot: str) -> Rules:
    return read(text, robot)


def _name(fetch: Fetch) -> str:
    """Our product token: what user_agent begins with."""
    return re.split(r"[/\s]", fetch.user_agent.strip(), maxsplit=1)[0].lower()


def _text(origin: str, fetch: Fetch) -> str:
    """The site's robots.txt, from this user's cache where that is no older than a day; all processes share it."""
    path = cache_folder() / "robots" / f"{hashlib.sha256(origin.encode()).hexdigest()}.txt"
    with suppress(OSError):
        if 0 <= time.time() - path.stat().st_mtime < _FRESH:
            return path.read_text("utf-8")
    text = _asked(origin, fetch)
    with suppress(OSError):  # a cache that cannot be written costs requests, not the harvest
        write_text(path, text)
    return text


def _asked(origin: str, fetch: Fetch) -> str:
    try:
        with web.get(f"{origin}/robots.txt", fetch) as reply:
            if reply.status in (401, 403):
                return _NOTHING
            if reply.status == 429 or reply.status >= 500:
                raise causes.answered(reply.status, reply.headers)
            if not 200 <= reply.status < 300:
                return ""
            return reply.start(_MOST, _PATIENCE).decode("utf-8-sig", "replace")
    except VideoError as error:
        if error.reason == "redirect":
            return ""
        raise VideoError(error.reason, f"robots.txt: {error.detail}", error.wait) from None


def _spelling(path: str) -> str:
    """One percent-encoding for a path or pattern: upper-case, and none for what needs none."""
    plain = re.sub(r"%[0-9A-Fa-f]{2}", _decoded, path)
    return quote(plain, safe="%/?#[]@!$&'()*+,;=:-._~", errors="replace")


def _decoded(match: re.Match[str]) -> str:
    character = chr(int(match[0][1:], 16))
    return character if re.fullmatch(r"[A-Za-z0-9_.~-]", character) else match[0].upper()


def _matches(pattern: str, path: str) -> bool:
    """``*`` stands for anything and a last ``$`` for the end. Linear: a regular expression could be made to hang."""
    first, *rest = pattern.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    last = rest.pop() if pattern.endswith("$") and rest else None
    at = len(first)
    for part in rest:
        at = path.find(part, at)
        if at < 0:
            return False
        at += len(part)
    if last is not None:
        return len(path) - len(last) >= at and path.endswith(last)
    return at == len(path) or not pattern.endswith("$")
