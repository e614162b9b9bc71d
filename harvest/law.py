"""What may be harvested: licences taken, sources and people that opted out, and the wishes of sites."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harvest import robots
from harvest.address import canonical, split
from harvest.config import Harvest
from harvest.reasons import VideoError
from harvest.sources import Source
from skelcore.errors import InputError

_ZERO = re.compile(r".*creativecommons\.org/publicdomain/zero\b.*|public domain dedication"
                   r"|(?:cc[ -]?0|cc[ -]zero|creative commons (?:cc0|zero))(?:[ -]v?1\.0)?(?: universal)?")
_PUBLIC = re.compile(r"creativecommons\.org/(?:licen[sc]es/)?publicdomain(?:/mark)?(?:/(\d\.\d))?")
_DEED = re.compile(r"creativecommons\.org/licen[sc]es/([a-z-]+)(?:/(\d\.\d))?")
_CODE = re.compile(r"(?:cc[ -])?(by(?:-(?:nc|nd|sa))*)(?:[ -](\d\.\d))?")
_WORDS = re.compile(r"(?:creative commons (?:-+ )?|cc )?attribution\b.*?(?:(\d\.\d).*)?")


class Licences:
    """Patterns of licences, with ``*`` and ``?``, of which ``any`` takes everything, even what declares none.

    A declared licence is compared as it stands and in one short spelling: deeds of creativecommons.org, SPDX names,
    and the words of YouTube, Vimeo, PeerTube and archive.org all become ``cc by``, ``cc by-sa 4.0``, ``cc0`` and so
    on. ``cc by*`` therefore also takes NC and ND licences: they do permit copying, and what may be done with the poses
    is for their user to judge. Write ``[cc0, cc by, cc by ?.?, cc by-sa*]`` to leave them out.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = {spelling for pattern in patterns for spelling in _spellings(pattern)}

    def takes(self, declared: str | None) -> bool:
        """Whether a licence, as declared, is among those taken."""
        if "any" in self._patterns:
            return True
        return any(fnmatchcase(spelling, pattern) for spelling in _spellings(declared or "") if spelling
                   for pattern in self._patterns)


class OptOut:
    """What must not be harvested, one entry a line: a source's or a site's video id, a URL, ``host:example.org`` (with
    all hosts under it), or ``channel:ID`` (a channel or uploader); ``#`` begins a comment.

    Raises InputError for a line that is none of these.
    """

    def __init__(self, lines: Iterable[str] = (), where: str = "opt-out list") -> None:
        self._ids: set[str] = set()
        self._urls: set[str] = set()
        self._hosts: set[str] = set()
        self._channels: set[str] = set()
        for number, line in enumerate(lines, 1):
            entry = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()
            kind, colon, rest = entry.partition(":")
            if not entry:
                continue
            if re.search(r"\s", entry) or (colon and not rest):
                raise InputError(f"{where}, line {number}: {entry[:80]!r} is no id, URL, host:NAME or channel:ID")
            if kind == "host":
                self._hosts.add(rest.lower().removeprefix("www."))
            elif kind == "channel":
                self._channels.add(rest)
            elif rest.startswith("//"):
                self._urls.add(_whole(entry))
            else:
                self._ids.add(entry)

    @classmethod
    def read(cls, path: str | None) -> OptOut:
        """The list in a file, empty without one; raises InputError for one that cannot be read."""
        try:
            text = Path(os.path.expanduser(path)).read_text("utf-8-sig") if path else ""
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"law.opt_out: cannot read {path}: {error}; name a text file") from None
        return cls(text.split("\n"), str(path))

    def covers(self, source: Source) -> bool:
        """Whether a source is listed by its id, its address (then with all clips of it) or its host."""
        return source.id in self._ids or (source.is_url and self.covers_url(source.address))

    def covers_url(self, url: str) -> bool:
        """Whether an address, or the host it is on, is listed."""
        return ((bool(self._urls) and _whole(url) in self._urls)
                or (bool(self._hosts) and any(name in self._hosts for name in _domains(url))))

    def covers_person(self, names: Iterable[Any]) -> bool:
        """Whether one of a channel's or uploader's ids is listed."""
        return any(name in self._channels for name in names)

    def covers_video(self, name: Any) -> bool:
        """Whether a site's own id of a video is listed."""
        return name in self._ids


class Permit:
    """What the law section of a configuration allows for one source from the web; all its methods raise VideoError."""

    def __init__(self, source: Source, config: Harvest) -> None:
        self._source, self._law, self._fetch = source, config.law, config.fetch
        self._licences, self._out = Licences(config.law.licences), _opt_out(config.law.opt_out)
        self._declared = declared(source)

    def begin(self) -> None:
        """Before anything is asked for: ``opted_out``, or ``licence`` where the list declares a wrong one."""
        if self._out.covers(self._source):
            raise VideoError("opted_out")
        if self._declared:
            self.licence(None)

    def visit(self, url: str) -> None:
        """Before an address is asked for, at each redirect too: ``opted_out``, ``robots``."""
        if self._out.covers_url(url):
            raise VideoError("opted_out")
        if self._law.robots:
            robots.check(url, self._fetch)

    def answer(self, tags: Iterable[str], reservation: str | None) -> None:
        """What the X-Robots-Tag and tdm-reservation headers of an answer say: ``robots``."""
        if self._law.robots:
            robots.check_answer(tags, reservation, self._fetch)

    def licence(self, offered: str | None) -> str | None:
        """The licence that counts: the list's own, else the one that the site declares; ``licence`` if not taken."""
        found = self._declared or offered
        if not self._licences.takes(found):
            raise VideoError("licence", f"{found[:100]!r} is not among law.licences" if found else "none declared")
        return found

    def video(self, info: dict[str, Any]) -> None:
        """What yt-dlp tells of a video and of who offers it: ``opted_out``."""
        people = (info.get(key) for key in ("channel_id", "uploader_id", "channel", "uploader"))
        if self._out.covers_video(info.get("id")) or self._out.covers_person(people):
            raise VideoError("opted_out")


def declared(source: Source) -> str | None:
    """The licence that a source's list gives in a column ``licence`` or ``license``."""
    value = source.meta.get("licence") or source.meta.get("license")
    return str(value) if value else None


def normal(licence: str) -> str:
    """One short spelling of a licence: ``https://creativecommons.org/licenses/by/4.0/`` is ``cc by 4.0``."""
    text = " ".join(licence.lower().split())
    if _ZERO.fullmatch(text):
        return "cc0"
    if match := _PUBLIC.search(text):
        return " ".join(filter(None, ["public domain", match[1]]))
    if match := _DEED.search(text) or _CODE.fullmatch(text):
        return " ".join(filter(None, ["cc", match[1], match[2]]))
    if match := _WORDS.fullmatch(text):
        squeezed = re.sub(r"[^a-z]", "", text)
        terms = [mark for mark, word in (("-nc", "noncommercial"), ("-nd", "noderiv"), ("-sa", "sharealike"))
                 if word in squeezed]
        return " ".join(filter(None, ["cc by" + "".join(terms), match[1]]))
    return text.replace("cc-by", "cc by")


def _spellings(text: str) -> set[str]:
    return {" ".join(text.lower().split()), normal(text)}


def _whole(url: str) -> str:
    """One spelling of a video's address, so that what is listed covers every clip of it."""
    return canonical(split(url)[0])


def _domains(url: str) -> Iterator[str]:
    """a.b.example.org, b.example.org, example.org, org."""
    try:
        name = (urlsplit(url).hostname or "").lower()
    except ValueError:
        return
    while name:
        yield name
        name = name.partition(".")[2]


@lru_cache(maxsize=4)
def _opt_out(path: str | None) -> OptOut:
    return OptOut.read(path)
