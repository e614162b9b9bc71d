"""Specimens for the report: the quality of tracks, kept and rejected, and some of both to look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from harvest import holdings
from skelcore import browse, gallery, shards
from skelcore.errors import InputError
from skelcore.gallery import Gallery

T = TypeVar("T")

QUALITIES = {"score": "Mean score of the body joints", "height": "Height of the person over the frame's",
             "seconds": "Length of the track in seconds", "presence": "Belief of the model in the person",
             "jitter": "Jitter: median second difference over the height"}
_MOST_SHARDS = 400
MOST_SHOWN = 24  # shards, and as many of rejected tracks, in the gallery
_MOST_TRACKS, _MOST_POSES = 20_000, 600


@dataclass
class Specimens:
    """``kept`` and ``rejected`` map the names of ``QUALITIES`` to the numbers of tracks.

    ``shown`` are tracks of both kinds to look at; ``provenance`` is what the blocks at hand say made them. The numbers
    come from ``sampled`` of ``shards`` shards, evenly spread.
    """

    shards: int
    sampled: int
    kept: dict[str, np.ndarray]
    rejected: dict[str, np.ndarray]
    shown: Gallery | None = None
    provenance: list[dict[str, Any]] = field(default_factory=list)


def gather(folder: Path) -> Specimens:
    """What the shards of an output folder, or 400 of them, hold, and a gallery of some 24 of them.

    Raises InputError for a damaged shard or list of rejected or of duplicate tracks.
    """
    tars = holdings.tars(folder)
    lists = sorted((folder / "rejected").glob("*.jsonl"))
    specimens = Specimens(len(tars), min(len(tars), _MOST_SHARDS), _kept(spread(tars, _MOST_SHARDS)),
                          _rejected(spread(lists, _MOST_SHARDS)))
    shown = [*spread(tars, MOST_SHOWN), *spread(holdings.tars(folder, "rejected"), MOST_SHOWN)]
    stores = [shards.read(tar) for tar in shown]
    if stores:
        specimens.shown = gallery.gather(stores, browse.copies(folder / browse.COPIES), _MOST_TRACKS, _MOST_POSES)
    for store in stores:
        made = store.document(0).provenance
        if made not in specimens.provenance:
            specimens.provenance.append(made)
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
