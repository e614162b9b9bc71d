"""What a page is made of, whatever it is rendered to; text may mark code by backquotes."""

from __future__ import annotations

from dataclasses import dataclass

from skelcore.sequence import PoseSequence


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Points:
    """A list of lines."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """A table of ``lines``, the first ``labels`` columns of which are names."""

    lines: list[list[str]]
    labels: int = 1


@dataclass(frozen=True)
class Picture:
    """A PNG file beside the page, and what it shows."""

    file: str
    what: str


@dataclass(frozen=True)
class Motion:
    """Clips that move, side by side, where a page can do that."""

    clips: tuple[PoseSequence, ...]
    titles: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    text: str


Item = Heading | Paragraph | Points | Grid | Picture | Motion | Code
