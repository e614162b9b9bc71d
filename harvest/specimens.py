"""Specimens for the report: the quality of tracks, kept and rejected, and a few kept ones to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from harvest import holdings
from skelcore import shards
from skelcore.errors import InputError
from skelcore.sequence import PoseSequence

T = TypeVar("T")

QUALITIES = {"score": "Mean score of the body joints", "height": "Height of the person over the frame's",
             "seconds": "Length of the track in seconds", "presence": "Belief of the model in the person",
             "jitter": "Jitter: median second difference over the height"}
_MOST_SHARDS = 400
_MOST_FRAMES = 90


@dataclass
class Specimens:
    """``kept`` and ``rejected`` map the names of ``QUALITIES`` to the numbers of tracks.

    ``clips`` are kept tracks with their ``titles``; ``provenance`` is what the clips' blocks say made them. They come
    from ``sampled`` of ``shards`` shards, evenly spread.
    """

    shards: int
    sampled: int
    kept: dict[str, np.ndarray]
    rejected: dict[str, np.ndarray]
    clips: list[PoseSequence] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    provenance: list[dict[str, Any]] = field(default_factory=list)


def gather(folder: Path, most_clips: int = 12) -> Specimens:
    """What the shards of an output folder, or 400 of them, hold.

    Raises InputError for a damaged shard or list of rejected tracks.
    """
    tars = holdings.tars(folder)
    lists = sorted((folder / "rejected").glob("*.jsonl"))
    specimens = Specimens(len(tars), min(len(tars), _MOST_SHARDS), _kept(spread(tars, _MOST_SHARDS)),
                          _rejected(spread(lists, _MOST_SHARDS)))
    shown = spread(tars, most_clips)
    for number, tar in enumerate(shown):
        store = shards.read(tar)
        share = most_clips // len(shown) + (number < most_clips % len(shown))
        for track in spread(range(len(store)), share):
            block = store.document(track)
            specimens.clips.append(_short(store[track]))
            specimens.titles.append(" · ".join([store.ids[track], *_label(block.source)]))
            if block.provenance not in specimens.provenance:
                specimens.provenance.append(block.provenance)
    return specimens


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most ``most`` of the items, evenly spread."""
    places = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[place] for place in places.tolist()]


def _kept(tars: Sequence[Path]) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {name: [] for name in QUALITIES}
    for tar in tars:
        _, index = holdings.load(tar)
        for column, name in enumerate(index.quality_names.tolist()):
            if name in found:
                found[name].append(index.quality[:, column])
    return {name: _finite(np.concatenate([np.zeros(0), *parts])) for name, parts in found.items()}


def _rejected(lists: Sequence[Path]) -> dict[str, np.ndarray]:
    found: dict[str, list[float]] = {name: [] for name in QUALITIES}
    for path in lists:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                for name, value in _numbers(line, f"{path}, line {number}").items():
                    found[name].append(value)
    return {name: _finite(np.array(values)) for name, values in found.items()}


def _numbers(line: str, where: str) -> dict[str, float]:
    try:
        row = json.loads(line)
        return {name: float(row[name]) for name in QUALITIES.keys() & row.keys()}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise InputError(f"{where}: not a rejected track; restore the file or delete it") from None


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _short(sequence: PoseSequence) -> PoseSequence:
    """The first seconds, since a page holds every frame that it shows."""
    return replace(sequence, keypoints=sequence.keypoints[:, :_MOST_FRAMES], scores=sequence.scores[:, :_MOST_FRAMES])


def _label(source: Mapping[str, Any]) -> list[str]:
    return [str(source["label"])] if source.get("label") else []
