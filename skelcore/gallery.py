"""Gallery: tracks to look at and to sift by their numbers, as one part of a page that asks nothing of any server."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import numpy as np

from skelcore import page, thumbs
from skelcore.draw import COLOURS, limbs
from skelcore.errors import InputError
from skelcore.layouts import Layout
from skelcore.shard_format import Document
from skelcore.shard_store import ShardStore
from skelcore.thumbs import Thumbs

KEPT = "kept"
MOST_TRACKS, MOST_POSES = 200_000, 4000
_LONGEST = 300  # characters of a text of a source
_MOST_FIELDS = 24  # texts of a source
_MOST_REASONS = 40
_USER = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/?#]*@")


@dataclass(frozen=True)
class Copy:
    """One line of ``duplicates.jsonl``: track ``id`` is a copy of track ``of`` with a ``score``, both of a group."""

    group: int
    id: str
    of: str
    score: float


@dataclass(frozen=True)
class Gallery:
    """Some n tracks, out of ``total``, of b videos.

    ``numbers`` (name -> (n,) float32, NaN where absent) are the qualities, seconds and start; ``verdict`` (n,) indexes
    ``verdicts``, of which the first is ``KEPT`` and the rest are reasons; ``number`` (n,) names a track in its video
    and ``block`` (n,), which does not fall, that video: its key, its ``sources`` texts, its ``size`` (b, 2) in pixels
    (0: none). ``group`` (n,) is the group of copies or -1, ``original`` (n,) the track that this one is a copy of, or
    -1, with ``likeness`` (n,). ``posed`` (k,) are the tracks of the ``poses``.
    """

    layout: Layout
    total: int
    numbers: dict[str, np.ndarray]
    verdicts: list[str]
    verdict: np.ndarray
    number: np.ndarray
    frames: np.ndarray
    persons: np.ndarray
    block: np.ndarray
    keys: list[str]
    sources: list[dict[str, str]]
    size: np.ndarray
    group: np.ndarray
    original: np.ndarray
    likeness: np.ndarray
    posed: np.ndarray
    poses: Thumbs


def gather(stores: Sequence[ShardStore], copies: Iterable[Copy] = (), most_tracks: int = MOST_TRACKS,
           most_poses: int = MOST_POSES) -> Gallery:
    """The tracks of some sets of shards, evenly spread if there are more than ``most_tracks``.

    A track is rejected for what its quality calls ``reason``. ``most_poses`` tracks are given poses: of each verdict,
    and of copies, some. Raises InputError for sets in different layouts and for damaged shards.
    """
    layout = stores[0].layout
    for store in stores:
        if store.layout != layout:
            raise InputError(f"{next(iter(store.shards))}: layout {store.layout.name}, but others have {layout.name}; "
                             "browse them one at a time")
    total = sum(map(len, stores))
    chosen = np.unique(np.linspace(0, total - 1, min(most_tracks, total)).round().astype(int))
    ends = np.cumsum([0, *map(len, stores)])
    owner = np.searchsorted(ends, chosen, "right") - 1
    picks = [chosen[owner == i] - ends[i] for i in range(len(stores))]
    videos = _Videos()
    for store, pick in zip(stores, picks, strict=True):
        videos.add(store, pick)

    def column(of: Callable[[ShardStore], np.ndarray]) -> np.ndarray:
        return np.concatenate([of(store)[pick] for store, pick in zip(stores, picks, strict=True)])

    verdicts, verdict = _verdicts(videos.reasons)
    group, original, likeness = _groups(videos.ids, copies)
    posed = thumbs.sample(np.where(group >= 0, len(verdicts), verdict), most_poses)
    return Gallery(
        layout, total, _numbers(stores, column), verdicts, verdict,
        np.array([int(id.rpartition("/")[2]) for id in videos.ids], np.uint32), column(lambda store: store.frames),
        column(lambda store: store.persons), np.repeat(np.arange(len(videos.keys)), videos.counts), videos.keys,
        videos.sources, np.array(videos.size, np.uint32).reshape(-1, 2), group, original, likeness, posed,
        thumbs.pack((stores[owner[i]][chosen[i] - ends[owner[i]]] for i in posed), len(layout)))


def fragment(gallery: Gallery) -> str:
    """The gallery as HTML; what it says is data, never markup, whoever wrote it."""
    data = json.dumps(packed(gallery), separators=(",", ":")).replace("<", "\\u003c")
    style, script = (resources.files("skelcore").joinpath(f"gallery.{kind}").read_text("utf-8")
                     for kind in ("css", "js"))
    return (f'<section class="gallery" aria-label="Tracks"><style>{style}</style>'
            "<noscript>The gallery needs JavaScript, which this browser does not run.</noscript>"
            f'<script type="application/json">{data}</script><script>{script}</script></section>')


def packed(gallery: Gallery) -> dict[str, Any]:
    """The gallery as JSON: arrays little-endian in base64, repeated texts as codes of distinct words."""
    poses = gallery.poses
    return {
        "tracks": len(gallery.verdict), "total": gallery.total, "verdicts": gallery.verdicts,
        "numbers": [{"name": name, "low": low, "high": high, "values": _base64(values, "<f4")}
                    for name, values in gallery.numbers.items() for low, high in [_range(values)]],
        "verdict": _base64(gallery.verdict, "<u2"), "number": _base64(gallery.number, "<u4"),
        "frames": _base64(gallery.frames, "<u4"), "persons": _base64(gallery.persons, "<u4"),
        "block": _base64(gallery.block, "<u4"), "keys": gallery.keys, "size": _base64(gallery.size, "<u4"),
        "sources": [_coded(name, gallery.sources) for name in _fields(gallery.sources)],
        "group": _base64(gallery.group, "<i4"), "original": _base64(gallery.original, "<i4"),
        "likeness": _base64(gallery.likeness, "<f4"),
        "poses": {"grid": thumbs.GRID, "missing": thumbs.MISSING, "joints": len(gallery.layout), "colours": COLOURS,
                  "limbs": limbs(gallery.layout), "tracks": _base64(gallery.posed, "<u4"),
                  "frames": _base64(poses.frames, "<u4"), "persons": _base64(poses.persons, "<u4"),
                  "fps": _base64(poses.fps, "<f4"), "xy": _base64(poses.xy, "<u2"),
                  "scores": _base64(poses.scores, "<u1")}}


@dataclass
class _Videos:
    """What the documents of videos say, with how many tracks of each are taken, and what those are called."""

    keys: list[str] = field(default_factory=list)
    sources: list[dict[str, str]] = field(default_factory=list)
    size: list[tuple[int, int]] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def add(self, store: ShardStore, pick: np.ndarray) -> None:
        """Take in the tracks ``pick`` (rising) of a store, whose documents are read once a video."""
        begins = np.diff(store.group_codes, prepend=0) != 0
        begins[0] = True
        block = np.cumsum(begins) - 1
        first = np.flatnonzero(begins)
        for tracks in np.split(pick, np.flatnonzero(np.diff(block[pick])) + 1):
            if len(tracks):
                self._take(store, tracks.tolist(), int(first[block[tracks[0]]]))

    def _take(self, store: ShardStore, tracks: list[int], first: int) -> None:
        document: Document = store.document(first)
        self.keys.append(store.groups[first])
        self.sources.append({_text(name): _text(value) for name, value in document.source.items() if _is_plain(value)})
        self.size.append(document.size or (0, 0))
        self.counts.append(len(tracks))
        self.ids += [store.ids[track] for track in tracks]
        self.reasons += [_text(document.tracks[track - first].quality.get("reason") or KEPT) for track in tracks]


def _numbers(stores: Sequence[ShardStore], column: Callable[[Callable[[ShardStore], np.ndarray]], np.ndarray]
             ) -> dict[str, np.ndarray]:
    names = {name for store in stores for name in store.quality} - {"track"}

    def quality(name: str) -> np.ndarray:
        return column(lambda store: store.quality.get(name, np.full(len(store), np.nan, np.float32)))

    found = {name: quality(name) for name in sorted(names)}
    return {**found, "start": column(lambda store: store.start).astype(np.float32)}


def _verdicts(reasons: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The names of the verdicts, kept first and then the most common ones, and the verdict (n,) of each track."""
    told = [name for name, _ in Counter(reasons).most_common() if name != KEPT]
    names = [KEPT, *told[:_MOST_REASONS], *(["other"] if len(told) > _MOST_REASONS else [])]
    codes = {name: min(place, len(names) - 1) for place, name in enumerate([KEPT, *told])}
    return names, np.array([codes[reason] for reason in reasons], np.int64)


def _groups(ids: Sequence[str], copies: Iterable[Copy]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Group, original and likeness of each track; copies of tracks that are not here still are of a group."""
    group, original = np.full(len(ids), -1, np.int32), np.full(len(ids), -1, np.int32)
    likeness = np.full(len(ids), np.nan, np.float32)
    places: dict[str, int] | None = None
    for copy in copies:
        places = {id: place for place, id in enumerate(ids)} if places is None else places
        here, there = places.get(copy.id, -1), places.get(copy.of, -1)
        if there >= 0:
            group[there] = copy.group
        if here >= 0:
            group[here] = copy.group
        if here >= 0 and here != there:
            original[here], likeness[here] = there, copy.score
    return group, original, likeness


def _fields(sources: Sequence[Mapping[str, str]]) -> list[str]:
    """The texts that most sources have, the best known first."""
    count = Counter(name for source in sources for name in source)
    known = ("label", "url", "file", "licence", "split")
    common = sorted(count, key=lambda name: (-count[name], name))[:_MOST_FIELDS]
    return [*(name for name in known if name in count), *(name for name in common if name not in known)]


def _coded(name: str, sources: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    words: dict[str, int] = {}
    codes = [words.setdefault(source.get(name, ""), len(words)) for source in sources]
    return {"name": name, "words": list(words), "codes": _base64(np.array(codes), "<u4")}


def _range(values: np.ndarray) -> tuple[float, float]:
    """What all but a hundredth of the values lie between."""
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (0.5, 99.5)).tolist() if len(finite) else (0.0, 0.0)
    return low, high if high > low else low + 1


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float) and value != ""


def _text(value: object) -> str:
    """A text that is short, in one line, and tells no password of an address."""
    return page.printable(_USER.sub(r"\1", str(value)[:_LONGEST]))


def _base64(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, kind).tobytes()).decode()
