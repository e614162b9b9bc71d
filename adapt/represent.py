"""Representations of the clips in question: cached, centred and rescaled features of an encoder or of coordinates."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adapt import cache, checks, features, kinematics, source
from adapt.config import COORDINATES, AdaptConfig
from adapt.methods import align
from adapt.source import Source
from skelcore.encoders import Encoder
from skelcore.errors import InputError
from skelcore.progress import Progress
from skelcore.sources import FrontView
from skelcore.store import Store, Subset

_EncoderClips = features.Clips
TOKEN_SEGMENTS = 4  # stretches of time that align matches


@dataclass(frozen=True)
class Clips:
    """The clips in question: those of ``used``, the first ``learned`` of which give unlabelled statistics.

    ``runs`` are training runs, each with the checkpoint of every stream.
    """

    config: AdaptConfig
    used: Store
    learned: int
    runs: tuple[tuple[Source, ...], ...]
    persons: int
    device: torch.device

    def features(self, kind: str) -> list[np.ndarray]:
        """Features (n, F) of each initialisation or training run of a representation, centred and rescaled."""
        if kind not in ("statistics", "fused"):
            return [self._side_by_side(blocks) for blocks in self._found(kind)]
        found = kinematics.statistics(self._coordinates())
        blocks = [features.rescale(block, block[:self.learned], "none") for block in found]
        if kind == "statistics":
            return [features.fuse(blocks, self.learned)]
        return [features.fuse([*blocks, *self._rescaled(learnt)], self.learned) for learnt in self._found("pretrained")]

    def tokens(self, kind: str) -> list[np.ndarray]:
        """Unpooled features (n, T, P, C) of stretches of time and parts of the body, condensed, of each initialisation;
        the parts of several streams stand side by side."""
        return [np.concatenate([self._tokens(source, kind, seed) for source in run], 2)
                for run, seed in self._inits(kind)]

    def _tokens(self, source: Source, kind: str, seed: int) -> np.ndarray:
        found = self._encoded(source, kind, seed, "tokens", TOKEN_SEGMENTS)
        shaped = found.reshape(len(found), TOKEN_SEGMENTS, -1, source.encoder.dim)
        return align.condense(shaped, self.learned)

    def of(self, store: Store) -> Clips:
        """The same of the clips of another store, of the same layout and channels."""
        return replace(self, used=store, runs=tuple(tuple(each.of(store) for each in run) for run in self.runs))

    def keeping(self, persons: int) -> Clips:
        """The same of that many persons of each clip."""
        runs = tuple(tuple(replace(each, clips=replace(each.clips, persons=persons)) for each in run)
                     for run in self.runs)
        return replace(self, persons=persons, runs=runs)

    @property
    def sources(self) -> list[Source]:
        """Every checkpoint."""
        return [source for run in self.runs for source in run]

    def _rescaled(self, blocks: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [features.rescale(block, block[:self.learned], self.config.whiten) for block in blocks]

    def _side_by_side(self, blocks: Sequence[np.ndarray]) -> np.ndarray:
        scaled = self._rescaled(blocks)
        return scaled[0] if len(scaled) == 1 else features.fuse(scaled, self.learned)

    def _found(self, kind: str) -> list[list[np.ndarray]]:
        """Features (n, F) as they are: of each initialisation, those of every stream."""
        if kind in COORDINATES:
            clips = self._coordinates()
            return [[self._cached(clips, {"kind": kind}, lambda: features.coordinates(clips, fill=kind == "filled"))]]
        pooling = (self.config.pool, self.config.segments if self.config.pool == "segments" else 1)
        return [[self._encoded(source, kind, seed, *pooling) for source in run] for run, seed in self._inits(kind)]

    def _inits(self, kind: str) -> list[tuple[tuple[Source, ...], int]]:
        """Each training run; or the first one's architecture with the seeds of its random weights."""
        if kind == "pretrained":
            return [(run, self.config.seed) for run in self.runs]
        return [(self.runs[0], self.config.seed + init) for init in range(self.config.scratch_inits)]

    def _coordinates(self) -> _EncoderClips:
        return features.Clips(self.used, self.config.raw_frames, self.persons, self.used.layout)

    def _encoded(self, source: Source, kind: str, seed: int, pool: str, segments: int) -> np.ndarray:
        """The mean over the ways in which a clip is looked at."""
        random = {"spec": source.encoder.spec, "seed": seed, "pool": self.learned}
        key = {"kind": kind, "pooling": (pool, segments), "encoder": source.sha256 if kind == "pretrained" else random}
        looks = features.looks(self.config.windows, self.config.mirror)

        def compute() -> np.ndarray:
            encoder = source.encoder
            if kind != "pretrained":
                calibration = source.clips.mixed_inputs(encoder, self.learned) if kind == "scratch" else None
                encoder = features.untrained(encoder, seed, calibration)
            seen = [features.encode(encoder, _counted(replace(source.clips, look=look), encoder), pool, segments)
                    for look in looks]
            return seen[0] if len(seen) == 1 else np.mean(seen, 0)

        return self._cached(source.clips, key | {"looks": repr(looks)}, compute)

    def _cached(self, clips: _EncoderClips, key: dict[str, Any], compute: Callable[[], np.ndarray]) -> np.ndarray:
        ids = hashlib.sha256("\n".join(clips.store.ids).encode()).hexdigest()
        key = key | {"version": 4, "data": clips.store.fingerprint, "ids": ids, "frames": clips.frames,
                     "persons": clips.persons, "layout": clips.layout.name, "stream": clips.stream,
                     "fill": clips.fill, "channels": clips.store.channels}
        return cache.cached(cache_folder(self.config), key, compute)


def open_clips(config: AdaptConfig, used: Store, learned: int) -> Clips:
    """The configured checkpoints, checked against the clips; raises InputError for what does not fit."""
    device = checks.device(config.device)
    runs = tuple(tuple(source.load(path, used, frames=config.frames, persons=config.persons,
                                   map_layout=config.map_layout, batch_size=config.batch_size, workers=config.workers,
                                   device=device) for path in run) for run in config.checkpoint or ())
    persons = runs[0][0].clips.persons if runs else config.persons or 1
    return Clips(config, used, learned, runs, persons, device)


def kinds(config: AdaptConfig) -> tuple[str, ...]:
    """The representations that are there; raises InputError for none."""
    found = tuple(name for name in config.representations if config.checkpoint is not None or name in COORDINATES)
    if not found:
        raise InputError("checkpoint=null leaves no representation: name a checkpoint or add raw to representations")
    return found


def view(store: Store, chosen: np.ndarray, project: bool) -> Subset:
    """The clips at those positions, 3D poses seen from the camera if asked; raises InputError for 2D ones then."""
    if project and store.channels != 3:
        raise InputError("project=true is for 3D poses; these are 2D: leave it out")
    return FrontView(store, chosen) if project else Subset(store, chosen)


def cache_folder(config: AdaptConfig) -> Path:
    """Where features are kept."""
    return Path(config.cache or Path(config.output) / "cache")


def _counted(clips: features.Clips, encoder: Encoder) -> Iterator[features.Input]:
    with Progress(len(clips.store), "clips") as progress:
        for x, valid in clips.inputs(encoder):
            yield x, valid
            progress.update(len(x))
