"""One source of clips: a store, what part of it is used, how often, and from where it is seen."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field, PositiveInt, field_validator

from skelcore import shards
from skelcore.config import Config
from skelcore.errors import InputError, RunError
from skelcore.sequence import PoseSequence
from skelcore.shard_store import ShardStore
from skelcore.store import Store, Subset, indices_of, open_store

logger = logging.getLogger(__name__)


class Source(Config):
    """A set of clips, the thresholds that they must pass, and how often they are seen."""

    uri: str = Field(description="PYSKL pickle, folder of NTU .skeleton files, folder/glob/URL of pose shards, or "
                                 "procedural:COUNT")
    split: str | None = Field(None, description="only this split of it")
    data_layout: str | None = Field(None, description="layout of a pickle whose joint count does not tell it")
    weight: float = Field(1.0, gt=0, allow_inf_nan=False, description="how often an epoch shows each clip, on average")
    project: bool = Field(False, description="look at 3D poses (x to the camera's left, y up) from the camera, in 2D")
    min_frames: PositiveInt = Field(1, description="drop shorter clips")
    min_score: float = Field(0.0, ge=0, le=1, description="drop clips whose seen joints score less on average")
    min_seen: float = Field(0.0, ge=0, le=1, description="drop clips that show a smaller share of their joints")
    quality: dict[str, tuple[float | None, float | None]] = Field(
        {}, description="name: [lowest, highest] of a number recorded in the shards; null: no limit")

    @field_validator("quality")
    @classmethod
    def _ordered(cls, quality: dict[str, tuple[float | None, float | None]]) -> dict[str, Any]:
        for name, (low, high) in quality.items():
            if low is not None and high is not None and low > high:
                raise ValueError(f"{name}: the lowest value {low} is above the highest {high}")
        return quality


def _each(value: Any) -> Any:
    """A path, a source, or a list of both -> a list of sources."""
    if isinstance(value, int | float):
        raise ValueError("a path, a source or a list of them; write a name of digits as ./2024")
    values = value if isinstance(value, list | tuple) else [value]
    return [{"uri": item} if isinstance(item, str) else item for item in values]


Sources = Annotated[tuple[Source, ...], BeforeValidator(_each), Field(min_length=1)]


@dataclass(frozen=True)
class FrontView(Subset):
    """3D poses as the camera sees them, without perspective: x to the right and y down, as in images.

    Cameras that report 3D joints count x to *their left* and y up (Kinect, hence NTU and UTD-MHAD), so both axes turn
    round. Turning y alone would show everyone in a mirror, a left-hander for each right-hander.
    """

    @property
    def channels(self) -> int:
        return 2

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"front of {super().fingerprint}".encode()).hexdigest()

    def __getitem__(self, index: int) -> PoseSequence:
        sequence = super().__getitem__(index)
        return replace(sequence, keypoints=0 - sequence.keypoints[..., :2], size=None)  # 0 - 0 is not -0


@dataclass(frozen=True)
class Part:
    """A source that has been opened: all of ``base``, of which ``store`` is used."""

    source: Source
    base: Store
    store: Store

    @property
    def shards(self) -> dict[str, str] | None:
        """The shards in use, name -> sha256; None for other data."""
        return self.base.shards if isinstance(self.base, ShardStore) else None

    def grown(self) -> Part | None:
        """The source with the shards that have come since it was opened; None when there are none.

        Raises RunError when a shard in use has vanished or was replaced.
        """
        if not isinstance(self.base, ShardStore):
            return None
        self.base.check()
        names = set(shards.listed(self.source.uri))
        for name in self.base.shards:
            if name not in names:
                raise RunError(f"{name}: the shard has vanished; restore it, then start again")
        if len(names) == len(self.base.shards):
            return None
        part = open_part(self.source)
        for name, sha256 in self.base.shards.items():
            if (part.shards or {}).get(name) != sha256:
                raise RunError(f"{name}: the shard was replaced; start again, with other data if it is not the same")
        return part


def open_part(source: Source, only: Mapping[str, str] | None = None) -> Part:
    """Open a source; ``only`` restricts it to the ``Part.shards`` of an earlier time.

    Raises InputError for data that hold no clips, or none that pass the thresholds, and what ``open_store`` raises.
    """
    base = open_store(source.uri, source.data_layout, only)
    if source.project and base.channels != 3:
        raise InputError(f"data={source.uri}: project is for 3D poses, these are 2D; leave it out")
    chosen = _chosen(base, source)
    if source.project:
        return Part(source, base, FrontView(base, chosen))
    return Part(source, base, base if len(chosen) == len(base) else Subset(base, chosen))


def _chosen(store: Store, source: Source) -> np.ndarray:
    """Positions of the clips in the split that pass the thresholds; a clip counts for the first that it fails."""
    chosen = indices_of(store, source.split)
    total, dropped = len(chosen), {}

    def keep(name: str, passed: np.ndarray) -> None:
        nonlocal chosen
        dropped[name] = len(chosen) - int(np.count_nonzero(passed))
        chosen = chosen[passed]

    for name, (low, high) in source.quality.items():
        values = _recorded(store, name, source.uri)[chosen]  # NaN, not recorded for that clip, passes no limit
        keep(f"quality.{name}", (values >= (-np.inf if low is None else low))
             & (values <= (np.inf if high is None else high)))
    if source.min_frames > 1:
        keep("min_frames", _frames(store, chosen) >= source.min_frames)
    if source.min_score > 0 or source.min_seen > 0:
        score, seen = _measured(store, chosen).T
        passed = score >= source.min_score
        keep("min_score", passed)
        keep("min_seen", seen[passed] >= source.min_seen)
    counts = ", ".join(f"{name} {count}" for name, count in dropped.items())
    if total == 0:
        where = f" in split {source.split!r}" if source.split else ""
        raise InputError(f"data={source.uri}: holds no pose sequences{where}")
    if not len(chosen):
        raise InputError(f"data={source.uri}: the thresholds drop all {total} clips ({counts}); lower them")
    if counts:
        logger.info("data=%s: %d of %d clips are used; dropped by %s", source.uri, len(chosen), total, counts)
    return chosen


def _recorded(store: Store, name: str, uri: str) -> np.ndarray:
    recorded = store.quality if isinstance(store, ShardStore) else {}
    if name not in recorded:
        raise InputError(f"quality.{name}: data={uri} record no such number; they record: "
                         + (", ".join(recorded) or "none"))
    return recorded[name]


def _frames(store: Store, chosen: np.ndarray) -> np.ndarray:
    if isinstance(store, ShardStore):
        return store.frames[chosen]
    return np.array([store[i].frames for i in chosen.tolist()], np.int64)


def _measured(store: Store, chosen: np.ndarray) -> np.ndarray:
    """Mean score of the seen joints and their share (n, 2), over the persons of whom anything is seen."""
    return np.array([_score_and_share(store, i) for i in chosen.tolist()], np.float64).reshape(-1, 2)


def _score_and_share(store: Store, index: int) -> tuple[float, float]:
    if isinstance(store, ShardStore):
        scores, whole = store.records(index)["score"], 255
    else:
        scores, whole = store[index].scores, 1
    seen = scores > 0
    count = np.count_nonzero(seen)
    if not count:
        return 0.0, 0.0
    present = np.count_nonzero(seen.any(axis=(1, 2))) * seen[0].size
    return float(scores.sum(dtype=np.float64)) / count / whole, float(count / present)
