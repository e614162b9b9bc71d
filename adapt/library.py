"""Library: the poses of the user's videos, extracted once and kept by the content of each file."""

from __future__ import annotations

import hashlib
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from pydantic import Field

import harvest.extract
from skelcore import layouts
from skelcore.config import Config
from skelcore.errors import InputError
from skelcore.files import atomic
from skelcore.layouts import Layout
from skelcore.sequence import PoseSequence

VideoError = harvest.extract.VideoError  # a video that cannot be read

VIDEOS = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".flv",
                    ".wmv", ".3gp", ".ogv"})
_VERSION = 3  # of what extraction does; another one leaves old entries of the cache alone


class Poses(Config):
    """How poses are read from videos."""

    estimator: harvest.extract.Choice = Field(
        "blazepose", description="pose model, as of a harvest: blazepose, module:Class for your own, or a mapping")
    layout: str = Field("coco17", description="layout in which it answers; converted to the encoder's")
    fps: float = Field(15.0, gt=0, le=120, description="frames a second that are looked at")
    detect_every: int = Field(5, ge=1, description="frames from one search for people to the next")
    short_side: int = Field(720, ge=64, description="larger frames are scaled down to this")
    max_persons: int = Field(8, ge=1, description="people followed at a time")

    def pinned(self) -> Poses:
        """With the hashes of the estimator's model files; raises InputError for one that cannot be read."""
        return self.model_copy(update={"estimator": harvest.extract.pinned(self.estimator)})

    def record(self) -> dict[str, Any]:
        """What a file may tell others of these settings, as plain values: no folder of this machine."""
        named = self.estimator if isinstance(self.estimator, str) else harvest.extract.nameless(self.estimator)
        return self.model_copy(update={"estimator": named}).model_dump(mode="json")


class Library:
    """Person tracks of videos by ``settings``, kept in ``folder``; the pose model is only loaded when needed."""

    def __init__(self, settings: Poses, folder: Path) -> None:
        self.settings, self._folder = settings.pinned(), folder
        self._told = json.dumps({**self.settings.model_dump(mode="json"),
                                 "estimator": harvest.extract.identity(self.settings.estimator)}, sort_keys=True)
        self._estimator: harvest.extract.Estimator | None = None

    @property
    def layout(self) -> Layout:
        return layouts.get(self.settings.layout)

    def tracks(self, video: Path) -> list[PoseSequence]:
        """Tracks (1, T, V, 2) of a video, as ``harvest.extract.extract`` gives them; empty where nobody is in view.

        A damaged entry of the cache is extracted anew, and a line on standard error says so. Raises VideoError for a
        video that cannot be read.
        """
        if not video.is_file():
            raise InputError(f"{video}: no such video")
        key = hashlib.sha256(f"{_VERSION} {self._told} {digest(video)}".encode()).hexdigest()
        path = self._folder / f"{key[:32]}.npz"
        if path.exists():
            try:
                return _read(path, key, self.layout)
            except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error) as error:
                print(f"warning: {path}: damaged poses in the cache ({error}); extracting them again", file=sys.stderr)
        found = self._extract(video)
        _write(path, key, found)
        return found

    def frames(self, video: Path) -> Iterator[tuple[np.ndarray, float]]:
        """The frames (H, W, 3) uint8 RGB that were looked at, one by one, each with their number a second."""
        for chunk in harvest.extract.decode.chunks(video, self.settings.fps, self.settings.short_side):
            yield from ((frame, chunk.rate) for frame in chunk.frames)

    def _extract(self, video: Path) -> list[PoseSequence]:
        asked = self.settings
        if self._estimator is None:
            self._estimator = harvest.extract.build(asked.estimator, asked.layout)
            if self._estimator.layout != self.layout:
                raise InputError(f"poses.estimator={_name(asked)}: answers in layout {self._estimator.layout.name}, "
                                 f"not {asked.layout}; set poses.layout to that")
        return harvest.extract.extract(video, self._estimator, asked.fps, asked.detect_every, asked.short_side,
                                       max_persons=asked.max_persons)


def _name(settings: Poses) -> str:
    return settings.estimator if isinstance(settings.estimator, str) else settings.estimator.name


def videos(path: Path) -> list[Path]:
    """A video, or those in a folder by name; other files and hidden ones are left aside."""
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file() and file.suffix.lower() in VIDEOS
                      and not file.name.startswith("."))
    return [path]


def classes(folder: Path) -> dict[str, list[Path]]:
    """The videos of each class, by name: ``folder/<class>/*.mp4``; raises InputError for what cannot be learnt from."""
    if not folder.is_dir():
        raise InputError(f"support={folder}: no such folder; it must hold a folder of videos for each class")
    found = {each.name: videos(each) for each in sorted(folder.iterdir())
             if each.is_dir() and not each.name.startswith(".")}
    if len(found) < 2:
        raise InputError(f"support={folder}: holds {len(found)} class folders; at least two are needed, with videos of "
                         "each class in a folder of its name")
    empty = [name for name, files in found.items() if not files]
    if empty:
        raise InputError(f"support={folder}: no video in class folder {', '.join(map(repr, empty))}; add one "
                         f"({', '.join(sorted(VIDEOS))}) or remove the folder")
    return found


def main_person(tracks: Sequence[PoseSequence]) -> int:
    """Which of the tracks is the one that a video is about: that of the largest sum over time of the person's size,
    which is the diagonal of the box around its seen joints over that of the frame."""
    return int(np.argmax([_prominence(track) for track in tracks]))


def digest(file: Path) -> str:
    """The sha256 of a file's content; raises InputError for one that cannot be read."""
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None


def _prominence(track: PoseSequence) -> float:
    seen = track.scores[0, ..., None] > 0
    points = track.keypoints[0]
    sides = np.where(seen, points, -np.inf).max(1) - np.where(seen, points, np.inf).min(1)
    sizes = np.linalg.norm(sides[seen.any((1, 2))], axis=-1)
    return float(sizes.sum() / np.linalg.norm(track.size or (1, 1)))


def _write(path: Path, key: str, tracks: Sequence[PoseSequence]) -> None:
    facts = json.dumps([{"id": each.id, "frames": each.frames, "size": each.size, "fps": each.fps, "meta": each.meta}
                        for each in tracks])
    points, scores = (np.concatenate([getattr(each, name)[0] for each in tracks]) if tracks else np.zeros(0, np.float32)
                      for name in ("keypoints", "scores"))
    with atomic(path) as file:
        np.savez(file, keypoints=points, scores=scores, facts=np.array(facts), key=np.array(key),
                 sha256=np.array(_checksum(points, scores, facts)))


def _read(path: Path, key: str, layout: Layout) -> list[PoseSequence]:
    with np.load(path, allow_pickle=False) as stored:
        points, scores = stored["keypoints"], stored["scores"]
        facts, own, checksum = (str(stored[name]) for name in ("facts", "key", "sha256"))
    if own != key or checksum != _checksum(points, scores, facts):
        raise ValueError("its checksum does not fit")
    tracks, begin = [], 0
    for fact in json.loads(facts):
        part = slice(begin, begin := begin + fact["frames"])
        tracks.append(PoseSequence(points[None, part], scores[None, part], layout, tuple(fact["size"]), fact["fps"],
                                   fact["id"], meta=fact["meta"]))
    return tracks


def _checksum(points: np.ndarray, scores: np.ndarray, facts: str) -> str:
    shapes = repr((points.shape, scores.shape)).encode()
    return hashlib.sha256(shapes + points.tobytes() + scores.tobytes() + facts.encode()).hexdigest()
